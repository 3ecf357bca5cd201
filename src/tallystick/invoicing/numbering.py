"""Numbers of invoices and credit notes: without gaps, as a number is taken in the transaction that issues.

A series is a format with the year and the month filled in, so a format that names the year counts anew each year.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from tallystick.period import from_micros
from tallystick.settings import Settings
from tallystick.storage import tables
from tallystick.storage.rows import insert_into

__all__ = ["NUMBER_MARK", "take_numbers"]

NUMBER_MARK = 987_654_321
"""What stands in the name of a series where its numbers have the number."""


def take_numbers(connection: Connection, settings: Settings, number_format: str, count: int, at: int) -> list[str]:
    """Take the next numbers of a series, in order. Others who want one wait until this transaction ends."""
    issued = from_micros(at).astimezone(ZoneInfo(settings.period.timezone))
    series = number_format.format(number=NUMBER_MARK, year=issued.year, month=issued.month)
    table = tables.number_series
    insert = insert_into(connection, table).values(series=series, last_number=count)
    taken = insert.on_conflict_do_update(
        index_elements=[table.c.series], set_={"last_number": table.c.last_number + insert.excluded.last_number}
    ).returning(table.c.last_number)
    last = connection.execute(taken).scalar_one()
    return [
        number_format.format(number=number, year=issued.year, month=issued.month)
        for number in range(last - count + 1, last + 1)
    ]
