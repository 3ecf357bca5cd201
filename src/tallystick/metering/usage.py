"""`ts.usage`: recording what happened, and everything that is asked of it afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tallystick.errors import CallInProgress, InvalidInput, NotFound, TallystickError
from tallystick.identity import billable_reference, tenant_reference, user_reference
from tallystick.metering.adjusting import Adjustment, adjust_event, adjust_use
from tallystick.metering.call import CallContext
from tallystick.metering.cleanup import Cleanup, Progress, cleanup
from tallystick.metering.commands import InProgress, Replayed
from tallystick.metering.erasure import Erasure, anonymize_before, delete_for
from tallystick.metering.explanation import Explanation, explain
from tallystick.metering.input import (
    COST_NANOS_MAX,
    checked_billing_mode,
    checked_key,
    checked_name,
    checked_text,
    manual_usage,
)
from tallystick.metering.listing import EventFilter, EventPage, list_events
from tallystick.metering.logged_use import LogUse, require_timely
from tallystick.metering.meter import MANUAL
from tallystick.metering.recording import Recorded
from tallystick.metering.repricing import Repricing, reprice
from tallystick.metering.resource_types import checked_use
from tallystick.metering.statistics import (
    TimeSeriesPoint,
    UsageFilter,
    UsageStatistics,
    statistics,
    time_series,
)
from tallystick.metering.usage_event import UsageEvent
from tallystick.money import NANOS, Money
from tallystick.period import MAX_MICROS, MIN_MICROS
from tallystick.providers.usage import ProviderUsage
from tallystick.quantity import to_millionths
from tallystick.tenants.naming import tenant_billable

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["BatchResult", "Rejection", "Usage", "subject_reference"]

_CHUNK = 500
_CONTEXT_FIELDS = frozenset(
    {
        "billable",
        "user",
        "tenant",
        "provider",
        "model",
        "feature",
        "resource_type",
        "billing_mode",
        "metadata",
        "idempotency_key",
        "quantity",
        "occurred_at",
        "total_tokens",
        "total_cost",
        "currency",
    }
)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record of a batch that was not recorded: its position in the batch, from 0, and why."""

    index: int
    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch: how many records were recorded, how many had been before, and which were rejected."""

    recorded: int
    duplicates: int
    rejected: tuple[Rejection, ...]
    event_ids: tuple[str, ...] = ()


class Usage:
    """Records use, and answers questions about it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- recording ----------------------------------------------------------------------------------------------------

    def log(
        self,
        tenant: object,
        resource_type: str,
        quantity: int | Decimal | str = 1,
        metadata: Mapping[str, object] | None = None,
        occurred_at: str | datetime | None = None,
        idempotency_key: str | None = None,
        *,
        user: object = None,
        feature: str = "",
    ) -> UsageEvent:
        """Record that a resource was used: a fact, never refused. `tenant` is "acme", or any billable as "type:id".

        Use that comes late counts when it happened (`occurred_at`); where that period of the account was over, its
        event is flagged "backdated". With an idempotency key a repetition returns the first event.

        Raises:
            InvalidInput: a quantity below zero, finer than a millionth, or in parts of what is counted in whole units;
                a resource type that is not known, with `usage.strict_resource_types`; use that comes later than
                `usage.late_event_days` allow; bad names and metadata.
            IdempotencyConflict: the key was used with other input.
        """
        return self._record(
            {
                "billable": subject_reference(tenant, self._engine),
                "resource_type": resource_type,
                "quantity": quantity,
                "metadata": metadata,
                "occurred_at": occurred_at,
                "idempotency_key": idempotency_key,
                "user": user,
                "feature": feature,
            }
        )

    def record(self, /, **record: Any) -> UsageEvent:
        """Record one use with the fields of `record_batch`, and return its event.

        Raises:
            InvalidInput: naming the field. IdempotencyConflict: the key was used with other input.
            CallInProgress: a call in flight has the key.
        """
        return self._record(record)

    def record_batch(self, records: Iterable[Mapping[str, Any]]) -> BatchResult:
        """Record many uses. A bad record is rejected with its index and reason and harms no other.

        A record names its `billable` (or `tenant`, or `user`), and any of: provider, model, feature, resource_type,
        quantity, input_tokens, output_tokens and the other keywords of `ProviderUsage.manual`, total_cost (Money, or a
        decimal text in `currency`), occurred_at, metadata, billing_mode, idempotency_key. `total_tokens` alone counts
        as input. Records without a price are recorded, flagged unpriced, and priced with `reprice`.

        Records are committed some hundred at a time. If the database goes away, those before are recorded; with
        idempotency keys the whole batch can be sent again.
        """
        recorded = duplicates = 0
        rejected: list[Rejection] = []
        event_ids: list[str] = []
        for chunk in _chunks(enumerate(records)):
            commands: list[tuple[int, LogUse]] = []
            for index, record in chunk:
                try:
                    commands.append((index, self._command(record)))
                except TallystickError as error:
                    rejected.append(Rejection(index, error.message, error.code))
            answers = self._engine.lane.run_many([command for _, command in commands])
            for (index, _), answer in zip(commands, answers, strict=True):
                if isinstance(answer, TallystickError):
                    rejected.append(Rejection(index, answer.message, answer.code))
                elif isinstance(answer, Recorded):
                    recorded += 1
                    event_ids.append(str(answer.row[0]))
                    self._engine.announce(answer)
                elif isinstance(answer, Replayed):
                    duplicates += 1
                else:
                    rejected.append(_still_in_progress(index, answer))
        return BatchResult(recorded, duplicates, tuple(sorted(rejected, key=lambda one: one.index)), tuple(event_ids))

    # -- asking -------------------------------------------------------------------------------------------------------

    def stats(
        self,
        billable: object = None,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        resource_type: str | None = None,
    ) -> UsageStatistics:
        """Sum up what was used in `[start, end)`: in all, by resource type, provider, model and feature.

        `billable` is a tenant's name or any reference; None sums up everybody, and then by billable too.
        """
        return statistics(self._engine, self._filter(billable, start, end, resource_type))

    def time_series(
        self,
        billable: object = None,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        interval: str = "day",
        resource_type: str | None = None,
    ) -> list[TimeSeriesPoint]:
        """Sum up what was used by "hour", "day", "week" or "month" of the account's zone, gaps filled with zeros."""
        return time_series(self._engine, self._filter(billable, start, end, resource_type), interval)

    def events(
        self,
        billable: object = None,
        user: object = None,
        tenant: object = None,
        provider: str | None = None,
        model: str | None = None,
        feature: str | None = None,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
        resource_type: str | None = None,
    ) -> EventPage:
        """Return a page of events, the newest first. `next_cursor` of one page is the `cursor` of the next."""
        engine = self._engine
        wanted = EventFilter(
            billable=None if billable is None else subject_reference(billable, engine),
            user_id=None if user is None else user_reference(user),
            tenant_id=None if tenant is None else tenant_reference(tenant),
            provider=provider,
            model=model,
            feature=feature,
            resource_type=resource_type,
            start=None if start is None else engine.instant(start, field="start"),
            end=None if end is None else engine.instant(end, field="end"),
        )
        return list_events(engine, wanted, limit=limit, cursor=cursor)

    def get(self, usage_event_id: str) -> UsageEvent:
        """Return one event.

        Raises:
            NotFound: there is none of this id, or it was erased.
        """
        return UsageEvent.from_row(self._engine.event_row(usage_event_id))

    def explain(self, usage_event_id: str) -> Explanation:
        """Say why an event cost what it did: token classes, rates, rounding, limits, overage, corrections.

        Raises:
            NotFound: there is no such event, or it was erased.
        """
        return explain(self._engine, usage_event_id)

    # -- correcting and erasing ---------------------------------------------------------------------------------------

    def reprice(
        self,
        *,
        billable: object = None,
        provider: str | None = None,
        model: str | None = None,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        only_unpriced: bool = False,
        apply: bool = False,
    ) -> Repricing:
        """Price events again with the prices known now, for when each happened.

        Returns the differences. With `apply=True` each difference is recorded as a correction: a new event that names
        the one it corrects. Nothing is edited; applying twice changes nothing more. Costs that were stated stay.
        """
        engine = self._engine
        wanted = EventFilter(
            billable=None if billable is None else subject_reference(billable, engine),
            provider=provider,
            model=model,
            start=None if start is None else engine.instant(start, field="start"),
            end=None if end is None else engine.instant(end, field="end"),
        )
        return reprice(engine, wanted, only_unpriced=only_unpriced, apply=apply)

    def adjust(
        self,
        what: object,
        resource_type: str | None = None,
        *,
        quantity: int | Decimal | str,
        reason: str,
        occurred_at: str | datetime | None = None,
        user: object = None,
        feature: str = "",
        idempotency_key: str | None = None,
    ) -> UsageEvent:
        """Correct a quantity that was recorded wrongly: -5 takes five back, 5 adds five that were missed.

        `what` is an event's id: then the adjustment counts when that event did. Or it is a tenant (or any billable),
        with a `resource_type`, when it was used (`occurred_at`, otherwise now), and, where quotas are for single users
        or features, whose use it was.

        It is an event of its own, flagged "correction", which quotas, rollups and statistics follow; nothing is edited.
        Tokens and costs stay: see `reprice`.

        Raises:
            InvalidInput: a quantity of zero; more than there was of the event, or of the resource type on that day.
            NotFound: there is no such event, or it was removed. IdempotencyConflict: the key was used with other input.
        """
        engine = self._engine
        wanted = Adjustment.checked(engine, quantity=quantity, reason=reason, idempotency_key=idempotency_key)
        if resource_type is None:
            if occurred_at is not None or user is not None or feature:
                raise InvalidInput("what", what, "An event says itself when, by whom and for what it was used.")
            return self._adjusted(adjust_event(engine, what, wanted))
        context = self._context(
            {
                "billable": subject_reference(what, engine),
                "resource_type": resource_type,
                "user": user,
                "feature": feature,
                "metadata": wanted.metadata,
            },
            "",
            ProviderUsage(),
        )
        return self._adjusted(adjust_use(engine, context, wanted, engine.instant(occurred_at, field="occurred_at")))

    def _adjusted(self, answer: Recorded | Replayed) -> UsageEvent:
        if isinstance(answer, Replayed):
            return self.get(answer.event_id)
        self._engine.announce(answer)
        return UsageEvent.from_row(answer.row)

    def cleanup(
        self,
        days: int | None = None,
        *,
        dry_run: bool = False,
        batch_size: int = 500,
        progress: Progress | None = None,
    ) -> Cleanup:
        """Remove the events of days that ended more than `days` (otherwise `storage.prune_after_days`) days ago.

        Every sum stays: statistics, counters, quotas of all time, overages, the ledger; the doctor can prove them and
        says what was removed. Events without a price stay until they have one. A removed event cannot be explained,
        repriced or adjusted any more; its idempotency key still means it. `progress` is told how many of how many.
        """
        return cleanup(self._engine, days=days, dry_run=dry_run, batch_size=batch_size, progress=progress)

    def delete_for(self, billable: object) -> Erasure:
        """Erase a billable's usage for good: events, rollups, holds, keys, and its name in the events of others.

        The counters of the period that is running stay, so that an erasure does not give a used-up limit, feature or
        cap back. Overages and the books of credits stay, under the billable's name: they are accounts that were
        charged. The users, notes and metadata in them go.
        """
        return delete_for(self._engine, billable_reference(billable, self._engine.billable_resolver))

    def anonymize_before(self, when: str | datetime) -> Erasure:
        """Take the names out of all use before an instant (of the start of its day): billables, users, metadata, keys.

        Sums stay, under a random name for each billable that leads back to nobody. Overages and the books of credits
        keep their billable; the users, notes and metadata in them go.
        """
        return anonymize_before(self._engine, self._engine.instant(when, field="when"))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _filter(self, billable: object, start: Any, end: Any, resource_type: str | None) -> UsageFilter:
        engine = self._engine
        wanted = UsageFilter(
            billable=None if billable is None else subject_reference(billable, engine),
            resource_type=resource_type,
            start=MIN_MICROS if start is None else engine.instant(start, field="start"),
            end=MAX_MICROS if end is None else engine.instant(end, field="end"),
        )
        if wanted.end < wanted.start:
            raise InvalidInput("end", end, f"It must not lie before start ({start}).")
        return wanted

    def _record(self, record: Mapping[str, Any]) -> UsageEvent:
        answer = self._engine.lane.run(self._command(record))
        if isinstance(answer, InProgress):
            raise CallInProgress(str(record.get("idempotency_key")), answer.hold_id)
        if isinstance(answer, Replayed):
            return self._first(answer, record)
        self._engine.announce(answer)
        return UsageEvent.from_row(answer.row)

    def _first(self, answer: Replayed, record: Mapping[str, Any]) -> UsageEvent:
        """Return the event that a key stands for. It is not recorded again where clean-up has removed it since."""
        try:
            return self.get(answer.event_id)
        except NotFound:
            remedy = f"It was recorded with the idempotency key {record.get('idempotency_key')!r}, and removed since."
            raise NotFound("usage event", answer.event_id, remedy) from None

    def _command(self, record: Mapping[str, Any]) -> LogUse:
        """Check one record and return the command that records it."""
        if not isinstance(record, Mapping):
            raise InvalidInput("record", record, "Give a mapping of fields.")
        engine = self._engine
        usage = _usage(record, engine.settings.billing.currency)
        provider = checked_text("provider", record.get("provider") or "").lower()
        has_tokens = bool(usage.total_tokens or usage.counts)
        is_priced = has_tokens or usage.total_cost is not None
        context = self._context(record, provider or (MANUAL if is_priced else ""), usage)
        occurred_at = engine.instant(record.get("occurred_at"), field="occurred_at")
        require_timely(occurred_at, now=engine.now(), days_max=engine.settings.usage.late_event_days)
        facts = engine.facts(context, usage, occurred_at=occurred_at, has_price=is_priced)
        if facts.costs is not None and facts.costs[2] > COST_NANOS_MAX:
            raise InvalidInput("total_cost", facts.costs[2] // NANOS, "It is more than can be counted.")
        return LogUse(facts, engine.currency_rates)

    def _context(self, record: Mapping[str, Any], provider: str, usage: ProviderUsage) -> CallContext:
        engine = self._engine
        user, tenant = record.get("user"), record.get("tenant")
        user_id = None if user is None else user_reference(user)
        tenant_id = None if tenant is None else tenant_reference(tenant)
        billable = record.get("billable")
        payer = tenant_id or user_id if billable is None else billable_reference(billable, engine.billable_resolver)
        if payer is None:
            raise InvalidInput("billable", None, "Say who pays: billable, tenant or user.")
        feature, mode = record.get("feature") or "", record.get("billing_mode")
        default_type = "completion" if provider else "usage"
        key = record.get("idempotency_key")
        stated_type = record.get("resource_type")
        resource_type, quantity = default_type, to_millionths(record.get("quantity", 1))
        if stated_type:
            resource_type, quantity = checked_use(engine.settings.usage, stated_type, record.get("quantity", 1))
        return CallContext(
            billable=payer,
            user_id=user_id,
            tenant_id=tenant_id,
            provider=provider,
            model=checked_text("model", record.get("model") or ""),
            feature=checked_name("feature", feature) if feature else "",
            resource_type=resource_type,
            billing_mode=None if mode is None else checked_billing_mode(mode),
            metadata=engine.metadata_policy.encoded(record.get("metadata") or {}),
            idempotency_key=None if key is None else checked_key(key),
            manual_usage=usage,
            quantity=quantity,
        )


def subject_reference(subject: object, engine: Engine) -> str:
    """Return whose use is meant: a tenant's slug or id, or any billable."""
    if isinstance(subject, str) and ":" not in subject:
        return tenant_billable(engine, subject)
    return billable_reference(subject, engine.billable_resolver)


def _usage(record: Mapping[str, Any], currency: str) -> ProviderUsage:
    stated = {name: value for name, value in record.items() if name not in _CONTEXT_FIELDS and value is not None}
    cost = record.get("total_cost")
    if cost is not None and not isinstance(cost, Money):
        cost = Money(cost, record.get("currency") or currency)
    if record.get("total_tokens") is not None and "input_tokens" not in stated and "output_tokens" not in stated:
        stated["input_tokens"] = record["total_tokens"]
    if cost is not None:
        stated["total_cost"] = cost
    return manual_usage(stated)


def _still_in_progress(index: int, answer: InProgress) -> Rejection:
    return Rejection(index, f"A call in flight (hold {answer.hold_id}) has this idempotency key.", "call_in_progress")


def _chunks(items: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
    chunk: list[tuple[int, Mapping[str, Any]]] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
