"""Figures for people: never a wrong impression, however small or large a number is."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from tallystick.cli.figures import amount, amounts, bar, count, counts, percentage, sparkline
from tests.values import money

amount_of_something = st.integers(0, 10**15)


def test_counts_have_their_thousands_apart_and_their_noun_in_number() -> None:
    assert [count(1234567), count(Decimal("1234.500")), count(Decimal(2000))] == ["1,234,567", "1,234.5", "2,000"]
    assert [counts(0, "event"), counts(1, "event"), counts(2, "event")] == ["0 events", "1 event", "2 events"]


def test_one_amount_is_exact() -> None:
    assert amount(money("1234567.000000001 USD")) == "1,234,567.000000001 USD"


def test_a_column_of_amounts_is_rounded_to_one_digit() -> None:
    column = [[money("12.5 USD")], [money("0.12344999 USD")], [money("1000 USD"), money("2 EUR")], []]
    assert amounts(column) == ["12.5000 USD", "0.1234 USD", "1,000.0000 USD + 2.0000 EUR", ""]


def test_a_tiny_amount_beside_large_ones_is_not_shown_as_nothing() -> None:
    column = [[money("0.1234 USD")], [money("0.0000128 USD")], [money("-0.0000128 USD")], [money("0 USD")]]
    assert amounts(column) == ["0.1234 USD", "<0.0001 USD", ">-0.0001 USD", "0.0000 USD"]


def test_a_column_of_tiny_amounts_is_not_a_column_of_zeros() -> None:
    assert amounts([[money("0.00000015 USD")], [money("0.000000001 USD")]]) == ["0.000000150 USD", "0.000000001 USD"]


@given(amount_of_something, amount_of_something)
def test_a_share_is_0_or_100_percent_only_when_it_is_exactly_that(part: int, rest: int) -> None:
    shown = percentage(part, part + rest)
    assert (shown == "0%") == (part == 0)
    assert (shown == "100%") == (part > 0 and rest == 0)


@given(amount_of_something, amount_of_something, st.integers(1, 40))
def test_a_bar_is_empty_for_nothing_full_for_all_and_never_longer(part: int, rest: int, width: int) -> None:
    drawn = bar(part, part + rest, width=width)
    assert len(drawn) <= width
    assert (drawn == "") == (part == 0)
    assert (drawn == "█" * width) == (part > 0 and rest == 0)


def test_a_bar_of_more_than_all_is_full() -> None:
    assert bar(300, 100, width=4) == "████"


@given(st.lists(amount_of_something, max_size=40))
def test_a_sparkline_is_in_the_order_of_its_values(values: list[int]) -> None:
    drawn = sparkline(values)
    heights = ["·▁▂▃▄▅▆▇█".index(character) for character in drawn]
    assert len(drawn) == len(values)
    for one, height in zip(values, heights, strict=True):
        assert (height == 0) == (one == 0)
        for other, other_height in zip(values, heights, strict=True):
            assert height <= other_height or one > other
    if any(values):
        assert heights[values.index(max(values))] == 8
