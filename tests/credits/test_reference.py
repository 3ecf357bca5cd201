"""The reference of credits is true: each test that it names exists, and no name of the original is left out of it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "reference-credits.md"

# What the two original documents promise, by the words of theirs.
PROMISED = (
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


def rows() -> list[tuple[str, str, str]]:
    """Return the rows of all tables of the page, without their heads."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    assert all(len(row) == 3 for row in cells), [row for row in cells if len(row) != 3]
    return [(row[0], row[1], row[2]) for row in cells if row[2] != "proved by"]


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_bytes())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_each_test_that_is_named_exists() -> None:
    assert len(rows()) > 80
    missing = []
    for _, _, proof in rows():
        path, _, name = proof.partition("::")
        if not name.startswith("test_") or not (ROOT / path).is_file() or name not in names_in(ROOT / path):
            missing.append(proof)
    assert not missing


def test_each_promise_of_the_originals_has_its_row() -> None:
    told = "\n".join(reference for reference, _, _ in rows())
    assert not [name for name in PROMISED if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", told)]
