"""What wallets and features should do, told a second time and differently: lists of facts, nothing kept in sums.

Amounts are whole nanos, days are those of UTC. It shares no code with the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction

USES = ("usage", "deduction", "refund")


@dataclass(eq=False, repr=False)
class Lot:
    """What was added at once. What became of it is a list of (when, how much, by what).

    `feature` is what alone may use it: a feature, or of a feature's extra credits a subscription.
    """

    id: str
    kind: str
    priority: int
    made_at: datetime
    expires_at: datetime | None = None
    feature: str | None = None
    daily: int | None = None
    moves: list[tuple[datetime, int, str]] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        return sum(amount for _, amount, _ in self.moves)

    @property
    def is_for_anything(self) -> bool:
        return self.feature is None and self.daily is None

    def is_over(self, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at


@dataclass(eq=False, repr=False)
class Part:
    """So much more, or less, in a lot; without one, of what is owed. `is_payback`: a lot that paid what was owed."""

    wallet: Wallet
    lot: Lot | None
    amount: int
    is_payback: bool = False


@dataclass(eq=False, repr=False)
class Transaction:
    id: str
    source: str
    parts: list[Part]
    undone_by: list[Transaction] = field(default_factory=list)


@dataclass(eq=False, repr=False)
class Hold:
    """A hold of a user on one wallet: what it reserves of lots, and of what may be owed."""

    id: str
    wallet: Wallet
    placed_at: datetime
    expires_at: datetime
    feature: str
    pins: list[tuple[Lot | None, int]] = field(default_factory=list)
    state: str = "open"
    used: int | None = None
    event: str | None = None


@dataclass(eq=False, repr=False)
class Rules:
    """What the settings say."""

    expiring_first: bool = False
    overdraft_allowed: bool = False
    overdraft_limit: int | None = None


@dataclass(eq=False, repr=False)
class Customer:
    """Whose holds they are: one that ran out gives way to anything of the same customer."""

    name: str
    holds: list[Hold] = field(default_factory=list)

    def give_way(self, at: datetime) -> list[Hold]:
        due = [hold for hold in self.holds if hold.state == "open" and hold.expires_at <= at]
        for hold in due:
            hold.wallet.end(hold, "expired", at)
        return due


@dataclass(eq=False, repr=False)
class Wallet:
    """One customer's prepaid money in one currency."""

    customer: Customer
    currency: str
    rules: Rules
    lots: list[Lot] = field(default_factory=list)
    owed: list[int] = field(default_factory=list)
    own_limit: int | None = None
    least: int | None = None
    top_up: tuple[int, int] | None = None
    top_up_state: str = "armed"
    lost: list[tuple[str, int]] = field(default_factory=list)
    told_low: int = 0
    asked: int = 0

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def debt(self) -> int:
        """What is owed: zero, or above."""
        return -sum(self.owed)

    def open_holds(self) -> list[Hold]:
        return [hold for hold in self.customer.holds if hold.state == "open" and hold.wallet is self]

    def pinned(self, lot: Lot | None) -> int:
        return sum(amount for hold in self.open_holds() for one, amount in hold.pins if one is lot)

    def free(self, lot: Lot) -> int:
        return lot.remaining - self.pinned(lot)

    @property
    def held(self) -> int:
        return sum(amount for hold in self.open_holds() for _, amount in hold.pins)

    def is_visible(self, lot: Lot, at: datetime) -> bool:
        return lot.remaining > 0 and not lot.is_over(at)

    def balances(self, at: datetime) -> tuple[int, int, int]:
        """Return paid, promotional and overdraft as they are at an instant, whatever was booked until then."""
        sums = {"paid": 0, "promotional": 0}
        debt = self.debt
        for lot in self.lots:
            sums[lot.kind] += self.pinned(lot) if lot.is_over(at) else lot.remaining
            if lot.is_over(at) and lot.is_for_anything:
                debt -= min(debt, self.free(lot))
        return sums["paid"], sums["promotional"], -debt

    def balance(self, at: datetime) -> int:
        return sum(self.balances(at))

    def in_order(self) -> list[Lot]:
        def place(lot: Lot) -> tuple[object, ...]:
            never = lot.expires_at is None
            expiry = (never, lot.made_at if never else lot.expires_at) if self.rules.expiring_first else ()
            return (lot.priority, *expiry, lot.made_at, lot.id)

        return sorted(self.lots, key=place)

    def room(self) -> int | None:
        """Return how much more may be owed; None: anything."""
        limit = self.own_limit
        if limit is None:
            if not self.rules.overdraft_allowed:
                return 0
            limit = self.rules.overdraft_limit
        return None if limit is None else max(0, limit - self.debt - self.pinned(None))

    def left_today(self, lot: Lot, day: datetime) -> int:
        assert lot.daily is not None
        used = -sum(amount for at, amount, source in lot.moves if at.date() == day.date() and source in USES)
        held = sum(
            amount
            for hold in self.open_holds()
            if hold.placed_at.date() == day.date()
            for one, amount in hold.pins
            if one is lot
        )
        return max(0, lot.daily - used - held)

    def usable(self, now: datetime, day: datetime, feature: str = "", *, moves: bool = False) -> list[tuple[Lot, int]]:
        """Return what a use could take of which lot, in order. What is owed is paid before anything else."""
        debt = self.debt
        found = []
        for lot in self.in_order():
            free = 0 if lot.is_over(now) else self.free(lot)
            if free <= 0 or (lot.feature is not None and lot.feature != feature):
                continue
            if moves and not lot.is_for_anything:
                continue
            if lot.is_for_anything:
                withheld = min(debt, free)
                debt -= withheld
                free -= withheld
            if lot.daily is not None:
                free = min(free, self.left_today(lot, day))
            if free > 0:
                found.append((lot, free))
        return found

    # -- what changes it ----------------------------------------------------------------------------------------------

    def post(self, parts: Iterable[Part], source: str, *, at: datetime, now: datetime) -> list[Part]:
        """Let a transaction happen to this wallet. Returns its parts, with what was paid of what is owed."""
        before = self.balance_posted
        done = list(parts)
        for part in done:
            _move(part, at, source)
        if source not in ("usage", "deduction", "expiry", "revocation"):
            done += self._pay_back(now)
        self._note_fall(before)
        return done

    @property
    def balance_posted(self) -> int:
        return sum(lot.remaining for lot in self.lots) - self.debt

    def _pay_back(self, now: datetime) -> list[Part]:
        done = []
        for lot in self.in_order():
            paid = min(self.debt, 0 if lot.is_over(now) else self.free(lot))
            if lot.is_for_anything and paid > 0:
                done += self._paid_back(lot, paid, now)
        return done

    def _paid_back(self, lot: Lot, amount: int, now: datetime) -> list[Part]:
        parts = [Part(self, lot, -amount, is_payback=True), Part(self, None, amount, is_payback=True)]
        for part in parts:
            _move(part, now, "payback")
        return parts

    def _note_fall(self, before: int) -> None:
        # What is held may come back: it is the balance that falls.
        if self.least is not None and self.balance_posted < self.least <= before:
            self.told_low += 1
        self.ask_for_top_up()

    def ask_for_top_up(self) -> None:
        if self.top_up is None or self.top_up_state != "armed":
            return
        if self.balance_posted - self.held < self.top_up[0]:
            self.top_up_state = "pending"
            self.asked += 1

    def lapse(self, now: datetime) -> int:
        """Lose what is free of each lot whose time has come; what is owed is paid from it first."""
        lost = 0
        for lot in self.in_order():
            free = self.free(lot)
            if not lot.is_over(now) or free <= 0:
                continue
            before = self.balance_posted
            paid = min(self.debt, free) if lot.is_for_anything else 0
            if paid:
                self._paid_back(lot, paid, now)
            if free > paid:
                _move(Part(self, lot, paid - free), now, "expiry")
                self.lost.append((lot.id, free - paid))
                lost += 1
                self._note_fall(before)
        return lost

    def add(self, lot: Lot, amount: int, now: datetime, source: str = "grant") -> list[Part]:
        self.lapse(now)
        self.lots.append(lot)
        if self.top_up_state == "paused" and source == "grant":
            self.top_up_state = "armed"
        return self.post([Part(self, lot, amount)], source, at=now, now=now)

    def take(
        self, amount: int, now: datetime, day: datetime, feature: str, pins: Iterable[tuple[Lot | None, int]] = ()
    ) -> list[Part]:
        """Say what a use takes: what its hold has reserved, then what is free, and the rest is owed."""
        sums: dict[Lot | None, int] = {}
        for lot, free in [*((lot, held) for lot, held in pins if lot is not None), *self.usable(now, day, feature)]:
            taken = min(amount, free)
            amount -= taken
            if taken:
                sums[lot] = sums.get(lot, 0) + taken
        if amount:
            sums[None] = amount
        return [Part(self, lot, -taken) for lot, taken in sums.items()]

    def admit(self, amount: int, now: datetime, feature: str) -> list[tuple[Lot | None, int]] | None:
        """Say what would be reserved, or taken, for an amount that has to fit whole; None: it does not."""
        found: list[tuple[Lot | None, int]] = []
        for lot, free in self.usable(now, now, feature):
            taken = min(amount, free)
            amount -= taken
            if taken:
                found.append((lot, taken))
        room = self.room()
        if amount and room is not None and amount > room:
            return None
        return [*found, (None, amount)] if amount else found

    def most(self, now: datetime, feature: str = "") -> int | None:
        """Return the most that a use could take; None: anything."""
        room = self.room()
        return None if room is None else sum(free for _, free in self.usable(now, now, feature)) + room

    def end(self, hold: Hold, state: str, now: datetime) -> None:
        if hold.state != "open":
            return
        if hold.pins:
            self.lapse(now)
        hold.state = state
        if hold.pins:
            self.lapse(now)


def _move(part: Part, at: datetime, source: str) -> None:
    if part.lot is None:
        part.wallet.owed.append(part.amount)
    else:
        part.lot.moves.append((at, part.amount, source))


def given_back(transaction: Transaction) -> int:
    return sum(part.amount for back in transaction.undone_by for part in back.parts if not part.is_payback)


def taken(transaction: Transaction) -> int:
    return -sum(part.amount for part in transaction.parts if not part.is_payback)


def refund_parts(transaction: Transaction, wallet: Wallet, amount: int) -> tuple[list[Part], int]:
    """Say where an amount goes back to: off what is owed first, then to the lots, what was taken last first.

    Also how much comes back as credits of its own, for debt that was paid meanwhile.
    """
    owed_for = -sum(part.amount for part in transaction.parts if part.lot is None and not part.is_payback)
    before: dict[Lot, int] = {}
    for back in transaction.undone_by:
        for part in back.parts:
            if part.is_payback:
                continue
            if part.lot is None or part.lot not in {one.lot for one in transaction.parts}:
                owed_for -= part.amount
            else:
                before[part.lot] = before.get(part.lot, 0) + part.amount
    from_debt = min(amount, owed_for)
    forgiven = min(from_debt, wallet.debt)
    parts = [Part(wallet, None, forgiven)] if forgiven else []
    amount -= from_debt
    for part in reversed(transaction.parts):
        if part.lot is None or part.is_payback:
            continue
        back_to = min(amount, -part.amount - before.get(part.lot, 0))
        if back_to > 0:
            parts.append(Part(wallet, part.lot, back_to))
            amount -= back_to
    assert not amount
    return parts, from_debt - forgiven


def opposite(transaction: Transaction) -> list[Part]:
    """Return the opposite of a transaction, also of what it paid of debts."""
    sums: dict[tuple[Wallet, Lot | None], int] = {}
    for part in transaction.parts:
        sums[part.wallet, part.lot] = sums.get((part.wallet, part.lot), 0) - part.amount
    return [Part(wallet, lot, amount) for (wallet, lot), amount in sums.items() if amount]


def exchanged(amount: int, rate: str) -> int:
    """Return an amount at a rate, rounded half-even: that is how Python rounds fractions."""
    return round(amount * Fraction(rate))


@dataclass(eq=False, repr=False)
class Allowance:
    """What a plan allows of a feature each day, and the extra credits that are used before it."""

    extra: Wallet
    a_day: int
    uses: list[tuple[datetime, int, int]] = field(default_factory=list)
    claims: dict[Hold, int] = field(default_factory=dict)

    def used(self, day: datetime) -> tuple[int, int]:
        """Return what was used on a day: of the plan, and of extra credits."""
        today = [(plan, extra) for at, plan, extra in self.uses if at.date() == day.date()]
        return sum(plan for plan, _ in today), sum(extra for _, extra in today)

    def held(self, day: datetime) -> int:
        claims = self.claims.items()
        return sum(n for hold, n in claims if hold.state == "open" and hold.placed_at.date() == day.date())

    def left(self, day: datetime) -> int:
        return max(0, self.a_day - self.used(day)[0] - self.held(day))

    def split(
        self, amount: int, now: datetime, day: datetime, tag: str, hold: Hold | None = None, *, asks_extra: bool = True
    ) -> tuple[list[Part], int]:
        """Say what a use takes of extra credits, and of the plan: its hold's part of the plan is its own."""
        if not asks_extra:
            return [], amount
        pins = hold.pins if hold is not None and hold.state == "open" else []
        claimed = self.claims.get(hold, 0) if hold is not None and hold.state == "open" else 0
        pinned = sum(held for _, held in pins)
        wanted = min(amount, pinned) + max(0, amount - pinned - claimed)
        parts = [part for part in self.extra.take(wanted, now, day, tag, pins) if part.lot is not None]
        return parts, amount + sum(part.amount for part in parts)

    def use(self, parts: list[Part], from_plan: int, at: datetime, now: datetime) -> None:
        self.uses.append((at, from_plan, -sum(part.amount for part in parts)))
        if parts:
            self.extra.post(parts, "usage", at=at, now=now)
