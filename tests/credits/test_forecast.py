"""A forecast says what a clock that ticks would show: the credits burn in order, and what expires first is lost."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tallystick.credits.forecast import BurnDown, BurnRate, Lot, LotBurned, burn_down

DAY = 86_400_000_000


def lots_of(longest: int = 8) -> st.SearchStrategy[list[Lot]]:
    lot = st.builds(Lot, st.just(""), st.integers(0, 30), st.none() | st.integers(90, 160))
    return st.lists(lot, max_size=longest)


def rates() -> st.SearchStrategy[BurnRate]:
    return st.builds(BurnRate, st.integers(0, 50), st.integers(1, 20))


def ticking(lots: list[Lot], at: int) -> tuple[list[int], int | None]:
    """Burn one a tick by hand. Returns what was used of each lot, and when nothing was left."""
    left, used, now = [lot.amount for lot in lots], [0] * len(lots), at
    while True:
        alive = [n for n, lot in enumerate(lots) if left[n] and (lot.expires_at is None or lot.expires_at > now)]
        if not alive:
            return used, now
        left[alive[0]] -= 1
        used[alive[0]] += 1
        now += 1


@given(lots_of())
def test_a_forecast_is_what_a_ticking_clock_shows(lots: list[Lot]) -> None:
    used, empty_at = ticking(lots, 100)
    found = burn_down(lots, BurnRate(1, 1), 100)
    assert ([burned.used for burned in found.lots], found.empty_at) == (used, empty_at)


@given(lots_of(), rates())
def test_what_expires_is_used_or_lost_and_never_both(lots: list[Lot], rate: BurnRate) -> None:
    found = burn_down(lots, rate, 100)
    assert [burned.lot for burned in found.lots] == lots
    for burned in found.lots:
        assert burned.used >= 0
        assert burned.unused >= 0
        if burned.lot.expires_at is not None:
            assert burned.used + burned.unused == burned.lot.amount
        else:
            assert burned.unused == 0


@given(lots_of(), rates(), st.integers(1, 9))
def test_more_use_never_wastes_more_and_never_lasts_longer(lots: list[Lot], rate: BurnRate, more: int) -> None:
    slow, fast = burn_down(lots, rate, 100), burn_down(lots, BurnRate(rate.amount + more, rate.micros), 100)
    # Each lot is rounded on its own, by half of the smallest amount at most.
    assert fast.unused <= slow.unused + len(lots)
    assert fast.empty_at is not None
    assert slow.empty_at is None or fast.empty_at <= slow.empty_at


@given(lots_of(), rates(), st.integers(2, 1_000))
def test_the_size_of_the_unit_does_not_matter(lots: list[Lot], rate: BurnRate, size: int) -> None:
    larger = [Lot(lot.name, lot.amount * size, lot.expires_at) for lot in lots]
    assert (
        burn_down(larger, BurnRate(rate.amount * size, rate.micros), 100).empty_at
        == burn_down(lots, rate, 100).empty_at
    )


@given(st.lists(st.integers(0, 10**15), max_size=6), st.integers(1, 10**12))
def test_what_never_expires_lasts_as_long_as_its_sum_divided_by_the_rate(amounts: list[int], per_day: int) -> None:
    found = burn_down([Lot("", amount, None) for amount in amounts], BurnRate(per_day, DAY), 0)
    exact = Fraction(sum(amounts) * DAY, per_day)
    assert found.empty_at is not None
    assert 0 <= found.empty_at - exact < 1


def test_without_use_everything_that_expires_is_lost_and_the_rest_stays_for_ever() -> None:
    lots = [Lot("soon", 5, 110), Lot("later", 7, 120)]
    nothing = BurnRate(0, DAY)
    assert burn_down(lots, nothing, 100) == BurnDown((LotBurned(lots[0], 0, 5), LotBurned(lots[1], 0, 7)), 120)
    lasting = Lot("lasting", 1, None)
    found = burn_down([lots[0], lasting, lots[1]], nothing, 100)
    assert (found.unused, found.empty_at) == (12, None)


def test_credits_are_usable_until_just_before_they_expire() -> None:
    assert burn_down([Lot("", 10, 110)], BurnRate(1, 1), 100).unused == 0
    assert burn_down([Lot("", 11, 110)], BurnRate(1, 1), 100).unused == 1
    assert burn_down([Lot("", 11, 100)], BurnRate(1, 1), 100) == BurnDown((LotBurned(Lot("", 11, 100), 0, 11),), 100)


def test_nothing_is_empty_at_once() -> None:
    assert burn_down([], BurnRate(1, 1), 100) == BurnDown((), 100)


def test_a_rate_is_told_by_the_day_and_rounded_once() -> None:
    assert BurnRate(3, 2 * DAY).per_day == 2
    assert BurnRate(5, 2 * DAY).per_day == 2
    assert BurnRate(30_000_000_000, 30 * DAY).per_day == 1_000_000_000
