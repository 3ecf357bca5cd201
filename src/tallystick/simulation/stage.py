"""The play itself: one day after the other, on a real engine whose clock is moved by hand.

Each day is cut wherever something happens, or a subscription turns. At each cut, in this order: what was used until
then is recorded, what is due is done (invoices, reminders, expiries), customers pay, and what happens then happens.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tallystick import FixedClock, Tallystick
from tallystick.errors import Conflict, InvalidInput, TallystickError
from tallystick.events import (
    Event,
    PaymentFailed,
    PaymentSucceeded,
    PlanChanged,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionRenewed,
)
from tallystick.simulation.cashier import Cashier
from tallystick.simulation.deeds import carry_out
from tallystick.simulation.demand import Use, uses_between
from tallystick.simulation.opening import open_simulation
from tallystick.simulation.outcome import Outcome, Skipped
from tallystick.simulation.players import Player, cast
from tallystick.simulation.rooms import ask_room, model_rates
from tallystick.simulation.scenario import Month, Scenario
from tallystick.simulation.takings import MonthEnd, month_end, outcome_of

__all__ = ["Stage", "simulate"]

Progress = Callable[[int, int], None]

_MICROSECOND = timedelta(microseconds=1)
# After one of these the customer stands differently.
_TURNS: tuple[type[Event], ...] = (
    PaymentFailed,
    PaymentSucceeded,
    PlanChanged,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionRenewed,
)
_TOP_UP_BELOW = 5


def simulate(
    scenario: Scenario,
    *,
    database: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Play a scenario, and return what came of it.

    It is played on an empty database, otherwise on an SQLite file that is removed afterwards. `settings` lie under the
    scenario's own. Nothing leaves the machine: no mail, no webhook, no payment provider. `progress` is told how many
    days of how many are done.

    Raises:
        InvalidInput: something in the scenario cannot be; `field` names file, table and key.
        Conflict: the database is not empty. StorageError: it cannot be opened.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tallystick-", ignore_cleanup_errors=True) as folder:
        url = database or f"sqlite:///{Path(folder) / 'simulation.db'}"
        clock = FixedClock(scenario.start)
        with open_simulation(scenario, url, clock, settings or {}, Path(folder)) as ts:
            stage = Stage(scenario, ts, clock)
            ends = stage.play(progress or _nobody)
            return outcome_of(stage, ends, started=started)


def _nobody(done: int, total: int) -> None:
    """Tell nobody how far it is."""


class Stage:
    """An engine with its customers, between two instants of the scenario."""

    def __init__(self, scenario: Scenario, ts: Tallystick, clock: FixedClock) -> None:
        self.scenario = scenario
        self.ts = ts
        self.clock = clock
        self.players = cast(scenario)
        self.by_billable = {player.billable: player for player in self.players}
        self.cashier = Cashier(ts, scenario.seed, self.by_billable)
        self.refused: Counter[tuple[str, str]] = Counter()
        self.skipped: list[Skipped] = []
        self._ends: list[MonthEnd] = []
        self._rates = model_rates(ts, scenario)
        self._grace = ts.settings.billing.payment_failure_grace_period_days
        self._is_careful = bool(ts.settings.rate_limits) or bool(ts.settings.tenants.default_quotas)
        # The place among all keeps the order of customers for what happens at one instant.
        self._deeds = [(deed.at, place, number) for place, one in enumerate(self.players) for number, deed in
                       enumerate(one.deeds)]  # fmt: skip
        heapq.heapify(self._deeds)
        for turn in _TURNS:
            ts.on(turn)(self._hear)

    # -- days ---------------------------------------------------------------------------------------------------------

    def play(self, progress: Progress) -> list[MonthEnd]:
        """Play all months, and return how customers stood at the end of each."""
        total = (self.scenario.end - self.scenario.start).days
        self._act(self.scenario.start)
        for month in self.scenario.parts():
            for start, end in self._days(month):
                self._play_day(month, start, end)
                progress((end - self.scenario.start).days, total)
        return self._ends

    def _days(self, month: Month) -> Iterator[tuple[datetime, datetime]]:
        start = month.start
        while start < month.end:
            end = min(self.scenario.after_days(start, 1), month.end)
            yield start, end
            start = end

    def _play_day(self, month: Month, start: datetime, end: datetime) -> None:
        waiting: dict[str, list[Use]] = {}
        at = start
        while at < end:
            until = self._next_cut(at, end)
            self._use(month, at, until, self._uses(waiting, start, end, at, until))
            if until == month.end:
                # Before what happens then: that belongs to the next month.
                self._ends.append(month_end(self, month))
            if until < self.scenario.end:
                self._act(until)
            at = until

    def _next_cut(self, at: datetime, end: datetime) -> datetime:
        """Return when something happens next, at the end of the day at the latest."""
        turns = [player.turns_at for player in self.players if player.turns_at is not None and player.turns_at > at]
        return min([end, *turns, *(deed[0] for deed in self._deeds[:1])])

    def _act(self, now: datetime) -> None:
        """Do what is due, let customers pay, and let happen what happens now."""
        self.clock.set(now)
        self.ts.run_due_jobs()
        has_happened = False
        while self._deeds and self._deeds[0][0] <= now:
            _, place, number = heapq.heappop(self._deeds)
            self._happen(self.players[place], number)
            has_happened = True
        if has_happened:
            # What was changed may be due at once, such as the first fee.
            self.ts.run_due_jobs()
        self.cashier.settle(now)
        for player in self.players:
            self._look_at(player, now)

    def _happen(self, player: Player, number: int) -> None:
        deed = player.deeds[number]
        player.is_stale = True
        try:
            carry_out(self.ts, self.scenario, player, deed)
        except TallystickError as error:
            if deed.do == "start":
                raise _named(self.scenario, player, error) from None
            self.skipped.append(Skipped(player.billable, deed.at, deed.do, error.message))

    def _look_at(self, player: Player, now: datetime) -> None:
        """See how a customer stands, where that may have changed."""
        if not player.has_started or not (player.is_stale or (player.turns_at is not None and player.turns_at <= now)):
            return
        player.subscription = self.ts.subscriptions.get(player.billable)
        player.status = str(player.subscription.status(now, grace_period_days=self._grace))
        turns = player.subscription.turning_points(grace_period_days=self._grace)
        player.turns_at = min((one for one in turns if one > now), default=None)
        player.is_careful = self._is_careful
        player.room = None
        player.is_stale = False

    def _hear(self, event: Event) -> None:
        player = self.by_billable.get(event.billable)
        if player is not None:
            player.is_stale = True

    # -- use ----------------------------------------------------------------------------------------------------------

    def _uses(
        self, waiting: dict[str, list[Use]], start: datetime, end: datetime, at: datetime, until: datetime
    ) -> list[tuple[Player, list[Use]]]:
        """Return what each customer uses in `[at, until)` of a day; `waiting` keeps what comes later on it."""
        found: list[tuple[Player, list[Use]]] = []
        for player in self.players:
            if not player.uses:
                continue
            if player.billable not in waiting:
                waiting[player.billable] = uses_between(
                    self.scenario, player.group, player.billable, start=start, end=end, since=player.starts_at
                )
            # What a customer would have done before it came, or while it was away, did not happen.
            uses = [use for use in waiting[player.billable] if at <= use.at < until]
            if uses:
                found.append((player, uses))
        return found

    def _use(self, month: Month, at: datetime, until: datetime, wanted: Sequence[tuple[Player, list[Use]]]) -> None:
        """Let customers use something: one call after the other where a limit is near, and the rest at once."""
        careful: list[tuple[datetime, int, Use, Player]] = []
        records: list[Mapping[str, object]] = []
        for place, (player, uses) in enumerate(wanted):
            if self._has_room(player, uses, at, until):
                records += [_record(player, use) for use in uses]
            else:
                careful += [(use.at, place, use, player) for use in uses]
        for _, __, use, player in sorted(careful, key=lambda one: one[:2]):
            self._ask(month, player, use)
        self.clock.set(until - _MICROSECOND)
        result = self.ts.usage.record_batch(records)
        if result.rejected:
            rejection = result.rejected[0]
            raise InvalidInput(
                f"{self.scenario.file}: customers", records[rejection.index]["billable"], rejection.reason
            )
        for player, _ in wanted:
            self._top_up(player)

    def _has_room(self, player: Player, uses: Sequence[Use], at: datetime, until: datetime) -> bool:
        if player.is_careful:
            return False
        room = player.room
        if room is None or (room.until is not None and room.until <= at):
            self.clock.set(at)
            room = ask_room(self.ts, player.billable, player.turns_at)
        if room.tokens is None and room.nanos is None:
            player.room = room
            return True
        tokens = sum(use.input_tokens + use.output_tokens for use in uses)
        nanos = 0 if room.nanos is None else self._rates.most(uses, room.currency)
        fits = (
            nanos is not None
            and (room.until is None or until <= room.until)
            and (room.tokens is None or tokens <= room.tokens)
            and (room.nanos is None or nanos <= room.nanos)
        )
        # Once it has become narrow it stays so until the limits begin anew: the engine decides each call.
        player.room = room.less(tokens, nanos or 0) if fits else room.closed()
        return fits

    def _ask(self, month: Month, player: Player, use: Use) -> None:
        """Make one real call, or use a resource where its quotas have room; count it where it is refused."""
        self.clock.set(use.at)
        try:
            if use.resource_type:
                self.ts.quotas.consume(player.billable, use.resource_type, use.quantity)
                return
            meter = self.ts.meter.billable(player.billable).using_provider(use.provider, use.model)
            if player.group.feature:
                meter = meter.feature(player.group.feature)
            usage = {"input_tokens": use.input_tokens, "output_tokens": use.output_tokens}
            meter.estimate(tokens=use.input_tokens + use.output_tokens).with_manual_usage(usage).call(_answered)
        except TallystickError as error:
            player.refused[error.code] += 1
            self.refused[month.label, error.code] += 1

    def _top_up(self, player: Player) -> None:
        """Add credits where a wallet runs low, as its customer would have agreed to."""
        amount = player.group.tops_up
        if amount is None:
            return
        wallet = self.ts.wallets.get_or_create(player.billable, amount.currency)
        if wallet.available.nanos * _TOP_UP_BELOW < amount.nanos:
            wallet.add_credits(amount, "top-up")
            player.room = None


def _answered() -> None:
    """Stand for the provider's answer: what was used is stated."""


def _record(player: Player, use: Use) -> Mapping[str, object]:
    if use.resource_type:
        return {
            "billable": player.billable,
            "resource_type": use.resource_type,
            "quantity": use.quantity,
            "occurred_at": use.at,
        }
    return {
        "billable": player.billable,
        "provider": use.provider,
        "model": use.model,
        "input_tokens": use.input_tokens,
        "output_tokens": use.output_tokens,
        "feature": player.group.feature,
        "occurred_at": use.at,
    }


def _named(scenario: Scenario, player: Player, error: TallystickError) -> TallystickError:
    """Return an error that says which customer could not begin."""
    place = scenario.groups.index(player.group) + 1
    if isinstance(error, InvalidInput):
        field = f"billing.{error.field}" if error.field in player.group.billing else error.field
        return InvalidInput(f"{scenario.file}: customers[{place}].{field}", error.value, error.remedy)
    return Conflict(f"{scenario.file}: customers[{place}], {player.billable}: {error.message}")
