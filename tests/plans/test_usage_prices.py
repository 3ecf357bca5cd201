"""What plans charge for use: the prices as values, as programs write them, and what is recorded of them."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, localcontext
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from tallystick import FixedClock, Money, Tallystick
from tallystick.errors import InvalidInput
from tallystick.period import parse_instant
from tallystick.plans.usage_price_input import checked_usage_prices
from tallystick.plans.usage_prices import UsagePrice
from tallystick.settings import Settings, UsageSettings
from tallystick.storage import tables
from tests.acceptance.accounts import BILLABLE, assert_healthy, in_threads, meter
from tests.values import money

MILLION = 1_000_000
TABLES: dict[str, dict[str, Any]] = {
    "per_unit": {"price": "0.000123", "included": 2},
    "flat": {"model": "flat", "price": 10, "included": "1.5"},
    "package": {"model": "package", "price": "5", "size": 7, "included": 3},
    "graduated": {
        "model": "graduated",
        "tiers": [{"up_to": 5, "price": "0.01"}, {"up_to": 12, "price": 0, "flat": 3}, {"price": "0.005", "flat": 1}],
        "included": 2,
    },
    "volume": {"model": "volume", "tiers": [{"up_to": 5, "price": "1"}, {"up_to": 12, "price": "0.5"}, {"flat": 2}]},
}


def checked(table: object, settings: UsageSettings | None = None) -> UsagePrice:
    return checked_usage_prices({"message": table}, currency="USD", settings=settings or UsageSettings())["message"]


def slow_total(table: dict[str, Any], quantity: Decimal) -> Decimal:
    """Return the price of a month's quantity, computed in decimals straight from what a program wrote."""
    with localcontext(prec=120):
        billed = quantity - Decimal(table.get("included", 0))
        if billed <= 0:
            return Decimal(0)
        return _slow_exact(table, billed).quantize(Decimal("0.000000001"), ROUND_HALF_EVEN)


def _slow_exact(table: dict[str, Any], billed: Decimal) -> Decimal:
    model, price = table.get("model", "per_unit"), Decimal(table.get("price", 0))
    if model == "flat":
        return price
    if model == "package":
        return price * (billed / Decimal(table["size"])).to_integral_value(ROUND_CEILING)
    if model == "per_unit":
        return price * billed
    tiers = [(Decimal(one.get("price", 0)), Decimal(one.get("flat", 0)), one.get("up_to")) for one in table["tiers"]]
    bounds = [Decimal(0), *(Decimal("Infinity") if upper is None else Decimal(upper) for _, _, upper in tiers)]
    reached = [
        (rate, flat, lower, upper)
        for (rate, flat, _), (lower, upper) in zip(tiers, pairwise(bounds), strict=True)
        if lower < billed
    ]
    if model == "volume":
        rate, flat, _, _ = reached[-1]
        return rate * billed + flat
    return sum((rate * (min(billed, upper) - lower) + flat for rate, flat, lower, upper in reached), Decimal(0))


amounts = st.decimals(0, 1000, places=9).map(str)
# Millionths: some parts of a unit, and a few thousand units.
quantities = st.integers(0, 20) | st.integers(0, 2 * 10**9)
bounds_of_tiers = st.sets(st.integers(1, 30) | st.integers(1, 2 * 10**9), min_size=1, max_size=5)


@st.composite
def tiers(draw: st.DrawFn) -> list[dict[str, Any]]:
    bounds = sorted(draw(bounds_of_tiers))
    made: list[dict[str, Any]] = []
    for bound in (*bounds, None):
        tier: dict[str, Any] = {"price": draw(amounts)}
        if draw(st.booleans()):
            tier["flat"] = draw(amounts)
        if bound is not None:
            tier["up_to"] = Decimal(bound).scaleb(-6)
        made.append(tier)
    return made


@st.composite
def price_tables(draw: st.DrawFn, models: tuple[str, ...] = tuple(TABLES)) -> dict[str, Any]:
    model = draw(st.sampled_from(models))
    table: dict[str, Any] = {"model": model}
    if model in ("graduated", "volume"):
        table["tiers"] = draw(tiers())
    else:
        table["price"] = draw(amounts)
    if model == "package":
        table["size"] = Decimal(draw(st.integers(1_000, 10**9))).scaleb(-6)
    if draw(st.booleans()):
        table["included"] = Decimal(draw(st.integers(0, 10) | st.integers(0, 10**9))).scaleb(-6)
    return table


# As values -----------------------------------------------------------------------------------------------------------


@given(price_tables(), st.lists(quantities, min_size=1, max_size=12))
def test_charges_of_any_split_make_up_the_price_of_the_month(table: dict[str, Any], parts: list[int]) -> None:
    price = checked(table)
    used, charged = 0, 0
    for part in parts:
        charged += price.charge(used, used + part)
        used += part
    assert charged == price.total(used)
    # What is taken back costs what it had cost, down to nothing.
    assert charged + price.charge(used, 0) == 0


@pytest.mark.parametrize("model", list(TABLES))
@given(data=st.data(), quantity=quantities)
def test_a_total_is_what_a_slow_model_makes_of_the_table(model: str, data: st.DataObject, quantity: int) -> None:
    table = data.draw(price_tables(models=(model,)))
    expected = slow_total(table, Decimal(quantity).scaleb(-6))
    assert Money.from_nanos(checked(table).total(quantity)).amount == expected


@given(price_tables(models=("per_unit", "flat", "package", "graduated")), quantities, quantities)
def test_more_never_costs_less_but_by_volume(table: dict[str, Any], one: int, other: int) -> None:
    price = checked(table)
    assert price.total(min(one, other)) <= price.total(max(one, other))
    assert price.total(0) == 0


@given(price_tables(), st.integers(1, 40))
def test_a_price_is_what_it_is_written_as(table: dict[str, Any], precision: int) -> None:
    price = checked(table)
    assert UsagePrice.from_dict(price.to_dict()) == price
    assert checked(price.to_dict()) == price
    assert checked(price) == price
    with localcontext(prec=precision):
        # Whatever the application rounds its own decimals to.
        assert checked(table) == price


@pytest.mark.parametrize(
    ("model", "quantity", "expected"),
    [
        ("per_unit", 2, "0"),
        ("per_unit", 3, "0.000123"),
        ("flat", "1.5", "0"),
        ("flat", "1.500001", "10"),
        ("flat", 1000, "10"),
        ("package", 3, "0"),
        ("package", "3.000001", "5"),
        ("package", 10, "5"),
        ("package", "10.000001", "10"),
        # Two are included; then five at 0.01, up to twelve for 3 in all, and then 1 and 0.005 each.
        ("graduated", 7, "0.05"),
        ("graduated", "7.000001", "3.05"),
        ("graduated", 14, "3.05"),
        ("graduated", 16, "4.06"),
        ("volume", 5, "5"),
        ("volume", 6, "3"),
        ("volume", 12, "6"),
        ("volume", 13, "2"),
    ],
)
def test_what_some_quantities_cost(model: str, quantity: int | str, expected: str) -> None:
    total = checked(TABLES[model]).total(int(Decimal(quantity) * MILLION))
    assert Money.from_nanos(total) == money(f"{expected} USD")
    assert slow_total(TABLES[model], Decimal(quantity)) == Decimal(expected)


def test_reaching_a_cheaper_volume_gives_money_back() -> None:
    assert checked(TABLES["volume"]).charge(5 * MILLION, 6 * MILLION) == -2_000_000_000


# As programs write them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [Money("0.01", "USD"), "0.01 USD", "0.01 usd", Decimal("0.01"), "0.010", " 0.01 "])
def test_a_price_a_unit_is_written_in_short(price: object) -> None:
    assert checked(price) == checked({"model": "per_unit", "price": "0.01"}) == checked({"price": "0.01"})


GRADUATED = {"model": "graduated"}


@pytest.mark.parametrize(
    ("path", "table", "said"),
    [
        ("", 0.01, "as text"),
        ("", "-0.01", "zero or more"),
        ("", True, "as text"),
        ("", None, "as text"),
        ("", "NaN", "zero or more"),
        ("", "1E+10", "at most 30 decimals"),
        ("", "1E-31", "at most 30 decimals"),
        ("", Money("0.01", "EUR"), "in USD"),
        (".price", {"model": "flat"}, "Give Money"),
        (".price", {"model": "flat", "price": "1 EUR"}, "in USD"),
        (".model", {"model": "gradual", "tiers": []}, "Did you mean 'graduated'"),
        (".modle", {"modle": "flat", "price": 1}, "Did you mean 'model'"),
        (".tiers", {"tiers": [{"price": 1}]}, "only graduated and volume prices have tiers"),
        (".size", {"price": 1, "size": 5}, "only package prices have size"),
        (".price", {**GRADUATED, "price": 1, "tiers": [{"price": 1}]}, "only flat and per_unit and package"),
        (".size", {"model": "package", "price": 1, "size": 0}, "more than zero"),
        (".included", {"price": 1, "included": -1}, "zero or more"),
        (".included", {"price": 1, "included": "0.0000001"}, "six decimals"),
        (".included", {"price": 1, "included": None}, "Give a number"),
        (".tiers", GRADUATED, "a list such as"),
        (".tiers", {**GRADUATED, "tiers": []}, "a list such as"),
        (".tiers", {**GRADUATED, "tiers": "all"}, "a list such as"),
        (".tiers.0", {**GRADUATED, "tiers": ["0.01"]}, "a list such as"),
        (".tiers.0.up_too", {**GRADUATED, "tiers": [{"up_too": 5, "price": 1}]}, "Did you mean 'up_to'"),
        (".tiers.0.price", {**GRADUATED, "tiers": [{"up_to": 5}, {"price": 1}]}, "Give Money"),
        (".tiers.1.price", {**GRADUATED, "tiers": [{"up_to": 5, "price": 1}, {"price": "-1"}]}, "zero or more"),
        (".tiers.1.flat", {**GRADUATED, "tiers": [{"up_to": 5, "price": 1}, {"price": 1, "flat": 0.5}]}, "as text"),
        (".tiers.0.up_to", {**GRADUATED, "tiers": [{"price": 1}, {"price": 1}]}, "only the last has no end"),
        (".tiers.0.up_to", {**GRADUATED, "tiers": [{"up_to": 5, "price": 1}]}, "The last tier has no end"),
        (".tiers.0.up_to", {**GRADUATED, "tiers": [{"up_to": 0, "price": 1}, {"price": 1}]}, "more than zero"),
        (
            ".tiers.1.up_to",
            {**GRADUATED, "tiers": [{"up_to": 5, "price": 1}, {"up_to": 5, "price": 1}, {"price": 1}]},
            "goes further",
        ),
    ],
)
def test_a_price_that_cannot_be_is_refused_with_the_way_to_it(path: str, table: object, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(table)
    assert refused.value.field == f"usage_prices.message{path}"
    assert said in refused.value.remedy


def test_what_has_a_price_is_a_resource_type_or_tokens_or_requests() -> None:
    settings = UsageSettings()
    prices = checked_usage_prices(
        {"tokens": "0.000001", "requests": 1, "my_own.type": 2}, currency="USD", settings=settings
    )
    assert list(prices) == ["tokens", "requests", "my_own.type"]
    for wrong in ("cost", "a name", 5, ""):
        with pytest.raises(InvalidInput) as refused:
            checked_usage_prices({wrong: 1}, currency="USD", settings=settings)
        assert refused.value.field == "usage_prices"
    with pytest.raises(InvalidInput):
        checked_usage_prices(["message"], currency="USD", settings=settings)
    strict = Settings.load(usage={"strict_resource_types": True}).usage
    assert checked(5, strict).price == 5
    with pytest.raises(InvalidInput, match="Register it"):
        checked_usage_prices({"mesage": 1}, currency="USD", settings=strict)


# Recorded ------------------------------------------------------------------------------------------------------------


def charge_rows(ts: Tallystick, billable: str = BILLABLE) -> list[Any]:
    charges = tables.usage_charges
    query = select(charges).where(charges.c.billable == billable).order_by(charges.c.id)
    return list(ts._engine.read(lambda connection: connection.execute(query).all()))


def charged(ts: Tallystick, resource_type: str, billable: str = BILLABLE) -> Decimal:
    """Return the sum of what was charged for a resource type."""
    rows = [row for row in charge_rows(ts, billable) if row.resource_type == resource_type]
    return Money.from_nanos(sum(row.amount for row in rows)).amount


def sell(ts: Tallystick, usage_prices: dict[str, Any], billable: str = BILLABLE, **terms: Any) -> None:
    ts.plans.create("metered", usage_prices=usage_prices, **terms)
    ts.subscriptions.create(billable, "metered")


def test_rows_of_charges_make_up_the_price_of_the_month(ts: Tallystick) -> None:
    # One resource type of each model, used side by side and in parts.
    sell(ts, TABLES)
    used: dict[str, Decimal] = dict.fromkeys(TABLES, Decimal(0))
    for quantity in ("1", "2.5", "0.000001", "4", "0", "9", "0.25"):
        for name in TABLES:
            ts.usage.log(BILLABLE, name, quantity=Decimal(quantity))
            used[name] += Decimal(quantity)
            assert charged(ts, name) == slow_total(TABLES[name], used[name]), (name, quantity)
    assert sum(row.quantity for row in charge_rows(ts)) == 5 * 16_750_001
    assert_healthy(ts)


def test_a_charge_says_of_what_month_and_version_it_is(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts, {"message": TABLES["graduated"]})
    clock.set("2026-02-15T11:59:59.999999Z")
    last = ts.usage.log(BILLABLE, "message", quantity=7)
    clock.set("2026-02-15T12:00:00Z")
    first = ts.usage.log(BILLABLE, "message", quantity=7)
    # Late use counts in the month in which it happened.
    late = ts.usage.log(BILLABLE, "message", quantity=7, occurred_at="2026-01-20")
    ts.usage.log(BILLABLE, "image")
    rows = {row.event_id: row for row in charge_rows(ts)}
    assert set(rows) == {last.id, first.id, late.id}
    version = ts.plans.version("metered", 1)
    starts = {name: parse_instant(f"2026-{name}-15T12:00:00Z") for name in ("01", "02", "03")}
    for event, amount, start, end in (
        (last, 50_000_000, "01", "02"),
        (first, 50_000_000, "02", "03"),
        (late, 3_000_000_000, "01", "02"),
    ):
        row = rows[event.id]
        assert (row.amount, row.currency, row.quantity) == (amount, "USD", 7 * MILLION)
        assert (row.plan_version_id, row.subscription_id) == (version.id, ts.subscriptions.get(BILLABLE).id)
        micros = [int(starts[name].timestamp()) * MILLION for name in (start, end)]
        assert [row.period_start, row.period_end] == micros
    assert_healthy(ts)


def test_tokens_and_requests_of_calls_have_prices(ts: Tallystick) -> None:
    sell(ts, {"tokens": "0.00001", "requests": {"model": "package", "price": 1, "size": 2}, "completion": "0.5"})
    for _ in range(3):
        meter(ts).with_manual_usage(input_tokens=900, output_tokens=100).call(lambda: None)
    assert charged(ts, "tokens") == Decimal("0.03")
    assert charged(ts, "requests") == Decimal(2)
    ts.usage.log(BILLABLE, "message", quantity=5)
    assert charged(ts, "requests") == Decimal(2)
    assert_healthy(ts)


def test_a_trial_and_a_wallet_are_not_charged(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts, {"message": 1}, trial_days=7)
    ts.usage.log(BILLABLE, "message", quantity=5)
    assert charge_rows(ts) == []
    clock.advance(days=7)
    ts.usage.log(BILLABLE, "message", quantity=2)
    assert charged(ts, "message") == 2
    ts.subscriptions.create("user:2", "metered", billing_mode="credits", trial_ends_at=clock.now().replace(year=2027))
    ts.subscriptions.create("user:3", "metered", billing_mode="credits")
    clock.advance(days=8)
    for number in (2, 3):
        ts.usage.log(f"user:{number}", "message")
        assert charge_rows(ts, f"user:{number}") == []
    assert_healthy(ts)


def test_who_keeps_an_old_version_pays_its_prices(ts: Tallystick) -> None:
    sell(ts, {"message": 1})
    ts.plans.new_version("metered", usage_prices={"message": 3}, publish=True)
    ts.subscriptions.create("user:2", "metered")
    for billable in (BILLABLE, "user:2"):
        ts.usage.log(billable, "message", quantity=2)
    assert [charged(ts, "message", billable) for billable in (BILLABLE, "user:2")] == [2, 6]


@pytest.mark.parametrize(("first", "second"), [("graduated", "volume"), ("volume", "package"), ("flat", "graduated")])
def test_a_tier_that_was_reached_under_one_plan_is_reached_under_the_next(
    ts: Tallystick, clock: FixedClock, first: str, second: str
) -> None:
    sell(ts, {"message": TABLES[first]})
    ts.plans.create("other", usage_prices={"message": TABLES[second], "image": 1})
    ts.usage.log(BILLABLE, "message", quantity=8)
    clock.advance(days=1)
    ts.subscriptions.change_plan(BILLABLE, "other")
    ts.usage.log(BILLABLE, "image", quantity=2)
    ts.usage.log(BILLABLE, "message", quantity=9)
    # Under the first plan the price of 8; under the second what 9 more make of 8.
    expected = slow_total(TABLES[first], Decimal(8)) + (
        slow_total(TABLES[second], Decimal(17)) - slow_total(TABLES[second], Decimal(8))
    )
    assert charged(ts, "message") == expected
    # What is told of later is priced by the plan of its time, behind all that was counted before it.
    ts.usage.log(BILLABLE, "message", quantity=4, occurred_at="2026-01-15T12:30:00Z")
    expected += slow_total(TABLES[first], Decimal(21)) - slow_total(TABLES[first], Decimal(17))
    assert charged(ts, "message") == expected
    clock.set("2026-02-16")
    ts.usage.log(BILLABLE, "message", quantity=9)
    assert charged(ts, "message") == expected + slow_total(TABLES[second], Decimal(9))
    assert charged(ts, "image") == 2
    versions = {ts.plans.get(slug).current.id for slug in ("metered", "other")}
    assert {row.plan_version_id for row in charge_rows(ts)} == versions
    assert_healthy(ts)


def test_a_batch_a_replay_and_a_hold_are_charged_once(ts: Tallystick) -> None:
    sell(ts, {"message": TABLES["volume"], "tokens": "0.001"})
    for _ in range(2):
        ts.usage.log(BILLABLE, "message", quantity=4, idempotency_key="one")
        rows = [
            {"billable": BILLABLE, "resource_type": "message", "quantity": 1, "idempotency_key": f"k{n}"} for n in "abc"
        ]
        ts.usage.record_batch(rows)
    assert charged(ts, "message") == slow_total(TABLES["volume"], Decimal(7))
    with meter(ts).hold(tokens=1000) as hold:
        assert charged(ts, "tokens") == 0
        hold.settle(input_tokens=300)
    meter(ts).hold(tokens=50).void()
    assert charged(ts, "tokens") == Decimal("0.3")
    assert_healthy(ts)


@pytest.mark.parametrize("model", list(TABLES))
def test_a_correction_charges_the_difference(ts: Tallystick, clock: FixedClock, model: str) -> None:
    sell(ts, {"message": TABLES[model]})
    event = ts.usage.log(BILLABLE, "message", quantity=9)
    ts.usage.log(BILLABLE, "message", quantity=6)
    # Made in the next month, it counts in that of the event.
    clock.advance(days=40)
    ts.usage.adjust(event.id, quantity=-9, reason="sent twice")
    assert charged(ts, "message") == slow_total(TABLES[model], Decimal(6))
    ts.usage.adjust(BILLABLE, "message", quantity=20, reason="missed", occurred_at="2026-01-20")
    assert charged(ts, "message") == slow_total(TABLES[model], Decimal(26))
    ts.usage.adjust(BILLABLE, "message", quantity=-20, reason="not missed", occurred_at="2026-01-20")
    assert charged(ts, "message") == slow_total(TABLES[model], Decimal(6))
    assert_healthy(ts)


@pytest.mark.parametrize("model", ["graduated", "volume"])
def test_charges_of_many_at_once_make_up_the_price_exactly(database_url: str, clock: FixedClock, model: str) -> None:
    table = {**TABLES[model], "tiers": [{**tier, "price": "0.000000001"} for tier in TABLES[model]["tiers"]]}
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        sell(one, {"message": table, "tokens": "0.0000015"})

        def use(index: int) -> None:
            ts = (one, other)[index % 2]
            for number in range(25):
                ts.usage.log(BILLABLE, "message", quantity=Decimal(1 + index + number).scaleb(-3))
                meter(ts).with_manual_usage(input_tokens=7).call(lambda: None)

        outcomes = in_threads(8, use)
        assert outcomes == [None] * 8
        total = sum(Decimal(1 + index + number).scaleb(-3) for index in range(8) for number in range(25))
        assert charged(one, "message") == slow_total(table, Decimal(total))
        assert charged(one, "tokens") == Decimal("0.0000015") * 7 * 200
        assert len(charge_rows(one)) == 400
        assert_healthy(one)


# Explained and proved ------------------------------------------------------------------------------------------------


def test_an_event_is_explained_with_what_its_plan_charged(ts: Tallystick) -> None:
    sell(ts, {"message": TABLES["graduated"]})
    ts.usage.log(BILLABLE, "message", quantity=6)
    event = ts.usage.log(BILLABLE, "message", quantity=2)
    correction = ts.usage.adjust(event.id, quantity=-1, reason="one too many")
    ts.plans.new_version("metered", usage_prices=None, publish=True)
    explanation = ts.usage.explain(event.id)
    assert [(one.event_id, one.resource_type, one.quantity, one.amount) for one in explanation.usage_charges] == [
        (event.id, "message", 2, money("3.01 USD")),
        (correction.id, "message", -1, money("-3.00 USD")),
    ]
    assert explanation.plan == ts.plans.version("metered", 1)
    assert {(one.plan, one.plan_version) for one in explanation.usage_charges} == {("metered", 1)}
    assert "Charged: 3.01 USD for 2 message, by plan metered, version 1 (month of 2026-01-15 to 2026-02-15)." in str(
        explanation
    )
    assert explanation.to_dict()["usage_charges"][0]["amount"] == {"amount": "3.01", "currency": "USD"}
    other = ts.usage.log("user:2", "message")
    assert ts.usage.explain(other.id).usage_charges == ()


def test_the_doctor_finds_a_counter_that_is_not_what_was_charged(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts, {"message": 1})
    ts.usage.log(BILLABLE, "message", quantity=5)
    clock.advance(days=40)
    ts.usage.log(BILLABLE, "message", quantity=2)
    assert_healthy(ts)
    counters = tables.counters
    of_price = counters.c.meter == "priced:message"
    for change in (update(counters).where(of_price, counters.c.used == 5 * MILLION).values(used=4 * MILLION),):
        ts._engine.lane.transact(lambda connection, change=change: connection.execute(change))  # type: ignore[misc]  # bound now
        found = ts.doctor().findings
        assert [(one.kind, one.expected, one.found) for one in found] == [("used", "5000000", "4000000")]
        assert "user:1 priced:message" in found[0].subject
    gone = delete(counters).where(of_price)
    ts._engine.lane.transact(lambda connection: connection.execute(gone))
    assert [(one.expected, one.found) for one in ts.doctor().findings] == [("5000000", "0"), ("2000000", "0")]


def test_the_doctor_finds_a_charge_whose_event_is_gone(ts: Tallystick) -> None:
    sell(ts, {"message": 1})
    event = ts.usage.log(BILLABLE, "message")
    ts.usage.log(BILLABLE, "message")
    gone = delete(tables.usage_events).where(tables.usage_events.c.id == event.id)
    ts._engine.lane.transact(lambda connection: connection.execute(gone))
    found = [one for one in ts.doctor().findings if one.kind == "usage charge"]
    assert [(one.subject, one.expected) for one in found] == [(charge_rows(ts)[0].id, f"event {event.id}")]


def test_what_clean_up_and_erasure_remove_is_no_drift(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts, {"message": 1})
    ts.subscriptions.create("user:2", "metered")
    for billable in (BILLABLE, "user:2"):
        ts.usage.log(billable, "message", quantity=3)
    clock.advance(days=100)
    assert ts.usage.cleanup(30).events == 2
    assert_healthy(ts)
    for billable in (BILLABLE, "user:2"):
        ts.usage.log(billable, "message", quantity=2)
    ts.usage.anonymize_before("2027-01-01")
    assert_healthy(ts)
    ts.usage.log(BILLABLE, "message", quantity=2)
    ts.usage.delete_for(BILLABLE)
    assert_healthy(ts)
    clock.advance(days=40)
    ts.usage.log(BILLABLE, "message", quantity=2)
    ts.usage.delete_for(BILLABLE)
    assert_healthy(ts)
    # Erased when the period of all that it used is over.
    ts.subscriptions.create("user:3", "metered")
    ts.usage.log("user:3", "message", quantity=2)
    clock.advance(days=40)
    ts.usage.delete_for("user:3")
    assert_healthy(ts)
    # Erased, and back within the hour.
    for _ in range(2):
        ts.usage.log("user:3", "message", quantity=2)
        ts.usage.delete_for("user:3")
    ts.usage.log("user:3", "message", quantity=2)
    assert_healthy(ts)
    # What was charged is charged: nobody gets out of a bill by being forgotten.
    assert charged(ts, "message") == 9
