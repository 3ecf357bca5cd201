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

from tallystick.identity import new_id
from tallystick.storage.statements import SAVES, Save

__all__ = ["BILLABLES", "HOT", "PAIR_TOKENS", "PLAN", "PLAN_TOKENS", "SAMPLE", "Pair", "PairMaker", "Row", "Sample"]

PAIR_TOKENS = 10
PLAN = "benchmark"
PLAN_TOKENS = 10**15
"""A hard limit that is asked each time and refuses nothing."""

SAMPLE = "user:sample"
HOT = ("user:hot",)
BILLABLES = tuple(f"user:{number}" for number in range(1000))

HOLD_SOURCES = ("changed_counters", "new_holds")
SETTLE_SOURCES = ("changed_counters", "closed_holds", "events", "hourly", "daily")
_SAVES = {save.source: save for save in SAVES}

Row = tuple[Any, ...]
Sample = Mapping[str, Mapping[str, Any]]
"""The rows of one pair as the engine wrote them: by table, then by column."""


def save_of(source: str) -> Save:
    return _SAVES[source]


@dataclass(frozen=True, slots=True)
class Pair:
    """The rows of one pair: for each transaction, the row of each source in the order in which they are written."""

    billable: str
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
        before = self._used[billable]
        after = self._used[billable] = before + PAIR_TOKENS
        held, settled = ((0, PAIR_TOKENS), (PAIR_TOKENS, -PAIR_TOKENS)) if self._adds else (
            (before, PAIR_TOKENS),
            (after, 0),
        )
        changes: dict[str, dict[str, Any]] = {
            "new_holds": {
                "id": hold_id,
                "status": "open",
                "event_id": None,
                "created_at": now,
                "expires_at": now + 600_000_000,
                "closed_at": None,
            },
            "closed_holds": {"id": hold_id, "event_id": event_id, "closed_at": now},
            "events": {"id": event_id, "hold_id": hold_id, "occurred_at": now, "recorded_at": now},
            "hourly": {},
            "daily": {},
        }
        for changed in changes.values():
            changed["billable"] = billable

        def rows(sources: Sequence[str], counter: tuple[int, int]) -> tuple[Row, ...]:
            changes["changed_counters"] = {"billable": billable, "used": counter[0], "held": counter[1]}
            return tuple(self._row(source, changes[source]) for source in sources)

        return Pair(billable, rows(HOLD_SOURCES, held), rows(SETTLE_SOURCES, settled))

    def _row(self, source: str, changes: Mapping[str, Any]) -> Row:
        save = _SAVES[source]
        row: Row = itemgetter(*save.columns)({**self._sample[save.table.name], **changes})
        return row
