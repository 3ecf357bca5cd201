"""Plan versions with usage prices, changes of subscriptions, invoices, payments, coupons, payment methods."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

KEY = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    _extend_plans()
    _create_charges()
    _create_invoices()
    _create_payments()
    _create_coupons()


def _extend_plans() -> None:
    op.add_column("plans", sa.Column("plan_type", sa.String(length=20), nullable=True))
    op.add_column("plans", sa.Column("description", sa.Text(), nullable=True))
    op.add_column("plans", sa.Column("current_version_id", KEY, nullable=True))
    op.add_column("plans", sa.Column("archived_at", sa.BigInteger(), nullable=True))
    op.add_column("plan_versions", sa.Column("label", sa.Text(), nullable=True))
    op.add_column("plan_versions", sa.Column("overage_markup_percent", sa.Text(), nullable=True))
    op.add_column("plan_versions", sa.Column("usage_prices", sa.Text(), nullable=True))
    op.add_column("subscriptions", sa.Column("timezone", sa.Text(), nullable=True))
    op.add_column("subscriptions", sa.Column("billed_until", sa.BigInteger(), nullable=True))
    op.add_column("subscriptions", sa.Column("next_billing_at", sa.BigInteger(), nullable=True))
    op.add_column("subscriptions", sa.Column("activation_invoice_id", KEY, nullable=True))
    op.add_column("subscriptions", sa.Column("metadata", sa.Text(), nullable=True))
    # Billing of one that was there before begins with its next period: see `billing_run`.
    op.execute("UPDATE subscriptions SET next_billing_at = 0")
    op.create_index(
        "ix_subscriptions_next_billing_at",
        "subscriptions",
        ["next_billing_at", "id"],
        sqlite_where=sa.text("next_billing_at IS NOT NULL"),
        postgresql_where=sa.text("next_billing_at IS NOT NULL"),
    )
    op.create_table(
        "subscription_changes",
        sa.Column("id", KEY, nullable=False),
        sa.Column("subscription_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("plan_version_id", KEY, nullable=True),
        sa.Column("anchor_at", sa.BigInteger(), nullable=True),
        sa.Column("is_prorated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_subscription_changes"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_subscription_changes_subscription_id_starts_at_id",
        "subscription_changes",
        ["subscription_id", "starts_at", "id"],
    )


def _create_charges() -> None:
    op.add_column("overages", sa.Column("invoice_id", KEY, nullable=True))
    op.add_column("overages", sa.Column("sync_id", KEY, nullable=True))
    op.add_column("overages", sa.Column("synced_at", sa.BigInteger(), nullable=True))
    op.add_column("overages", sa.Column("sync_started_at", sa.BigInteger(), nullable=True))
    op.add_column("overages", sa.Column("sync_attempts", sa.Integer(), nullable=True))
    op.add_column("overages", sa.Column("sync_error", sa.Text(), nullable=True))
    op.create_index(
        "ix_overages_invoice_id",
        "overages",
        ["invoice_id"],
        sqlite_where=sa.text("invoice_id IS NOT NULL"),
        postgresql_where=sa.text("invoice_id IS NOT NULL"),
    )
    op.create_index(
        "ix_overages_open",
        "overages",
        ["billable", "occurred_at"],
        sqlite_where=sa.text("invoice_id IS NULL AND sync_started_at IS NULL"),
        postgresql_where=sa.text("invoice_id IS NULL AND sync_started_at IS NULL"),
    )
    op.create_index(
        "ix_overages_unsynced",
        "overages",
        ["sync_started_at"],
        sqlite_where=sa.text("sync_started_at IS NOT NULL AND synced_at IS NULL"),
        postgresql_where=sa.text("sync_started_at IS NOT NULL AND synced_at IS NULL"),
    )
    op.create_table(
        "usage_charges",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("event_id", KEY, nullable=False),
        sa.Column("subscription_id", KEY, nullable=False),
        sa.Column("plan_version_id", KEY, nullable=False),
        sa.Column("resource_type", KEY, nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("period_end", sa.BigInteger(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("invoice_id", KEY, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_usage_charges"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_charges_billable_occurred_at", "usage_charges", ["billable", "occurred_at"])
    op.create_index(
        "ix_usage_charges_invoice_id",
        "usage_charges",
        ["invoice_id"],
        sqlite_where=sa.text("invoice_id IS NOT NULL"),
        postgresql_where=sa.text("invoice_id IS NOT NULL"),
    )
    op.create_index(
        "ix_usage_charges_open",
        "usage_charges",
        ["billable", "occurred_at"],
        sqlite_where=sa.text("invoice_id IS NULL"),
        postgresql_where=sa.text("invoice_id IS NULL"),
    )
    op.create_table(
        "invoice_items",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("subscription_id", KEY, nullable=True),
        sa.Column("plan_version_id", KEY, nullable=True),
        sa.Column("invoice_id", KEY, nullable=True),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("discounted", sa.BigInteger(), nullable=False),
        sa.Column("is_discountable", sa.Boolean(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=True),
        sa.Column("period_end", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("key", KEY, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_invoice_items"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_invoice_items_invoice_id",
        "invoice_items",
        ["invoice_id"],
        sqlite_where=sa.text("invoice_id IS NOT NULL"),
        postgresql_where=sa.text("invoice_id IS NOT NULL"),
    )
    op.create_index(
        "ix_invoice_items_key",
        "invoice_items",
        ["billable", "key"],
        unique=True,
        sqlite_where=sa.text("key IS NOT NULL"),
        postgresql_where=sa.text("key IS NOT NULL"),
    )
    op.create_index(
        "ix_invoice_items_open",
        "invoice_items",
        ["billable", "due_at"],
        sqlite_where=sa.text("invoice_id IS NULL"),
        postgresql_where=sa.text("invoice_id IS NULL"),
    )
    op.create_index(
        "ix_invoice_items_subscription_id",
        "invoice_items",
        ["subscription_id", "created_at"],
        sqlite_where=sa.text("subscription_id IS NOT NULL"),
        postgresql_where=sa.text("subscription_id IS NOT NULL"),
    )


def _create_invoices() -> None:
    op.create_table(
        "billing_accounts",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("carried", sa.BigInteger(), nullable=False),
        sa.Column("credit", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("billable", "currency", name="pk_billing_accounts"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "billing_details",
        sa.Column("billable", KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("line1", sa.Text(), nullable=True),
        sa.Column("line2", sa.Text(), nullable=True),
        sa.Column("city", sa.Text(), nullable=True),
        sa.Column("region", sa.Text(), nullable=True),
        sa.Column("postal_code", sa.Text(), nullable=True),
        sa.Column("country", sa.String(length=2), nullable=True),
        sa.Column("tax_id", sa.Text(), nullable=True),
        sa.Column("tax_rate_percent", sa.Text(), nullable=True),
        sa.Column("tax_name", sa.Text(), nullable=True),
        sa.Column("is_tax_inclusive", sa.Boolean(), nullable=True),
        sa.Column("is_tax_exempt", sa.Boolean(), nullable=False),
        sa.Column("locale", sa.String(length=10), nullable=True),
        sa.Column("due_days", sa.Integer(), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("billable", name="pk_billing_details"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "invoices",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("number", KEY, nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("subscription_id", KEY, nullable=True),
        sa.Column("period_start", sa.BigInteger(), nullable=True),
        sa.Column("period_end", sa.BigInteger(), nullable=True),
        sa.Column("subtotal", sa.BigInteger(), nullable=False),
        sa.Column("carried_in", sa.BigInteger(), nullable=False),
        sa.Column("carried_out", sa.BigInteger(), nullable=False),
        sa.Column("net", sa.BigInteger(), nullable=False),
        sa.Column("tax", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("credit_applied", sa.BigInteger(), nullable=False),
        sa.Column("amount_paid", sa.BigInteger(), nullable=False),
        sa.Column("amount_credited", sa.BigInteger(), nullable=False),
        sa.Column("amount_refunded", sa.BigInteger(), nullable=False),
        sa.Column("tax_rate_percent", sa.Text(), nullable=True),
        sa.Column("tax_name", sa.Text(), nullable=True),
        sa.Column("is_tax_inclusive", sa.Boolean(), nullable=False),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("locale", sa.String(length=10), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("key", KEY, nullable=True),
        sa.Column("key_input", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("paid_at", sa.BigInteger(), nullable=True),
        sa.Column("voided_at", sa.BigInteger(), nullable=True),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_invoices"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_invoices_archivable",
        "invoices",
        ["paid_at"],
        sqlite_where=sa.text("archived_at IS NULL AND paid_at IS NOT NULL"),
        postgresql_where=sa.text("archived_at IS NULL AND paid_at IS NOT NULL"),
    )
    op.create_index("ix_invoices_billable_created_at_id", "invoices", ["billable", "created_at", "id"])
    op.create_index(
        "ix_invoices_key",
        "invoices",
        ["billable", "key"],
        unique=True,
        sqlite_where=sa.text("key IS NOT NULL"),
        postgresql_where=sa.text("key IS NOT NULL"),
    )
    op.create_index(
        "ix_invoices_number",
        "invoices",
        ["number"],
        unique=True,
        sqlite_where=sa.text("number IS NOT NULL"),
        postgresql_where=sa.text("number IS NOT NULL"),
    )
    op.create_index(
        "ix_invoices_owed",
        "invoices",
        ["due_at", "id"],
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_invoices_subscription_id_period_start", "invoices", ["subscription_id", "period_start"])
    op.create_table(
        "invoice_lines",
        sa.Column("invoice_id", KEY, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("subscription_id", KEY, nullable=True),
        sa.Column("plan_version_id", KEY, nullable=True),
        sa.Column("resource_type", KEY, nullable=True),
        sa.Column("item_id", KEY, nullable=True),
        sa.Column("discount_id", KEY, nullable=True),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("period_start", sa.BigInteger(), nullable=True),
        sa.Column("period_end", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("invoice_id", "position", name="pk_invoice_lines"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "invoice_steps",
        sa.Column("invoice_id", KEY, nullable=False),
        sa.Column("step", KEY, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("invoice_id", "step", name="pk_invoice_steps"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "number_series",
        sa.Column("series", KEY, nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("series", name="pk_number_series"),
        sqlite_with_rowid=False,
    )


def _create_payments() -> None:
    op.create_table(
        "payments",
        sa.Column("id", KEY, nullable=False),
        sa.Column("invoice_id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("method", sa.Text(), nullable=True),
        sa.Column("external_id", KEY, nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_payments"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_payments_external_id",
        "payments",
        ["external_id", "kind"],
        unique=True,
        sqlite_where=sa.text("external_id IS NOT NULL"),
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_index("ix_payments_invoice_id", "payments", ["invoice_id"])
    op.create_table(
        "credit_notes",
        sa.Column("id", KEY, nullable=False),
        sa.Column("number", KEY, nullable=False),
        sa.Column("invoice_id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("tax", sa.BigInteger(), nullable=False),
        sa.Column("reduces", sa.BigInteger(), nullable=False),
        sa.Column("refunds", sa.BigInteger(), nullable=False),
        sa.Column("credits", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("key", KEY, nullable=True),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_credit_notes"),
        sa.UniqueConstraint("number", name="uq_credit_notes_number"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_credit_notes_billable_issued_at", "credit_notes", ["billable", "issued_at"])
    op.create_index("ix_credit_notes_invoice_id", "credit_notes", ["invoice_id"])
    op.create_index("ix_credit_notes_issued_at", "credit_notes", ["issued_at"])
    op.create_index(
        "ix_credit_notes_key",
        "credit_notes",
        ["invoice_id", "key"],
        unique=True,
        sqlite_where=sa.text("key IS NOT NULL"),
        postgresql_where=sa.text("key IS NOT NULL"),
    )
    op.create_table(
        "payment_methods",
        sa.Column("id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("gateway", KEY, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("token_digest", KEY, nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("brand", sa.Text(), nullable=True),
        sa.Column("last4", sa.String(length=4), nullable=True),
        sa.Column("exp_month", sa.Integer(), nullable=True),
        sa.Column("exp_year", sa.Integer(), nullable=True),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_payment_methods"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_payment_methods_billable", "payment_methods", ["billable"])


def _create_coupons() -> None:
    op.create_table(
        "coupons",
        sa.Column("id", KEY, nullable=False),
        sa.Column("code", KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("percent_off", sa.Text(), nullable=True),
        sa.Column("amount_off", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("duration", sa.String(length=10), nullable=False),
        sa.Column("duration_months", sa.Integer(), nullable=True),
        sa.Column("redemptions_max", sa.Integer(), nullable=True),
        sa.Column("redemptions", sa.Integer(), nullable=False),
        sa.Column("redeem_by", sa.BigInteger(), nullable=True),
        sa.Column("plans", sa.Text(), nullable=True),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_coupons"),
        sa.UniqueConstraint("code", name="uq_coupons_code"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "discounts",
        sa.Column("id", KEY, nullable=False),
        sa.Column("coupon_id", KEY, nullable=False),
        sa.Column("billable", KEY, nullable=False),
        sa.Column("subscription_id", KEY, nullable=True),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=True),
        sa.Column("invoices_left", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_discounts"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_discounts_billable", "discounts", ["billable"])
