"""The case of billing: the run that renews and invoices subscriptions, of many customers and of few.

A round is a month: every customer has used something, every subscription is due, and one run bills them all.
"""

from __future__ import annotations

import tracemalloc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from time import perf_counter

from benchmarks.billing_rows import InvoiceSample, Month, add_customers, add_use, month, pay, read_invoice
from benchmarks.comparison import Comparison, Race
from benchmarks.databases import Database
from benchmarks.floors import group_commit
from benchmarks.lane import WrongTotals
from benchmarks.rounds import Limit, Round, Spread
from benchmarks.workload import Row
from benchmarks.writes import NUMBER_SERIES, SUBSCRIPTION_CURSORS, Write
from tallystick import FixedClock, Tallystick

__all__ = ["billing"]

_PAGE = 50
_FEE_NANOS = 99 * 10**9
# The targets: microseconds for each subscription, how fast many are beside few, and megabytes of Python's objects.
_MICROS_MAX = {"sqlite": 2000.0, "postgres": 3333.0}
_OF_FEW = 1 / 1.2
_MEGABYTES_MAX = 10.0


def billing(race: Race) -> list[Comparison]:
    """A month of many customers, beside one of a tenth as many, and beside a raw driver that writes the same rows."""
    count, kind = race.turns.pace.subscriptions, race.databases.kind
    few, many = _months(race, "few", count // 10), _months(race, "many", count)
    for months in (few, many):
        months(Limit(0))
    floor = race.raw(race.closing(PageWriter(_customers(race, "floor", count), read_invoice(few.database))))
    found = race.run({"many": many, "few": few, "floor": floor})
    name, unit = f"{count:,} subscriptions in a run", "subscriptions/s"
    each = Spread(tuple(1e6 / one.rate for one in found["many"]))
    memory = {size: Spread((months.megabytes(),)) for size, months in (("few", few), ("many", many))}
    return [
        race.rates(name, found["many"], found["floor"], beside=f"raw, {_PAGE} a commit", unit=unit),
        race.rates(name, found["many"], found["few"], beside=f"ours, {count // 10:,}", unit=unit, target=_OF_FEW),
        Comparison(kind, f"{name}: each", "", None, each, each, unit="µs", target=_MICROS_MAX[kind], is_ceiling=True),
        Comparison(
            kind,
            f"{name}: most memory at once",
            f"ours, {count // 10:,}",
            memory["few"],
            memory["many"],
            memory["many"],
            unit="MB",
            target=_MEGABYTES_MAX,
            is_ceiling=True,
        ),
    ]


class Months:
    """Our side: months that are billed one after the other by `run_due_jobs`. A round takes as long as it takes.

    After every month it is checked that each customer has an invoice, and that they bill all that was charged.
    """

    def __init__(self, database: Database, count: int) -> None:
        self.database = database
        self._count = count
        self._clock = FixedClock("2031-01-01T00:00:00Z")
        self._ts = Tallystick(database.url, clock=self._clock)
        self._billed = 0

    def close(self) -> None:
        self._ts.close()

    def __call__(self, limit: Limit) -> Round:  # noqa: ARG002  # a month is billed as a whole
        charged = self._begin()
        started = perf_counter()
        self._ts.run_due_jobs()
        spent = perf_counter() - started
        self._check(charged)
        return Round(self._count, spent)

    def megabytes(self) -> float:
        """Bill a month, and return how much memory Python's objects took at most."""
        charged = self._begin()
        tracemalloc.start()
        try:
            self._ts.run_due_jobs()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self._check(charged)
        return peak / 1e6

    def _begin(self) -> int:
        """Let a month pass, with its use. Returns what is to be billed, in nanos."""
        of = month(self._billed)
        pay(self.database)
        add_use(self.database, of)
        self._clock.set(datetime.fromtimestamp(of.end / 1e6, UTC))
        self._billed += 1
        return self._count * _FEE_NANOS + sum(_waiting(self.database))

    def _check(self, charged: int) -> None:
        of = month(self._billed)
        ((invoices, billed),) = self.database.query(
            f"SELECT count(*), sum(subtotal) FROM invoices WHERE issued_at = {of.start}"
        )
        if (invoices, billed) != (self._count, charged) or any(_waiting(self.database)):
            raise WrongTotals(
                f"{self._count} customers were charged {charged} nanos; {invoices} invoices bill {billed}, "
                f"and {sum(_waiting(self.database))} still wait."
            )


class PageWriter:
    """A raw driver that takes the same use and writes the same rows, so many customers a commit."""

    def __init__(self, database: Database, sample: InvoiceSample) -> None:
        self._database = database
        self._sample = sample
        self._connection = database.connect()
        self._commit = group_commit(database.databases.kind)
        self._billed = 0

    def close(self) -> None:
        self._connection.close()

    def __call__(self, limit: Limit) -> Round:  # noqa: ARG002  # as above
        of = month(self._billed)
        self._billed += 1
        add_use(self._database, of)
        pages = list(self._pages(of))
        started = perf_counter()
        for page in pages:
            self._commit(self._connection, page)
        spent = perf_counter() - started
        if any(_waiting(self._database)):
            raise WrongTotals("The raw driver has not taken all that waited.")
        return Round(sum(len(rows) for page in pages for sql, rows in page if sql == self._cursor_sql), spent)

    @property
    def _cursor_sql(self) -> str:
        return SUBSCRIPTION_CURSORS.sql(self._database.databases.placeholder)

    def _pages(self, of: Month) -> Iterator[list[tuple[str, list[Row]]]]:
        due = self._database.query(
            f"SELECT id, billable FROM subscriptions WHERE next_billing_at = {of.end} ORDER BY id"
        )
        for start in range(0, len(due), _PAGE):
            yield list(self._page(of, due[start : start + _PAGE]))

    def _page(self, of: Month, due: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
        placeholder = self._database.databases.placeholder
        rows: dict[Write, list[Row]] = defaultdict(list)
        rows[NUMBER_SERIES] = [(self._sample.series, len(due))]
        for subscription_id, billable in due:
            invoice = self._sample.like(subscription_id, billable, of)
            for write, of_write in invoice.items():
                rows[write] += of_write
        for write, of_write in rows.items():
            yield write.sql(placeholder), of_write


def _months(race: Race, name: str, count: int) -> Months:
    return race.closing(Months(_customers(race, name, count), count))


def _customers(race: Race, name: str, count: int) -> Database:
    database = race.fresh(name)
    add_customers(database, count)
    return database


def _waiting(database: Database) -> tuple[int, ...]:
    """Return what use and overage that no invoice has comes to, in nanos."""
    tables = ("usage_charges", "overages")
    return tuple(
        int(database.query(f"SELECT coalesce(sum(amount), 0) FROM {name} WHERE invoice_id IS NULL")[0][0])
        for name in tables
    )
