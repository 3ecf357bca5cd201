"""A report says what a recount of every line would say, in every zone, and never adds amounts of different units."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from tallystick import FixedClock, Tallystick
from tallystick.credits.credit_report import CreditReport, GrantTotals, UnitReport
from tallystick.credits.values import CreditTransaction
from tallystick.credits.wallets import Wallet
from tallystick.errors import Conflict, CreditsInsufficient, InvalidInput, NotFound
from tallystick.period import to_micros
from tallystick.testing import CreditFactory
from tests.values import money

ZONES = ("UTC", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe")
START = datetime(2025, 4, 1, tzinfo=UTC)
"""Lord Howe's clocks go back by half an hour some days later, at 2025-04-05T15:00Z."""


def in_zone(url: str, zone: str) -> tuple[Tallystick, FixedClock]:
    clock = FixedClock(START)
    return Tallystick(url, clock=clock, period={"timezone": zone}), clock


def live(ts: Tallystick, clock: FixedClock) -> None:
    """Two wallets and a feature, used for three weeks at uneven hours; much of it expires, and some is not booked."""
    make = CreditFactory(ts)
    wallets = [ts.wallets.get_or_create(f"user:{n}") for n in range(3)]
    reasons = ("top-up", "Referral bonus", "goodwill")
    for step in range(60):
        clock.advance(hours=8, minutes=37, microseconds=step % 3)
        wallet = wallets[step % 3]
        if step % 4 == 0:
            lasts = None if step % 8 else clock.now() + timedelta(days=2, hours=step % 5)
            wallet.add_credits(Decimal(5 + step % 7), reasons[step % 3], expires_at=lasts)
            make.with_credits(3).referral_bonus(wallet.billable, "api-calls")
        elif step % 4 == 1 and wallet.has_sufficient_balance("0.75"):
            line = wallet.deduct_credits("0.75", feature=("chat", None)[step % 2 and step % 3 == 0])
            if step % 5 == 0:
                wallet.refund(line.id, "0.25")
        elif step % 4 == 2 and ts.features.can_use(wallet.billable, "api-calls", "0.5"):
            ts.features.use(wallet.billable, "api-calls", "0.5")
        elif wallet.has_sufficient_balance("1"):
            wallet.transfer("user:0" if wallet.billable != "user:0" else "user:1", "1")
    ts.wallets.get_or_create("user:1", "EUR").add_credits("9", "trial")


def lines_of(ts: Tallystick) -> list[CreditTransaction]:
    """Every line of every wallet, as the statements show them once all that has lapsed is booked."""
    ts.credits.expire()
    return [line for wallet in ts.wallets.list() for line in wallet.transactions(limit=10_000)]


def recount(lines: Iterable[CreditTransaction], sources: Iterable[str]) -> Decimal:
    found = [line.signed_amount for line in lines if line.source in sources]
    return sum((amount.amount for amount in found), Decimal(0))  # type: ignore[union-attr]


def usd(report: CreditReport) -> UnitReport:
    return report.of("USD")


@pytest.mark.parametrize("zone", ZONES)
def test_every_figure_of_any_range_is_what_a_recount_says(database_url: str, zone: str) -> None:
    ts, clock = in_zone(database_url, zone)
    with ts:
        live(ts, clock)
        ranges = [
            (None, None),
            (START + timedelta(days=3, hours=5, minutes=11), START + timedelta(days=9, hours=1)),
            (START + timedelta(days=4), None),
            (None, START + timedelta(days=5)),
            (START + timedelta(days=50), START + timedelta(days=60)),
        ]
        # What is not booked yet counts as what is: the reports before and after are the same.
        before = [ts.credits.report(*each).to_dict() for each in ranges]
        lines = lines_of(ts)
        assert [ts.credits.report(*each).to_dict() for each in ranges] == before
        for start, end in ranges:
            report = usd(ts.credits.report(start, end))
            inside = [
                line
                for line in lines
                if line.currency == "USD"
                and (start is None or start <= line.occurred_at)
                and (end is None or line.occurred_at < end)
            ]
            assert_recounted(report, inside, ZoneInfo(zone))
            before_start = [line for line in lines if line.currency == "USD" and start and line.occurred_at < start]
            assert report.totals.opening.amount == recount(before_start, SOURCES)  # type: ignore[union-attr]


SOURCES = ("grant", "usage", "deduction", "expiry", "transfer", "exchange", "refund", "reversal", "revocation")


def assert_recounted(report: UnitReport, lines: list[CreditTransaction], zone: ZoneInfo) -> None:
    totals: Any = report.totals
    used = [line for line in lines if line.source in ("usage", "deduction")]
    granted = [line for line in lines if line.source == "grant"]
    assert totals.granted.amount == recount(lines, ["grant"])
    assert (totals.granted_count, totals.used_count) == (len(granted), len(used))
    assert totals.used.amount == -recount(used, SOURCES)
    assert totals.expired.amount == -recount(lines, ["expiry"])
    assert totals.refunded.amount == recount(lines, ["refund"])
    assert totals.other.amount == recount(lines, ["transfer"])
    assert (
        totals.closing
        == totals.opening + totals.granted - totals.used - totals.expired + totals.refunded + totals.other
    )
    assert report.expired.count == len({line.grant_id for line in lines if line.source == "expiry"})
    assert_adds_up(report)

    hours: dict[int, Decimal] = defaultdict(Decimal)
    weekdays: dict[int, Decimal] = defaultdict(Decimal)
    features: dict[str, Decimal] = defaultdict(Decimal)
    for line in used:
        local = line.occurred_at.astimezone(zone)
        hours[local.hour] += line.amount.amount  # type: ignore[union-attr]
        weekdays[local.weekday()] += line.amount.amount  # type: ignore[union-attr]
        features[line.feature or ""] += line.amount.amount  # type: ignore[union-attr]
    assert {share.position: share.used.amount for share in report.by_hour if share.used_count} == hours  # type: ignore[union-attr]
    assert {share.position: share.used.amount for share in report.by_weekday if share.used_count} == weekdays  # type: ignore[union-attr]
    assert {group.name: group.used.amount for group in report.by_feature if group.used} == features  # type: ignore[union-attr]

    for point in report.periods:
        inside = [line for line in lines if point.start <= line.occurred_at < point.end]
        assert point.granted.amount == recount(inside, ["grant"])  # type: ignore[union-attr]
        assert point.used.amount == -recount(inside, ["usage", "deduction"])  # type: ignore[union-attr]
        assert point.expired.amount == -recount(inside, ["expiry"])  # type: ignore[union-attr]

    recipients: dict[str, Decimal] = defaultdict(Decimal)
    reasons: dict[str, Decimal] = defaultdict(Decimal)
    for line in granted:
        recipients[line.billable] += line.amount.amount  # type: ignore[union-attr]
        reasons[line.reason] += line.amount.amount  # type: ignore[union-attr]
    assert {one.billable: one.granted.amount for one in report.recipients} == recipients  # type: ignore[union-attr]
    assert {one.name: one.granted.amount for one in report.by_reason if one.granted} == reasons  # type: ignore[union-attr]


def assert_adds_up(report: UnitReport) -> None:
    """Assert that each way to cut the totals gives the totals, and that periods meet."""
    totals: Any = report.totals
    cuts: list[tuple[str, Any]] = [("granted", report.by_kind), ("used", report.by_kind), ("expired", report.by_kind)]
    cuts += [("refunded", report.by_kind), ("granted", report.by_reason), ("expired", report.by_reason)]
    cuts += [(name, report.by_feature) for name in ("granted", "used", "expired")]
    cuts += [(name, report.periods) for name in ("granted", "used", "expired", "refunded")]
    cuts += [("used", report.by_hour), ("used", report.by_weekday)]
    for name, parts in cuts:
        whole = getattr(totals, name)
        assert sum((getattr(part, name) for part in parts), whole - whole) == whole, name
    assert all(one.end == other.start for one, other in pairwise(report.periods))


def test_units_are_reported_apart_and_never_added(ts: Tallystick) -> None:
    make = CreditFactory(ts)
    make.wallet("user:1", "100 USD")
    make.wallet("user:1", "50 EUR")
    make.with_credits(7).loyalty("user:1", "api-calls")
    make.with_credits("0.5").loyalty("user:1", "exports")
    report = ts.credits.report()
    assert [part.unit for part in report.units] == ["EUR", "USD", "feature:api-calls", "feature:exports"]
    granted = [part.totals.granted for part in report.units]
    assert granted == [money("50 EUR"), money("100 USD"), 7, Decimal("0.5")]
    assert (report.of("USD").currency, report.of("USD").feature_slug) == ("USD", None)
    assert (report.of("feature:exports").currency, report.of("feature:exports").feature_slug) == (None, "exports")
    only = ts.credits.report(unit="usd")
    assert only.units == (report.of("USD"),)
    assert [part.unit for part in ts.credits.report(unit="feature:api-calls").units] == ["feature:api-calls"]


def test_a_unit_that_was_asked_for_is_there_with_zeros(ts: Tallystick) -> None:
    assert ts.credits.report().units == ()
    (part,) = ts.credits.report(unit="USD").units
    assert (part.totals.granted, part.active.count, part.periods, part.is_quiet) == (money("0 USD"), 0, (), True)
    with pytest.raises(NotFound, match="EUR"):
        ts.credits.report(unit="USD").of("EUR")


@pytest.mark.parametrize("unit", ["api-calls", "feature:", "DOLLAR", ""])
def test_a_unit_is_a_currency_or_a_feature(ts: Tallystick, unit: str) -> None:
    with pytest.raises(InvalidInput, match="feature:api-calls"):
        ts.credits.report(unit=unit)


def test_a_range_that_ends_before_it_starts_is_refused(ts: Tallystick) -> None:
    with pytest.raises(InvalidInput, match="end"):
        ts.credits.report("2026-02-01", "2026-01-01")
    assert ts.credits.report("2026-01-01", "2026-01-01", "USD").of("USD").periods == ()


@pytest.mark.parametrize(
    ("start", "end", "interval", "number"),
    [
        ("2026-01-01", "2026-01-02", "day", 1),
        ("2026-01-01", "2026-02-01", "day", 31),
        ("2026-01-01", "2026-03-05", "week", 10),
        ("2025-01-01", "2026-01-01", "week", 53),
        ("2020-01-01", "2026-01-01", "month", 72),
    ],
)
def test_the_range_says_whether_it_is_cut_by_day_week_or_month(
    ts: Tallystick, start: str, end: str, interval: str, number: int
) -> None:
    report = ts.credits.report(start, end, "USD")
    assert (report.interval, len(report.of("USD").periods)) == (interval, number)


def test_the_ten_largest_recipients_come_first(ts: Tallystick) -> None:
    make = CreditFactory(ts)
    for n in range(12):
        make.wallet(f"user:{n:02}", money(f"{n + 1} USD"))
    make.wallet("user:03", "100 USD")
    recipients = ts.credits.report().of("USD").recipients
    assert [one.billable for one in recipients] == ["user:03", *(f"user:{n:02}" for n in (11, 10, 9, 8, 7, 6, 5, 4, 2))]
    assert (recipients[0].granted, recipients[0].granted_count) == (money("104 USD"), 2)


def test_many_reasons_are_gathered_after_the_hundredth(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create("user:1")
    for n in range(103):
        wallet.add_credits(1 + n, f"campaign {n:03}")
    groups = ts.credits.report().of("USD").by_reason
    assert (len(groups), groups[0].name, groups[99].name) == (101, "campaign 102", "campaign 003")
    assert (groups[100].name, groups[100].granted, groups[100].granted_count) == (None, money("6 USD"), 3)


def test_what_is_used_and_lost_is_told_by_the_reason_of_its_grant(ts: Tallystick, clock: FixedClock) -> None:
    wallet = ts.wallets.get_or_create("user:1")
    wallet.add_credits(10, "Referral bonus", expires_at=clock.now() + timedelta(days=1))
    wallet.add_credits(20, "top-up")
    wallet.deduct_credits(4, "usage")
    clock.advance(days=1)
    wallet.deduct_credits(5, "usage")
    report = ts.credits.report().of("USD")
    told = {group.name: (group.granted, group.used, group.expired) for group in report.by_reason}
    assert told == {
        "top-up": (money("20 USD"), money("5 USD"), money("0 USD")),
        "Referral bonus": (money("10 USD"), money("4 USD"), money("6 USD")),
    }
    kinds = {kind.kind: (kind.granted, kind.used, kind.expired, kind.remaining) for kind in report.by_kind}
    assert kinds == {
        "paid": (money("20 USD"), money("5 USD"), money("0 USD"), money("15 USD")),
        "promotional": (money("10 USD"), money("4 USD"), money("6 USD"), money("0 USD")),
    }
    assert report.active == GrantTotals(count=1, amount=money("20 USD"), remaining=money("15 USD"))
    assert report.expired == GrantTotals(count=1, amount=money("10 USD"), remaining=money("6 USD"))


def test_use_beyond_the_credits_is_owed_and_counts_as_paid_use(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"credit_overdraft_allowed": True}) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        wallet.add_credits(1, "bonus")
        wallet.deduct_credits(5)
        report = ts.credits.report().of("USD")
        assert [kind.used for kind in report.by_kind] == [money("4 USD"), money("1 USD")]
        assert (report.totals.closing, report.active.count) == (money("-4 USD"), 0)
        wallet.add_credits(10, "top-up")
        report = ts.credits.report().of("USD")
        assert (report.totals.granted, report.totals.closing) == (money("11 USD"), money("6 USD"))
        assert_adds_up(report)


def test_a_debt_is_paid_before_anything_is_lost_in_reports_too(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"credit_overdraft_allowed": True}) as ts:
        make = CreditFactory(ts)
        make.with_credits(money("10 USD")).expiring("user:1", in_days=1)
        wallet = make.wallet("user:1", "10 USD")
        metered = ts.meter.billable("user:1").billing_mode("credits").using_provider("openai", "gpt-4o-mini")
        with metered.hold(cost=money("20 USD")):
            # All is pinned, so that this is owed.
            wallet.deduct_credits(4)
        assert (wallet.overdraft, ts.credits.forecast("user:1").available) == (money("-4 USD"), money("16 USD"))
        clock.advance(days=1)
        foreseen, before = ts.credits.expire(dry_run=True), ts.credits.report().to_dict()
        assert (foreseen.amounts, wallet.balance) == ({"USD": money("6 USD")}, money("10 USD"))
        assert dict(ts.credits.expire().amounts) == dict(foreseen.amounts)
        assert ts.credits.report().to_dict() == before
        assert ts.credits.report().of("USD").totals.expired == money("6 USD")


def test_what_was_taken_back_moved_and_reversed_has_its_place(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create("user:1")
    first = wallet.add_credits(10, "top-up")
    second = wallet.add_credits(7, "bonus")
    wallet.revoke(str(second.grant_id), "A mistake")
    ts.ledger.reverse(first.id, "Paid by somebody else")
    wallet.add_credits(3, "top-up")
    wallet.transfer("user:2", 1)
    totals = ts.credits.report().of("USD").totals
    assert (totals.granted, totals.revoked, totals.other) == (money("20 USD"), money("7 USD"), money("-10 USD"))
    assert totals.closing == money("3 USD")


def test_a_past_month_says_what_stood_then(ts: Tallystick, clock: FixedClock) -> None:
    wallet = ts.wallets.get_or_create("user:1")
    wallet.add_credits(100, "top-up")
    clock.set("2026-02-10T00:00:00Z")
    wallet.deduct_credits(30)
    clock.set("2026-03-10T00:00:00Z")
    wallet.deduct_credits(5)
    months = [ts.credits.report(f"2026-{n:02}-01", f"2026-{n + 1:02}-01").of("USD").totals for n in (1, 2, 3)]
    assert [(month.opening, month.closing) for month in months] == [
        (money("0 USD"), money("100 USD")),
        (money("100 USD"), money("70 USD")),
        (money("70 USD"), money("65 USD")),
    ]


def test_a_report_is_plain_json(ts: Tallystick) -> None:
    make = CreditFactory(ts)
    make.wallet("user:1", "100 USD").deduct_credits("0.5", feature="chat")
    make.expiring("user:1", "api-calls")
    plain = json.loads(json.dumps(ts.credits.report("2026-01-01", "2026-02-01").to_dict()))
    assert (plain["start"], plain["interval"], plain["timezone"]) == ("2026-01-01T00:00:00+00:00", "day", "UTC")
    assert plain["units"][0]["totals"]["used"] == {"amount": "0.50", "currency": "USD"}
    assert plain["units"][1]["totals"]["granted"] == 10


def test_a_report_reads_its_range_by_an_index(sqlite_url: str) -> None:
    from tallystick.credits.lapsed import lapsed_grants
    from tallystick.credits.reporting import ReportRange, _by_account, _by_quarter, _movements, _recipients

    january = ReportRange(
        to_micros(datetime(2026, 1, 1, tzinfo=UTC)), to_micros(datetime(2026, 2, 1, tzinfo=UTC)), None
    )
    queries = [
        _by_quarter(_movements(january, lapsed_grants(january.end, expiring_first=False))),
        _by_account(january),
        _recipients(january),
    ]
    with Tallystick(sqlite_url) as ts:
        engine = ts._engine
        for query in queries:
            text = str(query.compile(engine.database, compile_kwargs={"literal_binds": True}))
            plan = "\n".join(engine.read(partial(explained, f"EXPLAIN QUERY PLAN {text}")))
            assert "ix_credit_transactions_occurred_at" in plan
            assert not re.search(r"SCAN (credit_transactions|grants)\b", plan), plan


def explained(statement: str, connection: Connection) -> list[str]:
    return [str(row) for row in connection.exec_driver_sql(statement)]


# -- forecasts --------------------------------------------------------------------------------------------------------


def test_a_forecast_takes_the_average_since_the_first_use(ts: Tallystick, clock: FixedClock) -> None:
    wallet = CreditFactory(ts).wallet("user:1", "100 USD")
    clock.advance(days=10)
    wallet.deduct_credits(12)
    clock.advance(days=5)
    wallet.deduct_credits(8)
    forecast = ts.credits.forecast("user:1")
    assert (forecast.available, forecast.daily_burn) == (money("80 USD"), money("4 USD"))
    assert forecast.measured_since == clock.now() - timedelta(days=5)
    assert (forecast.days_left, forecast.empty_at) == (20.0, clock.now() + timedelta(days=20))
    assert (forecast.will_expire, forecast.expiring) == (money("0 USD"), ())


def test_a_forecast_takes_thirty_days_at_most_and_leaves_out_what_was_refunded(
    ts: Tallystick, clock: FixedClock
) -> None:
    wallet = CreditFactory(ts).wallet("user:1", "1000 USD")
    wallet.deduct_credits(500)
    clock.advance(days=60)
    line = wallet.deduct_credits(40)
    wallet.refund(line.id, 10)
    forecast = ts.credits.forecast("user:1")
    assert (forecast.daily_burn, forecast.measured_since) == (money("1 USD"), clock.now() - timedelta(days=30))
    assert forecast.days_left == 470.0


def test_one_use_just_now_is_taken_for_a_days_use(ts: Tallystick) -> None:
    wallet = CreditFactory(ts).wallet("user:1", "100 USD")
    wallet.deduct_credits(2)
    assert ts.credits.forecast("user:1").daily_burn == money("2 USD")


def test_without_use_credits_last_for_ever_and_what_expires_is_lost(ts: Tallystick) -> None:
    make = CreditFactory(ts)
    make.wallet("user:1", "100 USD")
    make.with_credits(money("7 USD")).expiring("user:1", in_days=3)
    forecast = ts.credits.forecast("user:1")
    assert (forecast.days_left, forecast.empty_at, forecast.will_expire) == (None, None, money("7 USD"))
    assert [(one.remaining, one.unused) for one in forecast.expiring] == [(money("7 USD"), money("7 USD"))]


def test_what_expires_before_its_turn_is_foreseen(ts: Tallystick, clock: FixedClock) -> None:
    make = CreditFactory(ts)
    make.with_credits(20).loyalty("user:1", "api-calls")
    expiring = make.with_credits(10).expiring("user:1", "api-calls", in_days=12)
    ts.features.use("user:1", "api-calls", 2)
    clock.advance(days=1)
    forecast = ts.credits.forecast("user:1", feature="api-calls")
    assert (forecast.available, forecast.daily_burn, forecast.feature_slug) == (28, 2, "api-calls")
    # 18 of the older ones last nine days; of the two days that are left, four are used of the ten.
    assert [(one.grant_id, one.unused) for one in forecast.expiring] == [(expiring.id, 6)]
    assert (forecast.will_expire, forecast.days_left) == (6, 11.0)
    assert forecast == ts.credits.forecast("user:1", "feature:api-calls")


def test_the_setting_for_the_order_of_use_decides_what_a_forecast_loses(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, credits={"burn_order": "expiring_first"}) as ts:
        make = CreditFactory(ts)
        make.with_credits(20).loyalty("user:1", "api-calls")
        make.with_credits(10).expiring("user:1", "api-calls", in_days=12)
        ts.features.use("user:1", "api-calls", 1)
        assert ts.credits.forecast("user:1", feature="api-calls").will_expire == 0


def test_calls_in_flight_have_what_they_pinned(ts: Tallystick) -> None:
    CreditFactory(ts).wallet("user:1", "100 USD")
    with (
        ts.meter.billable("user:1")
        .billing_mode("credits")
        .using_provider("openai", "gpt-4o-mini")
        .hold(cost=money("40 USD"))
    ):
        assert ts.credits.forecast("user:1").available == money("60 USD")


def test_a_forecast_is_of_a_currency_or_a_feature(ts: Tallystick) -> None:
    nobody = ts.credits.forecast("user:9")
    assert (nobody.unit, nobody.available, nobody.days_left) == ("USD", money("0 USD"), 0.0)
    with pytest.raises(InvalidInput, match="not both"):
        ts.credits.forecast("user:9", "USD", feature="api-calls")
    with pytest.raises(InvalidInput, match="currency"):
        ts.credits.forecast("user:9", "dollars")


def test_a_unit_is_foreseen_as_if_all_accounts_were_one(ts: Tallystick, clock: FixedClock) -> None:
    make = CreditFactory(ts)
    for n in (1, 2):
        make.wallet(f"user:{n}", "50 USD").deduct_credits(n)
    make.with_credits(money("4 USD")).expiring("user:3", in_days=1)
    clock.advance(days=1)
    forecast = ts.credits.report().of("USD").forecast
    assert (forecast.billable, forecast.available, forecast.daily_burn) == (None, money("97 USD"), money("3 USD"))
    assert forecast.empty_at == clock.now() + timedelta(hours=776)


# -- expiry -----------------------------------------------------------------------------------------------------------


def test_expiry_is_booked_once_in_portions_with_progress(ts: Tallystick) -> None:
    make = CreditFactory(ts)
    for n in range(7):
        make.expired(f"user:{n % 5}", "api-calls")
    make.with_credits("2.5").expired("user:1")
    make.expiring("user:9", "api-calls")
    shown: list[tuple[int, int]] = []
    foreseen = ts.credits.expire(dry_run=True, progress=lambda done, total: shown.append((done, total)))
    assert (foreseen.dry_run, foreseen.grants, shown) == (True, 8, [])
    booked = ts.credits.expire(batch_size=3, progress=lambda done, total: shown.append((done, total)))
    assert (booked.dry_run, booked.grants, dict(booked.amounts)) == (False, 8, dict(foreseen.amounts))
    assert booked.amounts == {"USD": money("2.50 USD"), "feature:api-calls": 70}
    assert ([total for _, total in shown], shown[-1]) == ([8] * len(shown), (8, 8))
    assert len(shown) > 1
    again = ts.credits.expire()
    assert (again.grants, dict(again.amounts)) == (0, {})


def test_an_account_with_more_grants_than_are_read_at_once_expires_in_full(ts: Tallystick, clock: FixedClock) -> None:
    make = CreditFactory(ts)
    for n in range(120):
        make.expiring("user:1", "api-calls", in_days=1 + n % 3)
    clock.advance(days=2)
    assert (ts.credits.expire(batch_size=10).grants, ts.features.extra_credits("user:1", "api-calls")) == (80, 400)
    clock.advance(days=1)
    assert ts.credits.expire().amounts == {"feature:api-calls": 400}
    assert ts.doctor().ok


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_a_portion_has_one_grant_at_least(ts: Tallystick, size: Any) -> None:
    with pytest.raises(InvalidInput, match="batch_size"):
        ts.credits.expire(batch_size=size)


def test_expiring_grants_are_listed_until_their_instant(ts: Tallystick, clock: FixedClock) -> None:
    make = CreditFactory(ts)
    late, soon = make.expiring("user:1", "api-calls", in_days=7), make.expiring("user:2", in_days=1)
    make.loyalty("user:1", "api-calls")
    make.expired("user:1", "api-calls")
    assert [grant.id for grant in ts.credits.expiring()] == [soon.id, late.id]
    assert [grant.id for grant in ts.credits.expiring(within_days=6)] == [soon.id]
    clock.advance(days=1, microseconds=-1)
    assert [grant.id for grant in ts.credits.expiring(0)] == []
    assert [grant.id for grant in ts.credits.expiring(1)] == [soon.id]
    clock.advance(microseconds=1)
    assert [grant.id for grant in ts.credits.expiring(1)] == []
    with pytest.raises(InvalidInput, match="within_days"):
        ts.credits.expiring(-1)


# -- any history ------------------------------------------------------------------------------------------------------

AMOUNTS = st.integers(1, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), AMOUNTS, st.sampled_from((None, 1, 3)), st.sampled_from(("top-up", "bonus"))),
        st.tuples(st.just("restrict"), AMOUNTS, st.sampled_from((None, 2)), st.just("promotion")),
        st.tuples(st.just("deduct"), AMOUNTS, st.sampled_from((None, "chat")), st.none()),
        st.tuples(st.just("deduct in flight"), AMOUNTS, st.none(), st.none()),
        st.tuples(st.sampled_from(("refund", "reverse", "revoke", "transfer")), AMOUNTS, st.none(), st.none()),
        st.tuples(st.just("wait"), st.integers(1, 60), st.none(), st.none()),
    ),
    max_size=16,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happened_a_report_adds_up(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    clock = FixedClock("2026-01-15T12:00:00Z")
    url = f"sqlite:///{tmp_path_factory.mktemp('history') / 'x.db'}"
    fast: Any = {"storage": {"synchronous": "normal"}, "billing": {"credit_overdraft_allowed": True}}
    with Tallystick(url, clock=clock, **fast) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        lines: list[CreditTransaction] = []
        instants = [clock.now()]
        for step in steps:
            with suppress(CreditsInsufficient, Conflict, InvalidInput, NotFound):
                happen(ts, clock, wallet, lines, *step)
            instants.append(clock.now())
        middle, end = instants[len(instants) // 2], clock.now() + timedelta(hours=1)
        ranges = [(None, None), (None, middle), (middle, end), (middle, None)]
        before = [ts.credits.report(*each, "USD") for each in ranges]
        for report in before:
            assert_adds_up(report.of("USD"))
        assert before[1].of("USD").totals.closing == before[2].of("USD").totals.opening
        balances = [wallet.balance for wallet in ts.wallets.list()]
        assert before[0].of("USD").totals.closing == sum(balances[1:], balances[0])
        foreseen, booked = ts.credits.expire(dry_run=True), ts.credits.expire()
        assert (booked.grants, dict(booked.amounts)) == (foreseen.grants, dict(foreseen.amounts))
        assert [ts.credits.report(*each, "USD") for each in ranges] == before
        for wallet in ts.wallets.list():
            foreseeable: Any = ts.credits.forecast(wallet.billable).available
            # Restricted credits pay no debts: they are there for their use, whatever is owed.
            assert foreseeable == wallet.available or (wallet.overdraft and foreseeable > wallet.available)


def happen(
    ts: Tallystick, clock: FixedClock, wallet: Wallet, lines: list[CreditTransaction], what: str, *stated: Any
) -> None:
    """Do one thing; where it may not be done, nothing happens."""
    amount, detail, reason = stated
    if what in ("add", "restrict"):
        expires_at = None if detail is None else clock.now() + timedelta(days=detail)
        feature = "chat" if what == "restrict" else None
        lines.append(wallet.add_credits(amount, reason, expires_at=expires_at, feature=feature))
    elif what == "deduct":
        lines.append(wallet.deduct_credits(amount, feature=detail))
    elif what == "deduct in flight":
        metered = ts.meter.billable("user:1").billing_mode("credits").using_provider("openai", "gpt-4o-mini")
        with metered.hold(cost=max(wallet.available, money("1 USD"))):
            lines.append(wallet.deduct_credits(amount))
    elif what == "refund":
        wallet.refund(lines[-amount % len(lines)].id if lines else "txn_", None)
    elif what == "reverse":
        ts.ledger.reverse(lines[-amount % len(lines)].id if lines else "txn_", "mistake")
    elif what == "revoke":
        for grant in wallet.grants()[:1]:
            wallet.revoke(grant.id, "mistake")
    elif what == "transfer":
        wallet.transfer("user:2", amount)
    else:
        clock.advance(hours=amount)
