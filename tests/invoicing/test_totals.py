"""What an invoice comes to, by its laws: nothing is lost between lines, discounts, tax, and what is carried."""

from __future__ import annotations

from decimal import Decimal
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from tallystick.invoicing.lines import Charge, charge_lines
from tallystick.invoicing.totals import NO_TAX, AppliedDiscount, Chargeable, Tax, reductions, totals
from tallystick.invoicing.values import LineKind
from tallystick.money import Money, minor_unit
from tests.values import money

CURRENCIES = st.sampled_from(["USD", "JPY", "BHD"])
AMOUNTS = st.integers(-(10**15), 10**15)
RATES = st.decimals(0, 100, places=3)
TAXES = st.builds(lambda rate, inclusive: Tax(rate, "VAT", is_inclusive=inclusive), RATES, st.booleans())
PERCENTAGES = st.decimals("0.01", 100, places=2)

CHARGEABLES = st.lists(
    st.builds(
        Chargeable,
        AMOUNTS,
        st.sampled_from([None, "sub_1", "sub_2"]),
        st.sampled_from([None, "pro", "team"]),
        st.booleans(),
    ),
    max_size=8,
)
DISCOUNTS = st.lists(
    st.one_of(
        st.builds(
            AppliedDiscount,
            id=st.just("dsc_1"),
            name=st.just("PERCENT"),
            percent=PERCENTAGES,
            amount=st.none(),
            subscription_id=st.sampled_from([None, "sub_1"]),
            plans=st.sampled_from([None, frozenset({"pro"})]),
        ),
        st.builds(
            AppliedDiscount,
            id=st.just("dsc_2"),
            name=st.just("AMOUNT"),
            percent=st.none(),
            amount=st.integers(1, 10**15),
            subscription_id=st.sampled_from([None, "sub_1"]),
            plans=st.sampled_from([None, frozenset({"pro"})]),
        ),
    ),
    max_size=4,
)


def percent(text: str, name: str = "PERCENT") -> AppliedDiscount:
    return AppliedDiscount(f"dsc_{name}", name, Decimal(text), None)


def amount(text: str, name: str = "AMOUNT") -> AppliedDiscount:
    return AppliedDiscount(f"dsc_{name}", name, None, money(text).nanos)


def taken(charges: list[str], *discounts: AppliedDiscount) -> list[str]:
    """Return what each discount takes off charges of one plan."""
    asked = [Chargeable(money(one).nanos, "sub_1", "pro") for one in charges]
    return [str(Money.from_nanos(one.amount)) for one in reductions(asked, discounts)]


# -- discounts --------------------------------------------------------------------------------------------------------


def test_each_discount_takes_from_what_those_before_it_have_left() -> None:
    assert taken(["100 USD"], percent("50"), amount("10 USD")) == ["-50.00 USD", "-10.00 USD"]
    assert taken(["100 USD"], amount("10 USD"), percent("50")) == ["-10.00 USD", "-45.00 USD"]
    assert taken(["100 USD"], percent("50", "A"), percent("50", "B")) == ["-50.00 USD", "-25.00 USD"]


def test_after_all_is_taken_off_no_discount_has_a_line() -> None:
    assert taken(["100 USD", "0.000000001 USD"], percent("100"), amount("10 USD"), percent("20", "B")) == [
        "-100.000000001 USD"
    ]


def test_an_amount_takes_off_no_more_than_there_is() -> None:
    assert taken(["3 USD", "4 USD"], amount("10 USD")) == ["-7.00 USD"]
    assert taken(["30 USD", "-25 USD"], amount("10 USD")) == ["-5.00 USD"]
    assert taken(["-25 USD"], amount("10 USD")) == []


def test_a_percentage_also_makes_less_of_a_credit() -> None:
    assert taken(["100 USD", "-40 USD"], percent("25")) == ["-15.00 USD"]
    assert taken(["-40 USD"], percent("25")) == ["10.00 USD"]


def test_a_percentage_is_exact_to_nanos_and_a_tie_goes_to_the_even_one() -> None:
    assert taken(["0.000000001 USD"], percent("50")) == []
    assert taken(["0.000000003 USD"], percent("50")) == ["-0.000000002 USD"]
    assert taken(["99.99 USD"], percent("33.333333")) == ["-33.329999667 USD"]


@given(CHARGEABLES, DISCOUNTS)
def test_a_discount_touches_only_what_it_concerns(charges: list[Chargeable], discounts: list[AppliedDiscount]) -> None:
    for found in reductions(charges, discounts):
        assert found.amount == sum(found.shares.values()) != 0
        for place, share in found.shares.items():
            one = charges[place]
            assert one.is_discountable or not share
            assert found.discount.subscription_id in (None, one.subscription_id)
            assert found.discount.plans is None or one.plan in found.discount.plans


@given(CHARGEABLES, DISCOUNTS)
def test_discounts_together_never_turn_a_charge_into_a_credit_or_a_credit_into_a_charge(
    charges: list[Chargeable], discounts: list[AppliedDiscount]
) -> None:
    left = [one.amount for one in charges]
    for found in reductions(charges, discounts):
        for place, share in found.shares.items():
            left[place] += share
    for before, after in zip((one.amount for one in charges), left, strict=True):
        assert 0 <= after <= before if before >= 0 else before <= after <= 0


@given(CHARGEABLES, st.integers(1, 10**15))
def test_an_amount_takes_exactly_itself_or_all_there_is(charges: list[Chargeable], off: int) -> None:
    concerned = sum(one.amount for one in charges if one.is_discountable)
    found = reductions(charges, [AppliedDiscount("dsc_1", "AMOUNT", None, off)])
    assert -sum(one.amount for one in found) == min(off, max(0, concerned))


# -- lines ------------------------------------------------------------------------------------------------------------

CHARGES = st.lists(
    st.builds(
        Charge,
        kind=st.sampled_from([kind for kind in LineKind if kind is not LineKind.DISCOUNT]),
        words=st.just("manual"),
        amount=AMOUNTS | st.just(0),
        subscription_id=st.sampled_from([None, "sub_1"]),
        plan=st.sampled_from([None, "pro"]),
        is_discountable=st.booleans(),
    ),
    max_size=8,
)


@given(CHARGES, DISCOUNTS)
def test_lines_come_to_the_charges_less_what_discounts_take(
    charges: list[Charge], discounts: list[AppliedDiscount]
) -> None:
    named = [
        Charge(
            one.kind,
            one.words,
            one.amount,
            subscription_id=one.subscription_id,
            plan=one.plan,
            is_discountable=one.is_discountable,
            item_id=f"itm_{number}",
        )
        for number, one in enumerate(charges)
    ]
    lines, discounted = charge_lines(named, discounts)
    off = sum(line.amount for line in lines if line.kind is LineKind.DISCOUNT)
    assert sum(line.amount for line in lines) == sum(one.amount for one in charges) + off
    assert sum(discounted.values()) == -off
    kinds = [list(LineKind).index(line.kind) for line in lines]
    assert kinds == sorted(kinds)
    assert all(line.amount or line.kind is LineKind.USAGE for line in lines)


def test_a_line_of_nothing_is_left_out_except_for_use_that_is_included() -> None:
    charges = [
        Charge(LineKind.ITEM, "manual", 0, description="nothing"),
        Charge(LineKind.USAGE, "usage", 0, details=MappingProxyType({"resource": "message"})),
        Charge(LineKind.FEE, "fee", 5),
    ]
    assert [line.kind for line in charge_lines(charges, []).charges] == [LineKind.FEE, LineKind.USAGE]


# -- totals -----------------------------------------------------------------------------------------------------------


def billed(total: int, net: int, tax: Tax) -> int:
    return total if tax.is_inclusive else net


@given(AMOUNTS, CURRENCIES, TAXES, AMOUNTS, st.integers(0, 10**15))
def test_what_is_billed_and_what_is_carried_is_what_was_charged(
    subtotal: int, currency: str, tax: Tax, carried: int, credit: int
) -> None:
    found = totals(subtotal, currency=currency, tax=tax, carried=carried, credit=credit)
    unit = minor_unit(currency)
    whole = billed(found.total, found.net, tax)
    assert found.subtotal + found.carried_in == whole + found.carried_out
    assert found.net + found.tax == found.total >= 0
    assert found.total % unit == found.tax % unit == 0
    assert found.carried_out < unit
    assert whole == 0 or found.carried_out >= 0
    assert found.credit_applied == min(credit, found.total)


@given(AMOUNTS, CURRENCIES, TAXES)
def test_tax_is_the_rate_to_half_a_minor_unit(subtotal: int, currency: str, tax: Tax) -> None:
    found = totals(subtotal, currency=currency, tax=tax)
    if tax.is_inclusive:
        distance = found.tax * (100 + tax.rate_percent) - found.total * tax.rate_percent
        assert 2 * abs(distance) <= minor_unit(currency) * (100 + tax.rate_percent)
    else:
        distance = found.tax * 100 - found.net * tax.rate_percent
        assert 2 * abs(distance) <= minor_unit(currency) * 100


@given(st.lists(AMOUNTS, min_size=1, max_size=12), CURRENCIES)
def test_over_many_invoices_nothing_is_lost_or_added(subtotals: list[int], currency: str) -> None:
    carried = whole = 0
    for subtotal in subtotals:
        found = totals(subtotal, currency=currency, tax=NO_TAX, carried=carried)
        carried = found.carried_out
        whole += found.total
    assert whole + carried == sum(subtotals)


def test_less_than_a_cent_a_month_bills_its_first_cent_when_it_is_reached() -> None:
    carried, bills = 0, []
    for _ in range(5):
        found = totals(money("0.004 USD").nanos, currency="USD", carried=carried)
        carried = found.carried_out
        bills.append(str(Money.from_nanos(found.total)))
    assert bills == ["0.00 USD", "0.00 USD", "0.01 USD", "0.00 USD", "0.01 USD"]


def test_tax_is_rounded_once_a_tie_to_the_even_cent() -> None:
    ten = Tax(Decimal(10), "VAT", is_inclusive=False)
    taxes = [
        str(Money.from_nanos(totals(money(text).nanos, currency="USD", tax=ten).tax))
        for text in ("0.05 USD", "0.15 USD", "0.25 USD", "100.01 USD")
    ]
    assert taxes == ["0.00 USD", "0.02 USD", "0.02 USD", "10.00 USD"]


def test_contained_tax_is_taken_from_the_total() -> None:
    found = totals(money("119 USD").nanos, currency="USD", tax=Tax(Decimal(19), "VAT", is_inclusive=True))
    assert [str(Money.from_nanos(one)) for one in (found.net, found.tax, found.total)] == [
        "100.00 USD",
        "19.00 USD",
        "119.00 USD",
    ]


def test_an_invoice_below_zero_bills_nothing_and_carries_all() -> None:
    found = totals(money("-3 USD").nanos, currency="USD", carried=money("0.005 USD").nanos, credit=10**9)
    assert (found.total, found.tax, found.credit_applied) == (0, 0, 0)
    assert Money.from_nanos(found.carried_out) == money("-2.995 USD")
