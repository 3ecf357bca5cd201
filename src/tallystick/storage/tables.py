"""Every table, described once: SQLAlchemy Core creates and reads them, the lane writes its statements from them.

Conventions: instants are BIGINT microseconds since the epoch (`*_at`, `*_start`, `*_end`), money is BIGINT nanos of the
currency beside it, quantities are BIGINT millionths, references are `type:id` text, ids are prefixed UUIDv7 text. The
same integers live in SQLite and PostgreSQL, so a value never changes on its way through a driver.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Ids and references are compared byte by byte: PostgreSQL's language collations are slower and order them by locale.
_Key = String().with_variant(String(collation="C"), "postgresql")
_Instant = BigInteger
_Nanos = BigInteger


def _key(name: str, **options: object) -> Column[str]:
    return Column(name, _Key, **options)  # type: ignore[arg-type]  # Column's many overloads do not take **options


# One row for each billable that was ever metered. On PostgreSQL a batch locks these rows, in key order, before it reads
# anything else of the billables: one lock then covers counters, holds and whatever belongs to the account.
accounts = Table(
    "accounts",
    metadata,
    _key("billable", primary_key=True),
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

plans = Table(
    "plans",
    metadata,
    _key("id", primary_key=True),
    _key("slug", nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("created_at", _Instant, nullable=False),
    Column("plan_type", String(20)),  # free, starter, professional, enterprise; NULL: custom
    Column("description", Text),
    _key("current_version_id"),  # what new subscribers get; NULL: the newest published version
    Column("archived_at", _Instant),  # nobody new may subscribe
    sqlite_with_rowid=False,
)

# Immutable once published: a change of terms is a new version, and subscribers stay on theirs.
plan_versions = Table(
    "plan_versions",
    metadata,
    _key("id", primary_key=True),
    _key("plan_id", nullable=False),
    Column("version", Integer, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("monthly_token_limit", BigInteger),
    Column("monthly_cost_limit", _Nanos),
    Column("overage_price_per_1k_tokens", Text),  # an exact decimal: a rate is no amount and is never rounded
    Column("overage_behavior", String(10)),
    Column("trial_days", Integer, nullable=False),
    Column("price", _Nanos),
    Column("billing_cycle", String(10), nullable=False),
    Column("created_at", _Instant, nullable=False),
    Column("published_at", _Instant),
    Column("label", Text),
    Column("overage_markup_percent", Text),  # an exact decimal, on the cost beyond a cost limit
    Column("usage_prices", Text),  # JSON {"message": {"model": "per_unit", …}}
    Index(None, "plan_id", "version", unique=True),
    sqlite_with_rowid=False,
)

# `billed_until` is the last billing instant that was carried out, `next_billing_at` when the next one is; NULL: never.
subscriptions = Table(
    "subscriptions",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("plan_version_id", nullable=False),
    Column("billing_mode", String(10), nullable=False),
    Column("started_at", _Instant, nullable=False),
    Column("trial_ends_at", _Instant),
    Column("is_pending", Boolean, nullable=False),
    Column("cancelled_at", _Instant),
    Column("cancels_at", _Instant),
    Column("term_ends_at", _Instant),
    Column("payment_failed_at", _Instant),
    Column("created_at", _Instant, nullable=False),
    Column("timezone", Text),  # in which its billing periods are cut; NULL: that of its account
    Column("billed_until", _Instant),
    Column("next_billing_at", _Instant),
    _key("activation_invoice_id"),  # of a pending one: what has to be paid
    Column("metadata", Text),
    Index(None, "billable", "started_at"),
    sqlite_with_rowid=False,
)
_IS_BILLED = text("next_billing_at IS NOT NULL")
Index(
    "ix_subscriptions_next_billing_at",
    subscriptions.c.next_billing_at,
    subscriptions.c.id,
    sqlite_where=_IS_BILLED,
    postgresql_where=_IS_BILLED,
)

# From when on a subscription follows another plan version than the one it began with; NULL: it is paused, or lapsed.
# `anchor_at` is from where its billing periods are counted from then on; NULL: as before.
subscription_changes = Table(
    "subscription_changes",
    metadata,
    _key("id", primary_key=True),
    _key("subscription_id", nullable=False),
    Column("kind", String(10), nullable=False),  # change, pause, resume, lapse
    Column("starts_at", _Instant, nullable=False),
    _key("plan_version_id"),
    Column("anchor_at", _Instant),
    Column("is_prorated", Boolean, nullable=False),
    Column("created_at", _Instant, nullable=False),
    Index(None, "subscription_id", "starts_at", "id"),
    sqlite_with_rowid=False,
)

limit_overrides = Table(
    "limit_overrides",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    Column("start_at", _Instant, nullable=False),
    Column("end_at", _Instant),
    Column("token_limit", BigInteger),
    Column("cost_limit", _Nanos),
    Column("currency", String(3)),
    Column("reason", Text),
    Column("created_at", _Instant, nullable=False),
    Index(None, "billable", "start_at"),
    sqlite_with_rowid=False,
)

# What a plan version grants of a feature. A consumable one has an allowance per reset period (NULL: unlimited).
plan_features = Table(
    "plan_features",
    metadata,
    _key("plan_version_id", primary_key=True),
    _key("slug", primary_key=True),
    Column("name", Text, nullable=False),
    Column("is_consumable", Boolean, nullable=False),
    Column("value", BigInteger),
    Column("reset", String(10), nullable=False),
    Column("display_value", Text),
    Column("is_hidden", Boolean, nullable=False),
    Column("sort_order", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# A customer organisation. As a payer it is the billable "tenant:<slug>".
tenants = Table(
    "tenants",
    metadata,
    _key("id", primary_key=True),
    _key("slug", nullable=False, unique=True),
    _key("billable", nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("billing_email", Text),
    Column("status", String(10), nullable=False),  # active, suspended, deleted
    Column("status_reason", Text),
    Column("timezone", Text),  # NULL: that of the settings
    Column("currency", String(3)),
    Column("locale", String(10)),
    Column("tax_id", Text),
    Column("enforcement", String(10)),  # NULL: that of the settings
    Column("metadata", Text),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("deleted_at", _Instant),
    Column("erased_at", _Instant),  # when what was kept of a deleted one was erased; its slug stays taken
    Index(None, "created_at"),
    sqlite_with_rowid=False,
)

tenant_members = Table(
    "tenant_members",
    metadata,
    _key("tenant", primary_key=True),  # its billable
    _key("user_id", primary_key=True),
    Column("created_at", _Instant, nullable=False),
    Index(None, "user_id"),
    sqlite_with_rowid=False,
)

# Limits that an operator sets on a resource type, beside those of a plan. `scope` is empty for all of a billable's use,
# or names part of it: "user:42", "user:*" (each user on their own), "feature:chat", "key:…".
quotas = Table(
    "quotas",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("resource_type", nullable=False),
    _key("period", nullable=False),
    _key("scope", nullable=False),
    Column("limit_value", BigInteger, nullable=False),
    Column("is_hard_limit", Boolean, nullable=False),
    Column("thresholds", Text, nullable=False),  # JSON [80, 90]: percent
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Index(None, "billable", "resource_type", "period", "scope", unique=True),
    sqlite_with_rowid=False,
)

# Which thresholds were announced of which quota and period, and for which limit: each once.
quota_alerts = Table(
    "quota_alerts",
    metadata,
    _key("quota_id", primary_key=True),
    Column("period_start", _Instant, primary_key=True, autoincrement=False),
    _key("scope", primary_key=True),
    Column("threshold", Integer, primary_key=True, autoincrement=False),
    Column("limit_value", BigInteger, primary_key=True, autoincrement=False),
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# What shadow mode would have refused.
shadow_refusals = Table(
    "shadow_refusals",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("code", nullable=False),
    _key("limit_type", nullable=False),
    Column("message", Text, nullable=False),
    _key("hold_id"),
    Column("created_at", _Instant, nullable=False),
    Index(None, "billable", "created_at"),
    sqlite_with_rowid=False,
)

# So many in a second, minute or hour, as a token bucket. Its level is a counter ("rate:…").
rate_limits = Table(
    "rate_limits",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("resource_type", nullable=False),
    _key("scope", nullable=False),
    _key("per", nullable=False),  # second, minute, hour
    Column("limit_value", BigInteger, nullable=False),
    Column("burst", BigInteger, nullable=False),
    Column("created_at", _Instant, nullable=False),
    Index(None, "billable", "resource_type", "scope", "per", unique=True),
    sqlite_with_rowid=False,
)

# How much of a pool one of its users may spend in a period. `member` "*" is everybody who has no cap of their own.
credit_caps = Table(
    "credit_caps",
    metadata,
    _key("billable", primary_key=True),
    _key("unit", primary_key=True),
    _key("member", primary_key=True),
    Column("amount", BigInteger, nullable=False),
    Column("period", String(10), nullable=False),
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# What a lane may keep in memory (plans, subscriptions, overrides) changes through one numbered journal. Each batch asks
# for the entries after the last it saw: an empty answer proves that its memory is current, in every process.
terms_revision = Table(
    "terms_revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)

terms_changes = Table(
    "terms_changes",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    _key("billable"),  # NULL: the change concerns everybody
)

# The keys of counters and rollups begin with time: what is being written now lies together on few pages, however many
# billables and past periods there are.
counters = Table(
    "counters",
    metadata,
    _key("billable", nullable=False),
    _key("meter", nullable=False),
    _key("scope", nullable=False),
    _key("period", nullable=False),
    Column("period_start", _Instant, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    PrimaryKeyConstraint("period_start", "period", "billable", "meter", "scope"),
    sqlite_with_rowid=False,
)

holds = Table(
    "holds",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    Column("status", String(10), nullable=False),
    Column("claims", Text, nullable=False),  # JSON [[meter, scope, period, period_start, amount], ...]
    Column("pins", Text),  # JSON [[unit, grant id or "" for overdraft, amount], ...]: what it holds of credits
    Column("provider", Text),
    Column("model", Text),
    Column("feature", Text),
    _key("user_id"),
    _key("tenant_id"),
    _key("idempotency_key"),
    _key("event_id"),
    Column("created_at", _Instant, nullable=False),
    Column("expires_at", _Instant, nullable=False),
    Column("closed_at", _Instant),
    sqlite_with_rowid=False,
)
# Only open holds are ever searched for; the index stays as small as the number of calls in flight.
Index(
    "ix_holds_open",
    holds.c.billable,
    holds.c.expires_at,
    sqlite_where=text("status = 'open'"),
    postgresql_where=text("status = 'open'"),
)

usage_events = Table(
    "usage_events",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("user_id"),
    _key("tenant_id"),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("feature", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("usage", Text),  # JSON of the token classes, where there is more to say than the totals
    Column("input_cost", _Nanos),
    Column("output_cost", _Nanos),
    Column("total_cost", _Nanos),  # NULL: no price was known. Never zero for a missing price.
    Column("currency", String(3), nullable=False),
    Column("price", Text),  # JSON of the price used: rates, source, version
    Column("billing_mode", String(10), nullable=False),
    Column("period", Text, nullable=False),
    Column("period_start", _Instant, nullable=False),
    _key("subscription_id"),
    _key("plan_version_id"),
    _key("hold_id"),
    _key("idempotency_key"),
    _key("corrects_event_id"),
    _key("key_id"),
    Column("flags", Text, nullable=False),
    Column("metadata", Text),
    Column("occurred_at", _Instant, nullable=False),
    Column("recorded_at", _Instant, nullable=False),
    Index(None, "billable", "occurred_at", "id"),
    sqlite_with_rowid=False,
)
for _column in (usage_events.c.user_id, usage_events.c.tenant_id, usage_events.c.corrects_event_id):
    Index(
        f"ix_usage_events_{_column.name}",
        _column,
        usage_events.c.occurred_at,
        sqlite_where=_column.isnot(None),
        postgresql_where=_column.isnot(None),
    )

# Keys and their first answers. They stand apart from the events so that events can be partitioned by time and cleaned
# up while a key goes on meaning what it meant.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    _key("billable", primary_key=True),
    _key("key", primary_key=True),
    Column("fingerprint", Text, nullable=False),  # JSON of the input that a replay must repeat
    _key("hold_id"),
    _key("event_id"),
    Column("outcome", Text),  # JSON of the first answer beyond the event itself
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)


def _rollup(name: str) -> Table:
    return Table(
        name,
        metadata,
        _key("billable", nullable=False),
        Column("bucket_start", _Instant, nullable=False),
        _key("provider", nullable=False),
        _key("model", nullable=False),
        _key("feature", nullable=False),
        _key("resource_type", nullable=False),
        _key("currency", nullable=False),
        Column("events", BigInteger, nullable=False),
        Column("unpriced_events", BigInteger, nullable=False),
        Column("quantity", BigInteger, nullable=False),
        Column("input_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        Column("total_tokens", BigInteger, nullable=False),
        Column("total_cost", _Nanos, nullable=False),
        PrimaryKeyConstraint("bucket_start", "billable", "provider", "model", "feature", "resource_type", "currency"),
        Index(None, "billable", "bucket_start"),
        sqlite_with_rowid=False,
    )


usage_hourly = _rollup("usage_hourly")
usage_daily = _rollup("usage_daily")

# What was taken out of usage_events, as sums: events + removed = counters, always; and = rollups where they were kept.
usage_removed = Table(
    "usage_removed",
    metadata,
    _key("billable", primary_key=True),
    _key("period", primary_key=True),
    Column("period_start", _Instant, primary_key=True),
    _key("currency", primary_key=True),
    Column("rollups_kept", Boolean, primary_key=True),
    Column("events", BigInteger, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("total_cost", _Nanos, nullable=False),
    sqlite_with_rowid=False,
)

# What clean-up took out of usage_events while the rollups stayed, by the account's day: events + removed = rollups.
# Unlike `usage_removed` it counts what wallets paid too.
removed_days = Table(
    "removed_days",
    metadata,
    _key("billable", nullable=False),
    Column("day_start", _Instant, nullable=False),
    _key("currency", nullable=False),
    Column("events", BigInteger, nullable=False),  # corrections are none
    Column("quantity", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("total_cost", _Nanos, nullable=False),
    PrimaryKeyConstraint("day_start", "billable", "currency"),
    Index(None, "billable", "day_start"),
    sqlite_with_rowid=False,
)

# The zone in which the rollups of an account are cut, where that is no tenant (any more): of anonymised use.
rollup_zones = Table(
    "rollup_zones",
    metadata,
    _key("billable", primary_key=True),
    Column("timezone", Text, nullable=False),
    sqlite_with_rowid=False,
)

overages = Table(
    "overages",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("event_id", nullable=False),
    _key("subscription_id"),
    _key("plan_version_id"),
    Column("limit_type", String(10), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("amount", _Nanos, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("price_per_1k_tokens", Text),
    Column("period", Text, nullable=False),
    Column("period_start", _Instant, nullable=False),
    Column("period_end", _Instant, nullable=False),
    Column("occurred_at", _Instant, nullable=False),
    Column("created_at", _Instant, nullable=False),
    Column("is_synced", Boolean, nullable=False),
    _key("invoice_id"),  # the invoice that bills it
    _key("sync_id"),  # what the gateway calls it
    Column("synced_at", _Instant),
    Column("sync_started_at", _Instant),  # it may have reached the gateway since
    Column("sync_attempts", Integer),
    Column("sync_error", Text),
    Index(None, "billable", "occurred_at"),
    sqlite_with_rowid=False,
)

# What a plan's usage prices charge for one event: the difference that it makes to the price of its billing month.
usage_charges = Table(
    "usage_charges",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("event_id", nullable=False),
    _key("subscription_id", nullable=False),
    _key("plan_version_id", nullable=False),
    _key("resource_type", nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("amount", _Nanos, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("period_start", _Instant, nullable=False),
    Column("period_end", _Instant, nullable=False),
    Column("occurred_at", _Instant, nullable=False),
    Column("created_at", _Instant, nullable=False),
    _key("invoice_id"),
    Index(None, "billable", "occurred_at"),
    sqlite_with_rowid=False,
)
for _table, _open in (
    (overages, text("invoice_id IS NULL AND sync_started_at IS NULL")),
    (usage_charges, text("invoice_id IS NULL")),
):
    Index(
        f"ix_{_table.name}_open",
        _table.c.billable,
        _table.c.occurred_at,
        sqlite_where=_open,
        postgresql_where=_open,
    )
    Index(
        f"ix_{_table.name}_invoice_id",
        _table.c.invoice_id,
        sqlite_where=_table.c.invoice_id.isnot(None),
        postgresql_where=_table.c.invoice_id.isnot(None),
    )
_IN_SYNC = text("sync_started_at IS NOT NULL AND synced_at IS NULL")
Index(
    "ix_overages_unsynced",
    overages.c.sync_started_at,
    sqlite_where=_IN_SYNC,
    postgresql_where=_IN_SYNC,
)

# Prepaid credits of one billable in one unit: a currency (then it is a wallet), or a feature ("feature:api-calls").
# The balances stand beside the ledger, which proves them: paid + promotional + overdraft is the balance, less `held`
# what is available. Overdraft is zero or below.
credit_accounts = Table(
    "credit_accounts",
    metadata,
    _key("billable", primary_key=True),
    _key("unit", primary_key=True),
    _key("id", nullable=False, unique=True),
    Column("paid", BigInteger, nullable=False),
    Column("promotional", BigInteger, nullable=False),
    Column("overdraft", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("last_number", BigInteger, nullable=False),  # of its transactions
    Column("top_up_state", String(10), nullable=False),  # armed, pending, paused
    Column("minimum_balance", BigInteger),
    Column("overdraft_limit", BigInteger),
    Column("top_up_below", BigInteger),
    Column("top_up_amount", BigInteger),
    Column("top_up_monthly_max", BigInteger),
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# What was added, until it is used up or expires. `remaining` includes what open holds have pinned (`held`).
grants = Table(
    "grants",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("unit", nullable=False),
    Column("kind", String(12), nullable=False),  # paid, promotional
    Column("amount", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    _key("granted_by"),
    _key("feature"),  # only for use of this feature
    _key("subscription_id"),  # only while this subscription is in force
    Column("limit_amount", BigInteger),  # at most so much of it in a period
    Column("limit_period", String(10)),
    Column("metadata", Text),
    Column("expires_at", _Instant),
    Column("warned_at", _Instant),
    Column("created_at", _Instant, nullable=False),
    Index("ix_grants_billable", "billable", "unit", "created_at"),
    Index("ix_grants_created_at", "created_at"),
    sqlite_with_rowid=False,
)
# Only what is left of is ever searched for: the cost of a deduction does not grow with history.
Index(
    "ix_grants_open",
    grants.c.billable,
    grants.c.unit,
    grants.c.priority,
    grants.c.created_at,
    grants.c.id,
    sqlite_where=text("remaining > 0"),
    postgresql_where=text("remaining > 0"),
)
_OPEN_AND_EXPIRING = text("remaining > 0 AND expires_at IS NOT NULL")
for _name, _columns in (
    ("ix_grants_expiring", (grants.c.billable, grants.c.unit, grants.c.expires_at)),
    ("ix_grants_due", (grants.c.expires_at, grants.c.id)),
):
    Index(_name, *_columns, sqlite_where=_OPEN_AND_EXPIRING, postgresql_where=_OPEN_AND_EXPIRING)

# One line of an account's statement, numbered without gaps. A transfer is one transaction with a line on both accounts.
credit_transactions = Table(
    "credit_transactions",
    metadata,
    _key("billable", primary_key=True),
    _key("unit", primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    _key("id", nullable=False),  # a use of an event has the event's own digits: txn_… for evt_…
    Column("source", String(12), nullable=False),
    Column("amount", BigInteger, nullable=False),  # signed: what it changed of the balance
    Column("balance_after", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    _key("grant_id"),
    _key("event_id"),
    _key("hold_id"),
    _key("reverses_id"),
    _key("user_id"),
    Column("feature", Text),
    Column("exchange", Text),  # JSON of a conversion: the amount as it was stated, and the rate
    Column("metadata", Text),
    Column("occurred_at", _Instant, nullable=False),  # when it took effect: of an expiry, its instant
    Column("created_at", _Instant, nullable=False),
    Index(None, "occurred_at"),
    sqlite_with_rowid=False,
)
Index(
    "ix_credit_transactions_reverses_id",
    credit_transactions.c.reverses_id,
    sqlite_where=credit_transactions.c.reverses_id.isnot(None),
    postgresql_where=credit_transactions.c.reverses_id.isnot(None),
)

# The ledger itself: immutable postings. The entries of a transaction sum to zero in each unit.
ledger_entries = Table(
    "ledger_entries",
    metadata,
    _key("transaction_id", primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    _key("billable", nullable=False),
    _key("unit", nullable=False),
    _key("account", nullable=False),
    _key("grant_id"),
    Column("amount", BigInteger, nullable=False),
    Column("statement_number", BigInteger, nullable=False),
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# What a use took of a feature: of the plan's allowance, and of extra credits. Millionths.
feature_uses = Table(
    "feature_uses",
    metadata,
    _key("event_id", primary_key=True),
    _key("billable", nullable=False),
    _key("feature", nullable=False),
    Column("period", Text, nullable=False),
    Column("period_start", _Instant, nullable=False),
    Column("from_plan", BigInteger, nullable=False),
    Column("from_credits", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Automatic top-ups: asked for when a balance fell below its threshold, and then paid or failed, once.
top_ups = Table(
    "top_ups",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("unit", nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("status", String(10), nullable=False),  # pending, completed, failed
    _key("transaction_id"),
    Column("note", Text),
    Column("created_at", _Instant, nullable=False),
    Column("closed_at", _Instant),
    Index(None, "billable", "unit", "created_at"),
    Index(None, "status", "created_at"),
    sqlite_with_rowid=False,
)

# Work that is done once a period, such as a monthly report: whoever inserts the row does it.
job_runs = Table(
    "job_runs",
    metadata,
    _key("job", primary_key=True),
    Column("period_start", _Instant, primary_key=True, autoincrement=False),
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# What a billable was told. `in_app` is whether its people see it in the application; it is kept in any case.
notifications = Table(
    "notifications",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("type", nullable=False),
    Column("priority", String(10), nullable=False),  # low, normal, high, urgent
    Column("subject", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("action_url", Text),
    Column("locale", String(10), nullable=False),
    Column("metadata", Text),  # JSON of what it is about
    _key("key"),  # of what is told once, such as the end of one trial
    Column("in_app", Boolean, nullable=False),
    Column("created_at", _Instant, nullable=False),
    Column("read_at", _Instant),
    Index(None, "billable", "created_at", "id"),
    sqlite_with_rowid=False,
)
_UNREAD = text("read_at IS NULL")
Index("ix_notifications_unread", notifications.c.billable, sqlite_where=_UNREAD, postgresql_where=_UNREAD)
Index(
    "ix_notifications_key",
    notifications.c.billable,
    notifications.c.key,
    unique=True,
    sqlite_where=notifications.c.key.isnot(None),
    postgresql_where=notifications.c.key.isnot(None),
)

# How a billable wants to be told of a type ("*": of every type that has no row of its own) on a channel.
notification_preferences = Table(
    "notification_preferences",
    metadata,
    _key("billable", primary_key=True),
    _key("type", primary_key=True),
    _key("channel", primary_key=True),
    Column("mode", String(10), nullable=False),  # immediate, digest, off
    Column("updated_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# Where events are posted to. Without a billable it is the operator's own and hears of everybody.
webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    _key("id", primary_key=True),
    _key("billable"),
    Column("url", Text, nullable=False),
    Column("events", Text, nullable=False),  # JSON ["quota.warning", …], or ["*"]
    Column("description", Text),
    Column("secret", Text, nullable=False),
    Column("previous_secret", Text),  # still signed with, until …
    Column("previous_secret_until", _Instant),
    Column("status", String(10), nullable=False),  # active, disabled
    Column("status_reason", Text),
    Column("failing_since", _Instant),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Index(None, "billable"),
    sqlite_with_rowid=False,
)

# Messages on their way out, written with what they tell of. Whoever delivers one first moves `due_at` ahead and leaves
# a `lease`: if that worker dies, the message is simply due again.
outbox = Table(
    "outbox",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("channel", nullable=False),  # email, webhook, or the application's own
    _key("destination", nullable=False),  # of a webhook its endpoint, otherwise empty
    _key("notification_id"),
    _key("type", nullable=False),
    Column("payload", Text, nullable=False),  # JSON of what is sent
    Column("is_digest", Boolean, nullable=False),
    Column("status", String(10), nullable=False),  # pending, sent, dead, dropped
    Column("attempts", Integer, nullable=False),
    Column("due_at", _Instant, nullable=False),
    _key("lease"),
    Column("last_error", Text),
    _key("sent_as"),  # the mail or the request that carried it; those of a digest share one
    Column("created_at", _Instant, nullable=False),
    Column("closed_at", _Instant),
    Index(None, "billable", "id"),
    sqlite_with_rowid=False,
)
# What waits and what is done are never searched together: neither a long history of what was sent nor a long queue
# costs the other anything. What waits is found by its time, and by its destination, so that one that is slow or away
# does not stand in the way of the others.
_WAITING, _DONE = text("status = 'pending'"), text("closed_at IS NOT NULL")
for _index, _indexed, _condition in (
    ("ix_outbox_waiting", (outbox.c.due_at, outbox.c.channel, outbox.c.destination), _WAITING),
    ("ix_outbox_due", (outbox.c.channel, outbox.c.destination, outbox.c.due_at, outbox.c.id), _WAITING),
    ("ix_outbox_done", (outbox.c.status, outbox.c.closed_at), _DONE),
    ("ix_outbox_sent", (outbox.c.billable, outbox.c.closed_at), _DONE),
):
    Index(_index, *_indexed, sqlite_where=_condition, postgresql_where=_condition)


# -- billing ----------------------------------------------------------------------------------------------------------

# What stands on an invoice and in payments beside the ledger of credits. Amounts are nanos; on an invoice what is owed
# is whole minor units, and what is left of a cent is carried to the next one.

# `carried` is what the last invoice left below a cent, or below zero (before tax); `credit` is money that pays the next
# invoices (after tax).
billing_accounts = Table(
    "billing_accounts",
    metadata,
    _key("billable", primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("carried", _Nanos, nullable=False),
    Column("credit", _Nanos, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# To whom invoices are addressed, and how they are taxed. What is NULL is that of the tenant, or of the settings.
billing_details = Table(
    "billing_details",
    metadata,
    _key("billable", primary_key=True),
    Column("name", Text),
    Column("email", Text),
    Column("line1", Text),
    Column("line2", Text),
    Column("city", Text),
    Column("region", Text),
    Column("postal_code", Text),
    Column("country", String(2)),
    Column("tax_id", Text),
    Column("tax_rate_percent", Text),  # an exact decimal
    Column("tax_name", Text),
    Column("is_tax_inclusive", Boolean),
    Column("is_tax_exempt", Boolean, nullable=False),
    Column("locale", String(10)),
    Column("due_days", Integer),
    Column("notes", Text),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# What waits to be invoiced besides use: fees, prorations, corrections, and what an operator adds.
invoice_items = Table(
    "invoice_items",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("subscription_id"),
    _key("plan_version_id"),
    _key("invoice_id"),
    Column("kind", String(12), nullable=False),  # fee, proration, item
    Column("description", Text),  # NULL: the words of its kind
    Column("details", Text),  # JSON of what these words name
    Column("quantity", BigInteger, nullable=False),  # millionths
    Column("amount", _Nanos, nullable=False),
    Column("discounted", _Nanos, nullable=False),  # what discounts of its invoice took off it
    Column("is_discountable", Boolean, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("period_start", _Instant),
    Column("period_end", _Instant),
    Column("due_at", _Instant, nullable=False),  # it is put on the first invoice from then on
    _key("key"),  # of what may be added once
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)
_OPEN_ITEM, _KEYED = text("invoice_id IS NULL"), text("key IS NOT NULL")
Index(
    "ix_invoice_items_open",
    invoice_items.c.billable,
    invoice_items.c.due_at,
    sqlite_where=_OPEN_ITEM,
    postgresql_where=_OPEN_ITEM,
)
Index(
    "ix_invoice_items_invoice_id",
    invoice_items.c.invoice_id,
    sqlite_where=invoice_items.c.invoice_id.isnot(None),
    postgresql_where=invoice_items.c.invoice_id.isnot(None),
)
Index(
    "ix_invoice_items_subscription_id",
    invoice_items.c.subscription_id,
    invoice_items.c.created_at,
    sqlite_where=invoice_items.c.subscription_id.isnot(None),
    postgresql_where=invoice_items.c.subscription_id.isnot(None),
)
Index(
    "ix_invoice_items_key",
    invoice_items.c.billable,
    invoice_items.c.key,
    unique=True,
    sqlite_where=_KEYED,
    postgresql_where=_KEYED,
)

# subtotal + carried_in - carried_out = net (tax exclusive) or total (inclusive); net + tax = total;
# amount due = total - credit_applied. From `issued_at` on none of this changes; what is paid, credited and refunded of
# it does.
invoices = Table(
    "invoices",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("number"),  # NULL: a draft
    Column("status", String(20), nullable=False),  # draft, pending, paid, cancelled, refunded, partially_refunded
    Column("currency", String(3), nullable=False),
    _key("subscription_id"),
    Column("period_start", _Instant),
    Column("period_end", _Instant),
    Column("subtotal", _Nanos, nullable=False),
    Column("carried_in", _Nanos, nullable=False),
    Column("carried_out", _Nanos, nullable=False),
    Column("net", _Nanos, nullable=False),
    Column("tax", _Nanos, nullable=False),
    Column("total", _Nanos, nullable=False),
    Column("credit_applied", _Nanos, nullable=False),
    Column("amount_paid", _Nanos, nullable=False),
    Column("amount_credited", _Nanos, nullable=False),  # by credit notes, of what was due
    Column("amount_refunded", _Nanos, nullable=False),
    Column("tax_rate_percent", Text),
    Column("tax_name", Text),
    Column("is_tax_inclusive", Boolean, nullable=False),
    Column("details", Text),  # JSON of seller and customer, frozen when it is issued
    Column("locale", String(10)),
    Column("notes", Text),
    Column("metadata", Text),
    _key("key"),
    Column("key_input", Text),  # JSON of what a repetition of the key must state again
    Column("created_at", _Instant, nullable=False),
    Column("issued_at", _Instant),
    Column("due_at", _Instant),
    Column("paid_at", _Instant),
    Column("voided_at", _Instant),
    Column("archived_at", _Instant),
    Index(None, "billable", "created_at", "id"),
    Index(None, "subscription_id", "period_start"),
    sqlite_with_rowid=False,
)
_IS_OWED = text("status = 'pending'")
for _index, _of_invoices, _condition, _unique in (
    ("ix_invoices_owed", (invoices.c.due_at, invoices.c.id), _IS_OWED, False),
    ("ix_invoices_archivable", (invoices.c.paid_at,), text("archived_at IS NULL AND paid_at IS NOT NULL"), False),
    ("ix_invoices_number", (invoices.c.number,), text("number IS NOT NULL"), True),
    ("ix_invoices_key", (invoices.c.billable, invoices.c.key), _KEYED, True),
):
    Index(_index, *_of_invoices, unique=_unique, sqlite_where=_condition, postgresql_where=_condition)

invoice_lines = Table(
    "invoice_lines",
    metadata,
    _key("invoice_id", primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(12), nullable=False),  # fee, proration, usage, overage, item, discount
    Column("description", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),  # millionths
    Column("amount", _Nanos, nullable=False),
    _key("subscription_id"),
    _key("plan_version_id"),
    _key("resource_type"),
    _key("item_id"),
    _key("discount_id"),
    Column("details", Text),
    Column("period_start", _Instant),
    Column("period_end", _Instant),
    sqlite_with_rowid=False,
)

# The last number that was given in each series of invoices and credit notes: a number is taken in the transaction that
# issues, so there are no gaps.
number_series = Table(
    "number_series",
    metadata,
    _key("series", primary_key=True),
    Column("last_number", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

payments = Table(
    "payments",
    metadata,
    _key("id", primary_key=True),
    _key("invoice_id", nullable=False),
    _key("billable", nullable=False),
    Column("kind", String(10), nullable=False),  # payment, refund
    Column("amount", _Nanos, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("method", Text),
    _key("external_id"),
    Column("note", Text),
    Column("occurred_at", _Instant, nullable=False),
    Column("created_at", _Instant, nullable=False),
    Index(None, "invoice_id"),
    sqlite_with_rowid=False,
)
_EXTERNAL = text("external_id IS NOT NULL")
Index(
    "ix_payments_external_id",
    payments.c.external_id,
    payments.c.kind,
    unique=True,
    sqlite_where=_EXTERNAL,
    postgresql_where=_EXTERNAL,
)

credit_notes = Table(
    "credit_notes",
    metadata,
    _key("id", primary_key=True),
    _key("number", nullable=False, unique=True),
    _key("invoice_id", nullable=False),
    _key("billable", nullable=False),
    Column("currency", String(3), nullable=False),
    Column("amount", _Nanos, nullable=False),  # with its tax
    Column("tax", _Nanos, nullable=False),
    Column("reduces", _Nanos, nullable=False),  # of it: off what was still due
    Column("refunds", _Nanos, nullable=False),  # of it: paid back
    Column("credits", _Nanos, nullable=False),  # of it: pays the next invoices
    Column("reason", Text, nullable=False),
    Column("details", Text),  # as on the invoice
    _key("key"),
    Column("issued_at", _Instant, nullable=False),
    Index(None, "invoice_id"),
    Index(None, "billable", "issued_at"),
    Index(None, "issued_at"),
    sqlite_with_rowid=False,
)
Index(
    "ix_credit_notes_key",
    credit_notes.c.invoice_id,
    credit_notes.c.key,
    unique=True,
    sqlite_where=_KEYED,
    postgresql_where=_KEYED,
)

# Which reminders and dunning steps of an invoice were taken: each once.
invoice_steps = Table(
    "invoice_steps",
    metadata,
    _key("invoice_id", primary_key=True),
    _key("step", primary_key=True),
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

coupons = Table(
    "coupons",
    metadata,
    _key("id", primary_key=True),
    _key("code", nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("percent_off", Text),  # an exact decimal
    Column("amount_off", _Nanos),
    Column("currency", String(3)),
    Column("duration", String(10), nullable=False),  # once, repeating, forever
    Column("duration_months", Integer),
    Column("redemptions_max", Integer),
    Column("redemptions", Integer, nullable=False),
    Column("redeem_by", _Instant),
    Column("plans", Text),  # JSON of slugs; NULL: all
    Column("archived_at", _Instant),
    Column("created_at", _Instant, nullable=False),
    sqlite_with_rowid=False,
)

# A coupon that a billable has redeemed, for one subscription or (NULL) for whatever it is invoiced.
discounts = Table(
    "discounts",
    metadata,
    _key("id", primary_key=True),
    _key("coupon_id", nullable=False),
    _key("billable", nullable=False),
    _key("subscription_id"),
    Column("starts_at", _Instant, nullable=False),
    Column("ends_at", _Instant),
    Column("invoices_left", Integer),  # of one that counts invoices; NULL: until it ends
    Column("created_at", _Instant, nullable=False),
    Index(None, "billable"),
    sqlite_with_rowid=False,
)

# A token of a gateway, never a card number. What is sensitive is encrypted, with the key that its text names.
payment_methods = Table(
    "payment_methods",
    metadata,
    _key("id", primary_key=True),
    _key("billable", nullable=False),
    _key("gateway", nullable=False),
    Column("kind", String(20), nullable=False),  # card, pix, boleto, sepa_debit, …
    Column("token", Text, nullable=False),  # encrypted
    _key("token_digest", nullable=False),  # a keyed hash, by which the same token is found again
    Column("holder", Text),  # encrypted
    Column("brand", Text),
    Column("last4", String(4)),
    Column("exp_month", Integer),
    Column("exp_year", Integer),
    Column("is_default", Boolean, nullable=False),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("removed_at", _Instant),
    Index(None, "billable"),
    sqlite_with_rowid=False,
)
