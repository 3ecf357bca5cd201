"""Fourteen months of fifty customers: what they do and use, and what that comes to, by arithmetic of its own.

The year begins on 15 December 2027, so that it has a leap day. Everything is drawn from one seed: each database, and
each way of running the jobs, sees the same.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from tallystick import FixedClock, Money, Tallystick
from tests.acceptance.billing_checks import carry_out
from tests.acceptance.billing_model import DAY, NEVER, Offer, Owed, first_reading, instant_of, micros

START = micros("2027-12-15T00:00:00")
END = micros("2029-02-15T00:00:00")
# What waits for the last month's end has been billed by then, except what is below a cent.
CLOSE = micros("2029-04-20T00:00:00")
GRACE = 7 * DAY
HOUR = DAY // 24
NANOS = 1_000_000_000
ZONES = ("Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia", "America/New_York")
SETTINGS: dict[str, Any] = {
    "invoicing": {"tax": {"rate_percent": "19", "name": "VAT"}},
    "billing": {"payment_failure_grace_period_days": 7},
}

PLANS: dict[str, dict[str, Any]] = {
    "basic": {"price": "10 USD", "usage_prices": {"message": {"price": "0.013", "included": 10}}},
    "team": {
        "price": "49.99 USD",
        "usage_prices": {
            "message": {
                "model": "graduated",
                "tiers": [{"up_to": 20, "price": "0.02"}, {"up_to": 50, "price": "0.0111111"}, {"price": "0.003"}],
            },
            "file_upload": {"model": "package", "price": "0.75", "size": 10},
        },
    },
    "bulk": {
        "price": "25 USD",
        "usage_prices": {
            "message": {
                "model": "volume",
                "tiers": [{"up_to": 30, "price": "0.05", "flat": "1"}, {"price": "0.017"}],
            },
            "tool_call": {"model": "flat", "price": "3.333333333"},
        },
    },
    "tokens": {
        "price": "20 USD",
        "monthly_token_limit": 10_000,
        "overage_behavior": "charge",
        "overage_price_per_1k_tokens": "0.0153 USD",
    },
    "spend": {
        "price": "15 USD",
        "monthly_cost_limit": "2 USD",
        "overage_behavior": "charge",
        "overage_markup_percent": "35",
    },
    "calls": {
        "usage_prices": {
            "requests": {"price": "0.0007"},
            "tokens": {
                "model": "graduated",
                "included": 1000,
                "tiers": [{"up_to": 5000, "price": "0.0000015", "flat": "0.5"}, {"price": "0.0000003"}],
            },
        },
    },
    "quarter": {"price": "120.01 USD", "billing_cycle": "quarterly"},
    "year": {
        "price": "365 USD",
        "billing_cycle": "yearly",
        "usage_prices": {"message": "0.009"},
    },
    "life": {"price": "500 USD", "billing_cycle": "lifetime", "usage_prices": {"message": "0.011"}},
    "euro": {"price": "30.30 EUR", "currency": "EUR", "usage_prices": {"message": "0.0123456789"}},
    "free": {},
}
RESOURCES = ("message", "file_upload", "tool_call")
COUPONS: dict[str, dict[str, Any]] = {
    "ONCE10": {"percent_off": "10"},
    "HALF3": {"percent_off": "50", "duration": "repeating", "duration_months": 3},
    "EVER": {"percent_off": "12.5", "duration": "forever"},
    "FIVE": {"amount_off": "5 USD", "duration": "forever"},
}


def nanos(text: str) -> int:
    amount = Fraction(text.split()[0]) * NANOS
    assert amount.denominator == 1
    return int(amount)


OFFERS = {slug: Offer(slug, nanos(terms.get("price", "0")), terms.get("billing_cycle", "monthly"))
          for slug, terms in PLANS.items()}  # fmt: skip


@dataclass
class Customer:
    """One customer: what it subscribes to, what it does when, and what it uses."""

    billable: str
    plan: str
    zone: str = "UTC"
    start: int = START
    trial_days: int = 0
    term_days: int | None = None
    coupon: str | None = None
    is_pending: bool = False
    tax: dict[str, Any] = field(default_factory=dict)
    moves: list[str] = field(default_factory=list)
    owed: list[Owed] = field(default_factory=list)


@dataclass(frozen=True)
class Use:
    """One use, and when it is told of."""

    key: str
    billable: str
    occurred_at: int
    recorded_at: int
    resource_type: str = ""
    quantity: int = 0
    tokens: int = 0
    cost: int = 0
    corrects: str | None = None

    def as_record(self) -> dict[str, Any]:
        """Return it as `record_batch` takes it."""
        record: dict[str, Any] = {
            "billable": self.billable,
            "occurred_at": instant_of(self.occurred_at),
            "idempotency_key": self.key,
        }
        if self.resource_type:
            return record | {"resource_type": self.resource_type, "quantity": self.quantity}
        return record | {
            "provider": "manual",
            "model": "model",
            "input_tokens": self.tokens // 3,
            "output_tokens": self.tokens - self.tokens // 3,
            "total_cost": Money.from_nanos(self.cost, "USD"),
        }


Action = tuple[int, int, str, Any]


class Year:
    """The script, drawn from a seed, with what it comes to."""

    def __init__(self, seed: int = 7) -> None:
        self.chance = random.Random(seed)
        self.customers = list(_customers())
        self.actions: list[Action] = []
        self.uses: list[Use] = []
        for customer in self.customers:
            self._live(customer)
            self._use(customer)
        self.actions.sort(key=lambda one: one[:2])
        self.uses.sort(key=lambda one: (one.recorded_at, one.occurred_at, one.key))

    def _add(self, at: int, kind: str, what: Any) -> None:
        self.actions.append((at, len(self.actions), kind, what))

    def _live(self, customer: Customer) -> None:
        self._add(customer.start, "subscribe", (customer, customer.plan))
        begins = customer.start
        if customer.is_pending:
            begins += 3 * DAY
            self._add(begins, "pay", customer)
        owed = self._subscribed(customer, begins, customer.plan, customer.trial_days, customer.term_days)
        at = begins
        for move in customer.moves:
            at += self.chance.choice([2 * HOUR, 9 * DAY + 5 * HOUR, 16 * DAY, 23 * DAY + HOUR, 38 * DAY])
            if at >= END:
                break
            owed.advance(at)
            if move.startswith("again:"):
                if owed.has_ended:
                    slug = move.removeprefix("again:")
                    self._add(at, "subscribe", (customer, slug))
                    owed = self._subscribed(customer, at, slug, 0, None)
                continue
            if move == "wait":
                continue
            step = _step(move)
            if owed.refuses(step, OFFERS) is False:
                self._add(at, "step", (customer, step))
                owed.take(step, OFFERS)
        owed.advance(CLOSE)

    def _subscribed(self, customer: Customer, at: int, slug: str, trial_days: int, term_days: int | None) -> Owed:
        term = NEVER if term_days is None else at + term_days * DAY
        owed = Owed(OFFERS[slug], at + trial_days * DAY, customer.zone, GRACE, term, now=at - 1, start=at)
        owed.advance(at)
        customer.owed.append(owed)
        return owed

    def _use(self, customer: Customer) -> None:
        chance = self.chance
        at, number = customer.start, 0
        is_late = customer.coupon is None
        while True:
            at += chance.choice([HOUR, 2 * DAY, 4 * DAY, 6 * DAY, 9 * DAY]) + chance.randrange(HOUR)
            if at >= END:
                return
            number += 1
            late = chance.choice([0, 0, 0, 0, 5 * DAY, 25 * DAY]) if is_late else 0
            key = f"{customer.billable}-{number}"
            if customer.plan in ("tokens", "spend", "calls"):
                cost = chance.randrange(900_000_000) if customer.plan == "spend" else 0
                use = Use(key, customer.billable, at, at + late, tokens=chance.randrange(1, 5_000), cost=cost)
            else:
                resource = chance.choice(RESOURCES)
                use = Use(key, customer.billable, at, at + late, resource, chance.randrange(1, 25))
                if chance.random() < 0.06:
                    taken = -chance.randrange(1, use.quantity + 1)
                    told = use.recorded_at + 15 * DAY
                    self.uses.append(Use(f"{key}-less", customer.billable, at, told, resource, taken, corrects=key))
            self.uses.append(use)


def _customers() -> Iterator[Customer]:
    plans = ["basic", "team", "bulk", "tokens", "spend", "calls", "quarter", "year", "life", "euro"]
    for number in range(50):
        plan = plans[number % 10]
        group = number // 10
        customer = Customer(f"user:{number}", plan, start=START + number * 7 * HOUR)
        if number % 3 == 0:
            customer.zone = ZONES[number // 3 % len(ZONES)]
            customer.billable = f"tenant:t{number}"
        if group == 1:
            customer.trial_days = 14 if number % 2 else 30
        if group == 2:
            customer.start = micros("2028-01-31T09:00:00") + number * HOUR
            customer.tax = {"is_tax_inclusive": True, "tax_rate_percent": "7.7"}
        if group == 3:
            customer.is_pending = plan != "calls"
            customer.tax = {"is_tax_exempt": True}
        if group == 4 and plan in ("basic", "team", "bulk", "tokens"):
            customer.coupon = list(COUPONS)[number % 10]
            customer.start = START + (16 + number) * DAY
        elif plan != "euro":
            customer.moves = _MOVES[number % len(_MOVES)]
        if number in (5, 13):
            customer.term_days = 100
        yield customer


# Moves between plans: where one is refused as things stand, it is left out.
_MOVES = [
    ["to:team", "to:basic", "to:bulk", "plain:team", "end:basic", "wait", "to:year"],
    ["pause", "resume", "to:basic", "pause", "wait", "resume", "cancel", "wait", "again:team"],
    ["fail", "succeed", "to:tokens", "fail", "wait", "wait", "succeed", "to:quarter", "to:basic"],
    ["end:year", "wait", "end:basic", "to:bulk", "cancel", "resume", "to:team"],
    ["cancel", "resume", "wait", "leave", "again:bulk", "to:basic", "plain:free", "to:team"],
    ["to:free", "wait", "to:basic", "to:quarter", "wait", "wait", "to:spend", "renew"],
    ["fail", "wait", "wait", "wait", "succeed", "keep", "resume", "to:team"],
    [],
    ["wait", "wait", "wait", "wait", "to:team", "to:basic", "wait", "wait", "wait", "to:life"],
]


def _step(move: str) -> tuple[Any, ...]:
    name, _, slug = move.partition(":")
    steps: Mapping[str, tuple[Any, ...]] = {
        "to": ("change", slug, True, False),
        "plain": ("change", slug, False, False),
        "end": ("change", slug, True, True),
        "pause": ("pause", True),
        "keep": ("pause", False),
        "cancel": ("cancel", False, False),
        "leave": ("cancel", True, True),
    }
    return steps.get(name, (name,))


# -- what it comes to -----------------------------------------------------------------------------------------------


class Expected:
    """What use comes to: charges by (billable, plan, resource, start of the month), overage by (billable, plan, month),
    in nanos, and fees by billable and currency.
    """

    def __init__(self, year: Year) -> None:
        self.fees: dict[tuple[str, str], int] = defaultdict(int)
        self.usage: dict[tuple[str, str, str, int], int] = defaultdict(int)
        self.quantities: dict[tuple[str, str, str, int], int] = defaultdict(int)
        self.overage: dict[tuple[str, str, int], int] = defaultdict(int)
        self._months: dict[tuple[str, str, int], int] = defaultdict(int)
        self._used: dict[tuple[str, str, int], int] = defaultdict(int)
        self._by_billable = {customer.billable: customer for customer in year.customers}
        for customer in year.customers:
            for owed in customer.owed:
                self.fees[customer.billable, _currency(customer.plan)] += owed.total
        for use in year.uses:
            self._count(use)

    def _count(self, use: Use) -> None:
        customer = self._by_billable[use.billable]
        owed = _in_force(customer, use.occurred_at)
        slug = None if owed is None else owed.slug_at(use.occurred_at)
        if owed is not None and slug is not None:
            month = owed.month_start(use.occurred_at)
            if month is not None:
                self._price(use, slug, month)
        self._overuse(use, slug, customer.zone)

    def _price(self, use: Use, slug: str, month: int) -> None:
        prices = PLANS[slug].get("usage_prices", {})
        amounts = [(use.resource_type, use.quantity)] if use.resource_type else []
        if use.tokens:
            amounts = [("requests", 1), ("tokens", use.tokens)]
        for resource, quantity in amounts:
            if resource not in prices:
                continue
            before = self._months[use.billable, resource, month]
            after = before + quantity
            self._months[use.billable, resource, month] = after
            price = prices[resource]
            self.usage[use.billable, slug, resource, month] += price_of(price, after) - price_of(price, before)
            self.quantities[use.billable, slug, resource, month] += quantity

    def _overuse(self, use: Use, slug: str | None, zone: str) -> None:
        month = _calendar_month(use.occurred_at, zone)
        terms = PLANS.get(slug or "", {})
        for meter, amount in (("tokens", use.tokens), ("cost", use.cost)):
            if not amount:
                continue
            before = self._used[use.billable, meter, month]
            self._used[use.billable, meter, month] = before + amount
            limit = {"tokens": terms.get("monthly_token_limit"), "cost": terms.get("monthly_cost_limit")}[meter]
            if limit is None:
                continue
            bound = limit if meter == "tokens" else nanos(limit)
            over = max(0, before + amount - bound) - max(0, before - bound)
            if meter == "tokens":
                charge = round(Fraction(nanos(terms["overage_price_per_1k_tokens"]) * over, 1000))
            else:
                charge = round(over * (1 + Fraction(terms["overage_markup_percent"]) / 100))
            if charge:
                self.overage[use.billable, slug or "", month] += charge


def _in_force(customer: Customer, at: int) -> Owed | None:
    return next((owed for owed in reversed(customer.owed) if owed.start <= at), None)


def _currency(slug: str) -> str:
    return str(PLANS[slug].get("currency", "USD"))


def _calendar_month(at: int, zone: str) -> int:
    local = instant_of(at).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    return first_reading(local.replace(day=1, hour=0, minute=0, second=0, microsecond=0), ZoneInfo(zone))


def price_of(price: Any, quantity: int) -> int:
    """Return what a quantity of a month costs, in nanos."""
    terms = price if isinstance(price, dict) else {"price": price}
    billed = quantity - terms.get("included", 0)
    if billed <= 0:
        return 0
    return round(_models[terms.get("model", "per_unit")](terms, billed) * NANOS)


def _graduated(terms: Mapping[str, Any], billed: int) -> Fraction:
    exact, reached = Fraction(0), 0
    for tier in terms["tiers"]:
        inside = min(billed, tier.get("up_to", billed)) - reached
        if inside <= 0:
            break
        exact += Fraction(tier.get("flat", "0")) + inside * Fraction(tier["price"])
        reached += inside
    return exact


def _volume(terms: Mapping[str, Any], billed: int) -> Fraction:
    tier = next(one for one in terms["tiers"] if billed <= one.get("up_to", billed))
    return Fraction(tier.get("flat", "0")) + billed * Fraction(tier["price"])


_models: dict[str, Callable[[Mapping[str, Any], int], Fraction]] = {
    "per_unit": lambda terms, billed: billed * Fraction(terms["price"]),
    "flat": lambda terms, billed: Fraction(terms["price"]),
    "package": lambda terms, billed: -(-billed // terms["size"]) * Fraction(terms["price"]),
    "graduated": _graduated,
    "volume": _volume,
}


# -- how it is played -----------------------------------------------------------------------------------------------


def open_shop(ts: Tallystick) -> None:
    """Put the plans and the coupons on sale."""
    for slug, terms in PLANS.items():
        stated = dict(terms)
        for name in ("price", "monthly_cost_limit", "overage_price_per_1k_tokens"):
            if name in stated:
                stated[name] = Money.parse(stated[name])
        ts.plans.create(slug, **stated)
    for code, terms in COUPONS.items():
        stated = dict(terms)
        if "amount_off" in stated:
            stated["amount_off"] = Money.parse(stated["amount_off"])
        ts.coupons.create(code, **stated)


def play(ts: Tallystick, clock: FixedClock, year: Year, run: Callable[[], object], runs: random.Random | None) -> None:
    """Let fourteen months pass. Jobs run at irregular times, or, without `runs`, only at the end."""
    clock.set(instant_of(START - DAY))
    open_shop(ts)
    moments: list[tuple[int, int, str, Any]] = [(at, 1, kind, what) for at, _, kind, what in year.actions]
    at = START
    while runs is not None and at < CLOSE:
        at += runs.choice([HOUR, 3 * DAY, 9 * DAY + 3 * HOUR, 17 * DAY])
        moments.append((min(at, CLOSE), 2, "run", None))
    moments.append((CLOSE, 3, "run", None))
    ids: dict[str, str] = {}
    told = 0
    for at, _, kind, what in sorted(moments, key=lambda one: one[:2]):
        # What was used is told of when it happened, or later, and never after what follows it.
        due = [use for use in year.uses[told:] if use.recorded_at <= at]
        told += len(due)
        if due:
            _tell(ts, clock, due, ids)
        clock.set(instant_of(at))
        if kind == "run":
            run()
        else:
            _act(ts, kind, what)


def _tell(ts: Tallystick, clock: FixedClock, uses: list[Use], ids: dict[str, str]) -> None:
    """Record uses in their order; corrections between batches."""
    clock.set(instant_of(uses[-1].recorded_at))
    batch: list[Use] = []

    def flush() -> None:
        result = ts.usage.record_batch([use.as_record() for use in batch])
        assert result.recorded == len(batch), result
        ids.update(zip((use.key for use in batch), result.event_ids, strict=True))
        batch.clear()

    for use in uses:
        if use.corrects is None:
            batch.append(use)
            continue
        flush()
        ts.usage.adjust(ids[use.corrects], quantity=use.quantity, reason="counted twice")
    flush()


def _act(ts: Tallystick, kind: str, what: Any) -> None:
    if kind == "subscribe":
        customer, slug = what
        _subscribe(ts, customer, slug)
    elif kind == "pay":
        activation = ts.subscriptions.get(what.billable).activation_invoice_id
        assert activation is not None
        ts.invoices.record_payment(activation, external_payment_id=f"pay-{what.billable}")
        assert ts.subscriptions.status(what.billable).is_in_force
    else:
        customer, step = what
        carry_out(ts, customer.billable, step)


def _subscribe(ts: Tallystick, customer: Customer, slug: str) -> None:
    now = micros(ts.clock.now())
    is_first = now == customer.start
    if is_first and customer.billable.startswith("tenant:"):
        ts.tenants.create("Customer", slug=customer.billable.partition(":")[2], timezone=customer.zone)
    if is_first and customer.tax:
        ts.invoices.set_billing_details(customer.billable, **customer.tax)
    ts.subscriptions.create(
        customer.billable,
        slug,
        trial_ends_at=instant_of(now + customer.trial_days * DAY) if is_first and customer.trial_days else None,
        ends_at=instant_of(now + customer.term_days * DAY) if is_first and customer.term_days else None,
        pending=is_first and customer.is_pending,
        coupon=customer.coupon if is_first else None,
    )
