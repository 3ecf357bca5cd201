"""Who pays which invoice when. Real invoices, and payments that the scenario decides."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tallystick import Tallystick
from tallystick.events import InvoiceCreated
from tallystick.simulation.distributions import generator
from tallystick.simulation.players import Player
from tallystick.simulation.scenario import Paying

__all__ = ["Cashier", "Receipt"]

# When a card that was refused is tried again, and how often: after that it is given up.
_RETRY_AFTER_DAYS = (3, 5, 7)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A payment that was made: of whom, how much, and when."""

    billable: str
    amount: Any
    at: datetime


@dataclass(order=True, slots=True)
class _Attempt:
    at: datetime
    number: str
    billable: str = field(compare=False)
    place: int = field(compare=False)
    tries: int = field(compare=False, default=0)


class Cashier:
    """Hears of every invoice that is made, and pays it when its customer would."""

    def __init__(self, ts: Tallystick, seed: int, players: Mapping[str, Player]) -> None:
        self._ts = ts
        self._seed = seed
        self._players = players
        self._waiting: list[_Attempt] = []
        self._seen: Counter[str] = Counter()
        self.receipts: list[Receipt] = []
        self.failures = 0
        ts.on(InvoiceCreated)(self._hear)

    def settle(self, now: datetime) -> None:
        """Make the payments whose time has come, in order."""
        while self._waiting and self._waiting[0].at <= now:
            self._pay(heapq.heappop(self._waiting), now)

    def _hear(self, event: InvoiceCreated) -> None:
        invoice = event.invoice
        player = self._players.get(event.billable)
        if player is None or invoice.number is None or invoice.amount_due.nanos <= 0:
            return
        self._seen[event.billable] += 1
        at = _WHEN[player.group.pays.kind](invoice, player.group.pays)
        if at is not None:
            heapq.heappush(self._waiting, _Attempt(at, invoice.number, event.billable, self._seen[event.billable]))

    def _pay(self, attempt: _Attempt, now: datetime) -> None:
        if self._ts.invoices.get(attempt.number).amount_due.nanos <= 0:
            # It was voided, or credit has paid it meanwhile.
            return
        rate = self._players[attempt.billable].group.pays.rate
        random = generator(self._seed, attempt.billable, "payment", attempt.place, attempt.tries)
        if rate and random.random() < rate:
            self._fail(attempt, now)
            return
        payment = self._ts.invoices.record_payment(
            attempt.number, external_payment_id=f"simulated-{attempt.number}", method="simulated"
        )
        self.receipts.append(Receipt(attempt.billable, payment.amount, now))

    def _fail(self, attempt: _Attempt, now: datetime) -> None:
        self.failures += 1
        self._ts.invoices.payment_failed(attempt.number, reason="The simulated card was refused.")
        if attempt.tries < len(_RETRY_AFTER_DAYS):
            attempt.at = now + timedelta(days=_RETRY_AFTER_DAYS[attempt.tries])
            attempt.tries += 1
            heapq.heappush(self._waiting, attempt)


_WHEN: Mapping[str, Callable[[Any, Paying], datetime | None]] = {
    "always": lambda invoice, _: invoice.issued_at,
    "fails": lambda invoice, _: invoice.issued_at,
    "due": lambda invoice, _: invoice.due_at,
    "late": lambda invoice, pays: invoice.due_at + timedelta(days=pays.days),
    "never": lambda _, __: None,
}
