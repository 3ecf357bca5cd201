"""Money is exact, stays in its currency, and is rounded in one way."""

from __future__ import annotations

import pickle
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.errors import CurrencyMismatch, InvalidInput
from tallystick.money import NANOS, CurrencyRates, Money, ceil_div, round_half_even

if TYPE_CHECKING:
    from collections.abc import Callable

BIGINT_MAX = 2**63 - 1
CURRENCIES = ["USD", "EUR", "BRL", "JPY", "BHD", "CLF"]
FAR_APART = 2**61

nanos = st.integers(min_value=-BIGINT_MAX - 1, max_value=BIGINT_MAX)
small_nanos = st.integers(min_value=-FAR_APART, max_value=FAR_APART)
currencies = st.sampled_from(CURRENCIES)
factors = st.decimals(min_value=-2, max_value=2, allow_nan=False, allow_infinity=False)


def half_even(value: Fraction) -> int:
    """The same rule in the standard library's fractions: the oracle."""
    return round(value)


@pytest.mark.parametrize(
    ("money", "text"),
    [
        (Money("1.5"), "1.50 USD"),
        (Money("0.00000015"), "0.00000015 USD"),
        (Money(100), "100.00 USD"),
        (Money(Decimal("1E+3"), "jpy"), "1000 JPY"),
        (Money("0.5", "JPY"), "0.5 JPY"),
        (Money("-0.000000001"), "-0.000000001 USD"),
        (Money("-12.340000000", "EUR"), "-12.34 EUR"),
        (Money("1.5", "BHD"), "1.500 BHD"),
        (Money("-0"), "0.00 USD"),
        (Money("9223372036.854775807"), "9223372036.854775807 USD"),
    ],
)
def test_money_reads_with_the_digits_of_its_currency_and_no_noise(money: Money, text: str) -> None:
    assert str(money) == text


def test_money_shows_how_to_write_it() -> None:
    assert repr(Money("1.5", "eur")) == "Money('1.50', 'EUR')"


def test_money_becomes_json_as_text() -> None:
    assert Money("1.5").to_dict() == {"amount": "1.50", "currency": "USD"}


def test_equal_amounts_are_equal_however_they_are_written() -> None:
    assert Money("1.0") == Money(1) == Money(Decimal("1.000000000")) == Money("1e0", "usd")
    assert len({Money("1.0"), Money(1), Money("1.000")}) == 1
    assert Money("1.0").amount == Decimal(1)


@given(nanos, currencies)
def test_nanos_text_amount_and_pickle_all_return_the_same_money(count: int, currency: str) -> None:
    money = Money.from_nanos(count, currency)
    assert money.nanos == count
    assert Money.parse(str(money)) == money
    assert Money(money.amount, currency) == money
    assert Money(**money.to_dict()) == money
    assert pickle.loads(pickle.dumps(money)) == money


@given(nanos)
def test_the_applications_decimal_context_changes_nothing(count: int) -> None:
    money, one_and_a_bit = Money.from_nanos(count), Decimal("0.3333333333333333333")
    with localcontext(Context(prec=2)):
        assert Money(money.amount) == money
        narrow = money * one_and_a_bit
    assert narrow == money * one_and_a_bit


@pytest.mark.parametrize("amount", [0.1, 1.0, True, None, b"1"])
def test_a_float_is_refused_with_the_remedy_to_write_a_string(amount: object) -> None:
    with pytest.raises(InvalidInput, match="Write it as a string") as refused:
        Money(amount)  # type: ignore[arg-type]
    assert refused.value.field == "amount"


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-inf", "", "1,50", "1.2.3", "ten"])
def test_text_that_is_not_a_finite_number_is_refused(amount: str) -> None:
    with pytest.raises(InvalidInput):
        Money(amount)


@pytest.mark.parametrize("amount", ["0.0000000001", "1.0000000005", "1E-999999999"])
def test_a_tenth_decimal_is_refused_and_names_the_way_to_round(amount: str) -> None:
    with pytest.raises(InvalidInput, match=r"Money\.rounded"):
        Money(amount)


@pytest.mark.parametrize("amount", ["9223372036.854775808", "-9223372036.854775809", "1E+999999999", "9" * 100])
def test_an_amount_beyond_the_databases_integers_is_refused(amount: str) -> None:
    with pytest.raises(InvalidInput, match=r"9\.2 billion"):
        Money(amount)


def test_a_text_that_would_take_minutes_to_reckon_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 100 characters"):
        Money("1." + "0" * 1_000_000)


def test_an_int_too_long_to_be_printed_is_refused_like_any_other() -> None:
    with pytest.raises(InvalidInput):
        Money(10**5_000)
    with pytest.raises(InvalidInput):
        Money(1) * 10**5_000


def test_a_sum_or_product_beyond_the_databases_integers_is_refused() -> None:
    most = Money.from_nanos(BIGINT_MAX)
    least = Money.from_nanos(-BIGINT_MAX - 1)
    operations: list[Callable[[], Money]] = [
        lambda: most + Money("0.000000001"),
        lambda: least - Money("0.000000001"),
        lambda: most * 2,
        lambda: most * Decimal("1.1"),
        lambda: -least,
        lambda: abs(least),
    ]
    for operation in operations:
        with pytest.raises(InvalidInput):
            operation()


@pytest.mark.parametrize("currency", ["US", "USDT", "U$D", "", "ÜSD", None, 1])
def test_a_currency_that_is_not_three_letters_is_refused(currency: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        Money("1", currency)  # type: ignore[arg-type]
    assert refused.value.field == "currency"


@pytest.mark.parametrize("text", ["12.34", "USD", "", "USD 12.34", "12.34 USD extra"])
def test_text_without_amount_and_currency_is_not_money(text: str) -> None:
    with pytest.raises(InvalidInput):
        Money.parse(text)


@pytest.mark.parametrize("count", [1.0, True, "1", Decimal(1)])
def test_nanos_and_minor_units_are_whole_numbers(count: object) -> None:
    with pytest.raises(InvalidInput):
        Money.from_nanos(count)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        Money.from_minor_units(count)  # type: ignore[arg-type]


@given(small_nanos, small_nanos)
def test_adding_and_subtracting_are_exact(first: int, second: int) -> None:
    one, other = Money.from_nanos(first), Money.from_nanos(second)
    assert (one + other).nanos == first + second
    assert (one - other).nanos == first - second
    assert one - other == -(other - one)
    assert abs(one).nanos == abs(first)


@given(st.lists(st.integers(min_value=-(10**15), max_value=10**15)))
def test_sum_adds_money(counts: list[int]) -> None:
    assert sum([Money.from_nanos(count) for count in counts], Money(0)).nanos == sum(counts)
    assert sum([Money("0.10"), Money("0.20")]) == Money("0.30")


def test_only_the_zero_that_sum_starts_from_adds_to_money() -> None:
    for other in (1, 0.0, "0", False):
        with pytest.raises(TypeError):
            other + Money(1)  # type: ignore[operator]
    with pytest.raises(TypeError):
        Money(1) + 1  # type: ignore[operator]


def test_two_currencies_neither_add_nor_compare_and_are_never_equal() -> None:
    dollar, euro = Money(1, "USD"), Money(1, "EUR")
    operations: list[Callable[[], object]] = [
        lambda: dollar + euro,
        lambda: dollar - euro,
        lambda: dollar < euro,
        lambda: dollar <= euro,
        lambda: dollar > euro,
        lambda: dollar >= euro,
        lambda: sum([dollar, euro]),
    ]
    for operation in operations:
        with pytest.raises(CurrencyMismatch) as refused:
            operation()
        assert (refused.value.source, refused.value.target) == ("EUR", "USD")
    assert dollar != euro
    assert Money(0, "USD") != Money(0, "EUR")


@given(nanos, nanos)
def test_money_of_one_currency_compares_as_its_nanos(first: int, second: int) -> None:
    one, other = Money.from_nanos(first), Money.from_nanos(second)
    assert (one < other, one <= other, one > other, one >= other, one == other) == (
        first < second,
        first <= second,
        first > second,
        first >= second,
        first == second,
    )
    assert bool(one) == (not one.is_zero) == (first != 0)


def test_money_does_not_compare_with_numbers() -> None:
    one: object = 1
    assert Money(1) != one
    with pytest.raises(TypeError):
        assert Money(1) < 2  # type: ignore[operator]


@given(small_nanos, factors)
@example(5, Decimal("0.1"))
@example(15, Decimal("0.1"))
@example(-5, Decimal("0.1"))
@example(-15, Decimal("0.1"))
def test_a_product_with_a_decimal_is_rounded_half_even_to_nanos(count: int, factor: Decimal) -> None:
    product = Money.from_nanos(count) * factor
    assert product.nanos == half_even(count * Fraction(factor))
    assert factor * Money.from_nanos(count) == product


def test_a_product_with_an_int_is_exact() -> None:
    assert Money("0.000000001") * 1_000_000_007 == Money("1.000000007")
    assert 3 * Money("0.10") == Money("0.30")


@pytest.mark.parametrize("factor", [0.5, 1.0, True, Decimal("NaN"), Decimal("Infinity")])
def test_money_is_never_multiplied_by_a_float_or_by_no_number(factor: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        Money(1) * factor  # type: ignore[operator]
    assert refused.value.field == "factor"


def test_money_times_money_means_nothing() -> None:
    with pytest.raises(TypeError):
        Money(1) * Money(1)  # type: ignore[operator]


def test_a_factor_of_any_exponent_is_answered_at_once() -> None:
    assert Money(1) * Decimal("1E-999999999") == Money(0)
    assert Money(1) * Decimal("-1E-999999999") == Money(0)
    assert Money(1) * Decimal("0E+999999999") == Money(0)
    with pytest.raises(InvalidInput):
        Money(1) * Decimal("1E+999999999")


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("0.0000000005", "0"),
        ("0.0000000015", "0.000000002"),
        ("0.0000000025", "0.000000002"),
        ("-0.0000000015", "-0.000000002"),
        ("0.00000000050000000001", "0.000000001"),
        ("1E-999999999", "0"),
    ],
)
def test_rounded_goes_to_the_nearest_nano_and_a_tie_to_the_even_one(amount: str, expected: str) -> None:
    assert Money.rounded(Decimal(amount)) == Money(expected)


@pytest.mark.parametrize(
    ("money", "minor_units"),
    [
        (Money("12.345"), 1234),
        (Money("12.355"), 1236),
        (Money("-12.345"), -1234),
        (Money("12.345000001"), 1235),
        (Money("2.5", "JPY"), 2),
        (Money("3.5", "JPY"), 4),
        (Money("1.2345", "BHD"), 1234),
        (Money("1.23455", "CLF"), 12346),
    ],
)
def test_minor_units_are_those_of_the_currency_rounded_half_even(money: Money, minor_units: int) -> None:
    assert money.minor_units() == minor_units


@given(st.integers(min_value=-(10**9), max_value=10**9), currencies)
def test_minor_units_return_unchanged(minor_units: int, currency: str) -> None:
    assert Money.from_minor_units(minor_units, currency).minor_units() == minor_units


def test_a_cent_is_ten_million_nanos_and_a_yen_is_a_unit() -> None:
    assert Money.from_minor_units(150, "USD") == Money("1.50", "USD")
    assert Money.from_minor_units(150, "jpy") == Money(150, "JPY")
    assert Money.from_minor_units(150, "BHD") == Money("0.150", "BHD")
    assert Money(1).nanos == NANOS


@given(st.integers(), st.integers(min_value=1))
@example(5, 2)
@example(-5, 2)
@example(7, 2)
@example(-7, 2)
@example(10**40 + 1, 2)
def test_round_half_even_and_ceil_div_agree_with_exact_fractions(numerator: int, denominator: int) -> None:
    assert round_half_even(numerator, denominator) == half_even(Fraction(numerator, denominator))
    assert ceil_div(numerator, denominator) == Fraction(numerator, denominator).__ceil__()


@pytest.mark.parametrize("denominator", [0, -1])
def test_dividing_by_zero_or_less_is_refused(denominator: int) -> None:
    with pytest.raises(InvalidInput):
        round_half_even(1, denominator)
    with pytest.raises(InvalidInput):
        ceil_div(1, denominator)


def test_money_is_converted_at_the_rate_of_its_own_direction_and_rounded_once() -> None:
    rates = CurrencyRates({"USD_brl": "5.4321", "usd_eur": Decimal("0.333333333333")})
    assert Money("10").convert("brl", rates) == Money("54.321", "BRL")
    assert Money("0.000000002").convert("EUR", rates) == Money("0.000000001", "EUR")
    assert Money("10", "EUR").convert("EUR", CurrencyRates()) == Money("10", "EUR")


def test_a_missing_rate_is_never_inverted_chained_or_taken_for_one() -> None:
    rates = CurrencyRates({"usd_eur": "0.9", "eur_brl": "6"})
    for source, target in (("EUR", "USD"), ("USD", "BRL"), ("USD", "GBP")):
        setting = f"billing.currency_rates.{source}_{target}".lower()
        with pytest.raises(CurrencyMismatch, match=setting) as refused:
            Money(1, source).convert(target, rates)
        assert (refused.value.source, refused.value.target) == (source, target)


@pytest.mark.parametrize("rate", [0.9, "0", "-1", "NaN", "x", True])
def test_a_rate_is_exact_and_above_zero(rate: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        CurrencyRates({"usd_eur": rate})  # type: ignore[dict-item]
    assert refused.value.field == "currency_rates.usd_eur"


@pytest.mark.parametrize("key", ["usdeur", "usd-eur", "usd_", "us_eur", "usd_eur_brl"])
def test_a_rate_is_named_by_its_two_currencies(key: str) -> None:
    with pytest.raises(InvalidInput, match="usd_eur"):
        CurrencyRates({key: "1"})


def test_equal_rates_are_equal_and_may_be_keys() -> None:
    rates = CurrencyRates({"usd_eur": "0.90"})
    assert rates == CurrencyRates({"USD_EUR": Decimal("0.9")})
    assert {rates: 1}[CurrencyRates({"usd_eur": "0.9"})] == 1
    assert pickle.loads(pickle.dumps(rates)) == rates
