"""Deciding, as arithmetic: who is admitted, what lies beyond a limit, and that how use is cut changes nothing."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.limits.decision import Standing, admit, check, overage, token_overage_amount
from tallystick.money import NANOS, Money
from tallystick.period import PeriodKind
from tallystick.plans.terms import InForce, OverageBehavior, Terms, TermsPolicy

UNLIMITED = Terms(
    "user:1",
    TermsPolicy(
        currency="USD",
        period_kind=PeriodKind.MONTHLY,
        is_anniversary=False,
        zone="UTC",
        overage_behavior=OverageBehavior.BLOCK,
        grace_period_days=7,
    ),
).at(0)

amounts = st.integers(0, 10**6)
limits = st.none() | amounts
standings = st.builds(Standing, amounts, amounts, amounts, amounts)
behaviors = st.sampled_from(OverageBehavior)
in_forces = st.builds(
    lambda tokens, cost, behavior: replace(UNLIMITED, token_limit=tokens, cost_limit=cost, overage_behavior=behavior),
    limits,
    limits,
    behaviors,
)


@given(in_forces, standings, amounts, st.booleans(), amounts, st.booleans())
def test_under_block_used_and_held_never_pass_a_limit_through_a_hold(
    in_force: InForce, standing: Standing, tokens: int, tokens_explicit: bool, cost: int, cost_explicit: bool
) -> None:
    admitted = admit(
        in_force,
        standing,
        tokens=tokens,
        tokens_explicit=tokens_explicit,
        cost=cost,
        cost_explicit=cost_explicit,
    )
    if admitted.refusal is not None:
        assert (admitted.tokens, admitted.cost) == (0, 0)
        assert in_force.is_hard
        return
    if in_force.is_hard:
        for limit, taken, amount in (
            (in_force.token_limit, standing.tokens_used + standing.tokens_held, admitted.tokens),
            (in_force.cost_limit, standing.cost_used + standing.cost_held, admitted.cost),
        ):
            # Past the limit already, through facts: then only what asks nothing of it is admitted.
            assert limit is None or taken + amount <= limit or amount == 0
    else:
        assert (admitted.tokens, admitted.cost) == (tokens, cost)
    assert not tokens_explicit or admitted.tokens == tokens
    assert not cost_explicit or admitted.cost == cost
    assert admitted.tokens <= tokens
    assert admitted.cost <= cost
    assert admitted.tokens >= min(tokens, 1)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_an_explicit_amount_is_refused_exactly_when_it_does_not_fit(
    limit: int, used: int, held: int, tokens: int
) -> None:
    in_force = replace(UNLIMITED, token_limit=limit)
    admitted = admit(in_force, Standing(used, held), tokens=tokens, tokens_explicit=True, cost=0, cost_explicit=True)
    assert (admitted.refusal is None) == (used + held + tokens <= limit)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_an_implicit_amount_shrinks_to_what_is_left_and_is_refused_where_nothing_is(
    limit: int, used: int, held: int, tokens: int
) -> None:
    in_force = replace(UNLIMITED, token_limit=limit)
    admitted = admit(in_force, Standing(used, held), tokens=tokens, tokens_explicit=False, cost=0, cost_explicit=False)
    left = limit - used - held
    assert (admitted.refusal is None) == (left >= 1)
    assert admitted.tokens == max(0, min(tokens, left))


@given(in_forces, standings, amounts, amounts)
def test_check_answers_what_admit_would_decide(in_force: InForce, standing: Standing, tokens: int, cost: int) -> None:
    answer = check("user:1", in_force, standing, approaching_percentage=80, tokens=tokens, cost=cost)
    admitted = admit(
        in_force,
        standing,
        tokens=max(tokens, 1),
        tokens_explicit=True,
        cost=max(cost, 1),
        cost_explicit=True,
    )
    assert answer.allowed == (admitted.refusal is None)
    assert (answer.reason is None) == answer.allowed


@given(st.integers(0, 1_000), st.integers(0, 2_000))
def test_what_is_reached_and_what_approaches_follow_from_what_was_used(limit: int, used: int) -> None:
    answer = check("user:1", replace(UNLIMITED, token_limit=limit), Standing(used), approaching_percentage=80)
    assert answer.limit_reached == answer.hard_limit_reached == (used >= limit)
    assert answer.approaching == (limit == 0 or Fraction(used, limit) >= Fraction(80, 100))
    assert answer.remaining_tokens == max(0, limit - used)


def test_without_a_limit_everything_is_allowed() -> None:
    answer = check("user:1", UNLIMITED, Standing(10**12), approaching_percentage=80, tokens=10**12)
    assert answer.allowed
    assert (answer.remaining_tokens, answer.remaining_cost, answer.usage_percentage) == (None, None, 0.0)


uses = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)), max_size=12)


@given(uses, st.integers(0, 20_000), st.integers(0, 20_000), st.sampled_from(("0.01", "2", "0.000001")))
def test_cutting_use_into_calls_changes_no_overage(
    calls: list[tuple[int, int]], token_limit: int, cost_limit: int, price: str
) -> None:
    # A price of a millionth for 1,000 is one nano for a token: nothing is lost to rounding.
    in_force = replace(
        UNLIMITED,
        token_limit=token_limit,
        cost_limit=cost_limit,
        overage_behavior=OverageBehavior.CHARGE,
        overage_price_per_1k_tokens=Decimal(price),
    )
    tokens_used = cost_used = tokens_over = cost_over = amount = 0
    for tokens, cost in calls:
        over = overage(in_force, Standing(tokens_used, 0, cost_used, 0), tokens=tokens, cost=cost)
        tokens_used, cost_used = tokens_used + tokens, cost_used + cost
        if over is not None:
            tokens_over, cost_over, amount = tokens_over + over.tokens, cost_over + over.cost, amount + over.amount
    whole = overage(in_force, Standing(), tokens=tokens_used, cost=cost_used)
    expected = (0, 0, 0) if whole is None else (whole.tokens, whole.cost, whole.amount)
    assert (tokens_over, cost_over, amount) == expected
    assert tokens_over == max(0, tokens_used - token_limit)
    assert amount == tokens_over * Decimal(price) * NANOS / 1000


@given(uses, st.integers(0, 20_000))
def test_without_a_token_price_the_cost_beyond_its_limit_is_charged(
    calls: list[tuple[int, int]], cost_limit: int
) -> None:
    in_force = replace(UNLIMITED, cost_limit=cost_limit, overage_behavior=OverageBehavior.CHARGE)
    used = charged = 0
    for _, cost in calls:
        over = overage(in_force, Standing(0, 0, used, 0), tokens=0, cost=cost)
        used += cost
        charged += over.amount if over is not None else 0
    assert charged == max(0, used - cost_limit)


@given(amounts, amounts, st.integers(-1000, 1000))
def test_a_correction_gives_back_what_its_use_was_charged(limit: int, used: int, change: int) -> None:
    in_force = replace(UNLIMITED, cost_limit=limit, overage_behavior=OverageBehavior.CHARGE)
    there = overage(in_force, Standing(0, 0, used, 0), tokens=0, cost=change)
    back = overage(in_force, Standing(0, 0, used + change, 0), tokens=0, cost=-change)
    assert (there.amount if there else 0) + (back.amount if back else 0) == 0


@pytest.mark.parametrize("behavior", [OverageBehavior.ALLOW, OverageBehavior.BLOCK])
def test_only_charge_charges(behavior: OverageBehavior) -> None:
    in_force = replace(UNLIMITED, token_limit=10, overage_behavior=behavior, overage_price_per_1k_tokens=Decimal(1))
    over = overage(in_force, Standing(), tokens=15, cost=0)
    assert over is not None
    assert (over.tokens, over.amount) == (5, 0)


@given(st.integers(0, 10**9), st.decimals("0", "100", places=8))
def test_an_overage_amount_is_exact_and_rounded_once(tokens: int, price: Decimal) -> None:
    assert token_overage_amount(tokens, price) == round(Fraction(tokens) * Fraction(price) * NANOS / 1000)


def test_remaining_cost_is_money_of_the_plans_currency() -> None:
    in_force = replace(UNLIMITED, currency="EUR", cost_limit=2 * NANOS)
    answer = check("user:1", in_force, Standing(0, 0, NANOS // 2, NANOS), approaching_percentage=80)
    assert (answer.remaining_cost, answer.cost_used, answer.cost_held) == (
        Money("0.5", "EUR"),
        Money("0.5", "EUR"),
        Money("1", "EUR"),
    )
