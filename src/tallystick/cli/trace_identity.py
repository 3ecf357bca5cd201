"""What makes a row of a file the same row when the file is imported again.

A row's idempotency key is made of its content and of its ordinal among the rows with that same content. So a file that
has grown adds only what is new, and two equal rows of one file are two uses. The line number does not count.

Which contents occur more than once is found out by a first reading, so that only these are counted in the second: the
memory needed does not grow with the file.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from tempfile import SpooledTemporaryFile

from tallystick.cli.trace_file import MISSING, TraceFile, value_at

__all__ = ["REJECT_COLUMNS", "RowKeys", "Scan", "scan"]

# Columns that a file of rejected rows has besides its own. Without them, a row is what it was in the first file.
REJECT_COLUMNS = ("rejected_line", "rejected_reason")

_PARTS = 64
_SPOOLED_BYTES_MAX = 1 << 18


@dataclass(frozen=True, slots=True)
class Scan:
    """What the first reading of a file found: how many rows, which columns, and which contents are there repeatedly."""

    rows: int
    columns: tuple[str, ...]
    missing: tuple[str, ...]
    repeated: frozenset[int]


def scan(trace: TraceFile, wanted: Collection[str]) -> Scan:
    """Read a file once. `missing` are the wanted columns that no row has.

    Raises:
        InvalidInput: the file cannot be read.
    """
    columns = dict.fromkeys(trace.header())
    missing = [column for column in wanted if column not in columns]
    rows = 0
    with _Digests() as digests:
        for row in trace.rows():
            rows += 1
            if row.problem is not None:
                continue
            digests.add(_short(_digest(row.values)))
            if trace.format == "jsonl":
                columns.update(dict.fromkeys(row.values))
                if missing:
                    missing = [column for column in missing if value_at(row.values, column) is MISSING]
        return Scan(rows, tuple(columns), tuple(missing), digests.repeated())


class RowKeys:
    """Makes the idempotency key of each row in turn, in the order of the file."""

    def __init__(self, repeated: frozenset[int], source: str | None) -> None:
        self._repeated = repeated
        self._prefix = f"import:{source}:" if source else "import:"
        self._seen: dict[bytes, int] = {}

    def key(self, values: Mapping[str, object]) -> str:
        """Return the key of the next row."""
        digest = _digest(values)
        ordinal = 0
        if _short(digest) in self._repeated:
            ordinal = self._seen.get(digest, 0)
            self._seen[digest] = ordinal + 1
        return f"{self._prefix}{digest.hex()}:{ordinal}"


class _Digests(ExitStack):
    """Finds the numbers that were added more than once, with a small part of them in memory at a time."""

    def __init__(self) -> None:
        super().__init__()
        spooled = (SpooledTemporaryFile(_SPOOLED_BYTES_MAX) for _ in range(_PARTS))  # noqa: SIM115  # closed by the stack
        self._parts = [self.enter_context(part) for part in spooled]

    def add(self, digest: int) -> None:
        self._parts[digest % _PARTS].write(digest.to_bytes(8, "little"))

    def repeated(self) -> frozenset[int]:
        """Return the numbers that were added more than once."""
        found: set[int] = set()
        for part in self._parts:
            part.seek(0)
            seen: set[int] = set()
            for digest in _numbers(part.read()):
                if digest in seen:
                    found.add(digest)
                seen.add(digest)
        return frozenset(found)


def _numbers(content: bytes) -> array[int]:
    numbers = array("Q")
    numbers.frombytes(content)
    return numbers


def _digest(values: Mapping[str, object]) -> bytes:
    content = {name: value for name, value in values.items() if name not in REJECT_COLUMNS}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return blake2b(text.encode(), digest_size=16).digest()


def _short(digest: bytes) -> int:
    # Contents that share these eight bytes by chance are only counted needlessly.
    return int.from_bytes(digest[:8], "little")
