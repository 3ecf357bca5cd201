"""What plans have of features: how it is written, what is refused, and what of it is in force when."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from tallystick import FixedClock, Tallystick
from tallystick.errors import Conflict, InvalidInput
from tallystick.period import from_micros, parse_instant, to_micros
from tallystick.plans.features import checked_features
from tallystick.plans.loading import journal_change, load_features, load_terms
from tallystick.plans.terms import NO_FEATURES, RESETS, BillingMode, CreditCap, InForce, PlanFeature
from tallystick.storage import tables


def checked(given: object) -> dict[str, Any]:
    (columns,) = checked_features({"api-calls": given})
    return columns


def in_force(ts: Tallystick, at: str, billable: str = "user:1") -> InForce:
    return ts._engine.terms(billable).at(to_micros(parse_instant(at)))


# How it is written --------------------------------------------------------------------------------------------------


def test_a_number_is_short_for_its_value_in_a_month() -> None:
    assert checked(50) == checked({"value": 50}) == checked({"value": 50, "reset": "monthly"})
    assert checked(50) == {
        "slug": "api-calls",
        "name": "api-calls",
        "is_consumable": True,
        "value": 50_000_000,
        "reset": "monthly",
        "display_value": None,
        "is_hidden": False,
        "sort_order": 0,
    }


@pytest.mark.parametrize(
    ("given", "millionths"),
    [
        (0, 0),
        (1000, 1_000_000_000),
        ("2.5", 2_500_000),
        (0.1, 100_000),
        (Decimal("0.000001"), 1),
        ("unlimited", None),
        (" Unlimited ", None),
    ],
)
def test_a_value_is_a_number_or_unlimited(given: object, millionths: int | None) -> None:
    assert checked(given) == checked({"value": given})
    assert (checked(given)["value"], checked(given)["is_consumable"]) == (millionths, True)


def test_true_is_a_feature_that_is_not_counted() -> None:
    columns = checked(True)
    assert columns == checked({"value": True})
    assert (columns["is_consumable"], columns["value"], columns["reset"]) == (False, None, "never")


def test_false_leaves_a_feature_out() -> None:
    assert checked_features({"sso": False, "exports": {"value": False, "name": "Exports"}}) == []
    assert checked_features({}) == checked_features(None) == []


def test_a_table_says_everything() -> None:
    columns = checked(
        {
            "value": 1000,
            "reset": " Daily ",
            "name": "API calls",
            "display_value": "1,000 a day",
            "hidden": True,
            "sort_order": -1,
        }
    )
    assert (columns["reset"], columns["name"], columns["display_value"]) == ("daily", "API calls", "1,000 a day")
    assert (columns["is_hidden"], columns["sort_order"]) == (True, -1)


@pytest.mark.parametrize("reset", RESETS)
def test_every_reset_is_known(reset: str) -> None:
    assert checked({"value": 1, "reset": reset})["reset"] == reset


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "field", "remedy"),
    [
        (["api-calls"], "features", "Give a mapping"),
        ({"API calls": 1}, "features", "lower-case letters"),
        ({7: 1}, "features", "lower-case letters"),
        ({"": 1}, "features", "lower-case letters"),
        ({"x": None}, "features.x.value", "unlimited"),
        ({"x": {}}, "features.x.value", "unlimited"),
        ({"x": {"value": None}}, "features.x.value", "unlimited"),
        ({"x": "many"}, "features.x.value", "unlimited"),
        ({"x": [1]}, "features.x.value", "unlimited"),
        ({"x": -1}, "features.x.value", "zero or more"),
        ({"x": "0.0000001"}, "features.x.value", "six decimals"),
        ({"x": float("nan")}, "features.x.value", "zero or more"),
        ({"x": Decimal("Infinity")}, "features.x.value", "zero or more"),
        ({"x": 10**18}, "features.x.value", "zero or more"),
        ({"x": {"value": 1, "reset": "dayly"}}, "features.x.reset", "Did you mean 'daily'? Use one of hourly, daily"),
        ({"x": {"value": 1, "reset": "total"}}, "features.x.reset", "never"),
        ({"x": {"value": 1, "reset": 30}}, "features.x.reset", "Use one of"),
        ({"x": {"value": True, "reset": "daily"}}, "features.x.reset", "leave it out"),
        ({"x": {"value": 1, "name": ""}}, "features.x.name", "1 to 200 printable"),
        ({"x": {"value": 1, "display_value": 5}}, "features.x.display_value", "printable"),
        ({"x": {"value": 1, "display_value": "a\nb"}}, "features.x.display_value", "printable"),
        ({"x": {"value": 1, "hidden": 1}}, "features.x.hidden", "True or False"),
        ({"x": {"value": 1, "sort_order": "first"}}, "features.x.sort_order", "whole number"),
        ({"x": {"value": 1, "sort_order": True}}, "features.x.sort_order", "whole number"),
        ({"x": {"value": 1, "sort_order": 2**31}}, "features.x.sort_order", "1,000,000"),
        ({"x": {"value": 1, "resets": "daily"}}, "features.x.resets", "Did you mean 'reset'?"),
        ({"x": {"value": False, "resets": "daily"}}, "features.x.resets", "Did you mean 'reset'?"),
        ({"x": {"value": 1, 5: 1}}, "features.x.5", "Known are value, reset"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(features: Any, field: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked_features(features)
    assert refused.value.field == field
    assert remedy in refused.value.remedy


def test_a_plan_with_a_feature_that_cannot_be_is_not_created(ts: Tallystick) -> None:
    with pytest.raises(InvalidInput):
        ts.plans.create("pro", features={"exports": 5, "api-calls": "many"})
    assert ts.plans.list() == []
    ts.plans.create("pro", features={"exports": 5})
    with pytest.raises(Conflict):
        ts.plans.create("pro", features={"api-calls": 5})
    assert list(ts.plans.get("pro").current.features) == ["exports"]


# How it is kept -----------------------------------------------------------------------------------------------------

FEATURES: Mapping[str, object] = {
    "sso": True,
    "seats": {"value": 5, "reset": "never"},
    "api-calls": {"value": 1000, "reset": "daily", "name": "API calls", "display_value": "1,000 a day"},
    "storage": {"value": "0.5", "hidden": True},
    "exports": {"value": "unlimited", "sort_order": -1},
    "beta": False,
}


def test_features_come_back_as_they_were_given_in_the_order_in_which_they_are_shown(ts: Tallystick) -> None:
    created = ts.plans.create("pro", features=FEATURES)
    assert ts.plans.get("pro") == ts.plans.list()[0] == created
    features = created.current.features
    assert list(features) == ["exports", "api-calls", "seats", "sso", "storage"]
    assert features["api-calls"] == PlanFeature(
        "api-calls", "API calls", True, 1_000_000_000, "daily", "1,000 a day", is_hidden=False, sort_order=0
    )
    assert {slug: (one.value, one.is_unlimited, one.is_consumable) for slug, one in features.items()} == {
        "exports": (None, True, True),
        "api-calls": (1000, False, True),
        "seats": (5, False, True),
        "sso": (None, False, False),
        "storage": (Decimal("0.5"), False, True),
    }
    assert features["storage"].is_hidden
    assert features["sso"].is_consumable is False
    with pytest.raises(TypeError):
        features["beta"] = features["sso"]  # type: ignore[index]


def test_a_plan_without_features_has_none(ts: Tallystick) -> None:
    assert ts.plans.create("free").current.features == {}
    assert hash(ts.plans.get("free").current)


def test_each_plan_has_its_own_features(ts: Tallystick) -> None:
    ts.plans.create("free", features={"exports": 5})
    ts.plans.create("pro", features={"exports": 500, "sso": True})
    ts.plans.create("none")
    for billable, plan in (("user:1", "free"), ("user:2", "pro"), ("user:3", "pro"), ("user:4", "none")):
        ts.subscriptions.create(billable, plan)
    now = to_micros(ts.clock.now())

    def load(connection: Connection) -> dict[str, InForce]:
        billables = [f"user:{number}" for number in range(1, 6)]
        terms = load_terms(connection, billables, ts._engine.terms_policy)
        return {billable: one.at(now) for billable, one in terms.items()}

    found = ts._engine.read(load)
    assert {
        billable: {slug: one.value for slug, one in state.features.items()} for billable, state in found.items()
    } == {
        "user:1": {"exports": 5},
        "user:2": {"exports": 500, "sso": None},
        "user:3": {"exports": 500, "sso": None},
        "user:4": {},
        "user:5": {},
    }
    assert found["user:2"].features is found["user:3"].features


def test_features_of_more_versions_than_one_statement_takes_are_read(ts: Tallystick) -> None:
    ts.plans.create("pro", features={"exports": 5})
    known = ts.plans.get("pro").current.id
    wanted = [*(f"plv_{number}" for number in range(1200)), known, known]
    found = ts._engine.read(lambda connection: load_features(connection, wanted))
    assert len(found) == 1201
    assert [version for version, features in found.items() if features] == [known]
    assert found["plv_0"] is NO_FEATURES


# What is in force when ----------------------------------------------------------------------------------------------


def test_features_are_in_force_with_the_subscription(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", features={"exports": 5})
    assert in_force(ts, "2026-01-15T12:00:00Z").features == {}
    ts.subscriptions.create("user:1", "pro", started_at="2026-01-20")
    assert in_force(ts, "2026-01-19T23:59:59.999999Z").features == {}
    assert in_force(ts, "2026-01-20T00:00:00Z").features["exports"].value == 5
    clock.set("2026-01-25")
    ts.subscriptions.cancel("user:1")
    assert "exports" in in_force(ts, "2026-02-19T23:59:59.999999Z").features
    assert in_force(ts, "2026-02-20T00:00:00Z").features == {}


def test_a_failed_payment_takes_features_away_after_the_grace_period(ts: Tallystick) -> None:
    ts.plans.create("pro", features={"exports": 5})
    ts.subscriptions.create("user:1", "pro")
    ts.subscriptions.payment_failed("user:1")
    assert in_force(ts, "2026-01-22T11:59:59.999999Z").features
    assert not in_force(ts, "2026-01-22T12:00:00Z").features
    ts.subscriptions.payment_succeeded("user:1")
    assert in_force(ts, "2026-01-22T12:00:00Z").features


def test_features_of_a_pending_subscription_wait_for_it(ts: Tallystick) -> None:
    ts.plans.create("pro", features={"exports": 5})
    ts.subscriptions.create("user:1", "pro", pending=True)
    assert not in_force(ts, "2026-01-15T12:00:00Z").features
    ts.subscriptions.activate("user:1")
    assert in_force(ts, "2026-01-15T12:00:00Z").features


def test_another_plan_brings_its_own_features(ts: Tallystick) -> None:
    ts.plans.create("free", features={"exports": 5})
    ts.plans.create("pro", features={"exports": 500})
    ts.subscriptions.create("user:1", "free")
    ts.subscriptions.cancel("user:1")
    ts.subscriptions.create("user:1", "pro", started_at="2026-02-15T12:00:00Z")
    assert in_force(ts, "2026-02-15T11:59:59.999999Z").features["exports"].value == 5
    assert in_force(ts, "2026-02-15T12:00:00Z").features["exports"].value == 500


# Credits mode -------------------------------------------------------------------------------------------------------


def test_a_subscription_in_credits_mode_has_features_too(ts: Tallystick) -> None:
    ts.plans.create("pro", features={"exports": 5})
    created = ts.subscriptions.create("user:1", "pro", billing_mode="credits")
    assert created.billing_mode is BillingMode.CREDITS
    assert ts.subscriptions.get("user:1") == created
    state = in_force(ts, "2026-01-15T12:00:00Z")
    assert (state.billing_mode, state.plan, list(state.features)) == (BillingMode.CREDITS, "pro", ["exports"])


@pytest.mark.parametrize("plan", [None, "", "  ", 5])
def test_a_subscription_without_a_plan_is_refused_in_any_mode(sqlite_url: str, plan: Any) -> None:
    with Tallystick(sqlite_url) as ts:
        with pytest.raises(InvalidInput, match="Name the plan") as refused:
            ts.subscriptions.create("user:1", plan)
        assert refused.value.field == "plan"
        with pytest.raises(InvalidInput, match="credits mode needs a plan too"):
            ts.subscriptions.create("user:1", plan, billing_mode="credits")


@pytest.mark.parametrize("mode", ["barter", "Credits", None, ["credits"]])
def test_a_billing_mode_that_is_none_is_refused_with_those_there_are(sqlite_url: str, mode: Any) -> None:
    with Tallystick(sqlite_url) as ts:
        ts.plans.create("pro")
        for attempt in (
            lambda: ts.subscriptions.create("user:1", "pro", billing_mode=mode),
            lambda: ts.meter.billing_mode(mode),
        ):
            with pytest.raises(InvalidInput, match="Use 'plan' or 'credits'"):
                attempt()


# Caps ---------------------------------------------------------------------------------------------------------------


def test_caps_are_part_of_the_terms_of_their_billable(ts: Tallystick) -> None:
    now = ts._engine.now()
    caps = [
        ("tenant:acme", "USD", "*", 5_000_000_000, "monthly"),
        ("tenant:acme", "USD", "user:7", 9_000_000_000, "daily"),
        ("tenant:acme", "feature:exports", "*", 3_000_000, "total"),
        ("tenant:other", "USD", "*", 1, "monthly"),
    ]

    def insert(connection: Connection) -> None:
        for billable, unit, member, amount, period in caps:
            connection.execute(
                tables.credit_caps.insert().values(
                    billable=billable, unit=unit, member=member, amount=amount, period=period, created_at=now
                )
            )
            journal_change(connection, billable)

    ts._engine.lane.transact(insert)
    terms = ts._engine.terms("tenant:acme")
    assert len(terms.caps) == 3
    assert terms.cap_for("USD", "user:7") == CreditCap(
        "tenant:acme", "USD", "user:7", 9_000_000_000, "daily", from_micros(now)
    )
    everybody, exports = terms.cap_for("USD", "user:8"), terms.cap_for("feature:exports", "user:7")
    assert (everybody and everybody.amount, exports and exports.amount) == (5_000_000_000, 3_000_000)
    assert ts._engine.terms("tenant:none").caps == ()


# Any numbers --------------------------------------------------------------------------------------------------------


@given(st.decimals(min_value=0, max_value=10**9, places=6))
def test_a_value_is_kept_exactly(value: Decimal) -> None:
    columns = checked(value)
    feature = PlanFeature("x", "x", True, columns["value"], "monthly", None, is_hidden=False, sort_order=0)
    assert feature.value == value
