"""Tenants, quotas, rate limits, refusals in shadow mode; clean-up; notifications, webhooks and the outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

KEY = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("usage_events", sa.Column("key_id", KEY, nullable=True))
    _create_tenants()
    _create_limits()
    _create_clean_up()
    _create_notifications()


def _create_tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", KEY, nullable=False),
        sa.Column("slug", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("billing_email", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("locale", sa.String(length=10), nullable=True),
        sa.Column("tax_id", sa.Text(), nullable=True),
        sa.Column("enforcement", sa.String(length=10), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("erased_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("slug", name="uq_tenants_slug"),
        sa.UniqueConstraint("billable", name="uq_tenants_billable"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_tenants_created_at", "tenants", ["created_at"])
    op.create_table(
        "tenant_members",
        sa.Column("tenant", KEY, nullable=False),
        sa.Column("user_id", KEY, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "user_id", name="pk_tenant_members"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_tenant_members_user_id", "tenant_members", ["user_id"])


def _create_limits() -> None:
    op.create_table(
        "quotas",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("resource_type", KEY, nullable=False),
        sa.Column("period", KEY, nullable=False),
        sa.Column("scope", KEY, nullable=False),
        sa.Column("limit_value", sa.BigInteger(), nullable=False),
        sa.Column("is_hard_limit", sa.Boolean(), nullable=False),
        sa.Column("thresholds", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quotas"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_quotas_billable_resource_type_period_scope",
        "quotas",
        ["billable", "resource_type", "period", "scope"],
        unique=True,
    )
    op.create_table(
        "quota_alerts",
        sa.Column("quota_id", KEY, nullable=False),
        sa.Column("period_start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("scope", KEY, nullable=False),
        sa.Column("threshold", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("limit_value", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "quota_id", "period_start", "scope", "threshold", "limit_value", name="pk_quota_alerts"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "shadow_refusals",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("code", KEY, nullable=False),
        sa.Column("limit_type", KEY, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("hold_id", KEY, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_shadow_refusals"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_shadow_refusals_billable_created_at", "shadow_refusals", ["billable", "created_at"])
    op.create_table(
        "rate_limits",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("resource_type", KEY, nullable=False),
        sa.Column("scope", KEY, nullable=False),
        sa.Column("per", KEY, nullable=False),
        sa.Column("limit_value", sa.BigInteger(), nullable=False),
        sa.Column("burst", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rate_limits"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_rate_limits_billable_resource_type_scope_per",
        "rate_limits",
        ["billable", "resource_type", "scope", "per"],
        unique=True,
    )


def _create_clean_up() -> None:
    op.create_table(
        "removed_days",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("day_start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("currency", KEY, nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day_start", "billable", "currency", name="pk_removed_days"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_removed_days_billable_day_start", "removed_days", ["billable", "day_start"])
    op.create_table(
        "rollup_zones",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("billable", name="pk_rollup_zones"),
        sqlite_with_rowid=False,
    )


def _create_notifications() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("type", KEY, nullable=False),
        sa.Column("priority", sa.String(length=10), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("action_url", sa.Text(), nullable=True),
        sa.Column("locale", sa.String(length=10), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("key", KEY, nullable=True),
        sa.Column("in_app", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("read_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notifications"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_notifications_billable_created_at_id", "notifications", ["billable", "created_at", "id"])
    op.create_index(
        "ix_notifications_key",
        "notifications",
        ["billable", "key"],
        unique=True,
        sqlite_where=sa.text('"key" IS NOT NULL'),
        postgresql_where=sa.text('"key" IS NOT NULL'),
    )
    op.create_index(
        "ix_notifications_unread",
        "notifications",
        ["billable"],
        sqlite_where=sa.text("read_at IS NULL"),
        postgresql_where=sa.text("read_at IS NULL"),
    )
    op.create_table(
        "notification_preferences",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("type", KEY, nullable=False),
        sa.Column("channel", KEY, nullable=False),
        sa.Column("mode", sa.String(length=10), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("billable", "type", "channel", name="pk_notification_preferences"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text(), nullable=True),
        sa.Column("previous_secret_until", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_webhook_endpoints_billable", "webhook_endpoints", ["billable"])
    op.create_table(
        "outbox",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("channel", KEY, nullable=False),
        sa.Column("destination", KEY, nullable=False),
        sa.Column("notification_id", KEY, nullable=True),
        sa.Column("type", KEY, nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("is_digest", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("lease", KEY, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("sent_as", KEY, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_outbox_billable_id", "outbox", ["billable", "id"])
    op.create_index(
        "ix_outbox_done",
        "outbox",
        ["status", "closed_at"],
        sqlite_where=sa.text("closed_at IS NOT NULL"),
        postgresql_where=sa.text("closed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_outbox_due",
        "outbox",
        ["channel", "destination", "due_at", "id"],
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_outbox_sent",
        "outbox",
        ["billable", "closed_at"],
        sqlite_where=sa.text("closed_at IS NOT NULL"),
        postgresql_where=sa.text("closed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_outbox_waiting",
        "outbox",
        ["due_at", "channel", "destination"],
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
