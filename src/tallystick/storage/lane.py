"""The lane: every write of a process goes through here, many commands to one commit.

Whoever holds the *baton* owns the lane's connection. A caller that finds it free takes it and runs its command at once,
together with whatever waits: a lone caller pays for no queue and no thread. A caller that finds it taken queues its
command and sleeps; the *writer* thread takes the baton next and serves everything that has gathered in one transaction.
Callers from asyncio never block their loop: they queue, and a future answers them.

A batch is *load → decide → save*: rows of all its commands are loaded at once, each command decides in turn over them,
all results are saved with one statement per table and committed once. Only then is anybody answered. A command that
refuses (raises) harms no other. If the database refuses the batch as a whole, its commands run again one by one, so
that only the one at fault fails.

What an error says of a command: `StorageError`: nothing was recorded. `OutcomeUnknown`: the connection was lost while
the commit was under way. In both cases the next command connects again.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from tallystick.errors import Closed, OutcomeUnknown, StorageError, TallystickError
from tallystick.storage.engines import is_driver_error
from tallystick.storage.workspace import MoreNeeded, Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tallystick.credits.account import CreditPolicy
    from tallystick.plans.terms import Terms
    from tallystick.storage.database import Database

__all__ = ["WEBHOOKS_CHANGED", "Command", "Lane", "Outgoing", "TermsLoader"]

logger = logging.getLogger("tallystick.lane")

WEBHOOKS_CHANGED = "*webhooks"
"""What the terms journal says where webhook endpoints were changed; no billable has such a name."""

_BATCH_MAX = 512
_TERMS_MAX = 100_000
_LIVENESS_CHECK_SECONDS = 5.0
_FORK_PAUSE_SECONDS = 10.0

Result = TypeVar("Result", covariant=True)
Work = TypeVar("Work")
TermsLoader = Callable[["Connection", Iterable[str]], "dict[str, Terms]"]


class Command(Protocol[Result]):
    """One thing to do, all or nothing. It may be decided more than once; only the last decision is saved."""

    @property
    def billables(self) -> tuple[str, ...]:
        """Whose rows it concerns."""

    def needs(self, workspace: Workspace) -> None:
        """Name the rows that deciding needs, with the help of the terms that are loaded."""

    def decide(self, workspace: Workspace) -> Result:
        """Decide, then change the workspace. Raise `TallystickError` to refuse, before any change."""


class Outgoing(Protocol):
    """What goes out because of a batch, and is written with it."""

    def prepare(
        self,
        workspace: Workspace,
        answers: Sequence[object],
        read: Callable[[Callable[[Connection], None]], None],
    ) -> None:
        """Add to a batch, before it is saved, what goes out because of its notices and answers."""

    def forget(self) -> None:
        """Let go of what was read before: it may have changed."""


class _Slot:
    """A command on its way, and where its answer goes."""

    __slots__ = ("command", "error", "future", "loop", "result", "woken")

    def __init__(
        self, command: Command[object], *, future: asyncio.Future[object] | None = None, waits: bool = False
    ) -> None:
        self.command = command
        self.result: object = None
        self.error: BaseException | None = None
        self.future = future
        self.loop = future.get_loop() if future is not None else None
        self.woken: threading.Lock | None = None
        if waits:
            self.woken = threading.Lock()
            self.woken.acquire()

    def answer(self) -> object:
        if self.error is not None:
            raise self.error
        return self.result


class Lane:
    """The one writer of a process for one database."""

    def __init__(
        self,
        connect: Callable[[], Database],
        load_terms: TermsLoader,
        *,
        now: Callable[[], int],
        on_notices: Callable[[Sequence[object]], None],
        credit_policy: CreditPolicy | None = None,
        outgoing: Outgoing | None = None,
    ) -> None:
        self._connect = connect
        self._load_terms = load_terms
        self._now = now
        self._on_notices = on_notices
        self._credit_policy = credit_policy
        self._outgoing = outgoing
        self._reset()
        _lanes.add(self)

    def _reset(self) -> None:
        """Start with nothing: at birth, and in a forked child, for what the parent had is not its own."""
        self._database: Database | None = None
        self._baton = threading.Lock()
        self._queue: deque[_Slot] = deque()
        self._work_waits = threading.Event()
        self._writer: threading.Thread | None = None
        self._writer_lock = threading.Lock()
        self._closing = False
        self._is_closed = False
        self._terms: dict[str, Terms] = {}
        self._revision = -1
        self._is_started = False
        self._is_saving = False
        self._notices: list[object] = []

    # -- callers ------------------------------------------------------------------------------------------------------

    def run(self, command: Command[Work]) -> Work:
        """Run a command and return its result after it was committed.

        Raises:
            TallystickError: what the command refused with.
            StorageError: nothing was recorded. OutcomeUnknown: it may have been.
            Closed: the lane was closed.
        """
        # A handler that runs in the writer's thread must not queue its command: it would wait for itself.
        if self._baton.acquire(blocking=threading.current_thread() is self._writer):
            slot = _Slot(command)
            batch: list[_Slot] = []
            notices: list[object] = []
            try:
                self._check_open()
                batch = self._gathered(slot)
                self._execute(batch)
                notices = self._taken_notices()
            finally:
                # Also when this caller is interrupted: others may be waiting for what it took along.
                self._baton.release()
                self._answer_others(batch, slot)
                if self._queue:
                    self._wake_writer()
            self._report(notices)
            return slot.answer()  # type: ignore[return-value]  # a slot carries any command's result
        slot = _Slot(command, waits=True)
        self._enqueue(slot)
        self._sleep_until_answered(slot)
        return slot.answer()  # type: ignore[return-value]  # as above

    def submit(self, command: Command[Work]) -> asyncio.Future[Work]:
        """Queue a command from asyncio and return the future of its result: the loop is never blocked.

        The command of a caller that is cancelled while it waits is carried out all the same.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._enqueue(_Slot(command, future=future))
        return future  # type: ignore[return-value]  # as above

    def transact(self, work: Callable[[Connection], Work]) -> Work:
        """Run rare work (plans, subscriptions, clean-up) through SQLAlchemy, alone, in one transaction on this lane."""
        with self._baton:
            self._check_open()
            try:
                return self._connected().transact(work)  # type: ignore[return-value]  # work's own result
            except Exception as error:
                lost = self._abandon(error)
                if isinstance(error, TallystickError):
                    raise
                failure = _unknown(error) if lost else _refused(error)
                if failure is error:
                    raise
                raise failure from error
            except BaseException as error:
                self._abandon(error)
                raise

    def run_many(self, commands: Sequence[Command[Work]]) -> list[Work | TallystickError]:
        """Run commands in order, many to a commit. Each has its result or its refusal; none harms another.

        Raises:
            StorageError: the database was lost; the commands before this batch were recorded, this batch may not be.
        """
        answers: list[Work | TallystickError] = []
        for start in range(0, len(commands), _BATCH_MAX):
            batch = [_Slot(command) for command in commands[start : start + _BATCH_MAX]]
            with self._baton:
                self._check_open()
                self._execute(batch)
                notices = self._taken_notices()
            self._report(notices)
            for slot in batch:
                if isinstance(slot.error, StorageError):
                    raise slot.error
                if slot.error is not None and not isinstance(slot.error, TallystickError):
                    raise slot.error
                answers.append(slot.error if slot.error is not None else slot.result)  # type: ignore[arg-type]  # as above
        return answers

    def close(self) -> None:
        """Carry out what waits, then let the connection go. Closing twice is harmless."""
        self._closing = True
        self._work_waits.set()
        writer = self._writer
        if writer is not None and writer.is_alive() and writer is not threading.current_thread():
            writer.join()
        with self._baton:
            while self._queue:
                batch = self._gathered()
                self._execute(batch)
                self._answer_others(batch, None)
            notices = self._taken_notices()
            self._hang_up()
            self._is_closed = True
        self._report(notices)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closing:
            raise Closed("This Tallystick is closed. Open a new one.")

    def _enqueue(self, slot: _Slot) -> None:
        self._check_open()
        self._queue.append(slot)
        self._wake_writer()

    def _wake_writer(self) -> None:
        # The writer clears the signal before it looks at the queue, so a signal that is still set has not been used up.
        if not self._work_waits.is_set():
            self._work_waits.set()
        if self._writer is None:
            self._start_writer()

    def _start_writer(self) -> None:
        with self._writer_lock:
            if self._writer is None:
                writer = threading.Thread(target=self._write_forever, name="tallystick-lane", daemon=True)
                writer.start()
                self._writer = writer

    def _sleep_until_answered(self, slot: _Slot) -> None:
        assert slot.woken is not None  # noqa: S101  # made with waits=True
        while not slot.woken.acquire(timeout=_LIVENESS_CHECK_SECONDS):
            self._wake_writer()

    def _write_forever(self) -> None:
        batch: list[_Slot] = []
        try:
            while True:
                self._work_waits.wait()
                self._work_waits.clear()
                while self._queue:
                    with self._baton:
                        batch = self._gathered()
                        self._execute(batch)
                        notices = self._taken_notices()
                    answered, batch = batch, []
                    self._answer_others(answered, None)
                    self._report(notices)
                if self._closing:
                    return
        finally:
            # Nobody may be left waiting for a thread that is gone. A batch in hand has its errors; the next writer
            # serves who has come since.
            self._answer_others(batch, None)
            with self._writer_lock:
                self._writer = None
            if self._queue:
                self._wake_writer()

    def _gathered(self, own: _Slot | None = None) -> list[_Slot]:
        """Take what waits, oldest first, and the caller's own command after it."""
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(len(queue), _BATCH_MAX))]
        if own is not None:
            batch.append(own)
        return batch

    def _answer_others(self, batch: Iterable[_Slot], own: _Slot | None) -> None:
        """Wake everybody but the caller itself. Without the baton."""
        loops: dict[asyncio.AbstractEventLoop, list[_Slot]] = {}
        for slot in batch:
            if slot is own:
                continue
            if slot.loop is not None:
                loops.setdefault(slot.loop, []).append(slot)
            elif slot.woken is not None:
                slot.woken.release()
        for loop, slots in loops.items():
            # A loop that was closed meanwhile has nobody left to answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, slots)

    def _taken_notices(self) -> list[object]:
        """Take what is to be told of what was committed, each once. With the baton."""
        notices, self._notices = self._notices, []
        return notices

    def _report(self, notices: Sequence[object]) -> None:
        """Tell what happened besides the answers. Without the baton, and after everybody was answered."""
        if not notices:
            return
        try:
            self._on_notices(notices)
        except Exception:
            logger.exception("Telling of %d notices failed.", len(notices))

    # -- the batch ----------------------------------------------------------------------------------------------------

    def _execute(self, batch: Sequence[_Slot]) -> None:
        """Run a batch; afterwards each slot has its result or its error. The caller holds the baton."""
        try:
            self._run_transaction(batch)
        except Exception as error:  # noqa: BLE001  # whatever a driver raises is turned into an answer for each caller
            self._recover(batch, error)
        except BaseException as error:
            self._abandon(error)
            for slot in batch:
                slot.result, slot.error = None, _unknown(error)
            raise

    def _recover(self, batch: Sequence[_Slot], error: Exception) -> None:
        was_started, was_saving = self._is_started, self._is_saving
        if not self._abandon(error):
            if len(batch) == 1:
                batch[0].error = _refused(error)
            elif not was_started:
                # No command is at fault, as when another process keeps the database locked: none does better alone.
                for slot in batch:
                    slot.result, slot.error = None, _refused(error)
            else:
                for slot in batch:
                    self._execute((slot,))
        elif was_saving:
            _fail(batch, lambda: _unknown(error))
        else:
            _fail(batch, lambda: _unsent(error))

    def _run_transaction(self, batch: Sequence[_Slot]) -> None:
        self._is_started = self._is_saving = False
        database = self._connected()
        workspace = Workspace(started_at=self._now(), credit_policy=self._credit_policy)
        known = self._terms
        cold = False
        for slot in batch:
            slot.result = slot.error = None
            is_known = True
            for billable in slot.command.billables:
                workspace.billables.add(billable)
                terms = known.get(billable)
                if terms is None:
                    is_known = False
                else:
                    workspace.terms[billable] = terms
            if is_known:
                slot.command.needs(workspace)
            else:
                cold = True
        journal = database.start(workspace, since_revision=self._revision)
        self._is_started = True
        if journal:
            self._forget(journal)
            cold = True
        if cold:
            self._load_cold_terms(database, workspace)
            for slot in batch:
                slot.command.needs(workspace)
            database.load(workspace)
        for slot in batch:
            self._decide(slot, workspace, database)
        if self._outgoing is not None:
            answers = [slot.result for slot in batch if slot.error is None]
            self._outgoing.prepare(workspace, answers, database.load_terms)
        self._is_saving = True
        database.save_and_commit(workspace)
        self._notices += workspace.notices

    def _decide(self, slot: _Slot, workspace: Workspace, database: Database) -> None:
        while True:
            try:
                slot.result = slot.command.decide(workspace)
            except MoreNeeded:
                database.load(workspace)
            except TallystickError as refusal:
                slot.error = refusal
                return
            else:
                return

    def _load_cold_terms(self, database: Database, workspace: Workspace) -> None:
        missing = [billable for billable in workspace.billables if billable not in self._terms]
        if len(self._terms) + len(missing) > _TERMS_MAX:
            self._terms.clear()
            missing = list(workspace.billables)

        def load(connection: Connection) -> None:
            self._terms.update(self._load_terms(connection, missing))

        if missing:
            database.load_terms(load)
            workspace.new_accounts = [(billable, workspace.started_at) for billable in missing]
        workspace.terms = {billable: self._terms[billable] for billable in workspace.billables}

    def _forget(self, journal: Iterable[tuple[int, str | None]]) -> None:
        for revision, billable in journal:
            self._revision = revision
            if billable in (None, WEBHOOKS_CHANGED) and self._outgoing is not None:
                self._outgoing.forget()
            if billable is None:
                self._terms.clear()
            else:
                self._terms.pop(billable, None)

    # -- the connection -----------------------------------------------------------------------------------------------

    def _connected(self) -> Database:
        if self._database is None:
            if self._is_closed:
                raise Closed("This Tallystick is closed. Open a new one.")
            self._database = self._connect()
            # What another connection knew of the terms may be older than this one's view.
            self._terms.clear()
            self._revision = -1
            if self._outgoing is not None:
                self._outgoing.forget()
        return self._database

    def _abandon(self, error: BaseException) -> bool:
        """End the transaction after an error. Returns whether the connection was lost with it."""
        database = self._database
        if database is None:
            return True
        # An account that was new in what is undone is new again.
        self._terms.clear()
        if not database.is_lost(error):
            try:
                database.rollback()
            except Exception:
                logger.warning("Rolling back failed; the lane will connect again.", exc_info=True)
            else:
                return False
        self._database = None
        with contextlib.suppress(Exception):
            database.discard()
        return True

    def _hang_up(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _pause_for_fork(self) -> bool:
        """Wait for the batch in hand and hang up, so that a child inherits neither. The next command connects again.

        A child that had a copy of the connection could not even close it without hanging up on the parent's server; and
        one of a transaction on SQLite would find the database locked, by nobody, for ever.
        """
        if not self._baton.acquire(timeout=_FORK_PAUSE_SECONDS):
            return False
        self._hang_up()
        return True

    def _forked(self) -> None:
        # Only if a batch took longer than the pause. The parent goes on using that connection.
        _orphans.append(self._database)
        closing = self._closing
        self._reset()
        self._closing = self._is_closed = closing


def _resolve(slots: Iterable[_Slot]) -> None:
    for slot in slots:
        future = slot.future
        if future is None or future.done():
            continue
        if slot.error is not None:
            future.set_exception(slot.error)
        else:
            future.set_result(slot.result)


def _fail(batch: Iterable[_Slot], error: Callable[[], TallystickError]) -> None:
    """Give each caller an exception of its own: a traceback must not be shared between threads."""
    for slot in batch:
        slot.result = None
        slot.error = error()


def _unsent(cause: BaseException) -> TallystickError:
    if isinstance(cause, Closed):
        return Closed(cause.message)
    error = StorageError(f"The database cannot be used: {cause}. Nothing of this command was recorded.")
    error.__cause__ = cause
    return error


def _unknown(cause: BaseException) -> TallystickError:
    error = OutcomeUnknown(
        f"The database went away while this command was being saved ({cause}). It may or may not have been recorded: "
        "send it again with the same idempotency key."
    )
    error.__cause__ = cause
    return error


def _refused(cause: Exception) -> Exception:
    if not is_driver_error(cause):
        # A mistake of the command's own code is shown as it is.
        return cause
    error = StorageError(f"The database refused this command: {cause}. Nothing of it was recorded.")
    error.__cause__ = cause
    return error


_lanes: weakref.WeakSet[Lane] = weakref.WeakSet()
_orphans: list[object] = []


class _Forking(threading.local):
    """What the forking thread has paused: the thread itself goes on in the child."""

    def __init__(self) -> None:
        self.paused: list[Lane] = []


_forking = _Forking()


def _before_fork() -> None:
    _forking.paused = [lane for lane in list(_lanes) if lane._pause_for_fork()]


def _after_fork_in_parent() -> None:
    for lane in _forking.paused:
        lane._baton.release()
    _forking.paused = []


def _after_fork_in_child() -> None:
    _forking.paused = []
    for lane in list(_lanes):
        lane._forked()


def _close_all() -> None:
    for lane in list(_lanes):
        with contextlib.suppress(Exception):
            lane.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_close_all)
