"""Fourteen months of fifty customers come to what their prices and their use say, however the jobs are run."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from typing import Any

import pytest
from sqlalchemy import func, select

from tallystick import FixedClock, Tallystick
from tallystick.invoicing.values import Invoice, LineItem, LineKind
from tallystick.storage import tables
from tests.acceptance.accounts import assert_healthy, count_rows, errors_of, in_threads
from tests.acceptance.billing_checks import assert_adds_up
from tests.acceptance.billing_model import micros
from tests.acceptance.billing_processes import bill_until_killed
from tests.acceptance.billing_year import COUPONS, SETTINGS, Customer, Expected, Year, nanos, play
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS

Line = tuple[Any, ...]


@pytest.fixture(scope="module")
def year() -> Year:
    """The script of the year."""
    return Year()


@pytest.fixture(scope="module")
def reference(year: Year, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tallystick]:
    """The year on SQLite, with jobs at irregular times."""
    file = tmp_path_factory.mktemp("year") / "year.db"
    clock = FixedClock("2027-12-01")
    with Tallystick(f"sqlite:///{file}", clock=clock, **SETTINGS) as ts:
        play(ts, clock, year, ts.run_due_jobs, random.Random(1))
        yield ts


def all_invoices(ts: Tallystick) -> list[Invoice]:
    """Return every invoice, in the order in which they were made."""
    found: list[Invoice] = []
    cursor = None
    while True:
        page = ts.invoices.list(limit=500, cursor=cursor)
        found += page
        cursor = page.next_cursor
        if cursor is None:
            return sorted(found, key=lambda one: (one.created_at, one.number))


def by_billable(invoices: Sequence[Invoice]) -> dict[str, list[Invoice]]:
    found: dict[str, list[Invoice]] = defaultdict(list)
    for one in invoices:
        found[one.billable].append(one)
    return found


def slugs(ts: Tallystick) -> dict[str | None, str]:
    """Return the plans of versions."""
    return {version.id: plan.slug for plan in ts.plans.list() for version in plan.versions}


def line_of(line: LineItem, names: dict[str | None, str]) -> Line:
    return (
        line.kind.value,
        names.get(line.plan_version_id),
        line.resource_type,
        line.description,
        str(line.quantity),
        str(line.amount),
        str(line.period_start),
        str(line.period_end),
    )


def billed(ts: Tallystick) -> list[tuple[Any, ...]]:
    """Return all that invoices say, but for their ids, numbers and dates."""
    names = slugs(ts)
    return sorted(
        (
            one.billable,
            str(one.period_start),
            str(one.period_end),
            *(str(amount) for amount in (one.subtotal, one.carried_in, one.carried_out, one.net, one.tax, one.total)),
            tuple(line_of(line, names) for line in one.line_items),
        )
        for one in all_invoices(ts)
    )


def charged_lines(ts: Tallystick) -> Counter[Line]:
    """Return how much stands on invoices of each thing that is charged, on whichever of them it stands."""
    names = slugs(ts)
    found: Counter[Line] = Counter()
    for one in all_invoices(ts):
        for line in one.line_items:
            key = (
                one.billable,
                one.currency,
                line.kind.value,
                names.get(line.plan_version_id),
                line.resource_type,
                str(line.period_start),
                str(line.period_end),
            )
            found[key] += line.amount.nanos
    return found


def assert_billed_as_expected(ts: Tallystick, year: Year) -> None:
    expected = Expected(year)
    names = slugs(ts)
    fees: Counter[Any] = Counter()
    usage: Counter[Any] = Counter()
    quantities: Counter[Any] = Counter()
    overage: Counter[Any] = Counter()
    for one in all_invoices(ts):
        for line in one.line_items:
            plan = names.get(line.plan_version_id)
            start = None if line.period_start is None else micros(line.period_start)
            if line.kind in (LineKind.FEE, LineKind.PRORATION):
                fees[one.billable, one.currency] += line.amount.nanos
            elif line.kind is LineKind.USAGE:
                usage[one.billable, plan, line.resource_type, start] += line.amount.nanos
                quantities[one.billable, plan, line.resource_type, start] += int(line.quantity)
            elif line.kind is LineKind.OVERAGE:
                overage[one.billable, plan, start] += line.amount.nanos
    for key, amount in _waiting(ts, tables.invoice_items, "billable", "currency").items():
        fees[key] += amount
    for (billable, version, resource, start), amount in _waiting(
        ts, tables.usage_charges, "billable", "plan_version_id", "resource_type", "period_start"
    ).items():
        usage[billable, names[version], resource, start] += amount
    for (billable, version, start), amount in _waiting(
        ts, tables.overages, "billable", "plan_version_id", "period_start"
    ).items():
        overage[billable, names[version], start] += amount
    assert _nonzero(fees) == _nonzero(expected.fees)
    assert _nonzero(usage) == _nonzero(expected.usage)
    assert _nonzero(overage) == _nonzero(expected.overage)


def _nonzero(amounts: Any) -> dict[Any, int]:
    return {key: amount for key, amount in amounts.items() if amount}


def _waiting(ts: Tallystick, table: Any, *names: str) -> dict[Any, int]:
    """Return what is on no invoice: less than a cent, or below zero, of those who buy nothing any more."""
    columns = [table.c[name] for name in names]
    query = select(*columns, func.sum(table.c.amount)).where(table.c.invoice_id.is_(None)).group_by(*columns)
    rows = ts._engine.read(lambda connection: connection.execute(query).all())
    return {tuple(row[:-1]): int(row[-1]) for row in rows}


def assert_whole(ts: Tallystick, year: Year) -> None:
    """Assert all that holds of every invoice, and of them together."""
    invoices = all_invoices(ts)
    for billable, found in by_billable(invoices).items():
        assert len({one.currency for one in found}) == 1, billable
        assert_adds_up(found)
    numbers: dict[str, list[int]] = defaultdict(list)
    for one in invoices:
        assert one.number is not None
        numbers[one.number[:8]].append(int(one.number[9:]))
    for series in numbers.values():
        assert sorted(series) == list(range(1, len(series) + 1))
    assert_billed_as_expected(ts, year)
    assert_healthy(ts)


def test_the_year_comes_to_what_prices_and_use_say(reference: Tallystick, year: Year) -> None:
    assert_whole(reference, year)
    kinds = Counter(line.kind for one in all_invoices(reference) for line in one.line_items)
    assert all(kinds[kind] > 20 for kind in (LineKind.FEE, LineKind.PRORATION, LineKind.USAGE, LineKind.OVERAGE))


def test_discounts_take_off_what_their_coupons_say(reference: Tallystick, year: Year) -> None:
    invoices = by_billable(all_invoices(reference))
    for customer in year.customers:
        if customer.coupon is None:
            assert all(line.discount_id is None for one in invoices[customer.billable] for line in one.line_items)
            continue
        found = invoices[customer.billable]
        assert len(found) > 10
        for number, one in enumerate(found):
            charges = [line.amount.nanos for line in one.line_items if line.kind is not LineKind.DISCOUNT]
            taken = [line.amount.nanos for line in one.line_items if line.kind is LineKind.DISCOUNT]
            assert sum(taken) == -_taken_off(customer, number, charges)


def _taken_off(customer: Customer, number: int, charges: list[int]) -> int:
    """Return what a coupon takes off the n-th monthly invoice: each has a fee, and begins with its month."""
    terms = COUPONS[customer.coupon or ""]
    months = {"once": 1, "repeating": 3, "forever": 10_000}[terms.get("duration", "once")]
    if number >= months:
        return 0
    if "percent_off" in terms:
        return sum(round(amount * Fraction(terms["percent_off"]) / 100) for amount in charges)
    return min(nanos(terms["amount_off"]), max(0, sum(charges)))


def test_postgres_with_three_workers_bills_the_same(reference: Tallystick, year: Year, postgres_url: str) -> None:
    clock = FixedClock("2027-12-01")
    with ExitStack() as stack:
        ts, *others = [stack.enter_context(Tallystick(postgres_url, clock=clock, **SETTINGS)) for _ in range(3)]

        def run() -> None:
            workers = (ts, *others)
            errors_of(in_threads(3, lambda index: workers[index].run_due_jobs()), AssertionError)

        play(ts, clock, year, run, random.Random(1))
        assert_whole(ts, year)
        assert billed(ts) == billed(reference)


def test_running_every_job_twice_bills_the_same(reference: Tallystick, year: Year, sqlite_url: str) -> None:
    clock = FixedClock("2027-12-01")
    with Tallystick(sqlite_url, clock=clock, **SETTINGS) as ts:

        def run() -> None:
            ts.run_due_jobs()
            again = ts.run_due_jobs()
            assert (again.invoices, again.renewals, again.expirations) == (0, 0, 0)

        play(ts, clock, year, run, random.Random(1))
        assert billed(ts) == billed(reference)


def test_catching_up_after_fourteen_months_charges_the_same(reference: Tallystick, year: Year, sqlite_url: str) -> None:
    clock = FixedClock("2027-12-01")
    with Tallystick(sqlite_url, clock=clock, **SETTINGS) as ts:
        play(ts, clock, year, ts.run_due_jobs, None)
        assert_whole(ts, year)
        assert charged_lines(ts) == charged_lines(reference)


def test_workers_that_catch_up_charge_the_same_also_where_one_is_killed(
    reference: Tallystick, year: Year, postgres_url: str
) -> None:
    clock = FixedClock("2027-12-01")
    with Tallystick(postgres_url, clock=clock, **SETTINGS) as ts:
        # Those that were made before are the first payments of subscriptions that wait for them.
        before: list[int] = []

        def run() -> None:
            before.append(count_rows(ts, tables.invoices))
            arguments = (postgres_url, clock.now().isoformat(), SETTINGS)
            workers = [CONTEXT.Process(target=bill_until_killed, args=arguments) for _ in range(3)]
            for worker in workers:
                worker.start()
            _wait_for_invoices(ts, before[0] + 150)
            workers[0].kill()
            for worker in workers:
                worker.join(JOIN_SECONDS)
            assert [worker.exitcode for worker in workers[1:]] == [0, 0]
            ts.run_due_jobs()

        play(ts, clock, year, run, None)
        assert_whole(ts, year)
        assert charged_lines(ts) == charged_lines(reference)


def _wait_for_invoices(ts: Tallystick, number: int) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    while count_rows(ts, tables.invoices) < number:
        assert time.monotonic() < deadline, "the workers bill nothing"
        time.sleep(0.002)
