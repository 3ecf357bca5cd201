"""Files of use for the tests of `import`, and what is in them by a count of its own."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
MAPPED = (
    *("--map", "occurred_at=TIMESTAMP"),
    *("--map", "input_tokens=ContextTokens"),
    *("--map", "output_tokens=GeneratedTokens"),
)
AS_GPT_4O_MINI = (*MAPPED, "--provider", "openai", "--model", "gpt-4o-mini")

# Of gpt-4o-mini, for one token.
INPUT_PRICE, OUTPUT_PRICE = Decimal("0.00000015"), Decimal("0.0000006")


@dataclass
class Count:
    """Events, tokens and cost, added up."""

    events: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)

    def add(self, input_tokens: int, output_tokens: int) -> None:
        self.events += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost += input_tokens * INPUT_PRICE + output_tokens * OUTPUT_PRICE


@dataclass
class Recount:
    """What a file holds: in all, and by billable and hour of the rows spread over `spread` billables."""

    spread: int
    total: Count = field(default_factory=Count)
    by_hour: dict[str, dict[datetime, Count]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Count)))


def recount(path: Path, spread: int) -> Recount:
    """Count a file with nothing but the standard library."""
    found = Recount(spread)
    with path.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            hour = datetime.strptime(row["TIMESTAMP"][:13], "%Y-%m-%d %H").replace(tzinfo=UTC)
            found.total.add(*tokens)
            found.by_hour[f"import:{number % spread}"][hour].add(*tokens)
    return found


def write_trace(path: Path, *, rows: int) -> Path:
    """Write a file of the real one's form: seven decimals, CRLF, no newline at its end; some rows are equal."""
    numbers = random.Random(20231116)
    at = datetime(2023, 11, 16, 18, 17, 3, tzinfo=UTC)
    lines = [HEADER]
    while len(lines) <= rows:
        at += timedelta(microseconds=numbers.randrange(10, 4_000_000))
        row = f"{at:%Y-%m-%d %H:%M:%S.%f}0,{numbers.randrange(1, 7_500)},{numbers.randrange(1, 1_000)}"
        lines += [row, row] if numbers.random() < 0.02 else [row]
    path.write_text("\r\n".join(lines[: rows + 1]), encoding="utf-8", newline="")
    return path
