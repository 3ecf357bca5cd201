"""Handing overage to the billing driver: claim (short), call it (no transaction), note what came of it (short).

    open ── claim: sync_started_at, sync_attempts ── driver ──┬── synced: sync_id, synced_at
                        ▲                                     └── sync_error
                        └──────── again: after an error, or when a claim's lease has run out ──┘

What was claimed may have reached the gateway, whatever came of it: it is never put on an invoice, and every attempt
uses the same key, the overage's id. What is on an invoice is never claimed. Both are one statement's condition.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, update

from tallystick.errors import TallystickError
from tallystick.gateways.driver import NullDriver, finder_of
from tallystick.invoicing.overage_charge import OverageCharge, OverageSync, SyncFailure
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["ImmediateSync", "sync_overages"]

logger = logging.getLogger("tallystick.overages")

_MINUTE = 60_000_000
_LEASE = 5 * _MINUTE
# How long after an attempt a job waits before the next: the last holds for all that follow.
_PAUSES_MINUTES = (5, 30, 120, 360, 1440)
_ERROR_LENGTH_MAX = 500
_ID_LENGTH_MAX = 200
_CLOSE_SECONDS_MAX = 10.0


def sync_overages(engine: Engine, limit: int, *, is_retried_at_once: bool = False) -> OverageSync:
    """Hand up to so many overages to the driver, one after the other: new ones first, then those that wait longest.

    One that fails keeps no other from being sent. It is tried again by a later run: after a pause that grows with its
    attempts, or `is_retried_at_once` by whoever asks for it. Several processes may do this at once.
    """
    if isinstance(engine.driver, NullDriver):
        return OverageSync(left=_count_left(engine), is_billed_on_invoices=True)
    synced, failures = 0, []
    for overage_id in _candidates(engine, limit, is_retried_at_once=is_retried_at_once):
        # One at a time: a lease must cover one call of the driver, not many.
        claimed = _claim(engine, overage_id, is_retried_at_once=is_retried_at_once)
        if claimed is None:
            # Another worker has it, or an invoice.
            continue
        error = _charge(engine, claimed)
        if error is None:
            synced += 1
        else:
            failures.append(SyncFailure(overage_id, error))
    return OverageSync(synced, len(failures), _count_left(engine), tuple(failures))


class ImmediateSync:
    """Hands overage to the driver right after the use that made it, in a thread of its own, so that no call waits.

    Nothing that goes wrong here reaches a call: what is not sent stays open, and the job sends it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reset()
        _everywhere.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def offer(self, overage_id: str) -> None:
        """Send an overage soon. Never raises, and never waits for the gateway."""
        try:
            with self._lock:
                if self._is_closed:
                    return
                self._waiting.append(overage_id)
                if self._thread is None:
                    thread = threading.Thread(target=self._work, name="tallystick-overage", daemon=True)
                    thread.start()
                    self._thread = thread
        except RuntimeError:
            # The process is ending and starts no more threads.
            logger.warning("Overage %s is left for the next synchronisation.", overage_id, exc_info=True)

    def close(self) -> None:
        """Send what waits, for ten seconds at most; the rest stays open."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS_MAX)
        with self._lock:
            self._waiting.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    # Under the lock: whoever offers something from now on starts another thread.
                    self._thread = None
                    return
                overage_id = self._waiting.popleft()
            try:
                claimed = _claim(self._engine, overage_id, is_retried_at_once=False)
                if claimed is not None:
                    _charge(self._engine, claimed)
            except TallystickError as error:
                logger.warning("Overage %s is left for the next synchronisation: %s", overage_id, error)
            except Exception:
                logger.exception("Overage %s is left for the next synchronisation.", overage_id)


# -- claiming ---------------------------------------------------------------------------------------------------------


def _candidates(engine: Engine, limit: int, *, is_retried_at_once: bool) -> list[str]:
    """Return what may be claimed now: what was never tried, in the order in which it happened, then what was."""
    overages = tables.overages.c
    never = select(overages.id).where(_is_open()).order_by(overages.occurred_at, overages.id)
    again = select(overages.id).where(_is_to_be_tried_again(engine.now(), is_retried_at_once=is_retried_at_once))
    again = again.order_by(overages.sync_started_at, overages.id)

    def read(connection: Connection) -> list[str]:
        found = list(connection.execute(never.limit(limit)).scalars())
        return found + list(connection.execute(again.limit(limit - len(found))).scalars())

    return engine.read(read)


def _claim(engine: Engine, overage_id: str, *, is_retried_at_once: bool) -> OverageCharge | None:
    """Take an overage for this worker alone; None where it is not to be had any more."""
    overages, now = tables.overages, engine.now()
    may_be_had = and_(
        overages.c.id == overage_id,
        or_(_is_open(), _is_to_be_tried_again(now, is_retried_at_once=is_retried_at_once)),
    )
    claim = {
        "sync_started_at": now,
        "sync_attempts": func.coalesce(overages.c.sync_attempts, 0) + 1,
        "sync_error": None,
    }

    def take(connection: Connection) -> OverageCharge | None:
        free = select(overages.c.id).where(may_be_had).with_for_update(skip_locked=True)
        if connection.execute(free).first() is None:
            return None
        taken = connection.execute(update(overages).where(may_be_had).values(**claim).returning(*overages.columns))
        row = taken.first()
        return None if row is None else OverageCharge.from_row(row)

    return engine.lane.transact(take)


def _is_open() -> ColumnElement[bool]:
    """The condition of what nobody has begun to charge; the index of open overages has the same."""
    overages = tables.overages.c
    return and_(overages.invoice_id.is_(None), overages.sync_started_at.is_(None))


def _is_to_be_tried_again(now: int, *, is_retried_at_once: bool) -> ColumnElement[bool]:
    """The condition of what was begun and has not ended well: it failed, or its worker was not heard of again."""
    overages = tables.overages.c
    attempts = {number: minutes * _MINUTE for number, minutes in enumerate(_PAUSES_MINUTES, start=1)}
    pause = case(attempts, value=overages.sync_attempts, else_=_PAUSES_MINUTES[-1] * _MINUTE)
    has_failed: ColumnElement[bool] = overages.sync_error.isnot(None)
    if not is_retried_at_once:
        has_failed = and_(has_failed, overages.sync_started_at + pause <= now)
    has_run_out = and_(overages.sync_error.is_(None), overages.sync_started_at <= now - _LEASE)
    return and_(
        overages.sync_started_at.isnot(None),
        overages.synced_at.is_(None),
        overages.invoice_id.is_(None),
        or_(has_failed, has_run_out),
    )


def _count_left(engine: Engine) -> int:
    overages = tables.overages.c
    is_begun = and_(overages.sync_started_at.isnot(None), overages.synced_at.is_(None), overages.invoice_id.is_(None))
    counts = [select(func.count()).select_from(tables.overages).where(one) for one in (_is_open(), is_begun)]
    return engine.read(lambda connection: sum(connection.execute(one).scalar_one() for one in counts))


# -- charging ---------------------------------------------------------------------------------------------------------


def _charge(engine: Engine, overage: OverageCharge) -> str | None:
    """Have the driver charge what was claimed, and note it. Returns what went wrong; None: it is synced."""
    try:
        sync_id = _checked_id(_charged(engine, overage))
    except Exception as error:  # noqa: BLE001  # an application's driver may raise anything
        said = f"{type(error).__name__}: {error}".rstrip(": ")[:_ERROR_LENGTH_MAX]
        logger.warning("Overage %s was not charged: %s", overage.id, said)
        _note(engine, overage, sync_error=said)
        return said
    _note(engine, overage, is_synced=True, sync_id=sync_id, synced_at=engine.now(), sync_error=None)
    return None


def _charged(engine: Engine, overage: OverageCharge) -> object:
    find = finder_of(engine.driver)
    if find is not None and overage.sync_attempts > 1:
        # Whatever became of the attempt before: it may have reached the gateway.
        found = find(overage.id)
        if found is not None:
            return found
    return engine.driver.charge_overage(overage, overage.id)


def _checked_id(sync_id: object) -> str:
    if (
        not isinstance(sync_id, str)
        or not sync_id.strip()
        or len(sync_id) > _ID_LENGTH_MAX
        or not sync_id.isprintable()
    ):
        raise TypeError(f"The driver returned {type(sync_id).__name__}; it must return the gateway's id of the charge.")
    return sync_id.strip()


def _note(engine: Engine, overage: OverageCharge, **values: object) -> None:
    overages = tables.overages
    mine = and_(overages.c.id == overage.id, overages.c.synced_at.is_(None))
    if "sync_id" not in values:
        # A failure counts only as long as nobody else has taken it since; a charge that was made is always noted.
        mine &= overages.c.sync_attempts == overage.sync_attempts
    engine.lane.transact(lambda connection: connection.execute(update(overages).where(mine).values(**values)).rowcount)


_everywhere: weakref.WeakSet[ImmediateSync] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Begin with nothing: the thread is the parent's, and so is what waits for it."""
    for one in list(_everywhere):
        was_closed = one._is_closed
        one._reset()
        one._is_closed = was_closed


def _close_all() -> None:
    for one in list(_everywhere):
        one.close()


# Called in reverse order: before the lanes, which register earlier, are closed.
atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
