"""Features and credits mode as `tallystick plans` and `tallystick subscriptions` take and show them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.commands import answer, invoke, succeed

FEATURES = (
    *("--feature", "api-calls=1000/daily"),
    *("--feature", "exports=50"),
    *("--feature", "reports = unlimited"),
    *("--feature", "seats=2.5 / never"),
    *("--feature", "sso"),
)


@pytest.fixture(autouse=True)
def no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a folder without settings, at the width of a file."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_plan_is_created_with_its_features(database_url: str) -> None:
    created = answer("plans", "create", "pro", *FEATURES, "--database", database_url)
    assert [list(map(feature.get, ("slug", "value", "is_unlimited", "reset"))) for feature in created["features"]] == [
        ["api-calls", 1000, False, "daily"],
        ["exports", 50, False, "monthly"],
        ["reports", None, True, "monthly"],
        ["seats", "2.500000", False, "never"],
        ["sso", None, False, "never"],
    ]
    assert created["features"][-1] == {
        "slug": "sso",
        "name": "sso",
        "is_consumable": False,
        "value": None,
        "is_unlimited": False,
        "reset": "never",
        "display_value": None,
        "is_hidden": False,
        "sort_order": 0,
    }
    assert answer("plans", "list", "--database", database_url)["plans"] == [created]


def test_the_list_of_plans_shows_features_where_there_are_any(sqlite_url: str) -> None:
    succeed("plans", "create", "free", "--database", sqlite_url)
    assert "Features" not in succeed("plans", "list", "--database", sqlite_url)
    succeed("plans", "create", "pro", *FEATURES, "--database", sqlite_url)
    said = succeed("plans", "list", "--database", sqlite_url)
    assert re.search(r"\nfree .+ –\s*\n", said)
    assert re.search(
        r"\npro .+ api-calls 1,000 daily\s+exports 50 monthly\s+reports unlimited\s+seats 2\.5 once\s+sso\s*\n", said
    )


def test_a_subscription_in_credits_mode_says_so_and_shows_its_features(sqlite_url: str) -> None:
    succeed("plans", "create", "pro", *FEATURES, "--database", sqlite_url)
    options = ("--database", sqlite_url)
    created = answer("subscriptions", "create", "user:1", "pro", "--billing-mode", "credits", *options)
    assert (created["billing_mode"], created["plan"]["features"][0]["slug"]) == ("credits", "api-calls")
    said = succeed("subscriptions", "show", "user:1", *options)
    assert "user:1: pro, version 1, active, paid from credits\n" in said
    assert re.search(r"\n  features +api-calls 1,000 daily\n +exports 50 monthly\n", said)
    said = succeed("subscriptions", "create", "user:2", "pro", *options)
    assert "user:2: pro, version 1, active\n" in said
    assert invoke("subscriptions", "create", "user:3", "pro", "--billing-mode", "barter", *options).exit_code == 2


@pytest.mark.parametrize(
    ("given", "field", "remedy"),
    [
        (("api-calls=many",), "features.api-calls.value", "unlimited"),
        (("api-calls=",), "features.api-calls.value", "unlimited"),
        (("api-calls=5/dayly",), "features.api-calls.reset", "Did you mean 'daily'?"),
        (("=5",), "features", "lower-case letters"),
        (("exports=5", "exports=6"), "feature", "once"),
    ],
)
def test_a_feature_that_cannot_be_is_refused(sqlite_url: str, given: tuple[str, ...], field: str, remedy: str) -> None:
    options = [part for text in given for part in ("--feature", text)]
    error = answer("plans", "create", "pro", *options, "--database", sqlite_url, exit_code=3)["error"]
    assert error["field"] == field
    assert remedy in error["message"]
    assert answer("plans", "list", "--database", sqlite_url)["plans"] == []
