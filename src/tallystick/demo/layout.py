"""How the demo's report is laid out: tables without lines, amounts with one common last digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from tallystick.money import Money

__all__ = ["Column", "Row", "aligned", "aligned_rows", "indented", "table"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column. One that is `wide_only` is left out of a narrow terminal."""

    title: str
    is_number: bool = False
    wide_only: bool = False
    wraps: bool = False


class Row:
    def __init__(self, *cells: str | Text, style: str = "") -> None:
        self.cells = cells
        self.style = style


def table(columns: Sequence[Column], rows: Iterable[Row], *, is_wide: bool) -> Table:
    """Return a table without lines, which survives being copied into a message."""
    titled = any(column.title for column in columns)
    padding = (0, 2 if is_wide else 1, 0, 0)
    made = Table(box=None, pad_edge=False, padding=padding, header_style="dim", show_header=titled)
    shown = [index for index, column in enumerate(columns) if is_wide or not column.wide_only]
    for index in shown:
        column = columns[index]
        made.add_column(column.title, justify="right" if column.is_number else "left", no_wrap=not column.wraps)
    for row in rows:
        made.add_row(*(row.cells[index] for index in shown), style=row.style)
    return made


def indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def aligned(amounts: Sequence[Money]) -> list[str]:
    """Return amounts with equally many decimals, as many as the finest of them needs."""
    return [text for [text] in aligned_rows([[amount] for amount in amounts])]


def aligned_rows(rows: Sequence[Sequence[Money]]) -> list[list[str]]:
    """Return rows of amounts, all with equally many decimals."""
    decimals = max(-int(amount.amount.as_tuple().exponent) for row in rows for amount in row)
    return [[f"{amount.amount:,.{decimals}f}" for amount in row] for row in rows]
