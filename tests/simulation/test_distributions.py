"""Numbers that look like chance, and can be repeated."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import InvalidInput
from tallystick.simulation.distributions import generator, read_distribution, read_week


def draws(stated: object, *, number: int = 2_000, factor: float = 1.0) -> list[int]:
    random = generator("a seed")
    distribution = read_distribution("calls", stated)
    return [distribution.draw(random, factor=factor) for _ in range(number)]


@pytest.mark.parametrize(
    ("stated", "mean"),
    [
        (12, 12),
        (Decimal("2.5"), 2.5),
        ("poisson:12", 12),
        ("poisson:200", 200),
        ("uniform:50-400", 225),
        ("normal:400,100", 400),
        # The mean of a lognormal distribution lies above its median.
        ("lognormal:400, 0.6", 479),
    ],
)
def test_the_mean_is_what_the_distribution_says(stated: object, mean: float) -> None:
    drawn = draws(stated)
    assert abs(sum(drawn) / len(drawn) - mean) < 0.05 * mean
    assert min(drawn) >= 0


def test_a_factor_makes_all_of_it_larger() -> None:
    drawn = draws("poisson:10", factor=3.0)
    assert 29 < sum(drawn) / len(drawn) < 31
    assert draws(4, number=3, factor=2.0) == [8, 8, 8]


def test_numbers_spread_as_they_should() -> None:
    poisson = draws("poisson:9")
    mean = sum(poisson) / len(poisson)
    variance = sum((one - mean) ** 2 for one in poisson) / len(poisson)
    assert 8 < variance < 10
    uniform = draws("uniform:50-400")
    assert (min(uniform) >= 50, max(uniform) <= 401) == (True, True)


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_same_text_gives_the_same_numbers_and_another_gives_others(first: str, second: str) -> None:
    numbers = [generator("seed", text).random() for text in (first, first, second)]
    assert numbers[0] == numbers[1]
    assert (numbers[0] == numbers[2]) == (first == second)


@given(st.floats(0, 1e300), st.sampled_from(["poisson:3", "normal:5,9", "uniform:1-2", "lognormal:9,4", 7]))
def test_no_factor_makes_a_number_below_zero_or_endless(factor: float, stated: object) -> None:
    assert 0 <= read_distribution("calls", stated).draw(generator(factor), factor=min(factor, 1e4)) <= 10_000_001


def test_a_week_has_days() -> None:
    week = read_week("calls", {"weekday": 20, "weekend": 3, "friday": 9})
    assert [week.on(day).draw(generator(day)) for day in range(7)] == [20, 20, 20, 20, 9, 3, 3]
    silent = read_week("calls", {"monday": 5})
    assert [silent.on(day).draw(generator(day)) for day in range(7)] == [5, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("stated", "remedy"),
    [
        ("poison:12", "poisson:12"),
        ("uniform:400-50", "smaller number comes first"),
        ("lognormal:400,9", "spread of at most 4"),
        (-1, "Give zero"),
        (True, "Give a number"),
        (None, "Give a number"),
        ("poisson:99999999999", "at most"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_what_would_do(stated: object, remedy: str) -> None:
    with pytest.raises(InvalidInput, match=remedy) as caught:
        read_distribution("customers[1].calls_per_day", stated)
    assert caught.value.field == "customers[1].calls_per_day"


def test_a_day_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="weekend"):
        read_week("calls", {"sonntag": 1})
    with pytest.raises(InvalidInput, match=r"calls\.sunday"):
        read_week("calls", {"sunday": "many"})
