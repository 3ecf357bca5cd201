"""What the demo found: the database's numbers beside those of the provider server, and whether they agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tallystick.demo.check import Check
from tallystick.demo.customers import CUSTOMERS, RIVERBANK, Agreement, agreed
from tallystick.demo.wallet_findings import WalletFindings, wallet_checks, wallet_findings
from tallystick.money import Money

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tallystick.app import Tallystick
    from tallystick.demo.provider_server import ServedRequest
    from tallystick.demo.scenes import Observations
    from tallystick.demo.wallet_scenes import WalletObservations
    from tallystick.doctor import Diagnosis
    from tallystick.invoicing.overages import OverageCharge
    from tallystick.limits.decision import LimitCheck
    from tallystick.metering.explanation import Explanation
    from tallystick.metering.usage_event import UsageEvent

__all__ = ["Check", "CustomerUse", "Findings", "ModelUse", "Traffic", "gather"]

EVENTS_MAX = 10_000
FEATURE_USE = "feature"
UNITS = ("tokens", "characters")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the provider server counted, and how long the scenes took."""

    calls: int
    in_flight_peak: int
    requests: Sequence[ServedRequest]
    seconds: float
    ways: Mapping[str, str]

    @property
    def answered(self) -> list[ServedRequest]:
        return [request for request in self.requests if request.status == 200]


@dataclass(frozen=True, slots=True)
class CustomerUse:
    """What one customer used, and how it stands to its limit."""

    billable: str
    agreement: Agreement
    calls: int
    tokens: int
    cost: Money
    standing: LimitCheck

    @property
    def percentage(self) -> float | None:
        """How much of the limit was used; None without one, and where a wallet pays, which has what it has."""
        has_limit = self.standing.token_limit is not None or self.standing.cost_limit is not None
        return self.standing.usage_percentage if has_limit else None


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What was used of one model, as it was recorded, and as the provider counted it."""

    provider: str
    model: str
    unit: str
    calls: int
    input_quantity: int
    output_quantity: int
    cost: Money
    counted: int

    @property
    def quantity(self) -> int:
        return self.input_quantity + self.output_quantity


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the report shows."""

    traffic: Traffic
    seen: Observations
    customers: tuple[CustomerUse, ...]
    models: tuple[ModelUse, ...]
    overages: tuple[OverageCharge, ...]
    wallet: WalletFindings
    explanation: Explanation
    diagnosis: Diagnosis
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def recorded(self) -> int:
        """How many calls were recorded."""
        return sum(model.calls for model in self.models)

    @property
    def cost(self) -> Money:
        return sum((customer.cost for customer in self.customers), Money(0, "USD"))

    @property
    def overage(self) -> Money:
        return sum((charge.amount for charge in self.overages), Money(0, "USD"))

    def quantity(self, unit: str) -> int:
        """Return how many tokens, or characters, were recorded."""
        return sum(model.quantity for model in self.models if model.unit == unit)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain JSON values. Money is text."""
        return {
            "ok": self.ok,
            "calls": {
                "attempted": self.seen.attempted,
                "refused": self.seen.refused,
                "replayed": len(self.seen.retries),
                "failed": len(self.seen.failures),
                "reached_providers": self.traffic.calls,
                "recorded": self.recorded,
                "in_flight_peak": self.traffic.in_flight_peak,
            },
            "seconds": round(self.traffic.seconds, 3),
            "through": dict(self.traffic.ways),
            "tokens": self.quantity("tokens"),
            "characters": self.quantity("characters"),
            "cost": self.cost.to_dict(),
            "customers": [_customer(customer) for customer in self.customers],
            "models": [{**asdict(model), "cost": model.cost.to_dict()} for model in self.models],
            "stopped": [
                {
                    "billable": limited.billable,
                    "what": limited.what,
                    "attempted": limited.attempted,
                    "room": limited.room,
                    "received": limited.received,
                    "refused": len(limited.refusals),
                    "errors": [refusal.data() for refusal in limited.refusals],
                }
                for limited in self.seen.limited
            ],
            "failures": [asdict(failure) for failure in self.seen.failures],
            "retries": [asdict(retry) for retry in self.seen.retries],
            "events": dict(sorted(self.seen.heard_by_name().items())),
            "overages": [
                {
                    "billable": charge.billable,
                    "usage_event_id": charge.usage_event_id,
                    "tokens": charge.tokens,
                    "amount": charge.amount.to_dict(),
                }
                for charge in self.overages
            ],
            "wallet": self.wallet.to_dict(),
            "explanation": self.explanation.to_dict(),
            "doctor": {
                "ok": self.diagnosis.ok,
                "findings": [str(finding) for finding in self.diagnosis.findings],
                "events": self.diagnosis.events,
                "counters": self.diagnosis.counters,
                "open_holds": self.diagnosis.open_holds,
            },
            "checks": [{**asdict(check), "ok": check.ok} for check in self.checks],
        }


def gather(ts: Tallystick, seen: Observations, told: WalletObservations, traffic: Traffic) -> Findings:
    """Ask the database what was recorded, and compare it with what the application and the server saw."""
    events = tuple(ts.usage.events(limit=EVENTS_MAX))
    calls = tuple(event for event in events if event.resource_type != FEATURE_USE)
    wallet = wallet_findings(ts, told, calls, (event for event in events if event.resource_type == FEATURE_USE))
    overages = tuple(ts.overages.list())
    customers = tuple(_customer_use(ts, billable) for billable in CUSTOMERS)
    models = tuple(_models(calls, traffic.answered))
    diagnosis = ts.doctor()
    checks = (
        *_scene_checks(seen, traffic),
        *_count_checks(seen, traffic, models),
        *_standing_checks(customers),
        _overage_check(ts, overages),
        *wallet_checks(wallet),
        Check("amiss, says the doctor, who computes every number again", "nothing", _found_by(diagnosis)),
    )
    return Findings(
        traffic=traffic,
        seen=seen,
        customers=customers,
        models=models,
        overages=overages,
        wallet=wallet,
        explanation=ts.usage.explain(overages[0].usage_event_id if overages else events[0].id),
        diagnosis=diagnosis,
        checks=checks,
    )


def _customer_use(ts: Tallystick, billable: str) -> CustomerUse:
    statistics = ts.usage.stats(billable)
    totals = statistics.totals
    calls = totals.events - sum(
        group.totals.events for group in statistics.by_resource_type if group.name == FEATURE_USE
    )
    return CustomerUse(
        billable, agreed(ts, billable), calls, totals.total_tokens, totals.cost, ts.limits.check(billable)
    )


def _models(events: Iterable[UsageEvent], answered: Iterable[ServedRequest]) -> list[ModelUse]:
    """Sum up by model what was recorded, with what the server counted; also models that only one of both knows."""
    recorded: dict[tuple[str, str], list[UsageEvent]] = defaultdict(list)
    for event in events:
        recorded[event.provider, event.model].append(event)
    counted: Counter[tuple[str, str]] = Counter()
    for request in answered:
        counted[request.provider, request.model] += request.input_quantity + request.output_quantity
    models = [
        _model_use(name, recorded.get(name, []), counted[name]) for name in sorted(recorded.keys() | counted.keys())
    ]
    return sorted(models, key=lambda model: -model.cost.nanos)


def _model_use(name: tuple[str, str], events: Sequence[UsageEvent], counted: int) -> ModelUse:
    counts: Counter[str] = Counter()
    for event in events:
        counts.update({unit: int(amount) for unit, amount in event.usage.counts.items()})
        counts.update(input_tokens=event.usage.input_tokens, output_tokens=event.usage.output_tokens)
    unit = "characters" if counts["input_characters"] else "tokens"
    cost = sum((event.cost for event in events if event.cost is not None), Money(0, "USD"))
    return ModelUse(*name, unit, len(events), counts[f"input_{unit}"], counts[f"output_{unit}"], cost, counted)


def _scene_checks(seen: Observations, traffic: Traffic) -> Iterable[Check]:
    for limited in seen.limited:
        yield Check(
            f"of {limited.billable}'s calls got through: {limited.what}",
            f"{limited.room:,} of {limited.attempted:,}",
            f"{limited.received:,} of {limited.attempted:,}",
        )
    for retry in seen.retries:
        recorded = len(set(retry.usage_event_ids))
        yield Check(
            f"call and record of {retry.key}, sent twice with one key",
            "1 + 1",
            f"{retry.received} + {recorded}",
        )
    yield Check(
        "failed call came through, and tokens held or charged for it",
        f"{len(traffic.requests) - len(traffic.answered)} + 0",
        f"{sum(failure.is_the_providers_own for failure in seen.failures)} + "
        f"{sum(failure.tokens_left for failure in seen.failures):,}",
    )


def _count_checks(seen: Observations, traffic: Traffic, models: Sequence[ModelUse]) -> Iterable[Check]:
    replayed = sum(retry.replayed for retry in seen.retries)
    sent = seen.attempted - seen.refused - replayed
    yield Check("calls reached the providers in all", f"{sent:,}", f"{traffic.calls:,}")
    yield Check(
        "calls were answered, and are recorded",
        f"{len(traffic.answered):,}",
        f"{sum(model.calls for model in models):,}",
    )
    counted = dict.fromkeys(UNITS, 0)
    for request in traffic.answered:
        counted[request.unit] += request.input_quantity + request.output_quantity
    recorded = {unit: sum(model.quantity for model in models if model.unit == unit) for unit in UNITS}
    differing = [model.model for model in models if model.quantity != model.counted]
    yield Check(
        "tokens + characters recorded, as the providers counted them",
        _amounts(counted),
        " ".join([_amounts(recorded), *differing]),
    )


def _amounts(by_unit: Mapping[str, int]) -> str:
    return " + ".join(f"{amount:,}" for amount in by_unit.values())


def _standing_checks(customers: Sequence[CustomerUse]) -> Iterable[Check]:
    over = [one.billable for one in customers if one.agreement.at_limit == "stop" and (one.percentage or 0) > 100]
    holding = [one.billable for one in customers if one.standing.tokens_held or one.standing.cost_held]
    wrong = ", ".join(dict.fromkeys([*over, *holding]))
    yield Check("of the customers past a hard limit, or still holding some of it", "none", wrong or "none")


def _overage_check(ts: Tallystick, overages: Iterable[OverageCharge]) -> Check:
    check, plan = ts.limits.check(RIVERBANK), ts.subscriptions.get(RIVERBANK).plan
    beyond = check.tokens_used - (check.token_limit or 0)
    price = plan.overage_price_per_1k_tokens or Decimal(0)
    expected = Money.rounded(beyond * price / 1000, plan.currency)
    found = sum((charge.amount for charge in overages), Money(0, plan.currency))
    return Check(f"charged for {beyond:,} tokens beyond a limit, at {price} per 1,000", str(expected), str(found))


def _found_by(diagnosis: Diagnosis) -> str:
    return "; ".join(str(finding) for finding in diagnosis.findings) or "nothing"


def _customer(customer: CustomerUse) -> dict[str, Any]:
    return {
        "billable": customer.billable,
        "plan": customer.agreement.plan,
        "limit": customer.agreement.limit,
        "at_limit": customer.agreement.at_limit,
        "calls": customer.calls,
        "tokens": customer.tokens,
        "cost": customer.cost.to_dict(),
        "usage_percentage": customer.percentage,
        "remaining_tokens": customer.standing.remaining_tokens,
    }
