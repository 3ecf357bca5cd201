"""Commands that share a commit decide as they would one after the other, in one process or in several.

The same commands are given to three customers: to one all at once, to one each alone, to one by two engines in turn.
All three have to end alike, whatever had been loaded, remembered or forgotten on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from tallystick import FixedClock, Tallystick
from tallystick.credits.account import CreditKey
from tallystick.credits.charges import Exchange
from tallystick.credits.commands import (
    AddCredits,
    DeductCredits,
    ExpireGrants,
    RefundCredits,
    ReverseTransaction,
    RevokeGrant,
    TransferCredits,
)
from tallystick.credits.posting import GrantTerms
from tallystick.credits.wallets import Wallet
from tallystick.engine import Engine
from tallystick.errors import TallystickError
from tallystick.metering.call import CallContext
from tallystick.metering.commands import CloseHold, PlaceHold, SettleHold
from tallystick.money import Money
from tallystick.providers import ProviderUsage
from tallystick.storage import tables
from tallystick.storage.workspace import HoldRow
from tests.acceptance.accounts import assert_healthy

if TYPE_CHECKING:
    from tests.conftest import PostgresCluster

# Some grants to begin with: few, and more than the engine reads of a wallet at once.
crumbs = st.sampled_from((3, 40))

amounts = st.one_of(st.integers(1, 12), st.integers(30, 45))
numbers = st.integers(0, 60)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            amounts,
            st.sampled_from((50, 50, 60, 40)),
            st.sampled_from((None, None, 60, 7_200)),
            st.sampled_from((None, None, None, 4)),
        ),
        st.tuples(st.just("deduct"), amounts),
        st.tuples(st.just("hold"), amounts, st.sampled_from((30, 3_600))),
        st.tuples(st.just("settle"), numbers, amounts),
        st.tuples(st.just("close"), numbers, st.sampled_from(("voided", "expired"))),
        st.tuples(st.just("refund"), numbers, st.one_of(st.none(), st.integers(1, 20))),
        st.tuples(st.just("reverse"), numbers),
        st.tuples(st.just("revoke"), numbers),
        st.tuples(st.just("transfer"), amounts),
        st.tuples(st.just("expire")),
    ),
    min_size=2,
    max_size=14,
)
chunks = st.lists(st.tuples(st.sampled_from((0, 30, 60, 3_600, 86_400)), steps), min_size=1, max_size=4)


@dataclass
class Customer:
    """One of the three, and what was asked for it. Commands name what others made only once that was committed."""

    name: str
    grants: list[str] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)
    grant_transactions: list[str] = field(default_factory=list)
    holds: list[tuple[str, int]] = field(default_factory=list)
    asked: list[tuple[list[Any], Any]] = field(default_factory=list)

    def ask(self, into: list[Any], made: Any) -> None:
        self.asked.append((into, made))

    def is_answered(self) -> None:
        for into, made in self.asked:
            into.append(made)
        self.asked.clear()

    @property
    def key(self) -> CreditKey:
        return CreditKey(f"user:{self.name}", "USD")

    @property
    def other(self) -> CreditKey:
        return CreditKey(f"user:{self.name}", "EUR")

    def id(self, prefix: str, number: int) -> str:
        return f"{prefix}_{self.name}{number:04}"


def command(engine: Engine, customer: Customer, number: int, step: tuple[Any, ...]) -> Any:
    """Return the command of a step, or None where there is nothing yet that it could be about."""
    what, *how = step
    return _COMMANDS[what](engine, customer, number, *how)


def _add(
    engine: Engine, customer: Customer, number: int, amount: int, priority: int, seconds: int | None, daily: int | None
) -> AddCredits:
    customer.ask(customer.grants, customer.id("grt", number))
    customer.ask(customer.grant_transactions, customer.id("txn", number))
    terms = GrantTerms(customer.id("grt", number), "paid", amount, priority, "top-up")
    if daily is not None:
        terms.limit_amount, terms.limit_period = daily, "daily"
    if seconds is not None:
        terms.expires_at = engine.now() + seconds * 1_000_000
    return AddCredits(customer.key, terms, engine.now(), customer.id("txn", number))


def _deduct(engine: Engine, customer: Customer, number: int, amount: int) -> DeductCredits:
    customer.ask(customer.uses, customer.id("txn", number))
    return DeductCredits(customer.key, amount, engine.now(), customer.id("txn", number), "usage")


def _settle(engine: Engine, customer: Customer, number: int, index: int, amount: int) -> SettleHold | None:
    if not customer.holds:
        return None
    facts = engine.facts(_context(customer), _usage(amount), occurred_at=engine.now())
    facts.event_id = customer.id("evt", number)
    customer.ask(customer.uses, customer.id("txn", number))
    return SettleHold(_row(customer, index), facts, engine.currency_rates)


def _close(engine: Engine, customer: Customer, number: int, index: int, status: str) -> CloseHold | None:
    return CloseHold(_row(customer, index), engine.now(), status) if customer.holds else None


def _refund(engine: Engine, customer: Customer, number: int, index: int, amount: int | None) -> RefundCredits | None:
    if not customer.uses:
        return None
    original = customer.uses[index % len(customer.uses)]
    return RefundCredits(customer.key, original, amount, engine.now(), customer.id("txn", number), "refund")


def _reverse(engine: Engine, customer: Customer, number: int, index: int) -> ReverseTransaction | None:
    made = customer.grant_transactions
    if not made:
        return None
    original = made[index % len(made)]
    return ReverseTransaction(original, (customer.key,), engine.now(), customer.id("txn", number), "mistake")


def _revoke(engine: Engine, customer: Customer, number: int, index: int) -> RevokeGrant | None:
    if not customer.grants:
        return None
    grant_id = customer.grants[index % len(customer.grants)]
    return RevokeGrant(customer.key, grant_id, engine.now(), customer.id("txn", number), "mistake")


def _transfer(engine: Engine, customer: Customer, number: int, amount: int) -> TransferCredits:
    rate = Exchange("USD", "EUR", engine.currency_rates.rate("USD", "EUR"))
    return TransferCredits(
        customer.key, customer.other, amount, engine.now(), customer.id("txn", number), "transfer", rate
    )


def _expire(engine: Engine, customer: Customer, number: int) -> ExpireGrants:
    return ExpireGrants(customer.key, engine.now())


def _hold(engine: Engine, customer: Customer, number: int, amount: int, seconds: int) -> PlaceHold:
    hold_id, at = customer.id("hld", number), engine.now()
    expires_at = at + seconds * 1_000_000
    customer.ask(customer.holds, (hold_id, expires_at))
    return PlaceHold(
        hold_id=hold_id,
        billable=customer.key.billable,
        at=at,
        expires_at=expires_at,
        tokens=1,
        tokens_explicit=False,
        cost=amount,
        cost_currency="USD",
        cost_explicit=amount % 2 == 0,
        provider="manual",
        model="model",
        feature="",
        user_id=None,
        tenant_id=None,
        rates=engine.currency_rates,
        billing_mode="credits",
    )


def _context(customer: Customer) -> CallContext:
    return CallContext(
        billable=customer.key.billable,
        user_id=None,
        tenant_id=None,
        provider="manual",
        model="model",
        feature="",
        resource_type="completion",
        billing_mode="credits",
        metadata=None,
        idempotency_key=None,
        manual_usage=None,
    )


def _usage(amount: int) -> ProviderUsage:
    return ProviderUsage(input_tokens=1, total_cost=Money.from_nanos(amount, "USD"))


def _row(customer: Customer, index: int) -> HoldRow:
    hold_id, expires_at = customer.holds[index % len(customer.holds)]
    return HoldRow(hold_id, customer.key.billable, "open", (), expires_at)


_COMMANDS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "deduct": _deduct,
    "hold": _hold,
    "settle": _settle,
    "close": _close,
    "refund": _refund,
    "reverse": _reverse,
    "revoke": _revoke,
    "transfer": _transfer,
    "expire": _expire,
}


def answer_alone(engine: Engine, one: Any) -> str:
    try:
        return type(engine.lane.run(one)).__name__
    except TallystickError as error:
        return type(error).__name__


def as_it_ended(ts: Tallystick, customer: Customer) -> list[list[tuple[Any, ...]]]:
    """Return all that is stored of somebody's credits, but for names and ids."""
    accounts, grants, lines = tables.credit_accounts.c, tables.grants.c, tables.credit_transactions.c
    holds, counters = tables.holds.c, tables.counters.c
    who = customer.key.billable
    queries = (
        select(
            accounts.unit, accounts.paid, accounts.promotional, accounts.overdraft, accounts.held, accounts.last_number
        )
        .where(accounts.billable == who)
        .order_by(accounts.unit),
        select(grants.unit, grants.amount, grants.remaining, grants.held, grants.priority, grants.expires_at)
        .where(grants.billable == who)
        .order_by(grants.unit, grants.created_at, grants.id),
        select(lines.unit, lines.number, lines.source, lines.amount, lines.balance_after, lines.occurred_at)
        .where(lines.billable == who)
        .order_by(lines.unit, lines.number),
        select(holds.status, holds.expires_at).where(holds.billable == who).order_by(holds.id),
        select(counters.meter, counters.period_start, counters.used, counters.held)
        .where(counters.billable == who)
        .order_by(counters.meter, counters.scope, counters.period_start),
    )
    return ts._engine.read(lambda connection: [[tuple(row) for row in connection.execute(query)] for query in queries])


def run_and_compare(
    url: str, crumbs: int, history: list[tuple[int, list[tuple[Any, ...]]]], *, overdraft: bool
) -> None:
    clock = FixedClock("2026-01-15T12:00:00Z")
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(
                Tallystick(
                    url,
                    clock=clock,
                    billing={"currency_rates": {"usd_eur": "0.73"}, "credit_overdraft_allowed": overdraft},
                )
            )
            for _ in range(2)
        )
        together, alone, in_turn = (Customer(name) for name in ("together", "alone", "in_turn"))
        numbers = count(crumbs)
        for number in range(crumbs):
            for customer in (together, alone, in_turn):
                # By the other, so that nothing of it is remembered where all is done at once.
                other._engine.lane.run(command(other._engine, customer, number, ("add", 1, 50, None, None)))
            clock.advance(microseconds=1)
        for seconds, chosen in history:
            clock.advance(seconds=seconds)
            steps = [(next(numbers), step) for step in chosen]
            commands = [command(one._engine, together, number, step) for number, step in steps]
            answers = one._engine.lane.run_many([one for one in commands if one is not None])
            expected = [type(answer).__name__ for answer in answers]
            found_alone, found_in_turn = [], []
            for number, step in steps:
                engine = (one, other)[number % 2]._engine
                if (single := command(one._engine, alone, number, step)) is not None:
                    found_alone.append(answer_alone(one._engine, single))
                if (single := command(engine, in_turn, number, step)) is not None:
                    found_in_turn.append(answer_alone(engine, single))
            for customer in (together, alone, in_turn):
                customer.is_answered()
            assert found_alone == found_in_turn == expected
            ended = as_it_ended(one, together)
            assert ended == as_it_ended(one, alone)
            assert ended == as_it_ended(other, in_turn)
        assert_healthy(other)


def check_histories(examples: int, database: Callable[[], AbstractContextManager[str]]) -> None:
    @settings(
        max_examples=examples if settings().derandomize else settings().max_examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(crumbs=crumbs, history=chunks, overdraft=st.booleans())
    @example(crumbs=40, history=[(0, [("add", 6, 50, None, None), ("deduct", 38)])], overdraft=False)
    def check(crumbs: int, history: list[Any], overdraft: bool) -> None:
        with database() as url:
            run_and_compare(url, crumbs, history, overdraft=overdraft)

    check()


def test_commands_of_one_batch_decide_as_they_would_alone_on_sqlite(tmp_path: Path, sqlite_template: Path) -> None:
    files = count()

    @contextmanager
    def database() -> Iterator[str]:
        file = tmp_path / f"{next(files)}.db"
        file.write_bytes(sqlite_template.read_bytes())
        yield f"sqlite:///{file}"
        for leftover in tmp_path.glob(f"{file.name}*"):
            leftover.unlink()

    check_histories(20, database)


def test_commands_of_one_batch_decide_as_they_would_alone_on_postgres(postgres_cluster: PostgresCluster) -> None:
    @contextmanager
    def database() -> Iterator[str]:
        name = postgres_cluster.take_database()
        yield postgres_cluster.url(name)
        postgres_cluster.give_back(name)

    check_histories(6, database)


@pytest.fixture
def many(ts: Tallystick, database_url: str, clock: FixedClock) -> Wallet:
    """A wallet of more grants than are read at once, of one cent each, of which this engine remembers none."""
    with Tallystick(database_url, clock=clock) as other:
        wallet = other.wallets.get_or_create("user:1")
        for _ in range(40):
            wallet.add_credits("0.01")
    return ts.wallets.get("user:1")


def test_a_grant_of_the_same_batch_does_not_burn_before_older_ones(ts: Tallystick, many: Wallet) -> None:
    engine, key, at = ts._engine, CreditKey("user:1", "USD"), ts._engine.now()
    terms = GrantTerms("grt_z", "paid", 60_000_000, 50, "top-up")
    commands: list[Any] = [
        AddCredits(key, terms, at, "txn_added"),
        DeductCredits(key, 380_000_000, at, "txn_deducted", "usage"),
    ]
    engine.lane.run_many(commands)
    assert [str(grant.remaining) for grant in many.grants()] == ["0.01 USD", "0.01 USD", "0.06 USD"]


def test_a_late_grant_that_a_hold_has_reserved_does_not_burn_before_older_ones(ts: Tallystick, many: Wallet) -> None:
    meter = ts.meter.billable("user:1").using_provider("manual", "model").billing_mode("credits")
    first = meter.hold(cost=Money("0.395", "USD"))
    second = meter.hold(cost=Money("0.002", "USD"))
    first.void()
    # It takes what it has reserved of the last one, and then the oldest ones.
    second.settle(input_tokens=1, total_cost=Money("0.336", "USD"))
    left = [str(grant.remaining) for grant in many.grants()]
    assert left == ["0.006 USD", *["0.01 USD"] * 5, "0.008 USD"]
    assert_healthy(ts, open_holds=0)


def test_debt_is_paid_by_the_oldest_of_many_grants(ts: Tallystick, many: Wallet) -> None:
    meter = ts.meter.billable("user:1").using_provider("manual", "model").billing_mode("credits")
    hold = meter.hold(cost=Money("0.40", "USD"))
    ts.usage.record(billable="user:1", input_tokens=1, total_cost=Money("0.38", "USD"), billing_mode="credits")
    hold.void()
    many.add_credits("0.01")
    assert (many.balance, many.overdraft) == (Money("0.03", "USD"), Money("0", "USD"))
    assert len(many.grants()) == 3
    assert_healthy(ts, open_holds=0)
