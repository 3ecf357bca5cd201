"""`ts.wallets`: prepaid money, and `Wallet`, one of them at work."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from tallystick.credits.account import FEATURE_PREFIX, CreditKey
from tallystick.credits.caps import CAP_PERIODS, set_cap
from tallystick.credits.charges import Exchange
from tallystick.credits.commands import (
    AddCredits,
    CloseTopUp,
    ConfigureAccount,
    DeductCredits,
    RefundCredits,
    TransferCredits,
)
from tallystick.credits.input import (
    checked_money,
    checked_reason,
    grant_terms,
    keyed,
    money_allowed,
    require_future,
    stated_expiry,
    wallet_currency,
)
from tallystick.credits.listing import (
    Balance,
    TransactionFilter,
    find_transaction,
    list_grants,
    list_top_ups,
    list_transactions,
    read_balance,
)
from tallystick.credits.posting import Purpose, overdraft_room
from tallystick.credits.standing import read_workspace, usable
from tallystick.credits.transacting import (
    refundable,
    refusal_of,
    revoke_grant,
    through_lane,
    transact,
    transacting,
)
from tallystick.credits.values import AutoTopUp, CreditTransaction, Grant, SpendingCap, TopUp, TransactionPage
from tallystick.errors import Conflict, InvalidInput, NotFound
from tallystick.identity import billable_reference, new_id, user_reference
from tallystick.metering.flow import Flow, Read
from tallystick.metering.input import checked_name
from tallystick.money import Money
from tallystick.period import to_micros
from tallystick.plans.loading import load_terms
from tallystick.plans.terms import CreditCap
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Wallet", "Wallets"]

_TYPES = ("credit", "debit")
_SOURCES = ("grant", "usage", "deduction", "expiry", "transfer", "exchange", "refund", "reversal", "revocation")
_REFUNDABLE = ("usage", "deduction")
_TOP_UP_STATUSES = ("pending", "completed", "failed")


class Wallet:
    """One billable's prepaid money in one currency. Each property reads it as it is at that moment.

    An amount is `Money`, or a number of the wallet's currency (`Decimal`, int, or text such as "12.50"; a float is
    refused). Money of another currency is converted with `billing.currency_rates`, and the rate is kept with the
    transaction.
    """

    def __init__(self, engine: Engine, id: str, key: CreditKey) -> None:  # noqa: A002  # it is public as `wallet.id`
        self._engine = engine
        self._id = id
        self._key = key

    @property
    def id(self) -> str:
        return self._id

    @property
    def billable(self) -> str:
        return self._key.billable

    @property
    def currency(self) -> str:
        return self._key.unit

    # -- balances -----------------------------------------------------------------------------------------------------

    @property
    def balance(self) -> Money:
        """What is there, less what has expired; below zero where more was used than there was."""
        return self._money(self._read_balance().posted)

    @property
    def available(self) -> Money:
        """The balance less what calls in flight hold: what new use could take, before restrictions of single grants."""
        balance = self._read_balance()
        return self._money(balance.posted - balance.held)

    @property
    def held(self) -> Money:
        """What calls in flight have reserved."""
        return self._money(self._read_balance().held)

    @property
    def paid(self) -> Money:
        """The part of the balance that was paid for."""
        return self._money(self._read_balance().paid)

    @property
    def promotional(self) -> Money:
        """The part of the balance that was given away."""
        return self._money(self._read_balance().promotional)

    @property
    def overdraft(self) -> Money:
        """What was used beyond the credits: zero, or below."""
        return self._money(self._read_balance().overdraft)

    @property
    def minimum_balance(self) -> Money | None:
        """Below what `CreditsLow` is sent, if that was set for this wallet."""
        return self._optional(self._read_balance().minimum_balance)

    @property
    def overdraft_limit(self) -> Money | None:
        """How far below zero this wallet may go, if that was set for it."""
        return self._optional(self._read_balance().overdraft_limit)

    @property
    def auto_top_up(self) -> AutoTopUp | None:
        """When this wallet asks to be topped up, if it does."""
        found = self._read_balance()
        if found.top_up_below is None or found.top_up_amount is None:
            return None
        return AutoTopUp(
            below=self._money(found.top_up_below),
            amount=self._money(found.top_up_amount),
            monthly_max=self._optional(found.top_up_monthly_max),
            state=found.top_up_state,
        )

    def has_sufficient_balance(self, amount: Money | Decimal | str | int, *, feature: str | None = None) -> bool:
        """Say whether so much could be deducted now: from what is free to use, and from overdraft where it is allowed.

        Grants that only a feature may use count where it is named. To be sure of an amount, deduct or hold it.
        """
        wanted = checked_money(self._engine, amount, self.currency, least=0).nanos
        purpose_feature = "" if feature is None else checked_name("feature", feature)
        at = self._engine.now()

        def read(connection: Connection) -> bool:
            terms = load_terms(connection, [self.billable], self._engine.terms_policy)[self.billable]
            workspace = read_workspace(self._engine, connection, terms, at, self.currency)
            purpose = Purpose(at, feature=purpose_feature, subscription_id=terms.at(at).subscription_id)
            account = workspace.credits[self._key]
            return wanted <= usable(workspace, self._key, purpose) + overdraft_room(workspace, account)

        return self._engine.read_snapshot(read)

    # -- reading ------------------------------------------------------------------------------------------------------

    def transactions(
        self,
        type: str | None = None,  # noqa: A002  # the word of the statement
        source: str | None = None,
        reason: str | None = None,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> TransactionPage:
        """Return a page of transactions, the newest first: of a type ("credit", "debit"), a source, a reason.

        `start` is included and `end` is not; both mean when a transaction took effect.
        """
        for field, value, known in (("type", type, _TYPES), ("source", source, _SOURCES)):
            if value is not None and value not in known:
                raise InvalidInput(field, value, f"Use one of {', '.join(known)}.")
        wanted = TransactionFilter(
            type=type,
            source=source,
            reason=reason,
            start=None if start is None else self._engine.instant(start, field="start"),
            end=None if end is None else self._engine.instant(end, field="end"),
        )
        return self._engine.read(
            lambda connection: list_transactions(connection, self._key, wanted, limit=limit, cursor=cursor)
        )

    def transaction(self, transaction_id: str) -> CreditTransaction:
        """Return one of this wallet's transactions.

        Raises:
            NotFound: it has none with this id.
        """
        row = self._engine.read(lambda connection: find_transaction(connection, transaction_id, self._key))
        if row is None:
            raise NotFound("transaction", transaction_id)
        return CreditTransaction.from_row(tuple(row))

    def grants(self, include_closed: bool = False) -> list[Grant]:
        """Return what was added and is not used up, in the order in which it is used; all of it ever, if asked."""
        return self._engine.read(
            lambda connection: list_grants(
                connection,
                self._key,
                self._engine.now(),
                include_closed=include_closed,
                expiring_first=self._engine.credit_policy.expiring_first,
            )
        )

    def caps(self) -> list[SpendingCap]:
        """Return the caps on what single users may spend, that of everybody first."""
        own = [cap for cap in self._engine.terms(self.billable).caps if cap.unit == self.currency]
        return [
            SpendingCap(
                user=None if cap.member == CreditCap.EVERYBODY else cap.member,
                amount=self._money(cap.amount),
                period=cap.period,
                created_at=cap.created_at,
            )
            for cap in sorted(own, key=lambda cap: (cap.member != CreditCap.EVERYBODY, cap.member))
        ]

    # -- adding and taking --------------------------------------------------------------------------------------------

    @through_lane
    def add_credits(
        self,
        amount: Money | Decimal | str | int,
        reason: str = "top-up",
        meta: Mapping[str, object] | None = None,
        expires_at: str | datetime | None = None,
        priority: int | None = None,
        granted_by: object = None,
        *,
        kind: str | None = None,
        feature: str | None = None,
        limit: Money | Decimal | str | int | None = None,
        limit_period: str | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[CreditTransaction]:
        """Add credits as a grant of their own. An overdraft is paid from them first.

        The reason says, by `credits.reasons`, whether they were paid for, when they expire and how early they are used;
        `kind` ("paid", "promotional"), `expires_at` and `priority` (0 to 100, lower is used first) say otherwise.
        `feature` restricts them to calls of that feature; with `limit`, at most so much of them is used in each
        `limit_period` ("hourly", "daily"). With an idempotency key a repetition returns the first transaction.

        Raises:
            InvalidInput: an amount of zero or less, a float, more than `credits.money_grant_max`, or bad terms.
            CurrencyMismatch: Money of another currency without an exchange rate.
            IdempotencyConflict: the key was used with other input.
        """
        engine, at = self._engine, self._engine.now()
        added = checked_money(engine, amount, self.currency)
        most = None if limit is None else checked_money(engine, limit, self.currency, field="limit")
        terms = grant_terms(
            engine,
            at,
            added.nanos,
            is_money=True,
            reason=reason,
            meta=meta,
            expires_at=expires_at,
            priority=priority,
            granted_by=granted_by,
            kind=kind,
            limit=None if most is None else most.nanos,
            limit_period=limit_period,
            feature=None if feature is None else checked_name("feature", feature),
        )
        key = keyed(
            idempotency_key,
            "add_credits",
            currency=self.currency,
            amount=added.stated,
            reason=terms.reason,
            expires_at=stated_expiry(engine, expires_at),
            priority=priority,
            granted_by=terms.granted_by,
            kind=kind,
            feature=feature,
            limit=None if most is None else most.stated,
            limit_period=limit_period,
        )

        def allow() -> None:
            money_allowed(engine, added, self.currency)
            require_future(terms.expires_at, at)

        command = AddCredits(self._key, terms, at, new_id("txn"), added.exchange, key)
        return (yield from transacting(engine, command, refusal=refusal_of(allow), key=key))[0]

    @through_lane
    def deduct_credits(
        self,
        amount: Money | Decimal | str | int,
        reason: str = "usage",
        meta: Mapping[str, object] | None = None,
        *,
        feature: str | None = None,
        user: object = None,
        idempotency_key: str | None = None,
    ) -> Flow[CreditTransaction]:
        """Take credits, whole or not at all, in the order of use. `user` is whose spending it is, where caps count it.

        Raises:
            CreditsInsufficient: there is too little.
            LimitExceeded: the user's cap has too little room.
            InvalidInput, CurrencyMismatch, IdempotencyConflict: as `add_credits`.
        """
        engine = self._engine
        taken = checked_money(engine, amount, self.currency)
        member = None if user is None else user_reference(user)
        checked = checked_reason(reason)
        named = None if feature is None else checked_name("feature", feature)
        key = keyed(
            idempotency_key,
            "deduct_credits",
            currency=self.currency,
            amount=taken.stated,
            reason=checked,
            feature=named,
            user=member,
        )
        command = DeductCredits(
            self._key,
            taken.nanos,
            engine.now(),
            new_id("txn"),
            checked,
            metadata=engine.metadata_policy.encoded({} if meta is None else meta),
            feature=named,
            user_id=member,
            exchange=taken.exchange,
            keyed=key,
        )
        return (yield from transacting(engine, command))[0]

    @through_lane
    def transfer(
        self,
        to: object,
        amount: Money | Decimal | str | int,
        reason: str = "transfer",
        meta: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[CreditTransaction]:
        """Move credits to another wallet, or to a billable's of this currency; it is made where there is none.

        They go in the order of use and keep their kind, priority and expiry; credits that are restricted stay. A wallet
        of another currency gets them at the rate of `billing.currency_rates`. Returns this wallet's line.

        Raises:
            CreditsInsufficient: too little is free to move. An overdraft is never moved.
            InvalidInput: to itself. CurrencyMismatch: there is no rate.
        """
        engine = self._engine
        target = _key_of(engine, to, self.currency)
        if target == self._key:
            raise InvalidInput("to", target.billable, "Name another wallet.")
        moved = checked_money(engine, amount, self.currency)
        checked = checked_reason(reason)
        rate = engine.currency_rates.rate(self.currency, target.unit)
        key = keyed(
            idempotency_key,
            "transfer",
            currency=self.currency,
            to=target.billable,
            to_currency=target.unit,
            amount=moved.stated,
            reason=checked,
        )
        command = TransferCredits(
            self._key,
            target,
            moved.nanos,
            engine.now(),
            new_id("txn"),
            checked,
            Exchange(self.currency, target.unit, rate),
            metadata=engine.metadata_policy.encoded({} if meta is None else meta),
            keyed=key,
        )
        return (yield from transacting(engine, command))[0]

    @through_lane
    def refund(
        self,
        transaction_id: str,
        amount: Money | Decimal | str | int | None = None,
        reason: str = "refund",
        meta: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[CreditTransaction]:
        """Give back a call or a deduction, or a part of it, to the grants that it was taken of; the last taken first.

        What goes back to a grant that has expired expires at once. Without an amount, all that is left of it goes back.

        Raises:
            NotFound: this wallet has no such transaction.
            InvalidInput: it was no use, or more than is left of it.
            Conflict: all of it was given back.
        """
        engine = self._engine
        back = None if amount is None else checked_money(engine, amount, self.currency)
        checked = checked_reason(reason)
        original: CreditTransaction = yield Read(lambda: self.transaction(transaction_id))
        if original.source not in _REFUNDABLE:
            raise InvalidInput(
                "transaction_id",
                transaction_id,
                f"It is a {original.source}: refund a call or a deduction, or undo it with ts.ledger.reverse(...).",
            )
        key = keyed(
            idempotency_key,
            "refund",
            transaction_id=transaction_id,
            amount=None if back is None else back.stated,
            reason=checked,
        )
        refunded, whole = refundable(original)
        command = RefundCredits(
            self._key,
            refunded,
            whole if back is None else back.nanos,
            engine.now(),
            new_id("txn"),
            checked,
            user_id=original.user,
            metadata=engine.metadata_policy.encoded({} if meta is None else meta),
            keyed=key,
        )
        return (yield from transacting(engine, command))[0]

    def revoke(self, grant_id: str, reason: str) -> CreditTransaction:
        """Take back what is left of one of this wallet's grants. What calls in flight have reserved of it stays theirs.

        Raises:
            NotFound: it has no such grant. Conflict: nothing is left of it.
        """
        return revoke_grant(self._engine, grant_id, reason, unit=self.currency, billable=self.billable)

    # -- settings -----------------------------------------------------------------------------------------------------

    def set_minimum_balance(self, amount: Money | Decimal | str | int | None) -> None:
        """Send `CreditsLow` when what is available falls below this; None: below `credits.minimum_balance`."""
        self._configure(minimum_balance=self._setting(amount, "amount"))

    def set_overdraft_limit(self, amount: Money | Decimal | str | int | None) -> None:
        """Let this wallet go so far below zero, also where the settings allow no overdraft; None: as they say."""
        self._configure(overdraft_limit=self._setting(amount, "amount"))

    def set_auto_top_up(
        self,
        below: Money | Decimal | str | int | None,
        amount: Money | Decimal | str | int | None = None,
        monthly_max: Money | Decimal | str | int | None = None,
    ) -> None:
        """Ask for `amount` (`TopUpRequested`) when what is available falls below a threshold; None: ask no more.

        One request at a time, and in a calendar month not more than `monthly_max`. After a payment has failed it is
        asked again when credits were added, or when this is called.

        Raises:
            InvalidInput: no amount, or more than the month's maximum.
        """
        if below is None:
            self._configure(top_up_below=None, top_up_amount=None, top_up_monthly_max=None)
            return
        if amount is None:
            raise InvalidInput("amount", amount, "Say how much to ask for.")
        wanted = checked_money(self._engine, amount, self.currency)
        money_allowed(self._engine, wanted, self.currency)
        most = self._setting(monthly_max, "monthly_max")
        if most is not None and most < wanted.nanos:
            raise InvalidInput("monthly_max", str(monthly_max), "Give at least the amount of one top-up.")
        self._configure(top_up_below=self._setting(below, "below"), top_up_amount=wanted.nanos, top_up_monthly_max=most)

    def set_cap(self, amount: Money | Decimal | str | int | None, user: object = None, period: str = "monthly") -> None:
        """Limit what one user may spend of this wallet in each period; without a user, each that has no cap of its own.

        What was spent since the running period began counts. None takes the cap away. Periods are "hourly", "daily",
        "weekly", "monthly", "quarterly", "yearly" and "total".
        """
        if period not in CAP_PERIODS:
            raise InvalidInput("period", period, f"Use one of {', '.join(CAP_PERIODS)}.")
        member = CreditCap.EVERYBODY if user is None else user_reference(user)
        set_cap(self._engine, self._key, member, self._setting(amount, "amount"), period)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _read_balance(self) -> Balance:
        now = self._engine.now()
        found = self._engine.read(lambda connection: read_balance(connection, self._key, now))
        if found is None:
            raise NotFound("wallet", f"{self.billable} {self.currency}")
        return found

    def _money(self, nanos: int) -> Money:
        return Money.from_nanos(nanos, self.currency)

    def _optional(self, nanos: int | None) -> Money | None:
        return None if nanos is None else self._money(nanos)

    def _setting(self, amount: Any, field: str) -> int | None:
        return (
            None if amount is None else checked_money(self._engine, amount, self.currency, field=field, least=0).nanos
        )

    def _configure(self, **changes: object) -> None:
        self._engine.lane.run(ConfigureAccount(self._key, self._engine.now(), changes))

    def __repr__(self) -> str:
        return f"<Wallet {self.id} of {self.billable} in {self.currency}>"


class Wallets:
    """Makes and finds wallets, and moves credits between them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_or_create(self, billable: object, currency: str | None = None) -> Wallet:
        """Return a billable's wallet in a currency (`billing.currency` where none is named), made if it is new."""
        key = _key_of(self._engine, billable, wallet_currency(self._engine, currency))
        found = self._find(key)
        if found is not None:
            return found
        return Wallet(self._engine, self._engine.lane.run(ConfigureAccount(key, self._engine.now())), key)

    def get(self, billable: object, currency: str | None = None) -> Wallet:
        """Return a billable's wallet in a currency.

        Raises:
            NotFound: it has none.
        """
        key = _key_of(self._engine, billable, wallet_currency(self._engine, currency))
        found = self._find(key)
        if found is None:
            raise NotFound(
                "wallet", f"{key.billable} {key.unit}", f"Make it with ts.wallets.get_or_create({key.billable!r})."
            )
        return found

    def list(self, billable: object = None) -> list[Wallet]:
        """Return the wallets of a billable, or all there are, by billable and currency."""
        reference = None if billable is None else billable_reference(billable, self._engine.billable_resolver)
        accounts = tables.credit_accounts
        query = (
            select(accounts.c.id, accounts.c.billable, accounts.c.unit)
            .where(~accounts.c.unit.startswith(FEATURE_PREFIX, autoescape=True))
            .order_by(accounts.c.billable, accounts.c.unit)
        )
        if reference is not None:
            query = query.where(accounts.c.billable == reference)
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [Wallet(self._engine, row.id, CreditKey(row.billable, row.unit)) for row in rows]

    def transfer(
        self,
        source: object,
        target: object,
        amount: Money | Decimal | str | int,
        *,
        currency: str | None = None,
        reason: str = "transfer",
        meta: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> CreditTransaction:
        """Move credits from one wallet, or one billable's of a currency, to another's, as `Wallet.transfer`.

        Raises:
            NotFound: the source has no wallet.
        """
        key = _key_of(self._engine, source, wallet_currency(self._engine, currency))
        return self.get(key.billable, key.unit).transfer(target, amount, reason, meta, idempotency_key)

    # -- automatic top-ups --------------------------------------------------------------------------------------------

    def top_ups(self, billable: object = None, status: str | None = None) -> builtins.list[TopUp]:
        """Return requests for top-ups, the newest first: "pending", "completed" or "failed" ones, if asked."""
        if status is not None and status not in _TOP_UP_STATUSES:
            raise InvalidInput("status", status, f"Use one of {', '.join(_TOP_UP_STATUSES)}.")
        reference = None if billable is None else billable_reference(billable, self._engine.billable_resolver)
        return self._engine.read(lambda connection: list_top_ups(connection, reference, status))

    def complete_top_up(self, top_up_id: str, meta: Mapping[str, object] | None = None) -> CreditTransaction:
        """Answer a request: it was paid. Its credits are added, once; a repetition returns the first transaction.

        Raises:
            NotFound: no such request. Conflict: it has failed.
        """
        engine, at = self._engine, self._engine.now()
        request = self._top_up(top_up_id)
        # The request's own row is asked first: keys may be erased, what was paid is not.
        if request.status == "completed" and request.transaction_id is not None:
            return self.get(request.billable, request.currency).transaction(request.transaction_id).as_replay()
        if request.status == "failed":
            raise Conflict(f"Top-up {top_up_id} has failed already ({request.note}).")
        account = CreditKey(request.billable, request.currency)
        terms = grant_terms(
            engine,
            at,
            request.amount.nanos,
            is_money=True,
            reason="top-up",
            meta=meta,
            expires_at=None,
            priority=None,
            granted_by=None,
            kind=None,
            limit=None,
            limit_period=None,
        )
        added = AddCredits(account, terms, at, new_id("txn"))
        return transact(engine, self._closing(request, "complete_top_up", at, add=added))[0]

    def fail_top_up(self, top_up_id: str, note: str) -> TopUp:
        """Answer a request: it was not paid. The wallet asks no more until credits are added or it is set up again.

        Raises:
            NotFound: no such request. Conflict: it was completed.
        """
        request = self._top_up(top_up_id)
        checked = checked_reason(note, field="note")
        if request.status == "completed":
            raise Conflict(f"Top-up {top_up_id} was completed already, as {request.transaction_id}.")
        if request.status == "failed":
            return request
        transact(self._engine, self._closing(request, "fail_top_up", self._engine.now(), note=checked))
        return self._top_up(top_up_id)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _find(self, key: CreditKey) -> Wallet | None:
        accounts = tables.credit_accounts
        query = select(accounts.c.id).where(accounts.c.billable == key.billable, accounts.c.unit == key.unit)
        found = self._engine.read(lambda connection: connection.execute(query).scalar())
        return None if found is None else Wallet(self._engine, found, key)

    def _top_up(self, top_up_id: str) -> TopUp:
        top_ups = tables.top_ups
        query = select(top_ups).where(top_ups.c.id == top_up_id)
        row = self._engine.read(lambda connection: connection.execute(query).first())
        if row is None:
            raise NotFound("top-up", top_up_id)
        return TopUp.from_row(tuple(row))

    def _closing(
        self, request: TopUp, operation: str, at: int, *, add: AddCredits | None = None, note: str | None = None
    ) -> CloseTopUp:
        # The request's own id is the key: of two answers the first counts.
        key = keyed(request.id, operation)
        assert key is not None  # noqa: S101  # there is a key
        return CloseTopUp(
            CreditKey(request.billable, request.currency),
            request.id,
            request.amount.nanos,
            to_micros(request.created_at),
            at,
            key,
            add=add,
            note=note,
        )


def _key_of(engine: Engine, party: object, currency: str) -> CreditKey:
    """Return whose wallet is meant: that of a `Wallet`, or a billable's in a currency."""
    # An asynchronous wallet stands for its synchronous one.
    wallet = getattr(party, "sync", party)
    if isinstance(wallet, Wallet):
        return CreditKey(wallet.billable, wallet.currency)
    return CreditKey(billable_reference(party, engine.billable_resolver), currency)
