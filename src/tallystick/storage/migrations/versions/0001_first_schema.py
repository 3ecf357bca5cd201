"""The first schema: accounts, plans, subscriptions, overrides, counters, holds, usage events, rollups, overages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KEY = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("billable", name="pk_accounts"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "counters",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("meter", KEY, nullable=False),
        sa.Column("scope", KEY, nullable=False),
        sa.Column("period", KEY, nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("period_start", "period", "billable", "meter", "scope", name="pk_counters"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "holds",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("feature", sa.Text(), nullable=True),
        sa.Column("user_id", KEY, nullable=True),
        sa.Column("tenant_id", KEY, nullable=True),
        sa.Column("idempotency_key", KEY, nullable=True),
        sa.Column("event_id", KEY, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_holds_open",
        "holds",
        ["billable", "expires_at"],
        sqlite_where=sa.text("status = 'open'"),
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("hold_id", KEY, nullable=True),
        sa.Column("event_id", KEY, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("billable", "key", name="pk_idempotency_keys"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "limit_overrides",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("start_at", sa.BigInteger(), nullable=False),
        sa.Column("end_at", sa.BigInteger(), nullable=True),
        sa.Column("token_limit", sa.BigInteger(), nullable=True),
        sa.Column("cost_limit", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_limit_overrides"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_limit_overrides_billable_start_at", "limit_overrides", ["billable", "start_at"])
    op.create_table(
        "overages",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("event_id", KEY, nullable=False),
        sa.Column("subscription_id", KEY, nullable=True),
        sa.Column("plan_version_id", KEY, nullable=True),
        sa.Column("limit_type", sa.String(length=10), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("price_per_1k_tokens", sa.Text(), nullable=True),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("period_end", sa.BigInteger(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("is_synced", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_overages"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_overages_billable_occurred_at", "overages", ["billable", "occurred_at"])
    op.create_table(
        "plan_versions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("plan_id", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("monthly_token_limit", sa.BigInteger(), nullable=True),
        sa.Column("monthly_cost_limit", sa.BigInteger(), nullable=True),
        sa.Column("overage_price_per_1k_tokens", sa.Text(), nullable=True),
        sa.Column("overage_behavior", sa.String(length=10), nullable=True),
        sa.Column("trial_days", sa.Integer(), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=True),
        sa.Column("billing_cycle", sa.String(length=10), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_plan_versions"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_plan_versions_plan_id_version", "plan_versions", ["plan_id", "version"], unique=True)
    op.create_table(
        "plans",
        sa.Column("id", KEY, nullable=False),
        sa.Column("slug", KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_plans"),
        sa.UniqueConstraint("slug", name="uq_plans_slug"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("plan_version_id", KEY, nullable=False),
        sa.Column("billing_mode", sa.String(length=10), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("trial_ends_at", sa.BigInteger(), nullable=True),
        sa.Column("is_pending", sa.Boolean(), nullable=False),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.Column("cancels_at", sa.BigInteger(), nullable=True),
        sa.Column("term_ends_at", sa.BigInteger(), nullable=True),
        sa.Column("payment_failed_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_subscriptions"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_subscriptions_billable_started_at", "subscriptions", ["billable", "started_at"])
    op.create_table(
        "terms_changes",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("billable", KEY, nullable=True),
        sa.PrimaryKeyConstraint("revision", name="pk_terms_changes"),
    )
    op.create_table(
        "terms_revision",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_terms_revision"),
    )
    op.create_table(
        "usage_daily",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("bucket_start", sa.BigInteger(), nullable=False),
        sa.Column("provider", KEY, nullable=False),
        sa.Column("model", KEY, nullable=False),
        sa.Column("feature", KEY, nullable=False),
        sa.Column("resource_type", KEY, nullable=False),
        sa.Column("currency", KEY, nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("unpriced_events", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "bucket_start",
            "billable",
            "provider",
            "model",
            "feature",
            "resource_type",
            "currency",
            name="pk_usage_daily",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_daily_billable_bucket_start", "usage_daily", ["billable", "bucket_start"])
    op.create_table(
        "usage_events",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("user_id", KEY, nullable=True),
        sa.Column("tenant_id", KEY, nullable=True),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usage", sa.Text(), nullable=True),
        sa.Column("input_cost", sa.BigInteger(), nullable=True),
        sa.Column("output_cost", sa.BigInteger(), nullable=True),
        sa.Column("total_cost", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("price", sa.Text(), nullable=True),
        sa.Column("billing_mode", sa.String(length=10), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("subscription_id", KEY, nullable=True),
        sa.Column("plan_version_id", KEY, nullable=True),
        sa.Column("hold_id", KEY, nullable=True),
        sa.Column("idempotency_key", KEY, nullable=True),
        sa.Column("corrects_event_id", KEY, nullable=True),
        sa.Column("flags", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_events"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_events_billable_occurred_at_id", "usage_events", ["billable", "occurred_at", "id"])
    op.create_index(
        "ix_usage_events_corrects_event_id",
        "usage_events",
        ["corrects_event_id", "occurred_at"],
        sqlite_where=sa.text("corrects_event_id IS NOT NULL"),
        postgresql_where=sa.text("corrects_event_id IS NOT NULL"),
    )
    op.create_index(
        "ix_usage_events_tenant_id",
        "usage_events",
        ["tenant_id", "occurred_at"],
        sqlite_where=sa.text("tenant_id IS NOT NULL"),
        postgresql_where=sa.text("tenant_id IS NOT NULL"),
    )
    op.create_index(
        "ix_usage_events_user_id",
        "usage_events",
        ["user_id", "occurred_at"],
        sqlite_where=sa.text("user_id IS NOT NULL"),
        postgresql_where=sa.text("user_id IS NOT NULL"),
    )
    op.create_table(
        "usage_hourly",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("bucket_start", sa.BigInteger(), nullable=False),
        sa.Column("provider", KEY, nullable=False),
        sa.Column("model", KEY, nullable=False),
        sa.Column("feature", KEY, nullable=False),
        sa.Column("resource_type", KEY, nullable=False),
        sa.Column("currency", KEY, nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("unpriced_events", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "bucket_start",
            "billable",
            "provider",
            "model",
            "feature",
            "resource_type",
            "currency",
            name="pk_usage_hourly",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_hourly_billable_bucket_start", "usage_hourly", ["billable", "bucket_start"])
    op.create_table(
        "usage_removed",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("period", KEY, nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("currency", KEY, nullable=False),
        sa.Column("rollups_kept", sa.Boolean(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "billable", "period", "period_start", "currency", "rollups_kept", name="pk_usage_removed"
        ),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO terms_revision (id, revision) VALUES (1, 0)")
