"""The unit of all measuring: a pair, one hold of 10 tokens and its settlement, and the rows that it writes.

The floors write the rows that the engine writes. They are not written down here a second time: one pair is run through
the engine, its rows are read back, and every other row is made from these by giving it ids and amounts of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from operator import itemgetter
from typing import Any

from benchmarks.writes import HOLD, ROLLUPS, SETTLEMENT, Write
from tallystick import Money
from tallystick.identity import new_id

__all__ = [
    "BILLABLES",
    "DEDUCTION",
    "HOT",
    "PAIR_TOKENS",
    "PLAN",
    "PLAN_TOKENS",
    "SAMPLE",
    "Pair",
    "PairMaker",
    "Row",
    "Sample",
]

PAIR_TOKENS = 10
DEDUCTION = Money("0.01", "USD")
PLAN = "benchmark"
PLAN_TOKENS = 10**15
"""A hard limit that is asked each time and refuses nothing."""

SAMPLE = "user:sample"
HOT = ("user:hot",)
BILLABLES = tuple(f"user:{number}" for number in range(1000))

Row = tuple[Any, ...]
Sample = Mapping[str, Mapping[str, Any]]
"""The rows of one pair as the engine wrote them: by table, then by column."""

_TTL_MICROS = 600_000_000


@dataclass(frozen=True, slots=True)
class Pair:
    """The rows of one pair, in the order of `HOLD` and of `SETTLEMENT`."""

    hold: tuple[Row, ...]
    settlement: tuple[Row, ...]


class PairMaker:
    """Makes the rows of pairs, before the stopwatch starts. Counters go on from pair to pair, as in the engine.

    With `adds`, a counter's row says what to add instead of what it comes to, for statements that add in the database.
    """

    def __init__(self, sample: Sample, billables: Sequence[str], *, adds: bool = False) -> None:
        self._sample = sample
        self._billables = cycle(billables)
        self._adds = adds
        self._used = dict.fromkeys(billables, 0)

    def pairs(self, count: int) -> list[Pair]:
        return [self._pair(next(self._billables)) for _ in range(count)]

    def _pair(self, billable: str) -> Pair:
        hold_id, event_id, now = new_id("hld"), new_id("evt"), time.time_ns() // 1000
        held, settled = self._counters(billable)
        hold = {
            "id": hold_id,
            "billable": billable,
            "status": "open",
            "event_id": None,
            "created_at": now,
            "expires_at": now + _TTL_MICROS,
            "closed_at": None,
        }
        closed = {"id": hold_id, "event_id": event_id, "closed_at": now}
        event = {"id": event_id, "billable": billable, "hold_id": hold_id, "occurred_at": now, "recorded_at": now}
        rollups = [{"billable": billable}] * len(ROLLUPS)
        return Pair(self._rows(HOLD, (held, hold)), self._rows(SETTLEMENT, (settled, closed, event, *rollups)))

    def _counters(self, billable: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the hold and what the settlement make of the billable's counter."""
        before = self._used[billable]
        after = self._used[billable] = before + PAIR_TOKENS
        if self._adds:
            held, settled = (0, PAIR_TOKENS), (PAIR_TOKENS, -PAIR_TOKENS)
        else:
            held, settled = (before, PAIR_TOKENS), (after, 0)
        return (
            {"billable": billable, "used": held[0], "held": held[1]},
            {"billable": billable, "used": settled[0], "held": settled[1]},
        )

    def _rows(self, writes: Sequence[Write], changes: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
        return tuple(
            itemgetter(*write.columns)({**self._sample[write.table.name], **changed})
            for write, changed in zip(writes, changes, strict=True)
        )
