"""What became of the customer who pays in advance: the statement, what burned which credits, and what was earned."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tallystick.demo.check import Check
from tallystick.demo.customers import FERRY, POSTER
from tallystick.money import Money

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tallystick.app import Tallystick
    from tallystick.credits.values import Amount, CreditTransaction, Grant, LedgerEntry
    from tallystick.demo.wallet_scenes import WalletObservations
    from tallystick.metering.usage_event import UsageEvent

__all__ = ["GrantUse", "StatementLine", "WalletFindings", "wallet_checks", "wallet_findings"]

STATEMENT_LINES_MAX = 1000
NOTHING = Money(0, "USD")


@dataclass(frozen=True, slots=True)
class StatementLine:
    """Lines of the statement that follow one another and say the same: calls of one moment are one line here."""

    numbers: str
    occurred_at: datetime
    source: str
    reason: str
    count: int
    change: Money
    balance: Money


@dataclass(frozen=True, slots=True)
class GrantUse:
    """What became of one grant, by the ledger: `amount + refunded - used - expired == left`."""

    grant: Grant
    amount: Money
    calls: int
    used: Money
    refunded: Money
    expired: Money
    left: Money


@dataclass(frozen=True, slots=True)
class WalletFindings:
    """The wallet of the customer who pays in advance, and what the application saw of it.

    `accounts` are the ledger's. `unbalanced` names the transactions whose entries do not sum to zero. `cost` is what
    the calls cost that were paid from it, and `feature_uses` how many uses of a feature were recorded.
    """

    billable: str
    told: WalletObservations
    lines: tuple[CreditTransaction, ...]
    statement: tuple[StatementLine, ...]
    grants: tuple[GrantUse, ...]
    accounts: Mapping[str, Amount]
    unbalanced: tuple[str, ...]
    balance: Money
    cost: Money
    feature_uses: int

    @property
    def misfits(self) -> list[int]:
        """The lines of the statement that do not follow from those before: a gap, or a balance that is not its sum."""
        found, balance = [], NOTHING
        for number, line in enumerate(self.lines, start=1):
            balance += _money(line.signed_amount)
            if (line.number, line.balance_after) != (number, balance):
                found.append(line.number)
        return found

    @property
    def lowest(self) -> Money:
        """The lowest balance that there ever was."""
        return min((_money(line.balance_after) for line in self.lines), default=NOTHING)

    @property
    def shared_calls(self) -> int:
        """How often a call took the last of one grant and went on with another."""
        return sum(use.calls for use in self.grants) - sum(line.source == "usage" for line in self.lines)

    @property
    def revenue(self) -> Money:
        """Used of what was paid for."""
        return self._on("revenue")

    @property
    def spent(self) -> Money:
        """Used of what was given away."""
        return self._on("spent")

    @property
    def expired(self) -> Money:
        return self._on("expired:paid") + self._on("expired:promotional")

    @property
    def refunded(self) -> Money:
        return _sum(line.amount for line in self.lines if line.source == "refund")

    def _on(self, account: str) -> Money:
        return _money(self.accounts[account])

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain JSON values. Money is text."""
        return {
            "billable": self.billable,
            "balance": self.balance.to_dict(),
            "statement": [line.to_dict() for line in self.lines],
            "grants": [
                {
                    "id": use.grant.id,
                    "reason": use.grant.reason,
                    "kind": use.grant.kind,
                    "expires_at": None if use.grant.expires_at is None else use.grant.expires_at.isoformat(),
                    "amount": use.amount.to_dict(),
                    "calls": use.calls,
                    "used": use.used.to_dict(),
                    "refunded": use.refunded.to_dict(),
                    "expired": use.expired.to_dict(),
                    "left": use.left.to_dict(),
                }
                for use in self.grants
            ],
            "accounts": {name: str(_money(amount).amount) for name, amount in self.accounts.items()},
            "cost": self.cost.to_dict(),
            "refunded": self.refunded.to_dict(),
            "midnights": [
                {
                    "before": midnight.before.to_dict(),
                    "after": midnight.after.to_dict(),
                    "was_enough": midnight.was_enough,
                    "is_enough": midnight.is_enough,
                }
                for midnight in self.told.midnights
            ],
            "feature_days": [
                {
                    "day": day.day.isoformat(),
                    "asked": day.asked,
                    "room": day.room,
                    "used": day.used,
                    "refused": len(day.refusals),
                    "plan_limit": _plain(day.stats.plan_limit),
                    "plan_used": _plain(day.stats.plan_used),
                    "extra_credits": _plain(day.stats.extra_credits),
                    "extra_used": _plain(day.stats.extra_used),
                    "remaining": _plain(day.stats.remaining),
                }
                for day in self.told.days
            ],
        }


def wallet_findings(
    ts: Tallystick, told: WalletObservations, calls: Iterable[UsageEvent], feature_uses: Iterable[UsageEvent]
) -> WalletFindings:
    """Read the wallet's statement and its ledger. `calls` and `feature_uses` are all that were recorded."""
    wallet = ts.wallets.get(FERRY)
    lines = tuple(reversed(wallet.transactions(limit=STATEMENT_LINES_MAX).transactions))
    entries = {line.id: ts.ledger.entries(line.id) for line in lines}
    return WalletFindings(
        billable=FERRY,
        told=told,
        lines=lines,
        statement=tuple(_shortened(lines)),
        grants=tuple(_grant_uses(wallet.grants(include_closed=True), lines, entries)),
        accounts=ts.ledger.accounts(FERRY),
        unbalanced=tuple(name for name, posted in entries.items() if _sum(entry.amount for entry in posted)),
        balance=wallet.balance,
        cost=_sum(call.cost for call in calls if call.billable == FERRY and call.cost is not None),
        feature_uses=sum(use.billable == FERRY for use in feature_uses),
    )


def wallet_checks(wallet: WalletFindings) -> Iterator[Check]:
    """Say what has to be so of the wallet and the feature, and what is."""
    for payment in wallet.told.payments:
        yield Check(
            f"added by the payment {payment.key}, which was announced {payment.announced} times",
            f"1 x {payment.amount}",
            f"{len(payment.transaction_ids)} x {payment.added}",
        )
    lines = len(wallet.lines)
    yield Check("transactions of the wallet sum to zero in the ledger", *_all_of(lines, lines - len(wallet.unbalanced)))
    yield Check("lines of its statement follow from those before", *_all_of(lines, lines - len(wallet.misfits)))
    lowest = wallet.lowest
    yield Check("of its balances was below zero", "none", "none" if lowest >= NOTHING else str(lowest))
    yield Check(
        "paid from it: what its calls cost, less the refund",
        str(wallet.cost - wallet.refunded),
        str(wallet.revenue + wallet.spent),
    )
    for midnight in wallet.told.midnights:
        yield Check(
            "of it expired at midnight, and not a microsecond before",
            str(wallet.expired),
            str(midnight.before - midnight.after),
        )
        yield Check(
            "could it pay all it had: a microsecond before, and at midnight",
            "yes, no",
            f"{_yes(midnight.was_enough)}, {_yes(midnight.is_enough)}",
        )
    for day in wallet.told.days:
        yield Check(
            f"{POSTER}s made on {day.day:%m-%d}, by allowance and extra credits",
            *_all_of(day.asked, day.used, expected=day.room),
        )
    yield Check(f"{POSTER}s are recorded", f"{sum(day.used for day in wallet.told.days)}", f"{wallet.feature_uses}")


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _all_of(count: int, found: int, *, expected: int | None = None) -> tuple[str, str]:
    return f"{count if expected is None else expected} of {count}", f"{found} of {count}"


def _shortened(lines: Sequence[CreditTransaction]) -> Iterator[StatementLine]:
    def likeness(line: CreditTransaction) -> tuple[object, ...]:
        # Calls of one moment say the same; of what else there is, each line says something of its own.
        return (line.source, line.occurred_at, line.feature) if line.source == "usage" else (line.number,)

    for _, alike in groupby(lines, likeness):
        group = list(alike)
        first, last = group[0], group[-1]
        yield StatementLine(
            numbers=f"{first.number}" if first is last else f"{first.number}-{last.number}",
            occurred_at=first.occurred_at,
            source=first.source,
            reason=first.feature or "" if first.source == "usage" else first.reason,
            count=len(group),
            change=_sum(line.signed_amount for line in group),
            balance=_money(last.balance_after),
        )


def _grant_uses(
    grants: Iterable[Grant], lines: Iterable[CreditTransaction], entries: Mapping[str, Sequence[LedgerEntry]]
) -> Iterator[GrantUse]:
    """Sum up by grant what the ledger posted on the balance, by what kind of transaction it was."""
    moved: dict[tuple[str | None, str], Money] = defaultdict(lambda: NOTHING)
    calls: Counter[str | None] = Counter()
    for line in lines:
        for entry in entries[line.id]:
            if entry.account.startswith("available:"):
                moved[entry.grant_id, line.source] += _money(entry.amount)
                calls[entry.grant_id] += line.source == "usage"
    for grant in grants:
        yield GrantUse(
            grant=grant,
            amount=moved[grant.id, "grant"],
            calls=calls[grant.id],
            used=-moved[grant.id, "usage"],
            refunded=moved[grant.id, "refund"],
            expired=-moved[grant.id, "expiry"],
            left=_sum(amount for (grant_id, _), amount in moved.items() if grant_id == grant.id),
        )


def _sum(amounts: Iterable[Amount]) -> Money:
    return sum((_money(amount) for amount in amounts), NOTHING)


def _money(amount: Amount) -> Money:
    """Return an amount of a wallet, which is money."""
    assert isinstance(amount, Money)  # noqa: S101  # only a feature's credits are numbers
    return amount


def _plain(amount: object) -> int | str | None:
    return amount if amount is None or isinstance(amount, int) else str(amount)
