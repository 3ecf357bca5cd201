"""The rows of a grant and of deductions from it, as the engine writes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Table

from benchmarks.workload import DEDUCTION as AMOUNT
from benchmarks.workload import SAMPLE, Row
from benchmarks.writes import CREDIT_ACCOUNTS, GRANTS, LEDGER_ENTRIES, STATEMENT_LINES, Write
from tallystick.identity import new_id
from tallystick.storage import tables

__all__ = ["CreditSample", "Deduction", "DeductionMaker", "Transaction", "read_credit_sample"]

Query = Callable[[str], list[tuple[Any, ...]]]
Columns = Mapping[str, Any]
Deduction = tuple[Row, ...]
"""The rows of one deduction, in the order of `writes.DEDUCTION`."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One line on a statement, and its entries in their order."""

    line: Columns
    entries: tuple[Columns, ...]


@dataclass(frozen=True, slots=True)
class CreditSample:
    """What the engine has written of one grant of one deduction's amount, and of the deduction that used it up."""

    account: Columns
    grant: Columns
    granted: Transaction
    deducted: Transaction


def read_credit_sample(query: Query, billable: str = SAMPLE) -> CreditSample:
    """Read what there is of a billable's only wallet: one grant, and one deduction."""
    (account,) = _rows(query, tables.credit_accounts, billable)
    (grant,) = _rows(query, tables.grants, billable)
    lines = {line["source"]: line for line in _rows(query, tables.credit_transactions, billable)}
    entries = _rows(query, tables.ledger_entries, billable)

    def transaction(source: str) -> Transaction:
        own = [entry for entry in entries if entry["transaction_id"] == lines[source]["id"]]
        return Transaction(lines[source], tuple(sorted(own, key=itemgetter("position"))))

    return CreditSample(account, grant, transaction("grant"), transaction("deduction"))


class DeductionMaker:
    """Makes the rows of deductions from the first grant of a wallet, before the stopwatch starts.

    Balances go on from deduction to deduction, as in the engine.
    """

    def __init__(self, sample: CreditSample, query: Query, billable: str) -> None:
        (self._account,) = _rows(query, tables.credit_accounts, billable)
        (self._grant,) = _rows(query, tables.grants, billable)
        self._deducted = sample.deducted
        self._billable = billable
        self._done = 0

    def deductions(self, count: int) -> list[Deduction]:
        return [self._deduction() for _ in range(count)]

    def _deduction(self) -> Deduction:
        self._done += 1
        transaction_id, now = new_id("txn"), time.time_ns() // 1000
        number, spent = self._account["last_number"] + self._done, AMOUNT.nanos * self._done
        left = self._account["paid"] - spent
        line = {
            **self._deducted.line,
            "billable": self._billable,
            "number": number,
            "id": transaction_id,
            "balance_after": left,
            "occurred_at": now,
            "created_at": now,
        }
        common = {
            "transaction_id": transaction_id,
            "billable": self._billable,
            "statement_number": number,
            "created_at": now,
        }
        source, target = self._deducted.entries
        return (
            _row(CREDIT_ACCOUNTS, {**self._account, "paid": left, "last_number": number}),
            _row(GRANTS, {**self._grant, "remaining": self._grant["remaining"] - spent}),
            _row(STATEMENT_LINES, line),
            _row(LEDGER_ENTRIES, {**source, **common, "grant_id": self._grant["id"]}),
            _row(LEDGER_ENTRIES, {**target, **common}),
        )


def _row(write: Write, columns: Columns) -> Row:
    return tuple(itemgetter(*write.columns)(columns))


def _rows(query: Query, table: Table, billable: str) -> Sequence[Columns]:
    names = [column.name for column in table.columns]
    rows = query(f"SELECT {', '.join(names)} FROM {table.name} WHERE billable = '{billable}'")
    return [dict(zip(names, row, strict=True)) for row in rows]
