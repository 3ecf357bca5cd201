"""Credits of every kind in one line, as real grants with their transactions and events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from tallystick.credits.account import CreditKey, feature_unit
from tallystick.credits.commands import AddCredits
from tallystick.credits.input import checked_money, checked_quantity, wallet_currency
from tallystick.credits.posting import GrantTerms
from tallystick.credits.values import Grant
from tallystick.credits.wallets import Wallet
from tallystick.errors import InvalidInput
from tallystick.identity import billable_reference, new_id
from tallystick.metering.input import checked_name
from tallystick.money import Money
from tallystick.period import parse_instant, to_micros

if TYPE_CHECKING:
    from tallystick.app import Tallystick

__all__ = ["CreditFactory"]

Stated = Money | Decimal | int | str

_EXPIRED_SINCE = timedelta(days=1)
_LASTED = timedelta(days=30)
_PROMOTION_LASTS = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class CreditFactory:
    """Makes credits in an engine, as an application would: real grants, with their transactions and events.

    Each method names a billable and a feature's slug. Without a slug the credits are money and go to the wallet in
    `billing.currency`, or in the currency that they name. `with_credits` and `expiring_on` return a factory that makes
    everything so.

    Nothing is faked: a grant that is made is open at that moment of the engine's clock, except an `expired` one, which
    is recorded as granted before it expired. A feature that no plan lists gets a plan of its own, "with-api-calls",
    which nobody follows: credits are granted of features that are sold.
    """

    ts: Tallystick
    credits: Stated | None = None
    expires_at: datetime | None = None

    def with_credits(self, credits: Stated) -> CreditFactory:
        """Return a factory whose grants have so many credits."""
        return replace(self, credits=credits)

    def expiring_on(self, expires_at: str | datetime) -> CreditFactory:
        """Return a factory whose grants expire at an instant; a date is its midnight in UTC."""
        return replace(self, expires_at=parse_instant(expires_at, field="expires_at"))

    def wallet(self, billable: object, balance: Stated | None = None, reason: str = "top-up") -> Wallet:
        """Return a billable's wallet after adding to it: "100 USD", Money, or a number of `billing.currency`."""
        amount = self._money(balance if balance is not None else "100" if self.credits is None else self.credits)
        wallet = self.ts.wallets.get_or_create(billable, amount.currency)
        wallet.add_credits(amount, reason, expires_at=self.expires_at)
        return wallet

    def referral_bonus(self, billable: object, slug: str | None = None, credits: Stated | None = None) -> Grant:
        """Grant a referral bonus, of 10 unless told otherwise, that never expires."""
        return self._grant(billable, slug, credits, default=10, reason="Referral bonus")

    def promotion(self, billable: object, slug: str | None = None, credits: Stated | None = None) -> Grant:
        """Grant credits of a promotion, 50 unless told otherwise, that expire in 90 days."""
        return self._grant(billable, slug, credits, default=50, reason="Promotion", lasts=_PROMOTION_LASTS)

    def loyalty(self, billable: object, slug: str | None = None, credits: Stated | None = None) -> Grant:
        """Grant credits for loyalty, 25 unless told otherwise, that never expire."""
        return self._grant(billable, slug, credits, default=25, reason="Loyalty")

    def expiring(
        self,
        billable: object,
        slug: str | None = None,
        credits: Stated | None = None,
        *,
        in_days: float = 3,
    ) -> Grant:
        """Grant credits, 10 unless told otherwise, that expire in so many days of 24 hours."""
        return self._grant(billable, slug, credits, default=10, reason="Promotion", lasts=timedelta(days=in_days))

    def expired(self, billable: object, slug: str | None = None, credits: Stated | None = None) -> Grant:
        """Grant credits, 10 unless told otherwise, that expired yesterday, or when `expiring_on` says, after 30 days.

        They are in the history, and not in the balance. Their expiry is booked by whatever comes next:
        `ts.run_due_jobs()`, `ts.credits.expire()`, or a use.

        Raises:
            InvalidInput: `expiring_on` is not in the past.
        """
        engine = self.ts._engine
        now = engine.clock.now()
        expires_at = now - _EXPIRED_SINCE if self.expires_at is None else self.expires_at
        if expires_at > now:
            raise InvalidInput("expires_at", str(expires_at), "Give an instant in the past, or take `expiring`.")
        granted_at = expires_at - _LASTED
        key, amount = self._key_and_amount(billable, slug, self._stated(credits, 10))
        reason = "Promotion"
        known = engine.settings.credits.reason(reason, is_money=slug is None)
        terms = GrantTerms(
            id=new_id("grt"),
            kind=known.kind,
            amount=amount,
            priority=engine.settings.credits.default_priority if known.priority is None else known.priority,
            reason=reason,
            expires_at=to_micros(expires_at),
        )
        # Everybody else adds credits now. Only what is said to have been added before can have expired already.
        posted = engine.lane.run(AddCredits(key, terms, to_micros(granted_at), new_id("txn")))
        engine.announce_credits(posted)
        return self._found(key, terms.id)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _grant(
        self,
        billable: object,
        slug: str | None,
        stated: Stated | None,
        *,
        default: int,
        reason: str,
        lasts: timedelta | None = None,
    ) -> Grant:
        expires_at = self.expires_at
        if expires_at is None and lasts is not None:
            expires_at = self.ts.clock.now() + lasts
        amount = self._stated(stated, default)
        if slug is not None:
            if isinstance(amount, Money):
                raise InvalidInput(
                    "credits", str(amount), "A feature's credits are a number; leave the slug out for money."
                )
            self._list_feature(slug)
            return self.ts.features.grant_credits(billable, slug, amount, reason, expires_at=expires_at)
        money = self._money(amount)
        wallet = self.ts.wallets.get_or_create(billable, money.currency)
        line = wallet.add_credits(money, reason, expires_at=expires_at)
        return self._found(CreditKey(wallet.billable, wallet.currency), str(line.grant_id))

    def _stated(self, stated: Stated | None, default: int) -> Stated:
        if stated is not None:
            return stated
        return default if self.credits is None else self.credits

    def _money(self, stated: Stated) -> Money:
        if isinstance(stated, Money):
            return stated
        if isinstance(stated, str) and " " in stated.strip():
            return Money.parse(stated)
        currency = wallet_currency(self.ts._engine, None)
        return Money.from_nanos(checked_money(self.ts._engine, stated, currency).nanos, currency)

    def _key_and_amount(self, billable: object, slug: str | None, stated: Stated) -> tuple[CreditKey, int]:
        reference = billable_reference(billable, self.ts._engine.billable_resolver)
        if slug is None:
            money = self._money(stated)
            return CreditKey(reference, money.currency), money.nanos
        self._list_feature(slug)
        return CreditKey(reference, feature_unit(checked_name("feature", slug))), checked_quantity(stated)

    def _list_feature(self, slug: str) -> None:
        if not any(slug in plan.current.features for plan in self.ts.plans.list()):
            self.ts.plans.create(f"with-{slug}", features={slug: 0})

    def _found(self, key: CreditKey, grant_id: str) -> Grant:
        if key.unit.startswith("feature:"):
            found = self.ts.features.credits(key.billable, key.unit.removeprefix("feature:"), include_closed=True)
        else:
            found = self.ts.wallets.get(key.billable, key.unit).grants(include_closed=True)
        return next(grant for grant in found if grant.id == grant_id)
