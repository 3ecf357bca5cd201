"""Importing rows: from a file through a mapping into the engine, in batches, with a tally of what became of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tallystick.cli.trace_file import TraceFile, TraceRow
from tallystick.cli.trace_identity import REJECT_COLUMNS, RowKeys, Scan
from tallystick.cli.trace_mapping import FieldMapping
from tallystick.errors import InvalidInput, TallystickError
from tallystick.events import UsageRecorded
from tallystick.money import Money

if TYPE_CHECKING:
    from tallystick import Tallystick

__all__ = ["Importer", "Payers", "Rejected", "Rejects", "Tally"]

_BATCH = 500
_REJECTS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Payers:
    """Who pays for rows that do not say it themselves: `count` billables in turn, or nobody."""

    prefix: str = ""
    count: int = 0

    def of(self, row: TraceRow) -> str | None:
        """Return the billable of a row. It follows from the row's number alone, so it is the same in every import."""
        return f"{self.prefix}:{row.number % self.count}" if self.count else None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not recorded, and why."""

    line: int
    reason: str
    code: str


@dataclass(slots=True)
class Tally:
    """What became of the rows so far. Tokens and costs are those of what was recorded now."""

    rows: int = 0
    recorded: int = 0
    duplicates: int = 0
    rejected: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    costs: dict[str, Money] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None
    rejections: list[Rejected] = field(default_factory=list)

    def add_usage(self, event: UsageRecorded) -> None:
        """Count an event that was recorded."""
        usage, cost = event.usage.usage, event.usage.cost
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        if cost is None:
            self.unpriced += 1
        else:
            self.costs[cost.currency] = self.costs.get(cost.currency, Money(0, cost.currency)) + cost

    def add_time(self, at: datetime) -> None:
        self.first = at if self.first is None else min(self.first, at)
        self.last = at if self.last is None else max(self.last, at)


class Rejects:
    """Rejected rows: the first few for the summary, all of them in a file if one is wanted.

    The file is of the format of the import, with the line and the reason in two columns more, so that it can be
    corrected and imported in its turn.
    """

    def __init__(self, tally: Tally, out: TextIO | None, trace: TraceFile) -> None:
        self._tally = tally
        self._out = out
        self._header = trace.header()
        self._csv = csv.writer(out, delimiter=trace.delimiter) if out is not None and self._header else None
        if self._csv is not None:
            self._csv.writerow([*self._columns(), *REJECT_COLUMNS])

    def add(self, row: TraceRow, reason: str, code: str) -> None:
        self._tally.rejected += 1
        if len(self._tally.rejections) < _REJECTS_KEPT:
            self._tally.rejections.append(Rejected(row.line, reason, code))
        if self._csv is not None:
            cells = [row.values.get(column, "") for column in self._columns()]
            self._csv.writerow([*cells, row.line, reason])
        elif self._out is not None:
            values = dict(row.values) if row.problem is None else {"text": row.text}
            values |= dict(zip(REJECT_COLUMNS, (row.line, reason), strict=True))
            self._out.write(json.dumps(values, default=str, ensure_ascii=False) + "\n")

    def _columns(self) -> list[str]:
        return [column for column in self._header if column not in REJECT_COLUMNS]


@contextmanager
def rejects_file(path: Path | None, trace: TraceFile) -> Iterator[TextIO | None]:
    """Open the file for rejected rows, if one is wanted.

    Raises:
        InvalidInput: it cannot be written, or is the file that is imported.
    """
    if path is None:
        yield None
        return
    if path.exists() and path.samefile(trace.path):
        raise InvalidInput("rejects", str(path), "That is the file to import: name another one.")
    try:
        out = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidInput("rejects", str(path), f"It cannot be written: {error.strerror}.") from None
    with out:
        yield out


class Importer:
    """Records the rows of a file, each at most once however often it is run."""

    def __init__(self, ts: Tallystick, mapping: FieldMapping, payers: Payers, keys: RowKeys, rejects: Rejects) -> None:
        self._ts = ts
        self._mapping = mapping
        self._payers = payers
        self._keys = keys
        self._rejects = rejects

    def run(self, trace: TraceFile, scanned: Scan, tally: Tally, advance: Callable[[int], None]) -> None:
        """Record all rows that the first reading saw; `advance` is told of each batch's size.

        Raises:
            UnknownPrice: the model that is given for all rows has no price, and `on_unknown_price` is "refuse".
            StorageError: the database went away; what was recorded stays, and another run goes on from there.
        """
        self._ts.on(UsageRecorded)(tally.add_usage)
        # A row that is added to the file meanwhile was not looked at, so it may repeat one that was.
        rows = islice(trace.rows(), scanned.rows)
        is_priced = False
        while batch := list(islice(rows, _BATCH)):
            rejected: list[tuple[TraceRow, str, str]] = []
            accepted = list(self._accepted(batch, rejected))
            if accepted and not is_priced:
                self._require_price(accepted[0][1])
                is_priced = True
            self._record(accepted, rejected, tally)
            for row, reason, code in sorted(rejected, key=lambda one: one[0].number):
                self._rejects.add(row, reason, code)
            tally.rows += len(batch)
            advance(len(batch))

    def _accepted(
        self, batch: list[TraceRow], rejected: list[tuple[TraceRow, str, str]]
    ) -> Iterator[tuple[TraceRow, dict[str, Any]]]:
        for row in batch:
            if row.problem is not None:
                rejected.append((row, row.problem, "invalid_input"))
                continue
            # Also of a row that is rejected below: its ordinal must not go to its neighbour.
            key = self._keys.key(row.values)
            try:
                record = self._mapping.record(row.values)
            except TallystickError as error:
                rejected.append((row, error.message, error.code))
                continue
            record.setdefault("idempotency_key", key)
            payer = self._payers.of(row)
            if payer is not None:
                record["billable"] = payer
            yield row, record

    def _record(
        self,
        accepted: list[tuple[TraceRow, dict[str, Any]]],
        rejected: list[tuple[TraceRow, str, str]],
        tally: Tally,
    ) -> None:
        result = self._ts.usage.record_batch([record for _, record in accepted])
        tally.recorded += result.recorded
        tally.duplicates += result.duplicates
        refused = {rejection.index: rejection for rejection in result.rejected}
        for index, (row, record) in enumerate(accepted):
            if index in refused:
                reason = _in_words_of_a_file(refused[index].reason, record["idempotency_key"])
                rejected.append((row, reason, refused[index].code))
            else:
                tally.add_time(record["occurred_at"])

    def _require_price(self, record: dict[str, Any]) -> None:
        """Refuse a model without a price before anything is recorded: it is most likely a slip of the pen."""
        from tallystick import ProviderUsage

        provider, model = self._mapping.constant("provider"), self._mapping.constant("model")
        if self._ts.settings.on_unknown_price != "refuse" or not provider or not model or "total_cost" in record:
            return
        self._ts.pricing.cost(ProviderUsage(1, 1), provider, model, record["occurred_at"])


def _in_words_of_a_file(reason: str, key: str) -> str:
    """Return a reason about an idempotency key as one about the row, which is all that a person sees of it."""
    if key not in reason:
        return reason
    known = f"Idempotency key {key!r} was first used with"
    return reason.replace(known, "It was recorded before, with").removesuffix(
        " Send the same input again, or use a new key."
    )
