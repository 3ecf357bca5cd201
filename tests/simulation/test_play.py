"""A scenario is played on a real engine: what it says follows from what was recorded, and is the same each time."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.simulation import Outcome, read_scenario, simulate
from tests.simulation.scenarios import SHOP, written
from tests.values import money


def played(folder: Path, text: str = SHOP, *, more: str = "", **options: Any) -> Outcome:
    return simulate(read_scenario(written(folder, text, more=more)), **options)


def as_text(outcome: Outcome) -> str:
    return json.dumps(outcome.to_dict(), indent=2)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, str]:
    """The shop, and the database in which it was played."""
    folder = tmp_path_factory.mktemp("shop")
    url = f"sqlite:///{folder / 'shop.db'}"
    return played(folder, database=url), url


# The same again -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_invoices_on_either_database(
    shop: tuple[Outcome, str], tmp_path: Path, postgres_url: str
) -> None:
    first, _ = shop
    assert as_text(played(tmp_path)) == as_text(first)
    assert as_text(played(tmp_path, database=postgres_url)) == as_text(first)


def test_another_seed_gives_other_use_and_the_same_plans(shop: tuple[Outcome, str], tmp_path: Path) -> None:
    first, _ = shop
    other = simulate(read_scenario(written(tmp_path), seed=6))
    assert [month.calls for month in other.months] != [month.calls for month in first.months]
    assert [one.total for one in other.invoices] != [one.total for one in first.invoices]
    assert [month.money[0].fees for month in other.months] == [month.money[0].fees for month in first.months]


def test_what_one_customer_does_changes_nothing_of_another(shop: tuple[Outcome, str], tmp_path: Path) -> None:
    first, _ = shop
    more = (
        '[[customers]]\nname = "newcomer"\nplan = "pro"\ncalls_per_day = 4\nstarts = 2026-01-20\npays = "fails:0.5"\n'
    )
    other = played(tmp_path, more=more)
    assert [one.to_dict() for one in other.customers[:3]] == [one.to_dict() for one in first.customers]


# Recounted ------------------------------------------------------------------------------------------------------------


def all_events(ts: Tallystick) -> Iterator[Any]:
    cursor = None
    while True:
        page = ts.usage.events(limit=1000, cursor=cursor)
        yield from page
        cursor = page.next_cursor
        if cursor is None:
            return


def owed(events: list[Any]) -> tuple[Decimal, Decimal]:
    """What the shop's plan charges for a month of use, by its words: messages, and tokens beyond 100,000."""
    messages = sum(Decimal(one.quantity) for one in events if one.resource_type == "message")
    tokens = sum(one.usage.total_tokens for one in events)
    return max(messages - 50, Decimal(0)) * Decimal("0.02"), max(tokens - 100_000, 0) * Decimal("0.00001")


def test_the_invoices_are_what_the_exported_events_and_the_plan_make(shop: tuple[Outcome, str]) -> None:
    outcome, url = shop
    months: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)
    with Tallystick(url, clock=FixedClock("2026-03-31T23:59:59Z")) as ts:
        for event in all_events(ts):
            months[event.billable, event.occurred_at.month].append(event)
    invoices = {(one.billable, one.issued_at.month): one for one in outcome.invoices}
    assert sorted(invoices) == [(f"tenant:pro-{n}", month) for n in (1, 2) for month in (1, 2, 3)]
    for (billable, month), invoice in invoices.items():
        usage, overage = owed(months[billable, month - 1])
        charged: Counter[str] = Counter()
        for line in invoice.line_items:
            charged[str(line.kind)] += line.amount.nanos
        assert charged["fee"] == money("10 USD").nanos
        assert (charged["usage"], charged["overage"]) == (int(usage * 10**9), int(overage * 10**9))
    assert any(invoice.total > money("10.50 USD") for invoice in invoices.values())
    # Sub-cents go on to the next invoice, and never away.
    for billable in ("tenant:pro-1", "tenant:pro-2"):
        own = [one for one in outcome.invoices if one.billable == billable]
        assert sum(one.total for one in own) + own[-1].carried_out == sum(one.subtotal for one in own)


def test_months_and_customers_add_up_to_the_invoices(shop: tuple[Outcome, str]) -> None:
    outcome, url = shop
    with Tallystick(url, clock=FixedClock("2026-03-31T23:59:59Z")) as ts:
        events = list(all_events(ts))
        paid = sum(payment.amount for one in outcome.invoices for payment in ts.invoices.payments(one.number))
        assert ts.doctor().ok
    assert sum(month.money[0].invoiced for month in outcome.months) == sum(one.total for one in outcome.invoices)
    assert sum(month.money[0].paid for month in outcome.months) == paid
    assert sum(customer.invoiced[0] for customer in outcome.customers if customer.invoiced) == paid
    calls = [one for one in events if one.resource_type == "completion"]
    assert outcome.calls == sum(customer.calls for customer in outcome.customers) == len(calls)
    assert sum(month.tokens for month in outcome.months) == sum(one.usage.total_tokens for one in calls)
    assert [(month.customers, month.gained, month.lost) for month in outcome.months] == [
        (2, 2, 0),
        (2, 0, 0),
        (2, 0, 0),
    ]
    assert [month.money[0].recurring for month in outcome.months] == [money("20 USD")] * 3
    assert outcome.ok


def test_a_hard_limit_refuses_what_the_engine_refuses_and_nothing_else(shop: tuple[Outcome, str]) -> None:
    outcome, url = shop
    free = next(customer for customer in outcome.customers if customer.billable == "user:free")
    used: Counter[int] = Counter()
    with Tallystick(url, clock=FixedClock("2026-03-31T23:59:59Z")) as ts:
        for event in ts.usage.events("user:free", limit=1000):
            used[event.occurred_at.month] += event.usage.total_tokens
    assert free.refused == outcome.refused
    assert free.refused["limit_exceeded"] > 50
    assert all(15_000 < tokens <= 20_000 for tokens in used.values())
    assert len(used) == 3


# What customers do ----------------------------------------------------------------------------------------------------


def _of_usd(outcome: Outcome) -> list[Any]:
    return [one for month in outcome.months for one in month.money if one.currency == "USD"]


def customer(lines: str) -> str:
    return f'[[customers]]\nname = "acme"\nplan = "team"\n{lines}\n'


def of_acme(outcome: Outcome) -> list[tuple[str, str, str]]:
    return [
        (f"{one.issued_at:%m-%d}", str(one.total.amount), str(one.status))
        for one in outcome.invoices
        if one.billable == "tenant:acme"
    ]


ALONE = SHOP.partition("[[customers]]")[0]


@pytest.mark.parametrize(
    ("lines", "invoices"),
    [
        ("", [("01-01", "31.00", "paid"), ("02-01", "31.00", "paid"), ("03-01", "31.00", "paid")]),
        ('starts = 2026-03-10\ntrial_days = 14\ncoupon = "HALF"', [("03-24", "15.50", "paid")]),
        ('pays = "never"\nstarts = 2026-02-01', [("02-01", "31.00", "overdue"), ("03-01", "31.00", "overdue")]),
        ('pays = "late:25d"', [("01-01", "31.00", "paid"), ("02-01", "31.00", "paid"), ("03-01", "31.00", "overdue")]),
        ('events = [{at = 2026-01-11, do = "cancel"}]', [("01-01", "31.00", "paid")]),
        # Ten days of 31 USD are used; of the new plan's 10 USD the other 21 days are due.
        ('events = [{at = 2026-01-11, do = "change_plan", plan = "pro"}]',
         [("01-01", "31.00", "paid"), ("02-01", "0.00", "paid"), ("03-01", "5.77", "paid")]),
        # Nine days of February, and March.
        ('events = [{at = 2026-01-11, do = "pause", prorate = false}, {at = 2026-02-20, do = "resume"}]',
         [("01-01", "31.00", "paid"), ("03-01", "40.96", "paid")]),
        ('billing = {country = "DE", tax_rate_percent = 19, tax_name = "VAT"}\nstarts = 2026-03-01',
         [("03-01", "36.89", "paid")]),
        ('events = [{after_days = 30, do = "redeem", coupon = "HALF"}]\nstarts = 2026-01-02',
         [("01-02", "31.00", "paid"), ("02-02", "15.50", "paid"), ("03-02", "31.00", "paid")]),
    ],
)  # fmt: skip
def test_customers_are_invoiced_for_what_they_do(
    tmp_path: Path, lines: str, invoices: list[tuple[str, str, str]]
) -> None:
    text = ALONE.replace("seed = 5", "seed = 5\n[settings.invoicing]\ndue_days = 10")
    outcome = played(tmp_path, text, more=customer(lines))
    assert of_acme(outcome) == invoices
    assert (outcome.ok, outcome.skipped) == (True, ())
    # Whatever plans cost, prorated or not, is a fee; tax and discounts stand apart.
    parts = [sum(getattr(one, name) for one in _of_usd(outcome)) for name in ("fees", "discounts", "tax", "items")]
    expected = [sum(invoice.subtotal for invoice in outcome.invoices), sum(invoice.tax for invoice in outcome.invoices)]
    assert [parts[0] + parts[1], parts[2], parts[3]] == [*expected, money("0 USD")]


def test_failed_payments_are_tried_again_and_whoever_never_pays_expires(tmp_path: Path) -> None:
    text = ALONE.replace("seed = 5", "seed = 5\n[settings.billing]\npayment_failure_grace_period_days = 5")
    never = played(tmp_path, text, more=customer('pays = "fails:1"\ncalls_per_day = 10'))
    assert (never.failed_payments, never.customers[0].status, of_acme(never)) == (
        4,
        "expired",
        [("01-01", "31.00", "overdue")],
    )
    # It used something while it was in force: five days.
    assert never.customers[0].calls == 50
    assert [(month.customers, month.lost) for month in never.months] == [(0, 0), (0, 0), (0, 0)]
    sometimes = played(tmp_path, text, more=customer('pays = "fails:0.5"').replace("acme", "acme-{n}") + "count = 12\n")
    statuses = {one.status for one in sometimes.customers}
    assert sometimes.failed_payments > 5
    assert "active" in statuses
    assert sometimes.ok


def test_what_cannot_happen_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    events = """[
        {at = 2026-01-05, do = "resume"},
        {at = 2026-02-05, do = "cancel", immediately = true},
        {at = 2026-03-05, do = "cancel"},
    ]"""
    outcome = played(tmp_path, ALONE, more=customer(f"events = {events}\ncalls_per_day = 2"))
    assert [(f"{one.at:%m-%d}", one.do) for one in outcome.skipped] == [("01-05", "resume"), ("03-05", "cancel")]
    assert "neither paused nor cancelled" in outcome.skipped[0].reason
    assert (outcome.customers[0].status, outcome.customers[0].calls) == ("cancelled", 2 * (31 + 4))


def test_whoever_pauses_uses_nothing_and_whoever_returns_goes_on(tmp_path: Path) -> None:
    events = '[{at = 2026-01-11, do = "pause"}, {at = 2026-02-01, do = "resume"}]'
    outcome = played(tmp_path, ALONE, more=customer(f"events = {events}\ncalls_per_day = 1"))
    assert [month.calls for month in outcome.months] == [10, 28, 31]
    assert [(month.customers, month.gained, month.lost) for month in outcome.months] == [
        (0, 0, 0),
        (1, 1, 0),
        (1, 0, 0),
    ]


def test_a_wallet_pays_is_topped_up_and_refuses_when_it_is_empty(tmp_path: Path) -> None:
    lines = """
billing_mode = "credits"
wallet = "1 USD"
calls_per_day = 20
model = "openai/gpt-4o"
input_tokens = 2000
output_tokens = 500"""
    alone = ALONE.replace("months = 3", "months = 1")
    empty = played(tmp_path, alone, more=customer(lines))
    assert empty.refused.keys() == {"credits_insufficient"}
    # A call costs 0.01 USD: 2,000 tokens at 2.50 and 500 at 10 USD a million.
    assert empty.calls == 100
    topped = played(tmp_path, alone, more=customer(f'{lines}\ntops_up = "5 USD"'))
    assert (topped.refused, topped.calls) == ({}, 31 * 20)
    assert topped.ok


def test_quotas_and_rate_limits_of_the_settings_are_asked_for_every_use(tmp_path: Path) -> None:
    text = ALONE.replace("seed = 5", "seed = 5\n[settings.tenants.default_quotas.message]\ndaily = 4")
    text = text.replace("months = 3", "months = 1")
    outcome = played(tmp_path, text, more=customer("resources = {message = 3}"))
    assert outcome.refused == {}
    outcome = played(tmp_path, text, more=customer("resources = {message = 5}"))
    assert outcome.refused == {"quota_exceeded": 31}


def test_growth_and_departures_show_in_the_months(tmp_path: Path) -> None:
    lines = "calls_per_day = 10\ngrows = 2\n"
    grown = played(tmp_path, ALONE, more=customer(lines))
    first, second, third = (month.calls for month in grown.months)
    assert first < second * 0.7 < third * 0.5
    gone = played(tmp_path, ALONE, more=customer("churns = 0.5\ncount = 10").replace("acme", "acme-{n}"))
    assert sum(month.lost for month in gone.months) > 2
    assert gone.months[0].customers == 10
    assert gone.months[-1].customers + sum(month.lost for month in gone.months) == 10
    assert max(month.churn_percent for month in gone.months) > 10


def test_several_currencies_and_zones_stand_beside_each_other(tmp_path: Path) -> None:
    text = ALONE.replace("[plans.team]", '[plans.euro]\nprice = "20 EUR"\n[plans.team]')
    more = customer('timezone = "Asia/Tokyo"') + '[[customers]]\nname = "berlin"\nplan = "euro"\ncurrency = "EUR"\n'
    outcome = played(tmp_path, text, more=more)
    assert [money.currency for money in outcome.months[1].money] == ["EUR", "USD"]
    assert [one.invoiced for one in outcome.months[1].money] == [money("20 EUR"), money("31 USD")]
    assert outcome.ok


def test_nothing_is_taken_from_the_folder_or_sent_to_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tallystick.toml").write_text("[invoicing]\nenabled = false\n")
    url = f"sqlite:///{tmp_path / 'played.db'}"
    text = ALONE.replace("seed = 5", "seed = 5\n[settings.invoicing]\ndue_days = 10")
    own = {"billing": {"driver": "nowhere:Driver"}, "notifications": {"enabled": True}}
    outcome = played(tmp_path, text, more=customer('pays = "never"'), settings=own, database=url)
    assert len(of_acme(outcome)) == 3
    with Tallystick(url, clock=FixedClock("2026-03-31T23:59:59Z"), invoicing={"enabled": False}) as ts:
        assert len(ts.notifications.list("acme")) == 0
    played(tmp_path, text, more=customer(""))
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("played")) == [
        "scenario.toml", "tallystick.toml",
    ]  # fmt: skip


def test_progress_is_told_day_by_day(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    played(tmp_path, ALONE.replace("months = 3", "months = 1"), more=customer(""),
           progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert told == [(day, 31) for day in range(1, 32)]
