"""Adding up: how customers stand at the end of a month, and in the end what came of all."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tallystick.money import Money, round_half_even
from tallystick.simulation.outcome import MonthFigures, MonthMoney, Outcome, PlayedCustomer
from tallystick.simulation.scenario import Month

if TYPE_CHECKING:
    from tallystick.simulation.cashier import Receipt
    from tallystick.simulation.players import Player
    from tallystick.simulation.stage import Stage

__all__ = ["MonthEnd", "month_end", "outcome_of"]

_PAGE = 500
_PAYING = ("active", "past_due")
# How many months a plan's price pays for. A lifetime plan recurs never.
_MONTHS = {"monthly": 1, "quarterly": 3, "yearly": 12}
_FIGURES = {
    "fee": "fees",
    "proration": "fees",
    "usage": "usage",
    "overage": "overage",
    "item": "items",
    "discount": "discounts",
}


class MonthEnd(NamedTuple):
    """Who pays at the end of a month, and the recurring revenue by currency, in nanos."""

    month: Month
    payers: frozenset[str]
    recurring: Mapping[str, int]


def month_end(stage: Stage, month: Month) -> MonthEnd:
    """See who pays now, and how much a month."""
    recurring: Counter[str] = Counter()
    payers = set()
    for player in stage.players:
        if player.status in _PAYING and (nanos := _recurring(player)):
            payers.add(player.billable)
            recurring[player.subscription.plan.currency] += nanos
    return MonthEnd(month, frozenset(payers), recurring)


def outcome_of(stage: Stage, ends: Iterable[MonthEnd], *, started: float) -> Outcome:
    """Read everything back from the engine, and let the doctor examine it. `started` is of `time.perf_counter`."""
    invoices = sorted(_invoices(stage), key=lambda one: (one.issued_at, one.number))
    counted = [one for one in invoices if str(one.status) != "cancelled"]
    months: list[MonthFigures] = []
    before: frozenset[str] = frozenset()
    for end in ends:
        months.append(_month(stage, end, before, counted))
        before = end.payers
    refused: Counter[str] = Counter()
    for (_, code), number in stage.refused.items():
        refused[code] += number
    drift = tuple(str(finding) for finding in stage.ts.doctor(prices=False).findings if finding.severity == "drift")
    return Outcome(
        scenario=stage.scenario,
        months=tuple(months),
        customers=tuple(_customers(stage, counted)),
        invoices=tuple(invoices),
        refused=dict(sorted(refused.items())),
        failed_payments=stage.cashier.failures,
        skipped=tuple(stage.skipped),
        drift=drift,
        seconds=time.perf_counter() - started,
    )


def _recurring(player: Player) -> int:
    plan = player.subscription.plan
    months = _MONTHS.get(plan.billing_cycle)
    return 0 if plan.price is None or months is None else round_half_even(plan.price.nanos, months)


def _invoices(stage: Stage) -> Iterator[Any]:
    cursor = None
    while True:
        page = stage.ts.invoices.list(include_archived=True, limit=_PAGE, cursor=cursor)
        yield from (one for one in page if one.number is not None)
        cursor = page.next_cursor
        if cursor is None:
            return


def _month(stage: Stage, end: MonthEnd, before: frozenset[str], invoices: Iterable[Any]) -> MonthFigures:
    month = end.month
    issued = [one for one in invoices if month.start <= one.issued_at < month.end]
    receipts = [one for one in stage.cashier.receipts if month.start <= one.at < month.end]
    used = stage.ts.usage.stats(start=month.start, end=month.end)
    calls = sum(group.totals.events for group in used.by_provider if group.name)
    return MonthFigures(
        label=month.label,
        start=month.start,
        end=month.end,
        money=tuple(_money(issued, receipts, end.recurring)),
        invoices=len(issued),
        calls=calls,
        tokens=used.totals.total_tokens,
        refused=sum(number for (label, _), number in stage.refused.items() if label == month.label),
        costs=used.totals.costs,
        customers=len(end.payers),
        gained=len(end.payers - before),
        lost=len(before - end.payers),
    )


def _money(issued: Iterable[Any], receipts: Iterable[Receipt], recurring: Mapping[str, int]) -> Iterator[MonthMoney]:
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for invoice in issued:
        counted = sums[invoice.currency]
        counted["tax"] += invoice.tax.nanos
        counted["invoiced"] += invoice.total.nanos
        for line in invoice.line_items:
            counted[_FIGURES[str(line.kind)]] += line.amount.nanos
    for receipt in receipts:
        sums[receipt.amount.currency]["paid"] += receipt.amount.nanos
    for currency, nanos in recurring.items():
        sums[currency]["recurring"] += nanos
    names = ("fees", "usage", "overage", "items", "discounts", "tax", "invoiced", "paid", "recurring")
    for currency in sorted(sums):
        yield MonthMoney(currency, *(Money.from_nanos(sums[currency][name], currency) for name in names))


def _customers(stage: Stage, invoices: Iterable[Any]) -> Iterator[PlayedCustomer]:
    of_billable: defaultdict[str, list[Any]] = defaultdict(list)
    for invoice in invoices:
        of_billable[invoice.billable].append(invoice)
    used = {group.name: group.totals for group in stage.ts.usage.stats().by_billable}
    resources = _resource_events(stage)
    for player in stage.players:
        totals = used.get(player.billable)
        own = of_billable[player.billable]
        yield PlayedCustomer(
            billable=player.billable,
            group=player.group.name,
            plan=player.subscription.plan.slug if player.has_started else player.group.plan,
            status=player.status or "future",
            calls=0 if totals is None else totals.events - resources[player.billable],
            tokens=0 if totals is None else totals.total_tokens,
            costs=() if totals is None else totals.costs,
            refused=dict(sorted(player.refused.items())),
            invoices=len(own),
            invoiced=_sums(one.total for one in own),
            paid=_sums(one.amount for one in stage.cashier.receipts if one.billable == player.billable),
            due=_sums(one.amount_due for one in own if one.amount_due.nanos),
        )


def _resource_events(stage: Stage) -> Counter[str]:
    """Return how many events of each customer are no calls of a model."""
    found: Counter[str] = Counter()
    types = {name for player in stage.players for name in player.group.resources}
    types |= {str(deed.arguments["resource"]) for player in stage.players for deed in player.deeds if deed.do == "use"}
    for resource_type in sorted(types):
        for group in stage.ts.usage.stats(resource_type=resource_type).by_billable:
            found[group.name] += group.totals.events
    return found


def _sums(amounts: Iterable[Money]) -> tuple[Money, ...]:
    sums: Counter[str] = Counter()
    for amount in amounts:
        sums[amount.currency] += amount.nanos
    return tuple(Money.from_nanos(sums[currency], currency) for currency in sorted(sums))
