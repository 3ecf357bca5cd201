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
