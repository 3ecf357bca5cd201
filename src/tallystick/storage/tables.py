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
