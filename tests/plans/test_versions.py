"""Versions of plans: drafts that change, published ones that never do, and what new subscribers get."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import Conflict, InvalidInput, PlanNotFound
from tallystick.storage import tables
from tests.acceptance.accounts import BILLABLE, errors_of, in_threads, meter
from tests.values import money


def sold(ts: Tallystick, slug: str = "pro") -> int:
    return ts.plans.get(slug).current.version


def followed(ts: Tallystick, billable: str) -> int:
    return ts.subscriptions.get(billable).plan.version


def published_rows(ts: Tallystick) -> list[tuple[Any, ...]]:
    """Read every published version and its features, as the database has them."""
    versions, features = tables.plan_versions, tables.plan_features
    is_published = versions.c.published_at.isnot(None)
    of_these = features.c.plan_version_id.in_(select(versions.c.id).where(is_published))
    return ts._engine.read(
        lambda connection: [
            *(tuple(row) for row in connection.execute(select(versions).where(is_published).order_by(versions.c.id))),
            *(
                tuple(row)
                for row in connection.execute(select(features).where(of_these).order_by(*features.primary_key))
            ),
        ]
    )


def test_a_plan_has_what_it_was_created_with(ts: Tallystick) -> None:
    plan = ts.plans.create(
        "pro",
        "Pro",
        plan_type="professional",
        description="For teams.\nWith support.",
        label="2026",
        price="99 EUR",
        overage_behavior="charge",
        overage_markup_percent="12.5",
        monthly_cost_limit=100,
        usage_prices={"message": "0.01"},
    )
    assert plan == ts.plans.get("pro")
    assert (plan.plan_type, plan.description, plan.is_active) == ("professional", "For teams.\nWith support.", True)
    version = plan.current
    assert (version.version, version.label, version.is_published, version.currency) == (1, "2026", True, "EUR")
    assert (version.price, version.monthly_cost_limit) == (money("99 EUR"), money("100 EUR"))
    assert version.overage_markup_percent == Decimal("12.5")
    assert version.usage_prices["message"].price == Decimal("0.01")
    assert (plan.version(1), plan.version(2)) == (version, None)


@pytest.mark.parametrize("free", [None, 0, "0", "0.00 USD", Decimal(0), money("0 USD")])
def test_free_is_free_however_it_is_said(ts: Tallystick, free: Any) -> None:
    assert ts.plans.create("free", price=free, plan_type="free").current.price is None


def test_a_new_version_keeps_what_is_not_given(ts: Tallystick) -> None:
    ts.plans.create(
        "pro",
        label="2025",
        price=money("99 USD"),
        monthly_token_limit=1000,
        overage_behavior="block",
        trial_days=14,
        features={"exports": 5, "sso": True},
        usage_prices={"message": "0.01"},
    )
    second = ts.plans.new_version("pro", monthly_token_limit=None, price="119 USD", features={"exports": 9})
    assert (second.version, second.is_published, second.label) == (2, False, None)
    assert (second.monthly_token_limit, second.price) == (None, money("119 USD"))
    assert (second.overage_behavior, second.trial_days, list(second.usage_prices)) == ("block", 14, ["message"])
    assert [(one.slug, one.value) for one in second.features.values()] == [("exports", 9)]
    first = ts.plans.version("pro", 1)
    assert (first.monthly_token_limit, first.price, list(first.features)) == (1000, money("99 USD"), ["exports", "sso"])
    based = ts.plans.new_version("pro", based_on=1, label="again", publish=True, usage_prices=None)
    assert (based.version, based.monthly_token_limit, based.label, dict(based.usage_prices)) == (3, 1000, "again", {})
    assert based.is_published
    assert sold(ts) == 3


def test_a_draft_is_changed_and_dropped_and_a_published_version_never(ts: Tallystick) -> None:
    ts.plans.create("pro", monthly_token_limit=1)
    ts.plans.new_version("pro", label="next", features={"exports": 1})
    edited = ts.plans.edit_version("pro", 2, monthly_token_limit=2, features={"api": 3})
    assert (edited.monthly_token_limit, list(edited.features), edited.label) == (2, ["api"], "next")
    assert ts.plans.edit_version("pro", 2, label=None).label is None
    for change in (
        lambda: ts.plans.edit_version("pro", 1, monthly_token_limit=3),
        lambda: ts.plans.discard_version("pro", 1),
    ):
        with pytest.raises(Conflict, match=r"was published at 2026-01-15 12:00 UTC, .* ts\.plans\.new_version\('pro'"):
            change()
    assert [one.version for one in ts.plans.discard_version("pro", 2).versions] == [1]
    assert ts.plans.new_version("pro", price=5).version == 2
    ts.plans.publish("pro", 2)
    with pytest.raises(Conflict):
        ts.plans.edit_version("pro", 2, price=6)


def test_the_only_version_is_not_dropped(ts: Tallystick) -> None:
    ts.plans.create("pro", publish=False)
    with pytest.raises(Conflict, match="the only one of plan pro"):
        ts.plans.discard_version("pro", 1)


def test_subscribers_stay_on_theirs_and_new_ones_get_what_is_sold(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", monthly_token_limit=100)
    ts.subscriptions.create("user:1", "pro")
    ts.plans.new_version("pro", monthly_token_limit=200)
    ts.subscriptions.create("user:2", "pro")
    clock.advance(days=1)
    ts.plans.publish("pro")
    ts.subscriptions.create("user:3", "pro")
    assert [followed(ts, f"user:{n}") for n in (1, 2, 3)] == [1, 1, 2]
    assert [ts.limits.check(f"user:{n}").token_limit for n in (1, 2, 3)] == [100, 100, 200]
    published_at = ts.plans.version("pro", 2).published_at
    clock.advance(days=1)
    before = ts.plans.get("pro")
    assert ts.plans.publish("pro", 2) == ts.plans.publish("pro") == before
    # Back to the first: when it was published stays, and nobody is moved.
    ts.plans.publish("pro", 1)
    ts.subscriptions.create("user:4", "pro")
    assert [followed(ts, f"user:{n}") for n in (1, 2, 3, 4)] == [1, 1, 2, 1]
    assert (sold(ts), ts.plans.version("pro", 2).published_at) == (1, published_at)


def test_a_draft_cannot_be_subscribed(ts: Tallystick) -> None:
    plan = ts.plans.create("pro", publish=False, monthly_token_limit=100)
    assert (plan.current.is_published, plan.current.version) == (False, 1)
    with pytest.raises(
        Conflict, match=r"Version 1 of plan pro is a draft\. Publish it with ts\.plans\.publish\('pro', 1\)"
    ):
        ts.subscriptions.create(BILLABLE, "pro")
    ts.plans.publish("pro")
    assert ts.subscriptions.create(BILLABLE, "pro").plan.version == 1


def test_an_archived_plan_has_no_new_subscribers_and_keeps_its_old(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", monthly_token_limit=100)
    ts.plans.create("team")
    ts.subscriptions.create("user:1", "pro")
    archived = ts.plans.archive("pro")
    assert (archived.is_active, archived.archived_at) == (False, clock.now())
    clock.advance(days=1)
    assert ts.plans.archive("pro") == archived
    with pytest.raises(Conflict, match=r"Plan pro is archived: .* ts\.plans\.activate\('pro'\)"):
        ts.subscriptions.create("user:2", "pro")
    assert ts.subscriptions.status("user:1") == "active"
    assert ts.limits.check("user:1").token_limit == 100
    assert [plan.slug for plan in ts.plans.list(active_only=True)] == ["team"]
    assert [plan.slug for plan in ts.plans.list()] == ["pro", "team"]
    ts.plans.new_version("pro", publish=True)
    assert not ts.plans.get("pro").is_active
    assert ts.plans.activate("pro").is_active
    assert ts.subscriptions.create("user:2", "pro").plan.version == 2


def test_what_is_no_term_is_changed_in_place(ts: Tallystick) -> None:
    ts.plans.create("pro", description="Old")
    ts.subscriptions.create(BILLABLE, "pro")
    renamed = ts.plans.update("pro", name="Professional", plan_type="professional")
    assert (renamed.name, renamed.plan_type, renamed.description) == ("Professional", "professional", "Old")
    assert ts.subscriptions.get(BILLABLE).plan.name == "Professional"
    assert ts.plans.update("pro", description=None).description is None
    assert ts.plans.update("pro") == ts.plans.get("pro")
    mistakes: list[dict[str, Any]] = [{"name": " "}, {"plan_type": "profesional"}, {"description": ""}, {"name": None}]
    for wrong in mistakes:
        with pytest.raises(InvalidInput) as refused:
            ts.plans.update("pro", **wrong)
        assert [refused.value.field] == list(wrong)
    assert ts.plans.get("pro").name == "Professional"


def test_a_diff_says_what_differs_by_value(ts: Tallystick) -> None:
    ts.plans.create(
        "pro",
        monthly_token_limit=1000,
        overage_price_per_1k_tokens="0.010",
        features={"exports": 5, "sso": True},
        usage_prices={"message": "0.01", "tokens": "0.000001"},
    )
    ts.plans.new_version(
        "pro",
        label="dearer",
        price=99,
        monthly_token_limit=None,
        overage_price_per_1k_tokens="0.01",
        features={"sso": True, "exports": {"value": 5, "reset": "daily"}},
        usage_prices={"message": {"model": "package", "price": 5, "size": 1000, "included": 10}, "tokens": "1E-6"},
    )
    assert [str(one) for one in ts.plans.diff("pro", 1, 2)] == [
        "label: – → dearer",
        "monthly_token_limit: 1,000 → –",
        "price: – → 99.00 USD",
        "features.exports: 5 monthly → 5 daily",
        "usage_prices.message: 0.01 each → 5 for every 1,000 begun, 10 included",
    ]
    assert ts.plans.diff("pro", 2, 1)[1].to_dict() == {"field": "monthly_token_limit", "before": None, "after": 1000}
    assert ts.plans.diff("pro", 1, 1) == []


def test_what_there_is_not_is_named(ts: Tallystick) -> None:
    ts.plans.create("pro")
    calls: list[Any] = [
        lambda: ts.plans.new_version("por"),
        lambda: ts.plans.publish("por"),
        lambda: ts.plans.archive("por"),
        lambda: ts.plans.update("por", name="x"),
    ]
    for call in calls:
        with pytest.raises(PlanNotFound, match=r"No plan 'por'\. Plans: pro\."):
            call()
    calls = [
        lambda: ts.plans.publish("pro", 2),
        lambda: ts.plans.version("pro", 2),
        lambda: ts.plans.new_version("pro", based_on=2),
        lambda: ts.plans.edit_version("pro", 2),
        lambda: ts.plans.discard_version("pro", 2),
        lambda: ts.plans.diff("pro", 1, 2),
    ]
    for call in calls:
        with pytest.raises(PlanNotFound, match=r"No plan 'pro, version 2'\. Versions of pro: 1\."):
            call()


@pytest.mark.parametrize(
    ("field", "terms"),
    [
        ("monthly_tokens_limit", {"monthly_tokens_limit": 5}),
        ("monthly_token_limit", {"monthly_token_limit": -1}),
        ("monthly_token_limit", {"monthly_token_limit": True}),
        ("monthly_token_limit", {"monthly_token_limit": 10**16}),
        ("trial_days", {"trial_days": 1.5}),
        ("trial_days", {"trial_days": 100_000}),
        ("price", {"price": 9.5}),
        ("price", {"price": "-1"}),
        ("price", {"price": "much"}),
        ("price", {"price": [5]}),
        ("monthly_cost_limit", {"monthly_cost_limit": "0.0000000001"}),
        ("overage_price_per_1k_tokens", {"overage_price_per_1k_tokens": 0.01}),
        ("overage_price_per_1k_tokens", {"overage_price_per_1k_tokens": "1E+999999999"}),
        ("overage_price_per_1k_tokens", {"overage_price_per_1k_tokens": "NaN"}),
        ("overage_behavior", {"overage_behavior": "blok"}),
        ("overage_markup_percent", {"overage_markup_percent": -1}),
        ("overage_markup_percent", {"overage_markup_percent": "10000.01"}),
        ("overage_markup_percent", {"overage_markup_percent": 0.5}),
        ("overage_markup_percent", {"overage_markup_percent": money("5 USD")}),
        ("billing_cycle", {"billing_cycle": "montly"}),
        ("billing_cycle", {"billing_cycle": None}),
        ("currency", {"currency": "dollars"}),
        ("currency", {"currency": ["USD"]}),
        ("currency", {"price": "5 EUR", "monthly_cost_limit": money("5 USD")}),
        ("currency", {"price": "5 EUR", "usage_prices": {"message": {"model": "flat", "price": "1 USD"}}}),
        ("features.exports.value", {"features": {"exports": -1}}),
        ("label", {"label": "\x00"}),
    ],
)
def test_a_term_that_cannot_be_is_refused_everywhere(sqlite_url: str, field: str, terms: dict[str, Any]) -> None:
    with Tallystick(sqlite_url) as ts:
        ts.plans.create("pro", publish=False, price="1 EUR")
        calls: list[Any] = [
            lambda: ts.plans.new_version("pro", **terms),
            lambda: ts.plans.edit_version("pro", 1, **terms),
        ]
        if field != "monthly_tokens_limit":
            calls.append(lambda: ts.plans.create("other", **terms))
        for call in calls:
            with pytest.raises(InvalidInput) as refused:
                call()
            assert refused.value.field == field
        assert [(plan.slug, len(plan.versions)) for plan in ts.plans.list()] == [("pro", 1)]


def test_another_currency_needs_every_amount_anew(ts: Tallystick) -> None:
    ts.plans.create("pro", price="99 USD", monthly_cost_limit="100 USD", usage_prices={"message": "0.01"})
    with pytest.raises(InvalidInput, match="state monthly_cost_limit, usage_prices in EUR too"):
        ts.plans.new_version("pro", price="99 EUR")
    second = ts.plans.new_version(
        "pro", price="99 EUR", monthly_cost_limit="100", usage_prices={"message": money("0.02 EUR")}
    )
    assert (second.currency, second.price, second.monthly_cost_limit) == ("EUR", money("99 EUR"), money("100 EUR"))
    # What has no amount keeps the base's currency.
    assert ts.plans.new_version("pro", trial_days=3).currency == "EUR"
    assert ts.plans.new_version("pro", based_on=1, trial_days=3).currency == "USD"


def test_no_public_path_changes_a_published_version(ts: Tallystick, clock: FixedClock, tmp_path: Path) -> None:
    ts.plans.create("pro", price=9, features={"exports": 5}, usage_prices={"message": 1})
    ts.plans.create("team", publish=False)
    ts.plans.new_version("pro", label="draft", price=10)
    ts.subscriptions.create(BILLABLE, "pro")
    before = published_rows(ts)
    clock.advance(days=1)
    file = tmp_path / "plans.toml"
    file.write_text('[plans.pro]\nname = "Other"\nprice = 11\n[plans.team]\n', encoding="utf-8")
    paths: list[Any] = [
        lambda: ts.plans.create("pro", price=1),
        lambda: ts.plans.edit_version("pro", 1, price=1, features=None),
        lambda: ts.plans.edit_version("pro", 2, price=1, features={"exports": 1}),
        lambda: ts.plans.discard_version("pro", 1),
        lambda: ts.plans.discard_version("pro", 2),
        lambda: ts.plans.new_version("pro", price=12, based_on=1),
        lambda: ts.plans.new_version("pro", price=13, publish=True),
        lambda: ts.plans.publish("pro", 1),
        lambda: ts.plans.publish("pro"),
        lambda: ts.plans.update("pro", name="New", description="New", plan_type="free"),
        lambda: ts.plans.sync(file, publish=False),
        lambda: ts.plans.sync(file, archive_missing=True),
        lambda: ts.plans.archive("pro"),
        lambda: ts.plans.activate("pro"),
    ]
    for path in paths:
        try:
            path()
        except Conflict:
            continue
        assert set(before) <= set(published_rows(ts))
    assert set(before) <= set(published_rows(ts))
    assert len(published_rows(ts)) > len(before)


def test_a_markup_comes_on_top_of_cost_beyond_its_limit(ts: Tallystick) -> None:
    ts.plans.create("pro", monthly_cost_limit="1 USD", overage_behavior="charge", overage_markup_percent="12.5")
    ts.subscriptions.create(BILLABLE, "pro")
    result = meter(ts).with_manual_usage(total_cost=money("3 USD")).call(lambda: None)
    assert result.overage == money("2.25 USD")
    ts.plans.new_version("pro", overage_markup_percent=None, publish=True)
    ts.subscriptions.create("user:2", "pro")
    result = meter(ts, "user:2").with_manual_usage(total_cost=money("3 USD")).call(lambda: None)
    assert result.overage == money("2 USD")


def test_plans_are_awaited(sqlite_url: str, tmp_path: Path) -> None:
    async def sell() -> None:
        async with AsyncTallystick(sqlite_url) as ts:
            await ts.plans.create("pro", price=9)
            await ts.plans.new_version("pro", price=10)
            await ts.plans.edit_version("pro", 2, price=11)
            assert [one.field for one in await ts.plans.diff("pro", 1, 2)] == ["price"]
            assert (await ts.plans.publish("pro")).current.price == money("11 USD")
            file = tmp_path / "plans.toml"
            file.write_text(await ts.plans.export(), encoding="utf-8")
            assert not (await ts.plans.sync(file)).has_changes

    asyncio.run(sell())


def test_of_versions_that_are_added_at_once_each_has_its_number(database_url: str) -> None:
    with Tallystick(database_url) as one, Tallystick(database_url) as other:
        one.plans.create("pro")
        outcomes = in_threads(8, lambda index: (one, other)[index % 2].plans.new_version("pro", trial_days=index))
        assert sorted(version.version for version in outcomes) == [2, 3, 4, 5, 6, 7, 8, 9]
        assert {version.trial_days for version in one.plans.get("pro").versions[1:]} == set(range(8))


def test_a_draft_that_is_edited_while_it_is_published_is_one_or_the_other(database_url: str) -> None:
    with Tallystick(database_url) as one, Tallystick(database_url) as other:
        one.plans.create("pro")
        for number in range(2, 8):
            one.plans.new_version("pro", price=1, features={"a": 1})

            def change(index: int, number: int = number) -> Any:
                if index == 0:
                    return one.plans.publish("pro", number).current
                return other.plans.edit_version("pro", number, price=2, features={"b": 2})

            outcomes = in_threads(2, change)
            found = one.plans.version("pro", number)
            was_edited = not errors_of(outcomes, Conflict)
            assert found.is_published
            assert (found.price, list(found.features)) == (
                (money("2 USD"), ["b"]) if was_edited else (money("1 USD"), ["a"])
            )
