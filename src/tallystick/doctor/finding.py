"""A finding of the doctor, and how two accounts of the same numbers are compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, cast, func, literal, select, union_all

from tallystick.credits.account import amount_of

__all__ = ["Finding", "amount_text", "differences", "unequal_sums"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be ("drift"), or worth knowing ("notice")."""

    kind: str
    subject: str
    expected: str
    found: str
    remedy: str
    severity: str = "drift"

    def __str__(self) -> str:
        return f"{self.kind} of {self.subject}: expected {self.expected}, found {self.found}. {self.remedy}"


def differences(
    kind: str,
    expected: Mapping[Any, Any],
    found: Mapping[Any, Any],
    *,
    remedy: str = "The records disagree.",
    nothing: Collection[Any] = (0,),
) -> Iterator[Finding]:
    """Find the keys, which are tuples, whose values differ. What is absent equals `nothing`."""
    for key in sorted(expected.keys() | found.keys(), key=str):
        before, now = expected.get(key), found.get(key)
        if before == now or (before is None and now in nothing) or (now is None and before in nothing):
            continue
        yield Finding(kind, " ".join(str(part) for part in key if part != ""), str(before), str(now), remedy)


def unequal_sums(
    connection: Connection,
    kind: str,
    expected: Select[Any],
    found: Select[Any],
    *,
    unit: str | None = None,
    remedy: str = "The records disagree.",
) -> Iterator[Finding]:
    """Let the database sum both selects by their key, which is all columns but the last, and find where sums differ.

    Only differences leave the database, however many rows it compares. `unit` is the name of the key's column that says
    what the amounts are of.
    """
    sides = []
    for side, is_expected in ((expected.subquery(), True), (found.subquery(), False)):
        *key, amount = side.c
        nothing = cast(literal(0), BigInteger)
        amounts = (amount, nothing) if is_expected else (nothing, amount)
        sides.append(select(*key, amounts[0].label("expected"), amounts[1].label("found")))
    both = union_all(*sides).subquery()
    *names, before, now = both.c
    wanted, got = func.coalesce(func.sum(before), 0), func.coalesce(func.sum(now), 0)
    query = select(*names, wanted, got).group_by(*names).having(wanted != got).order_by(*names)
    units = None if unit is None else [column.name for column in names].index(unit)
    for *parts, first, second in connection.execute(query):
        unit_of = None if units is None else parts[units]
        subject = " ".join(str(part) for part in parts if part not in ("", None))
        yield Finding(kind, subject, _text(unit_of, first), _text(unit_of, second), remedy)


def _text(unit: str | None, stored: Any) -> str:
    return str(int(stored)) if unit is None else amount_text(unit, stored)


def amount_text(unit: str, stored: Any) -> str:
    """Return an amount of credits in words: nanos of a currency as money, millionths of a feature as a number."""
    return str(amount_of(unit, int(stored)))
