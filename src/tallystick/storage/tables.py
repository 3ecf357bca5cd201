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
    Index(None, "plan_id", "version", unique=True),
    sqlite_with_rowid=False,
)

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
    Index(None, "billable", "started_at"),
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
    Index(None, "billable", "occurred_at"),
    sqlite_with_rowid=False,
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
