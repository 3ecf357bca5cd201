"""`quotas` and `rate-limits`: set, watched, checked and taken away from a shell."""

from __future__ import annotations

import re

from tallystick import Tallystick
from tests.cli.commands import answer, invoke, succeed


def test_a_quota_is_set_watched_checked_and_taken_away(database_url: str) -> None:
    options = ("--database", database_url)
    made = answer("quotas", "set", "acme", "message", 10, "daily", "--threshold", 90, "--threshold", 50, *options)
    assert (made["billable"], made["limit"], made["thresholds"]) == ("tenant:acme", 10, [50, 90])
    assert made["is_hard_limit"]
    with Tallystick(database_url) as ts:
        ts.quotas.consume("acme", "message", 9)
    [status] = answer("quotas", "status", "acme", *options)["quotas"]
    assert (status["current"], status["remaining"], status["percentage"], status["allowed"]) == (9, 1, 90.0, True)
    assert re.search(r"message daily +█+▎?.* 90%  9 of 10, until .* UTC", succeed("quotas", "status", "acme", *options))
    assert answer("quotas", "check", "acme", "message", "daily", *options)["allowed"]
    refused = answer("quotas", "check", "acme", "message", "--quantity", 2, *options, exit_code=1)
    assert (refused["allowed"], refused["remaining"]) == (False, 1)
    said = invoke("quotas", "check", "acme", "message", "--quantity", 2, *options)
    assert (said.exit_code, "has no room" in said.stdout) == (1, True)
    assert [one["id"] for one in answer("quotas", "list", "acme", *options)["quotas"]] == [made["id"]]
    assert "message" in succeed("quotas", "delete", made["id"], *options)
    assert "There are no quotas." in succeed("quotas", "list", "acme", *options)
    assert "There are no quotas." in succeed("quotas", "status", "acme", *options)
    assert "No quota limits message" in succeed("quotas", "check", "acme", "message", *options)


def test_a_quota_may_be_soft_slide_cost_money_and_be_of_a_part(sqlite_url: str) -> None:
    options = ("--database", sqlite_url)
    soft = answer("quotas", "set", "user:1", "cost", "100 USD", "monthly", "--soft", *options)
    assert (soft["is_hard_limit"], soft["limit"]) == (False, {"amount": "100.00", "currency": "USD"})
    sliding = answer("quotas", "set", "user:1", "tool_call", 5, "hourly", "--sliding", "--user", "*", *options)
    assert (sliding["period"], sliding["user"]) == ("sliding_hourly", "user:*")
    said = succeed("quotas", "set", "user:1", "tool_call", 5, "daily", "--feature", "chat", *options)
    assert "user:1: at most 5 tool_call of feature chat, daily (qta_" in said
    listed = succeed("quotas", "list", "user:1", *options)
    assert re.search(r"cost +monthly +all +100\.00 USD +soft +80%", listed)
    assert re.search(r"tool_call +sliding hourly +each user +5 +hard", listed)
    error = answer("quotas", "set", "user:1", "cost", "100 EUR", "monthly", *options, exit_code=3)["error"]
    assert error["code"] == "currency_mismatch"


def test_a_rate_limit_is_set_watched_and_taken_away(database_url: str) -> None:
    options = ("--database", database_url)
    made = answer("rate-limits", "set", "acme", "requests", 60, "minute", "--burst", 5, *options)
    assert (made["limit"], made["burst"], made["per"]) == (60, 5, "minute")
    [status] = answer("rate-limits", "status", "acme", *options)["rate_limits"]
    assert (status["remaining"], status["id"]) == (5, made["id"])
    assert re.search(r"requests +all +60 +minute +5 +5", succeed("rate-limits", "status", "acme", *options))
    assert made["id"] in succeed("rate-limits", "list", "acme", *options)
    assert "60 requests of user:7 a hour" in succeed(
        "rate-limits", "set", "acme", "requests", 60, "hour", "--user", 7, *options
    )
    assert answer("rate-limits", "delete", made["id"], *options) == {"deleted": made["id"]}
    error = answer("rate-limits", "delete", made["id"], *options, exit_code=3)["error"]
    assert error["code"] == "not_found"
    assert "There are no rate limits." in succeed("rate-limits", "list", "other", *options)
    assert "There are no rate limits." in succeed("rate-limits", "status", "other", *options)
