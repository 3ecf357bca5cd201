"""The engine: what the public namespaces share. One lane, one clock, one price list, one set of handlers.

Private to the package; applications use `Tallystick` and `AsyncTallystick`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, select

from tallystick.clock import Clock, SystemClock
from tallystick.credits.account import CreditPolicy
from tallystick.credits.announcing import Wants, events_of, notice_event
from tallystick.credits.posting import Posted
from tallystick.encryption import Cipher
from tallystick.errors import NotFound, StorageError, TallystickError, UnknownPrice
from tallystick.events import Event, HoldExpired, LimitApproaching, LimitReached, OverageCharged, UsageRecorded
from tallystick.gateways.driver import BillingDriver, NullDriver
from tallystick.handlers import Handlers
from tallystick.identity import BillableResolver, new_id
from tallystick.invoicing.overage_sync import ImmediateSync
from tallystick.limits.announcing import quota_event
from tallystick.limits.decision import Standing, check
from tallystick.limits.rates import rate_limits_of_everybody
from tallystick.metering.commands import Replayed
from tallystick.metering.metadata import MetadataPolicy, printable
from tallystick.metering.recording import Recorded, UsageFacts
from tallystick.metering.response import Settlement
from tallystick.metering.usage_event import UsageEvent
from tallystick.money import CurrencyRates, Money
from tallystick.notify.outgoing import Outgoing
from tallystick.period import PeriodKind, PeriodRule, from_micros, parse_instant, to_micros
from tallystick.plans.loading import load_terms
from tallystick.plans.terms import InForce, OverageBehavior, Terms, TermsPolicy
from tallystick.providers.registry import Providers
from tallystick.providers.usage import ProviderUsage
from tallystick.storage import tables
from tallystick.storage.engines import connect_lane, open_engine
from tallystick.storage.lane import Lane
from tallystick.storage.schema import ensure_schema
from tallystick.storage.workspace import HoldRow

if TYPE_CHECKING:
    from tallystick.metering.call import Attempt, CallContext
    from tallystick.metering.response import MeteredResponse
    from tallystick.pricing import Cost, Pricing, Rate
    from tallystick.settings import Settings
    from tallystick.storage.database import Database

__all__ = ["Engine"]

Answer = TypeVar("Answer")

_REMEMBERED_RESPONSES_MAX = 256
_MODEL_LENGTH_MAX = 200


class Engine:
    """Everything that is opened once and shared."""

    logger = logging.getLogger("tallystick")

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self._is_system_clock = type(clock) is SystemClock
        self.handlers = Handlers()
        self.cipher = Cipher(settings.security.encryption_keys)
        self.driver: BillingDriver = NullDriver()
        self._immediate_sync: ImmediateSync | None = None
        self.currency_rates = CurrencyRates(settings.billing.currency_rates)
        self.terms_policy = TermsPolicy(
            currency=settings.billing.currency,
            period_kind=PeriodKind(settings.period.type),
            is_anniversary=settings.period.alignment == "rolling",
            zone=settings.period.timezone,
            overage_behavior=OverageBehavior(settings.billing.overage_behavior),
            grace_period_days=settings.billing.payment_failure_grace_period_days,
            rate_limits=rate_limits_of_everybody(settings),
        )
        self.metadata_policy = MetadataPolicy(
            bytes_max=settings.metadata.max_bytes,
            keys_max=settings.metadata.max_keys,
            redact=settings.metadata.redact,
        )
        self.days = PeriodRule(PeriodKind.DAILY, settings.period.timezone)
        self.billable_resolver: BillableResolver | None = None
        self.tenant_resolver: Callable[[], object] | None = None
        self.providers = Providers(
            {name: one.class_path for name, one in settings.providers.items() if one.class_path is not None}
        )
        self._responses: OrderedDict[tuple[str, str], object] = OrderedDict()
        self._responses_lock = threading.Lock()
        self.database = open_engine(settings)
        self.credit_policy = CreditPolicy(
            expiring_first=settings.credits.burn_order == "expiring_first",
            overdraft_allowed=settings.billing.credit_overdraft_allowed,
            overdraft_limit=_nanos(settings.credits.overdraft_limit),
            minimum_balance=_nanos(settings.credits.minimum_balance),
        )
        self.outgoing = Outgoing(self)
        self.lane = Lane(
            self._connect_lane,
            self._load_terms,
            now=self.now,
            on_notices=self.announce_notices,
            credit_policy=self.credit_policy,
            outgoing=self.outgoing,
        )

    def open(self) -> None:
        """Bring the schema up to date. An engine that cannot be opened leaves no connection behind."""
        try:
            ensure_schema(self.database, auto_migrate=self.settings.auto_migrate)
        except TallystickError:
            self.close()
            raise
        except Exception as error:
            self.close()
            # The driver's own words; SQLAlchemy adds links to its documentation.
            said = getattr(error, "orig", None) or error
            raise StorageError(f"The database cannot be opened: {str(said).strip()}") from error

    def use_driver(self, driver: BillingDriver) -> None:
        """Charge overage through a driver from now on; with the strategy "immediate", right after each use."""
        self.driver = driver
        is_immediate = self.settings.billing.overage_sync_strategy == "immediate"
        if is_immediate and not isinstance(driver, NullDriver):
            self._immediate_sync = ImmediateSync(self)

    def close(self) -> None:
        if self._immediate_sync is not None:
            self._immediate_sync.close()
        self.lane.close()
        self.database.dispose()

    @cached_property
    def pricing(self) -> Pricing:
        # The catalogue is large: it is imported with the first price that is asked for.
        from tallystick.pricing import PriceOverride, Pricing

        overrides = [
            PriceOverride(
                provider=one.provider,
                model=one.model,
                currency=one.currency,
                effective_from=one.effective_from,
                effective_until=one.effective_until,
                **{f"{token_class}_price_per_million": price for token_class, price in one.prices.items()},
            )
            for one in self.settings.price_overrides()
        ]
        return Pricing(overrides, self.providers, self.currency_rates)

    # -- time ---------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the clock's instant in µs."""
        # The usual clock is asked a dozen times a call: straight to the number.
        return time.time_ns() // 1000 if self._is_system_clock else to_micros(self.clock.now())

    def instant(self, value: str | datetime | None, *, field: str) -> int:
        """Return an instant that a caller gave, in µs; the clock's where none was given."""
        return self.now() if value is None else to_micros(parse_instant(value, field=field))

    # -- the database -------------------------------------------------------------------------------------------------

    def read(self, query: Callable[[Connection], Answer]) -> Answer:
        """Run a read on a connection of its own; it never waits for the lane."""
        with self.database.connect() as connection:
            return query(connection)

    def read_snapshot(self, query: Callable[[Connection], Answer]) -> Answer:
        """Run reads that all see the same moment. They wait for nobody, and nobody waits for them."""

        def look(connection: Connection) -> Answer:
            isolation = "" if connection.dialect.name == "sqlite" else " ISOLATION LEVEL REPEATABLE READ READ ONLY"
            connection.exec_driver_sql("BEGIN" + isolation)
            try:
                return query(connection)
            finally:
                connection.exec_driver_sql("ROLLBACK")

        return self.read(look)

    def terms(self, billable: str) -> Terms:
        """Return a billable's terms as the database has them now."""
        return self.read(lambda connection: self._load_terms(connection, [billable]))[billable]

    def _connect_lane(self) -> Database:
        return connect_lane(self.database)

    def _load_terms(self, connection: Connection, billables: Iterable[str]) -> dict[str, Terms]:
        return load_terms(connection, billables, self.terms_policy)

    # -- prices -------------------------------------------------------------------------------------------------------

    def rate(self, provider: str, model: str | None, at: int, service_tier: str | None = None) -> Rate | None:
        """Return the price of a model in force at an instant (µs); None where none is known."""
        return self.pricing.find(provider, model, from_micros(at), service_tier) if model else None

    def costs(
        self, usage: ProviderUsage, provider: str, model: str, at: int
    ) -> tuple[tuple[int, int, int] | None, str, str | None]:
        """Return (input, output, total) in nanos, their currency, and the price as JSON. None: no price is known."""
        cost = self._cost(usage, provider, model, at)
        if cost is None:
            return None, self.settings.billing.currency, None
        total, output = cost.total_nanos, cost.output_nanos
        return (total - output, output, total), cost.currency, json.dumps(cost.to_dict(), separators=(",", ":"))

    def _cost(self, usage: ProviderUsage, provider: str, model: str, at: int) -> Cost | None:
        if usage.total_cost is not None:
            return self.pricing.cost(usage, provider, model, from_micros(at))
        rate = self.rate(provider, model, at, usage.service_tier)
        if rate is None and usage.model != model:
            # A deployment may have any name; the model that answered is priced.
            rate = self.rate(provider, usage.model, at, usage.service_tier)
        try:
            return rate.cost(usage) if rate is not None else None
        except UnknownPrice:
            # A price is known for this model, but for nothing of what was used.
            return None

    # -- facts --------------------------------------------------------------------------------------------------------

    def facts(
        self,
        context: CallContext,
        usage: ProviderUsage,
        *,
        occurred_at: int,
        flags: tuple[str, ...] = (),
        has_price: bool = True,
        estimated_tokens: int | None = None,
    ) -> UsageFacts:
        """Return what happened, priced, ready for the lane.

        `has_price` is false for use that is counted and has no price of its own, such as a message. `estimated_tokens`
        is what was asked for before the call, of which rate limits are corrected by what was used.
        """
        # A provider may report anything as its model; it must not be what keeps the use from being recorded.
        model = context.model or printable(usage.model or "")[:_MODEL_LENGTH_MAX]
        costs: tuple[int, int, int] | None = (0, 0, 0)
        currency, price = self.settings.billing.currency, None
        if has_price:
            costs, currency, price = self.costs(usage, context.provider, model, occurred_at)
        if usage.estimated:
            flags = (*flags, "estimated")
        return UsageFacts(
            event_id=new_id("evt"),
            billable=context.billable,
            user_id=context.user_id,
            tenant_id=context.tenant_id,
            provider=context.provider,
            model=model,
            feature=context.feature,
            resource_type=context.resource_type,
            quantity=context.quantity,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            usage=_stored_usage(usage),
            costs=costs,
            currency=currency,
            price=price,
            flags=flags,
            metadata=context.metadata,
            occurred_at=occurred_at,
            recorded_at=self.now(),
            billing_mode=context.billing_mode,
            idempotency_key=context.idempotency_key,
            fingerprint=context.fingerprint(),
            key_id=context.key_id,
            estimated_tokens=estimated_tokens,
        )

    def settlement_of(self, billable: str, replayed: Replayed) -> Settlement:
        """Read the first settlement of a key or a hold."""
        row = self.event_row(replayed.event_id)
        in_force = self.terms(billable).at(self.now())
        return Settlement.replay(
            row,
            replayed.outcome,
            (in_force, self.standing(billable, in_force)),
            approaching_percentage=self.settings.limits.approaching_percentage,
        )

    def event_row(self, event_id: str) -> tuple[object, ...]:
        events = tables.usage_events
        row = self.read(lambda connection: connection.execute(select(events).where(events.c.id == event_id)).first())
        if row is None:
            raise NotFound("usage event", event_id)
        return tuple(row)

    def standing(self, billable: str, in_force: InForce) -> Standing:
        """Read the counters of a period."""
        counters = tables.counters
        query = select(counters.c.meter, counters.c.used, counters.c.held).where(
            counters.c.billable == billable,
            counters.c.scope == "",
            counters.c.period == in_force.period,
            counters.c.period_start == in_force.period_start,
        )
        rows = self.read(lambda connection: connection.execute(query).all())
        amounts = {meter: (used, held) for meter, used, held in rows}
        return Standing(*amounts.get("tokens", (0, 0)), *amounts.get(f"cost:{in_force.currency}", (0, 0)))

    # -- streams and responses ----------------------------------------------------------------------------------------

    def metered_stream(self, response: Any, attempt: Attempt) -> MeteredResponse[Any] | None:
        """Return a stream that settles its attempt when it ends; None where the response is no stream."""
        from tallystick.metering.streams import metered_stream

        return metered_stream(self, response, attempt)

    def remember_response(self, context: CallContext, response: object) -> None:
        """Keep a keyed call's response for replays in this process. It is never stored: it may hold prompt text."""
        if context.idempotency_key is None:
            return
        with self._responses_lock:
            self._responses[context.billable, context.idempotency_key] = response
            while len(self._responses) > _REMEMBERED_RESPONSES_MAX:
                self._responses.popitem(last=False)

    def remembered_response(self, context: CallContext) -> Any:
        with self._responses_lock:
            return self._responses.get((context.billable, context.idempotency_key or ""))

    # -- events -------------------------------------------------------------------------------------------------------

    def announce(self, recorded: Recorded) -> None:
        """Send what follows from a use that was committed."""
        if recorded.overage_id is not None and self._immediate_sync is not None:
            self._immediate_sync.offer(recorded.overage_id)
        if self.handlers.is_empty:
            return
        events = list(self.events_of_use(recorded, self.handlers.wants))
        if events:
            self.handlers.send(events)

    def announce_credits(self, posted: Posted) -> None:
        """Send what follows from a transaction of credits that was committed. A replay says nothing again."""
        if not (self.handlers.is_empty or posted.replayed):
            self.handlers.send(events_of(posted, self.handlers.wants))

    def reaches_limit(self, answer: object) -> bool:
        """Say whether a command's answer is a use that came near a limit, or reached it. Asked of every answer."""
        return isinstance(answer, Recorded) and self._passes_limit(answer)

    def events_of_answer(self, answer: object, wants: Wants) -> Iterable[Event]:
        """Return what follows from a command's answer, as far as somebody wants it. A replay says nothing again."""
        if isinstance(answer, Recorded):
            return self.events_of_use(answer, wants)
        if isinstance(answer, Posted) and not answer.replayed:
            return events_of(answer, wants)
        return ()

    def events_of_use(self, recorded: Recorded, wants: Wants) -> Iterable[Event]:
        """Return what follows from a use that is recorded, as far as somebody wants it."""
        hears_limits = (wants(LimitApproaching) or wants(LimitReached)) and self._passes_limit(recorded)
        if not (hears_limits or wants(UsageRecorded) or recorded.overage is not None or recorded.posted is not None):
            return
        billable, at = str(recorded.row[1]), from_micros(int(recorded.row[-1]))  # type: ignore[call-overload]  # recorded_at is an integer
        if wants(UsageRecorded):
            yield UsageRecorded(billable=billable, at=at, usage=UsageEvent.from_row(recorded.row))
        over = recorded.overage
        if over is not None and over.amount and recorded.overage_id and wants(OverageCharged):
            yield OverageCharged(
                billable=billable,
                at=at,
                overage_id=recorded.overage_id,
                usage_event_id=str(recorded.row[0]),
                tokens=over.tokens,
                amount=Money.from_nanos(over.amount, recorded.in_force.currency),
            )
        if hears_limits:
            yield from self._limit_events(recorded, billable, at)
        if recorded.posted is not None:
            yield from events_of(recorded.posted, wants)

    def _passes_limit(self, recorded: Recorded) -> bool:
        """Say whether a use was the first to come near a limit, or to reach it. Asked of every use."""
        in_force, before, after = recorded.in_force, recorded.before, recorded.after
        if in_force.token_limit is None and in_force.cost_limit is None:
            return False
        percentage = self.settings.limits.approaching_percentage
        return _crosses(in_force.token_limit, percentage, before.tokens_used, after.tokens_used) or _crosses(
            in_force.cost_limit, percentage, before.cost_used, after.cost_used
        )

    def _limit_events(self, recorded: Recorded, billable: str, at: datetime) -> Iterable[Event]:
        """Find the limits that this use, and no use before it, has passed."""
        in_force, before, after = recorded.in_force, recorded.before, recorded.after
        percentage = self.settings.limits.approaching_percentage
        for limit_type, limit, used_before, used_after in (
            ("tokens", in_force.token_limit, before.tokens_used, after.tokens_used),
            ("cost", in_force.cost_limit, before.cost_used, after.cost_used),
        ):
            if limit is None:
                continue
            if used_before * 100 < limit * percentage <= used_after * 100:
                now = check(billable, in_force, after, approaching_percentage=percentage)
                yield LimitApproaching(
                    billable=billable,
                    at=at,
                    limit_type=limit_type,
                    usage_percentage=now.usage_percentage,
                    remaining_tokens=now.remaining_tokens,
                    remaining_cost=now.remaining_cost,
                )
            if used_before < limit <= used_after:
                yield LimitReached(billable=billable, at=at, limit_type=limit_type, is_hard=in_force.is_hard)

    def announce_notices(self, notices: Iterable[object]) -> None:
        """Tell what a batch found out besides its answers: holds and grants that ran out, balances that fell."""
        for notice in notices:
            if isinstance(notice, HoldRow):
                self.logger.warning(
                    "Hold %s of %s ran out unsettled; what it held is free again.", notice.id, notice.billable
                )
            if (event := self.event_of_notice(notice, self.handlers.wants)) is not None:
                self.handlers.send([event])

    def event_of_notice(self, notice: object, wants: Wants) -> Event | None:
        """Return what is to be told of a notice; None where nobody wants to hear it."""
        if isinstance(notice, HoldRow):
            return _hold_expired(notice, self.clock.now()) if wants(HoldExpired) else None
        return notice_event(notice, wants) or quota_event(notice, wants)


def _crosses(limit: int | None, percentage: int, before: int, after: int) -> bool:
    if limit is None:
        return False
    return before * 100 < limit * percentage <= after * 100 or before < limit <= after


def _hold_expired(hold: HoldRow, at: datetime) -> HoldExpired:
    held: dict[str, int] = {}
    for meter, amount in [(claim.key.meter, claim.amount) for claim in hold.claims] + [
        (pin.unit, pin.amount) for pin in hold.pins
    ]:
        held[meter] = held.get(meter, 0) + amount
    return HoldExpired(billable=hold.billable, at=at, hold_id=hold.id, held=held, idempotency_key=hold.idempotency_key)


def _nanos(amount: Decimal | None) -> int | None:
    return None if amount is None else Money(amount).nanos


def _stored_usage(usage: ProviderUsage) -> str | None:
    """Return the usage as JSON where it says more than the totals, which have columns of their own."""
    if not (usage.breakdown or usage.counts or usage.service_tier or usage.model or usage.requests != 1):
        return None
    stored = usage.to_dict()
    for name in ("input_cost", "output_cost", "total_cost"):
        stored.pop(name, None)
    return json.dumps(stored, separators=(",", ":"))
