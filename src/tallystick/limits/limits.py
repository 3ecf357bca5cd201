"""`ts.limits`: how a billable stands to its limits, and overrides of them for given dates."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from tallystick.credits.account import CreditKey, WalletStanding
from tallystick.credits.charges import wallet_standing
from tallystick.credits.listing import paying_unit
from tallystick.credits.posting import Purpose
from tallystick.credits.standing import read_workspace, usable
from tallystick.errors import CurrencyMismatch, InvalidInput, NotFound
from tallystick.identity import billable_reference, new_id
from tallystick.limits.decision import LimitCheck, check, check_wallet
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.plans.loading import journal_change
from tallystick.plans.terms import BillingMode, InForce, LimitOverride, Terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Limits"]


class Limits:
    """Asks about limits, and overrides them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def check(self, billable: object, *, tokens: int = 0, cost: Money | None = None) -> LimitCheck:
        """Say whether so many tokens, or such a cost, would be admitted now. Nothing is held and nothing refused.

        Where a wallet pays (a subscription in credits mode), it is asked instead: `remaining_cost` is what is left of
        it, and tokens are not limited.

        A billable whose subscription is paused is not allowed; nor, with `require_subscription`, one without any that
        is in force.

        Raises:
            InvalidInput: negative amounts. CurrencyMismatch: a cost in a currency without an exchange rate.
        """
        engine = self._engine
        reference = billable_reference(billable, engine.billable_resolver)
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise InvalidInput("tokens", tokens, "Give a whole number, zero or more.")
        if cost is not None and cost.nanos < 0:
            raise InvalidInput("cost", str(cost), "Give an amount of zero or more.")
        terms = engine.terms(reference)
        in_force = terms.at(engine.now())
        reason = None
        if in_force.is_suspended:
            reason = f"The subscription of {reference} is suspended."
        elif engine.settings.require_subscription and in_force.subscription_id is None:
            reason = f"{reference} has no subscription in force."
        if in_force.billing_mode is BillingMode.CREDITS:
            return self._check_wallet(terms, in_force, cost, reason)
        nanos = 0 if cost is None else cost.convert(in_force.currency, engine.currency_rates).nanos
        return check(
            reference,
            in_force,
            engine.standing(reference, in_force),
            approaching_percentage=engine.settings.limits.approaching_percentage,
            tokens=tokens,
            cost=nanos,
            is_enforced=engine.settings.enforcement == "on",
            reason=reason,
        )

    def _check_wallet(self, terms: Terms, in_force: InForce, cost: Money | None, reason: str | None) -> LimitCheck:
        """Ask the wallet that pays, as a hold of the plan's currency would."""
        engine = self._engine
        at = engine.now()

        def look(connection: Connection) -> WalletStanding:
            unit = paying_unit(connection, terms.billable, in_force.currency)
            workspace = read_workspace(engine, connection, terms, at, unit)
            key = CreditKey(terms.billable, unit)
            account = workspace.credits.get(key)
            if account is None:
                return WalletStanding(unit, 0, 0, 0)
            found = wallet_standing(workspace, account)
            if account.overdraft:
                return found
            free = usable(workspace, key, Purpose(at, subscription_id=in_force.subscription_id))
            return found._replace(available=free)

        wallet = engine.read_snapshot(look)
        nanos = 0 if cost is None else cost.convert(wallet.currency, engine.currency_rates).nanos
        is_enforced = engine.settings.enforcement == "on"
        return check_wallet(terms.billable, in_force, wallet, cost=nanos, reason=reason, is_enforced=is_enforced)

    def override(
        self,
        billable: object,
        *,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        token_limit: int | None = None,
        cost_limit: Money | None = None,
        reason: str | None = None,
    ) -> LimitOverride:
        """Replace a billable's limits for `[start, end)`, from now and for ever where these are left out.

        A limit that is not given stays the plan's. Of several overrides in force the one made last counts, for each
        limit apart. It takes effect at once, in every process, for the period that is running.

        Raises:
            InvalidInput: an end before the start, no limit, a negative limit.
            CurrencyMismatch: a cost limit in another currency than the plan's.
        """
        engine = self._engine
        reference = billable_reference(billable, engine.billable_resolver)
        now = engine.now()
        starts, ends = engine.instant(start, field="start"), end
        override = LimitOverride(
            id=new_id("ovr"),
            billable=reference,
            start=from_micros(starts),
            end=None if ends is None else from_micros(engine.instant(ends, field="end")),
            token_limit=token_limit,
            cost_limit=cost_limit,
            reason=reason,
            created_at=from_micros(now),
        )
        in_force = engine.terms(reference).at(max(now, starts))
        if cost_limit is not None and cost_limit.currency != in_force.currency:
            raise CurrencyMismatch(
                f"The limits of {reference} are in {in_force.currency}; the override is in {cost_limit.currency}. "
                f"Give it in {in_force.currency}.",
                source=cost_limit.currency,
                target=in_force.currency,
            )

        def insert(connection: Connection) -> None:
            connection.execute(
                tables.limit_overrides.insert().values(
                    id=override.id,
                    billable=reference,
                    start_at=starts,
                    end_at=None if override.end is None else engine.instant(override.end, field="end"),
                    token_limit=token_limit,
                    cost_limit=None if cost_limit is None else cost_limit.nanos,
                    currency=None if cost_limit is None else cost_limit.currency,
                    reason=reason,
                    created_at=now,
                )
            )
            journal_change(connection, reference)

        engine.lane.transact(insert)
        return override

    def overrides(self, billable: object) -> list[LimitOverride]:
        """Return every override of a billable, the newest first."""
        reference = billable_reference(billable, self._engine.billable_resolver)
        overrides = self._engine.terms(reference).overrides
        return sorted(overrides, key=lambda one: (one.created_at, one.id), reverse=True)

    def end_override(self, override_id: str) -> None:
        """End an override now; one that has not begun yet is removed.

        Raises:
            NotFound: no such override.
        """
        now = self._engine.now()
        overrides = tables.limit_overrides

        def end(connection: Connection) -> None:
            row = connection.execute(overrides.select().where(overrides.c.id == override_id)).first()
            if row is None:
                raise NotFound("limit override", override_id)
            if row.start_at >= now:
                connection.execute(overrides.delete().where(overrides.c.id == override_id))
            elif row.end_at is None or row.end_at > now:
                connection.execute(overrides.update().where(overrides.c.id == override_id).values(end_at=now))
            journal_change(connection, row.billable)

        self._engine.lane.transact(end)
