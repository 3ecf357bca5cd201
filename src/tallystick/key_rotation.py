"""Rotating encryption keys: everything that is kept encrypted, listed, and encrypted again with the first key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, select, update

from tallystick.errors import TallystickError
from tallystick.gateways import payment_methods
from tallystick.notify import endpoint_secrets
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.encryption import Cipher
    from tallystick.engine import Engine

__all__ = ["rotate_keys"]

_PORTION = 200


@dataclass(frozen=True, slots=True)
class _Encrypted:
    """A table with encrypted columns: which of its rows the first key has not encrypted, and how it would."""

    table: Table
    is_encrypted_otherwise: Callable[[Cipher], ColumnElement[bool]]
    encrypted_anew: Callable[[Cipher, Any], dict[str, object]]


# Whoever encrypts something more adds it here, or its key can never be taken away.
_ENCRYPTED = (
    _Encrypted(tables.payment_methods, payment_methods.is_encrypted_otherwise, payment_methods.encrypted_anew),
    _Encrypted(tables.webhook_endpoints, endpoint_secrets.is_encrypted_otherwise, endpoint_secrets.encrypted_anew),
)


def rotate_keys(engine: Engine) -> int:
    """Encrypt with the first key what another has encrypted, or none, and return how many records that were.

    It goes in portions, each a transaction of its own: interrupted, it goes on where it was when it is run again.
    When it has returned, the other keys are needed no more.

    Raises:
        ConfigurationError: there is no key; or some records need one that is not there any more. All others are done.
        StorageError: what a record keeps was changed or damaged. All others are done.
    """
    cipher = engine.cipher
    # Says at once where there is no key.
    _ = cipher.prefix
    unreadable: list[TallystickError] = []
    done = sum(_rotate(engine, cipher, one, unreadable) for one in _ENCRYPTED)
    if unreadable:
        raise unreadable[0]
    return done


def _rotate(engine: Engine, cipher: Cipher, encrypted: _Encrypted, unreadable: list[TallystickError]) -> int:
    done, last = 0, ""
    while True:
        work = partial(_rotate_portion, cipher, encrypted, last, unreadable)
        portion = engine.lane.transact(work)
        done += portion.changed
        if portion.rows < _PORTION:
            return done
        last = portion.last


class _Portion(NamedTuple):
    """How many rows were looked at and changed, and the id of the last one."""

    rows: int
    changed: int
    last: str


def _rotate_portion(
    cipher: Cipher, encrypted: _Encrypted, after: str, unreadable: list[TallystickError], connection: Connection
) -> _Portion:
    table = encrypted.table
    # Locked in the order of their ids, as whoever else changes several of them does.
    rows = connection.execute(
        select(table)
        .where(table.c.id > after, encrypted.is_encrypted_otherwise(cipher))
        .order_by(table.c.id)
        .limit(_PORTION)
        .with_for_update()
    ).all()
    changed = 0
    for row in rows:
        try:
            anew = encrypted.encrypted_anew(cipher, row)
        except TallystickError as error:
            unreadable.append(error)
        else:
            connection.execute(update(table).where(table.c.id == row.id).values(**anew))
            changed += 1
    return _Portion(len(rows), changed, rows[-1].id if rows else after)
