"""What makes a row the same row when a file is imported again, as properties of its keys."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from tallystick.cli.trace_file import TraceFile
from tallystick.cli.trace_identity import RowKeys, scan

# Few values, so that equal rows are common.
rows = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("", "1", 'x,"y"', "z\nz"))), max_size=12)


def keys(content: list[tuple[str, str]], columns: tuple[str, str] = ("name", "value")) -> list[str]:
    """Return the keys of the rows of a file with this content."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        with path.open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows([columns, *content])
        trace = TraceFile(path, None, None)
        made = RowKeys(scan(trace, ()).repeated, None)
        return [made.key(row.values) for row in trace.rows()]


@given(rows)
def test_no_two_rows_of_a_file_share_a_key(content: list[tuple[str, str]]) -> None:
    made = keys(content)
    assert len(made) == len(content) == len(set(made))


@given(rows, rows)
def test_a_longer_file_begins_with_the_keys_of_the_shorter(
    content: list[tuple[str, str]], more: list[tuple[str, str]]
) -> None:
    assert keys(content + more)[: len(content)] == keys(content)


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(content: list[tuple[str, str]], shuffled: object) -> None:
    other = list(content)
    shuffled.shuffle(other)  # type: ignore[attr-defined]  # Hypothesis gives a random.Random
    assert Counter(keys(other)) == Counter(keys(content))


@given(rows)
def test_the_order_of_columns_does_not_matter(content: list[tuple[str, str]]) -> None:
    assert keys([(value, name) for name, value in content], ("value", "name")) == keys(content)


@given(rows)
def test_rows_of_other_content_have_other_keys(content: list[tuple[str, str]]) -> None:
    other = [(name, value + "!") for name, value in content]
    assert not set(keys(content)) & set(keys(other))
