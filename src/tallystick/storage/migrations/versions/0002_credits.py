"""Credits: accounts, grants, statements and their ledger; features of plans and their use; caps; top-ups; job runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

KEY = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    # NULL, so that no row of an older version is rewritten: a hold of that time has nothing of credits.
    op.add_column("holds", sa.Column("pins", sa.Text(), nullable=True))
    op.create_table(
        "plan_features",
        sa.Column("plan_version_id", KEY, nullable=False),
        sa.Column("slug", KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_consumable", sa.Boolean(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=True),
        sa.Column("reset", sa.String(length=10), nullable=False),
        sa.Column("display_value", sa.Text(), nullable=True),
        sa.Column("is_hidden", sa.Boolean(), nullable=False),
        sa.Column("sort_order", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("plan_version_id", "slug", name="pk_plan_features"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "credit_caps",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("unit", KEY, nullable=False),
        sa.Column("member", KEY, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("billable", "unit", "member", name="pk_credit_caps"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "credit_accounts",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("unit", KEY, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("paid", sa.BigInteger(), nullable=False),
        sa.Column("promotional", sa.BigInteger(), nullable=False),
        sa.Column("overdraft", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.Column("top_up_state", sa.String(length=10), nullable=False),
        sa.Column("minimum_balance", sa.BigInteger(), nullable=True),
        sa.Column("overdraft_limit", sa.BigInteger(), nullable=True),
        sa.Column("top_up_below", sa.BigInteger(), nullable=True),
        sa.Column("top_up_amount", sa.BigInteger(), nullable=True),
        sa.Column("top_up_monthly_max", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("billable", "unit", name="pk_credit_accounts"),
        sa.UniqueConstraint("id", name="uq_credit_accounts_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "grants",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("unit", KEY, nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("remaining", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("granted_by", KEY, nullable=True),
        sa.Column("feature", KEY, nullable=True),
        sa.Column("subscription_id", KEY, nullable=True),
        sa.Column("limit_amount", sa.BigInteger(), nullable=True),
        sa.Column("limit_period", sa.String(length=10), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("warned_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_grants_billable", "grants", ["billable", "unit", "created_at"])
    op.create_index("ix_grants_created_at", "grants", ["created_at"])
    for name, columns, condition in (
        ("ix_grants_open", ["billable", "unit", "priority", "created_at", "id"], "remaining > 0"),
        ("ix_grants_expiring", ["billable", "unit", "expires_at"], "remaining > 0 AND expires_at IS NOT NULL"),
        ("ix_grants_due", ["expires_at", "id"], "remaining > 0 AND expires_at IS NOT NULL"),
    ):
        op.create_index(name, "grants", columns, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))
    op.create_table(
        "credit_transactions",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("unit", KEY, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("source", sa.String(length=12), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("grant_id", KEY, nullable=True),
        sa.Column("event_id", KEY, nullable=True),
        sa.Column("hold_id", KEY, nullable=True),
        sa.Column("reverses_id", KEY, nullable=True),
        sa.Column("user_id", KEY, nullable=True),
        sa.Column("feature", sa.Text(), nullable=True),
        sa.Column("exchange", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("billable", "unit", "number", name="pk_credit_transactions"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_credit_transactions_occurred_at", "credit_transactions", ["occurred_at"])
    op.create_index(
        "ix_credit_transactions_reverses_id",
        "credit_transactions",
        ["reverses_id"],
        sqlite_where=sa.text("reverses_id IS NOT NULL"),
        postgresql_where=sa.text("reverses_id IS NOT NULL"),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("transaction_id", KEY, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("unit", KEY, nullable=False),
        sa.Column("account", KEY, nullable=False),
        sa.Column("grant_id", KEY, nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("statement_number", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("transaction_id", "position", name="pk_ledger_entries"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "feature_uses",
        sa.Column("event_id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("feature", KEY, nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("from_plan", sa.BigInteger(), nullable=False),
        sa.Column("from_credits", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_feature_uses"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "top_ups",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("unit", KEY, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("transaction_id", KEY, nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_top_ups"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_top_ups_billable_unit_created_at", "top_ups", ["billable", "unit", "created_at"])
    op.create_index("ix_top_ups_status_created_at", "top_ups", ["status", "created_at"])
    op.create_table(
        "job_runs",
        sa.Column("job", KEY, nullable=False),
        sa.Column("period_start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job", "period_start", name="pk_job_runs"),
        sqlite_with_rowid=False,
    )
