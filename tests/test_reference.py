"""The references are true: each test that they name exists, and no name of the originals is left out of them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

# What the original documents promise, by the words of theirs, and how many rows a page has at least.
CREDITS = (
    "firstOrCreate", "addCredits", "deductCredits", "hasSufficientBalance", "balance", "currency", "transactions",
    "billable", "credit_overdraft_allowed", "billingMode", "balance_after", "reason", "meta", "type", "amount",
    "AiCreditsAdded", "AiCreditsDeducted", "AiCreditsInsufficientException", "getBalance", "getRequired",
    "stripe_payment", "admin_grant", "minimum balance alerts",
    "grantExtraCredits", "totalExtraCredits", "extraCreditsForFeature", "remainingFeatureUsageWithCredits",
    "canUseFeatureWithCredits", "useFeatureWithCredits", "getCreditUsageStats", "remainingFeatureUsage",
    "canUseFeature", "useFeature", "extraCredits", "totalAvailableCredits", "grantMultipleExtraCredits",
    "plan_limit", "extra_credits", "total_available", "used", "remaining", "subscription_id", "feature_id",
    "granted_by_type", "granted_by_id", "expires_at", "created_at", "SubscriptionFeatureCreditResource",
    "referralBonus", "withCredits", "expired", "cleanup-expired-credits", "--dry-run", "--batch-size=500",
    "total credits granted by period", "active vs expired credits", "top credit recipients",
    "usage patterns and trends", "weekly expiration warnings", "monthly analytics reports", "credit transfers",
    "credit marketplace", "tiered expiration", "usage limits", "credit pools",
)  # fmt: skip
PLATFORM = (
    "logUsage", "quantity", "metadata", "message", "completion", "file_upload", "file_storage", "vector_query",
    "tool_call", "embedding", "getUsageStats", "get_usage_stats", "start_date", "end_date", "resource_type",
    "tenant_id", "by_resource_type", "event_count", "total_quantity", "totals", "total_events", "getUsageTimeSeries",
    "get_usage_timeseries", "interval", "usage_logs", "immediately after operations complete",
    "setQuota", "set_quota", "limit_value", "hourly", "daily", "monthly", "total", "is_hard_limit",
    "notification_threshold", "checkQuota", "allowed", "current", "limit", "percentage", "enforceQuota", "list_quotas",
    "delete_quota", "get_quota_status", "id", "period", "QUOTA_ENFORCEMENT_ENABLED", "USAGE_TRACKING_ENABLED",
    "soft limits", "early warnings", "both daily and monthly quotas", "generous limits", "usage patterns",
    "quota_warning", "quota_exceeded", "payment_failed", "payment_success", "subscription_expiring", "trial_ending",
    "sendQuotaWarning", "sendPaymentFailed", "listNotifications", "list_notifications", "unread_only", "markAsRead",
    "mark_notification_read", "get_unread_count", "spam", "debouncing", "priority levels", "action items",
    "create_tenant", "createTenant", "name", "slug", "billing_email", "suspend", "monitor usage",
    "run new migrations", "existing users", "existing resources", "WHERE tenant_id IS NULL", "default quotas",
    "enable tracking in application code", "clean up old logs", "compliance",
    "usage is being logged correctly", "quota period matches usage tracking period", "BILLING_NOTIFICATIONS_ENABLED",
    "notification service is initialized", "valid billing email", "notification status",
    "the last 30 days", "Invalid period", "a scan of all events", "group by day", "silences another quota's",
    "another tenant's notification", "without a cryptographic source", "lowers a lifetime counter",
)  # fmt: skip
BILLING = (
    "plan_type", "free", "starter", "professional", "enterprise", "custom", "billing_cycle", "monthly", "quarterly",
    "yearly", "lifetime", "price_cents", "createSubscription", "create_subscription", "status", "get_subscription",
    "update_subscription", "cancel_subscription", "immediately", "billable_type", "billable_id", "ai_plan_id",
    "billing_mode", "started_at", "renews_at", "stripe_subscription_id", "stripe_customer_id", "sync-plans",
    "migrate-plan", "--from-plan", "createInvoice", "create_invoice", "amount_cents", "due_date", "line_items",
    "description", "quantity", "updateInvoice", "update_invoice", "INVOICE_PAID", "external_payment_id", "get_invoice",
    "list_invoices", "pending", "paid", "overdue", "limit", "offset", "before the billing period starts",
    "payment reminders", "7 days before due date", "archive paid invoices", "payment_methods",
    "encrypt sensitive payment data", "audit trails", "overage_behavior", "ai_overages", "overage_sync_strategy",
    "batch", "immediate", "sync-stripe-overages", "--limit=50", "is_synced", "markAsSynced", "sync_id",
    "BillingDriver", "chargeOverage", "refundOverage", "AI_METERING_BILLING_DRIVER", "high volume", "track overages",
    "payment_failure_grace_period_days", "limits still apply", "usage is tracked", "no limits enforced",
    "access control", "grace periods for failed payments", "notify users", "renewal options", "currency",
    "AI_METERING_CURRENCY", "currency_rates", "usd_eur", "eur_usd", "AiOverageCharged", "AiPlanChanged",
    "AiSubscriptionExpired", "alert on payment failures", "straddles the limit", "the charge is made again",
    "two equal overages", "sub-cent amounts vanish", "1:1", "costs 0.0", "is overwritten at each renewal",
    "the moment of a cancellation",
)  # fmt: skip
PAGES = {
    "reference-billing.md": (75, BILLING),
    "reference-credits.md": (80, CREDITS),
    "reference-platform.md": (120, PLATFORM),
}

each_page = pytest.mark.parametrize("page", PAGES)


def rows(page: str) -> list[tuple[str, str, str]]:
    """Return the rows of all tables of a page, without their heads."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    assert all(len(row) == 3 for row in cells), [row for row in cells if len(row) != 3]
    return [(row[0], row[1], row[2]) for row in cells if row[2] != "proved by"]


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_bytes())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_each_page_of_reference_is_looked_at_here() -> None:
    assert {path.name for path in DOCS.glob("reference-*.md")} == set(PAGES)


@each_page
def test_each_test_that_is_named_exists(page: str) -> None:
    rows_min, _ = PAGES[page]
    assert len(rows(page)) > rows_min
    missing = []
    for _, _, proof in rows(page):
        path, _, name = proof.partition("::")
        if not name.startswith("test_") or not (ROOT / path).is_file() or name not in names_in(ROOT / path):
            missing.append(proof)
    assert not missing


@each_page
def test_each_promise_of_the_originals_has_its_row(page: str) -> None:
    _, promised = PAGES[page]
    told = "\n".join(reference for reference, _, _ in rows(page))
    assert not [name for name in promised if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", told)]
