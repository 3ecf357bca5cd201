"""`plans`, `subscriptions` and `limits`: enough to try limits without writing Python."""

from __future__ import annotations

import re

import pytest

from tallystick import Tallystick
from tallystick.errors import LimitExceeded
from tests.cli.commands import answer, invoke, succeed


def create_pro(url: str, *options: object) -> dict[str, object]:
    created: dict[str, object] = answer(
        "plans", "create", "pro", "--monthly-token-limit", 1000, *options, "--database", url
    )
    return created


def test_a_plan_is_created_with_all_its_terms(database_url: str) -> None:
    created = create_pro(
        database_url,
        *("--name", "Professional", "--monthly-cost-limit", "100", "--overage-behavior", "charge"),
        *("--overage-price", "0.01 USD", "--trial-days", 14, "--price", "99 USD"),
        *("--billing-cycle", "yearly"),
    )
    assert created.pop("published_at") is not None
    assert created == {
        "slug": "pro",
        "name": "Professional",
        "version": 1,
        "currency": "USD",
        "monthly_token_limit": 1000,
        "monthly_cost_limit": {"amount": "100.00", "currency": "USD"},
        "overage_behavior": "charge",
        "overage_price_per_1k_tokens": {"amount": "0.01", "currency": "USD"},
        "trial_days": 14,
        "price": {"amount": "99.00", "currency": "USD"},
        "billing_cycle": "yearly",
        "features": [],
        "label": None,
        "overage_markup_percent": None,
        "usage_prices": {},
        "plan_type": "custom",
        "description": None,
        "archived_at": None,
    }
    assert [plan["slug"] for plan in answer("plans", "list", "--database", database_url)["plans"]] == ["pro"]
    said = succeed("plans", "list", "--database", database_url)
    assert re.search(r"pro +1,000 +100\.00 USD +charge 0\.01 USD for 1,000 +99\.00 USD yearly, 14 days of trial", said)


def test_a_plan_of_the_same_name_and_an_amount_that_is_none_are_refused(sqlite_url: str) -> None:
    create_pro(sqlite_url)
    again = answer("plans", "create", "pro", "--database", sqlite_url, exit_code=3)
    assert again["error"]["code"] == "conflict"
    error = answer("plans", "create", "x", "--price", "much", "--database", sqlite_url, exit_code=3)["error"]
    assert (error["field"], "99 USD" in error["message"] or "100 USD" in error["message"]) == ("price", True)


def test_no_plans_are_said_to_be_none(sqlite_url: str) -> None:
    succeed("migrate", "--database", sqlite_url)
    assert "There are no plans yet." in succeed("plans", "list", "--database", sqlite_url)


def test_a_subscription_puts_the_plans_limit_in_force_until_it_is_cancelled(database_url: str) -> None:
    create_pro(database_url)
    created = answer("subscriptions", "create", "user:1", "pro", "--database", database_url)
    assert (created["status"], created["plan"]["slug"]) == ("active", "pro")
    with Tallystick(database_url) as ts, pytest.raises(LimitExceeded):
        ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini").hold(tokens=1001)
    assert answer("subscriptions", "show", "user:1", "--database", database_url) == created

    later = answer("subscriptions", "cancel", "user:1", "--database", database_url)
    assert (later["status"], later["ends_at"] is not None) == ("active", True)
    now = answer("subscriptions", "cancel", "user:1", "--immediately", "--database", database_url)
    assert now["status"] == "cancelled"
    assert answer("limits", "show", "user:1", "--database", database_url)["tokens"]["limit"] is None


def test_a_subscription_may_begin_another_day_or_wait(sqlite_url: str) -> None:
    create_pro(sqlite_url, "--trial-days", 7)
    options = ("--database", sqlite_url)
    future = answer("subscriptions", "create", "user:1", "pro", "--started-at", "2099-01-01", *options)
    assert (future["status"], future["started_at"]) == ("future", "2099-01-01T00:00:00+00:00")
    assert future["trial_ends_at"] == "2099-01-08T00:00:00+00:00"
    assert answer("subscriptions", "create", "user:2", "pro", "--pending", *options)["status"] == "pending"
    trial = answer("subscriptions", "create", "user:3", "pro", "--trial-ends-at", "2099-01-01", *options)
    assert (trial["status"], trial["trial_ends_at"]) == ("trial", "2099-01-01T00:00:00+00:00")
    assert "user:3: pro, version 1, trial" in succeed("subscriptions", "show", "user:3", *options)


def test_who_has_no_subscription_is_told_how_to_get_one(sqlite_url: str) -> None:
    create_pro(sqlite_url)
    for command in ("show", "cancel"):
        error = answer("subscriptions", command, "user:9", "--database", sqlite_url, exit_code=3)["error"]
        assert error["message"].endswith("Create one: tallystick subscriptions create user:9 PLAN")
    error = answer("subscriptions", "create", "user:9", "por", "--database", sqlite_url, exit_code=3)["error"]
    assert (error["code"], error["message"]) == ("plan_not_found", "No plan 'por'. Plans: pro.")


def test_limits_show_how_a_billable_stands(database_url: str) -> None:
    create_pro(database_url, "--monthly-cost-limit", "2 USD")
    succeed("subscriptions", "create", "user:1", "pro", "--database", database_url)
    with Tallystick(database_url) as ts:
        ts.usage.record(billable="user:1", provider="openai", model="gpt-4o-mini", input_tokens=250)
        ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini").hold(tokens=50)
    found = answer("limits", "show", "user:1", "--database", database_url)
    assert found["tokens"] == {"limit": 1000, "used": 250, "held": 50, "remaining": 700}
    assert (found["plan"], found["allowed"], found["usage_percentage"]) == ("pro", True, 25.0)
    assert found["cost"]["limit"] == {"amount": "2.00", "currency": "USD"}
    said = succeed("limits", "show", "user:1", "--database", database_url)
    assert re.search(r"Tokens +█{5}░{15} +25%  250 of 1,000, 50 held by calls in flight", said)


def test_an_override_replaces_a_limit_for_its_time(database_url: str) -> None:
    create_pro(database_url)
    succeed("subscriptions", "create", "user:1", "pro", "--database", database_url)
    made = answer(
        *("limits", "override", "user:1", "--token-limit", 5000, "--cost-limit", "7.50"),
        *("--end", "2099-01-01", "--reason", "Goodwill", "--database", database_url),
    )
    assert (made["token_limit"], made["cost_limit"]) == (5000, {"amount": "7.50", "currency": "USD"})
    assert made["end"] == "2099-01-01T00:00:00+00:00"
    found = answer("limits", "show", "user:1", "--database", database_url)
    assert (found["tokens"]["limit"], found["overrides"]) == (5000, [made])
    assert "5,000 tokens and 7.50 USD per period" in succeed("limits", "show", "user:1", "--database", database_url)


def test_an_override_of_nothing_is_refused(sqlite_url: str) -> None:
    result = invoke("limits", "override", "user:1", "--database", sqlite_url)
    assert (result.exit_code, "token_limit" in result.stderr) == (3, True)


def test_a_billable_without_a_plan_is_not_limited(sqlite_url: str) -> None:
    create_pro(sqlite_url)
    said = succeed("limits", "show", "user:7", "--database", sqlite_url)
    assert "No plan and no override: use is counted and not limited." in said
