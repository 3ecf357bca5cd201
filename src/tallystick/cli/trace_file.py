"""A file of rows to import: CSV or JSON lines, plain or gzipped, read row by row and as often as needed."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TextIO

from tallystick.errors import InvalidInput

__all__ = ["MISSING", "Format", "TraceFile", "TraceRow", "value_at"]

Format = Literal["csv", "jsonl"]

MISSING = object()
"""What `value_at` returns for a column that a row does not have."""

_FORMATS: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One row: its number from 0, the line it begins on from 1, and its values by column.

    A row that cannot be read has a `problem`; a line that is no JSON object has its `text` instead of values.
    """

    number: int
    line: int
    values: Mapping[str, object]
    problem: str | None = None
    text: str = ""


class TraceFile:
    """A file on disk that is read as a stream. Nothing of it is kept in memory.

    Raises:
        InvalidInput: there is no such file, or its format does not follow from its name.
    """

    def __init__(self, path: Path, given: Format | None, delimiter: str | None) -> None:
        if not path.is_file():
            remedy = "It is read twice, so it cannot be a pipe." if path.exists() else "There is no such file."
            raise InvalidInput("file", str(path), remedy)
        suffixes = [suffix.lower() for suffix in path.suffixes]
        self.path = path
        self._is_gzipped = suffixes[-1:] == [".gz"]
        suffix = next(iter((suffixes[:-1] if self._is_gzipped else suffixes)[-1:]), "")
        found = given or _FORMATS.get(suffix)
        if found is None:
            raise InvalidInput("file", path.name, "Say what is in it: --format csv, or --format jsonl.")
        if delimiter is not None and len(delimiter) != 1:
            raise InvalidInput("delimiter", delimiter, "Give one character.")
        self.format: Format = found
        self.delimiter = delimiter or ("\t" if suffix == ".tsv" else ",")

    def header(self) -> tuple[str, ...]:
        """Return the columns that a CSV file names in its first row; none for JSON lines.

        Raises:
            InvalidInput: the file is empty or cannot be read.
        """
        if self.format == "jsonl":
            return ()
        with self._opened() as lines:
            return self._header(csv.reader(lines, delimiter=self.delimiter))

    def first_columns(self) -> tuple[str, ...]:
        """Return the columns of the header, or of the first row of JSON lines.

        Raises:
            InvalidInput: the file is empty or cannot be read.
        """
        return self.header() or tuple(next((row.values for row in self.rows()), ()))

    def rows(self) -> Iterator[TraceRow]:
        """Read every row, from the first.

        Raises:
            InvalidInput: the file is no text in UTF-8, or breaks off.
        """
        with self._opened() as lines:
            yield from self._csv_rows(lines) if self.format == "csv" else _json_rows(lines)

    def _csv_rows(self, lines: TextIO) -> Iterator[TraceRow]:
        reader = csv.reader(lines, delimiter=self.delimiter)
        header = self._header(reader)
        number, line = 0, reader.line_num + 1
        for cells in reader:
            # A blank line is no row.
            if cells:
                if len(cells) == len(header):
                    yield TraceRow(number, line, dict(zip(header, cells, strict=True)))
                else:
                    problem = f"It has {len(cells)} cells, the header has {len(header)}."
                    # What is beyond the header stays with the last column, so that nothing of the row is lost.
                    last = len(header) - 1
                    kept = [*cells[:last], self.delimiter.join(cells[last:])]
                    yield TraceRow(number, line, dict(zip(header, kept, strict=False)), problem)
                number += 1
            line = reader.line_num + 1

    def _header(self, reader: Iterator[list[str]]) -> tuple[str, ...]:
        header = tuple(name.strip() for name in next(reader, []))
        if not any(header):
            raise InvalidInput("file", self.path.name, "It is empty: the first row names the columns.")
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise InvalidInput("file", self.path.name, f"Two columns are called {twice!r}: rename one.")
        return header

    @contextmanager
    def _opened(self) -> Iterator[TextIO]:
        opened: Callable[..., Any] = gzip.open if self._is_gzipped else open
        try:
            with opened(self.path, "rt", encoding="utf-8-sig", newline="") as lines:
                yield lines
        except UnicodeDecodeError as error:
            remedy = f"It is not UTF-8 (byte {error.start}: {error.reason}). Save it as UTF-8."
            raise InvalidInput("file", self.path.name, remedy) from None
        except csv.Error as error:
            raise InvalidInput("file", self.path.name, f"It is not CSV: {error}.") from None
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidInput("file", self.path.name, f"It cannot be read: {error}.") from None


def value_at(values: Mapping[str, object], column: str) -> object:
    """Return a row's value: of that name, or inside of objects for a name such as "usage.prompt_tokens"."""
    if column in values:
        return values[column]
    inner: object = values
    for part in column.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            return MISSING
        inner = inner[part]
    return inner


def _json_rows(lines: Iterable[str]) -> Iterator[TraceRow]:
    number = 0
    for line, text in enumerate(lines, start=1):
        stripped = text.strip()
        if not stripped:
            continue
        yield _json_row(number, line, stripped)
        number += 1


def _json_row(number: int, line: int, text: str) -> TraceRow:
    try:
        # Through its text: a number with a point is never a float on the way to money.
        values = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        return TraceRow(number, line, {}, f"It is not JSON: {error}.", text)
    if not isinstance(values, dict):
        return TraceRow(number, line, {}, "It is not a JSON object.", text)
    return TraceRow(number, line, values)
