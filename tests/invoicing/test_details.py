"""To whom invoices are addressed, and how they are taxed: what may be stated, and that an issued invoice keeps it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick
from tallystick.errors import InvalidInput
from tallystick.invoicing.countries import COUNTRIES, VAT_AREA
from tallystick.invoicing.details import BillingDetails
from tallystick.invoicing.pdf import render_invoice
from tallystick.invoicing.tax_ids import checked_tax_id
from tests.acceptance.accounts import errors_of, in_threads
from tests.values import money

PAYER = "tenant:acme"


def acme(ts: Tallystick) -> None:
    ts.tenants.create("Acme", "acme", billing_email="billing@acme.example", tax_id="US 12", locale="en")


# -- stating them -----------------------------------------------------------------------------------------------------


def test_nothing_was_said_of_somebody_new(ts: Tallystick) -> None:
    assert ts.invoices.billing_details("user:1") == BillingDetails("user:1")


def test_what_is_given_is_changed_and_none_takes_it_away(ts: Tallystick, clock: FixedClock) -> None:
    ts.invoices.set_billing_details(
        "acme", name=" Acme Ltda ", country="br", city="São Paulo", tax_rate_percent="8.250"
    )
    clock.advance(days=1)
    changed = ts.invoices.set_billing_details("acme", city=None, is_tax_exempt=True, due_days=0, notes="PO 7\nThanks")
    assert changed == BillingDetails(
        PAYER,
        name="Acme Ltda",
        country="BR",
        tax_rate_percent=Decimal("8.25"),
        is_tax_exempt=True,
        due_days=0,
        notes="PO 7\nThanks",
        updated_at=clock.now(),
    )
    assert ts.invoices.billing_details(PAYER) == changed
    assert not ts.invoices.set_billing_details("acme", is_tax_exempt=None).is_tax_exempt


def test_what_is_open_is_that_of_the_tenant_and_then_of_the_settings(database_url: str, clock: FixedClock) -> None:
    invoicing = {"tax": {"rate_percent": "19", "name": "VAT"}, "due_days": 14, "notes": "Thank you"}
    with Tallystick(database_url, clock=clock, invoicing=invoicing) as ts:
        acme(ts)
        plain = ts.invoices.create("acme", amount_cents=10_000)
        assert (plain.customer.name, plain.customer.email, plain.customer.tax_id) == (
            "Acme",
            "billing@acme.example",
            "US 12",
        )
        assert [str(one) for one in (plain.tax, plain.tax_name, plain.due_date, plain.notes)] == [
            "19.00 USD",
            "VAT",
            "2026-01-29",
            "Thank you",
        ]
        ts.invoices.set_billing_details(
            "acme",
            name="Acme GmbH",
            email="accounting@acme.example",
            line1="Hauptstraße 1",
            line2="Hinterhaus",
            postal_code="10115",
            city="Berlin",
            region="Berlin",
            country="DE",
            tax_id="DE 123456789",
            tax_rate_percent=7,
            tax_name="MwSt.",
            is_tax_inclusive=True,
            locale="pt-BR",
            due_days=3,
            notes="Danke",
        )
        said = ts.invoices.create("acme", amount_cents=10_700)
        assert said.customer.address == ("Hauptstraße 1", "Hinterhaus", "10115 Berlin", "Berlin")
        assert (said.customer.name, said.customer.country, said.customer.tax_id) == ("Acme GmbH", "DE", "DE 123456789")
        assert [str(one) for one in (said.net, said.tax, said.total, said.tax_name)] == [
            "100.00 USD",
            "7.00 USD",
            "107.00 USD",
            "MwSt.",
        ]
        assert (said.locale, said.due_date, said.notes) == ("pt-BR", "2026-01-18", "Danke")
        assert said.line_items[0].description == "Serviços"


def test_who_is_exempt_pays_no_tax_whatever_the_rate(sqlite_url: str) -> None:
    with Tallystick(sqlite_url, invoicing={"tax": {"rate_percent": "19"}}) as ts:
        ts.invoices.set_billing_details("user:1", tax_rate_percent="7", is_tax_exempt=True)
        assert ts.invoices.create("user:1", amount_cents=100).total == money("1 USD")
        ts.invoices.set_billing_details("user:1", is_tax_exempt=False)
        assert ts.invoices.create("user:1", amount_cents=100).total == money("1.07 USD")
        ts.invoices.set_billing_details("user:1", tax_rate_percent=0)
        assert ts.invoices.create("user:1", amount_cents=100).total == money("1 USD")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "two\nlines"),
        ("name", "x" * 201),
        ("name", 5),
        ("email", "nobody"),
        ("email", "a b@example.com"),
        ("country", "Brazil"),
        ("country", "XX"),
        ("country", "UK"),
        ("country", 55),
        ("postal_code", "x" * 201),
        ("tax_id", "\x00"),
        ("tax_rate_percent", 19.0),
        ("tax_rate_percent", "-1"),
        ("tax_rate_percent", "100.5"),
        ("tax_rate_percent", "a fifth"),
        ("tax_name", "x" * 51),
        ("is_tax_inclusive", "yes"),
        ("is_tax_exempt", 1),
        ("locale", "Deutsch"),
        ("due_days", -1),
        ("due_days", 3_651),
        ("due_days", True),
        ("due_days", "30"),
        ("notes", "x" * 1_001),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(sqlite_url: str, field: str, value: Any) -> None:
    with Tallystick(sqlite_url) as ts:
        with pytest.raises(InvalidInput) as refused:
            ts.invoices.set_billing_details("user:1", **{field: value})
        assert refused.value.field == field
        assert ts.invoices.billing_details("user:1") == BillingDetails("user:1")


def test_of_a_tax_number_and_its_country_either_may_come_later(ts: Tallystick) -> None:
    ts.invoices.set_billing_details("user:1", tax_id="123")
    with pytest.raises(InvalidInput) as refused:
        ts.invoices.set_billing_details("user:1", country="BR")
    assert refused.value.field == "tax_id"
    assert ts.invoices.billing_details("user:1").country is None
    ts.invoices.set_billing_details("user:1", country="BR", tax_id="529.982.247-25")
    with pytest.raises(InvalidInput):
        ts.invoices.set_billing_details("user:1", tax_id="529.982.247-24")
    ts.invoices.set_billing_details("user:1", country=None)
    assert ts.invoices.set_billing_details("user:1", tax_id="anything").tax_id == "anything"


def test_many_who_state_different_things_at_once_are_all_heard(database_url: str, clock: FixedClock) -> None:
    fields = ["name", "line1", "line2", "city", "region", "postal_code", "tax_name", "notes"]
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:

        def say(number: int) -> BillingDetails:
            stated: dict[str, Any] = {fields[number]: "said"}
            return (one, other)[number % 2].invoices.set_billing_details("user:1", **stated)

        assert errors_of(in_threads(8, say), InvalidInput) == []
        details = one.invoices.billing_details("user:1")
        assert [getattr(details, field) for field in fields] == ["said"] * 8


def test_details_are_plain_values(ts: Tallystick) -> None:
    said = ts.invoices.set_billing_details("user:1", name="Ada", tax_rate_percent="7.50").to_dict()
    assert (said["billable"], said["name"], said["tax_rate_percent"]) == ("user:1", "Ada", "7.5")


# -- what is issued stays ---------------------------------------------------------------------------------------------


def test_a_later_change_alters_no_issued_invoice_and_no_pdf_of_it(ts: Tallystick, clock: FixedClock) -> None:
    acme(ts)
    ts.invoices.set_billing_details(
        "acme", name="Acme Ltda", line1="Rua A, 1", country="BR", locale="pt-BR", tax_rate_percent=5, tax_name="ISS"
    )
    issued = ts.invoices.create("acme", amount_cents=12_345)
    draft = ts.invoices.create("acme", amount_cents=1_000, draft=True)
    before = render_invoice(issued)
    clock.advance(days=1)
    ts.invoices.set_billing_details(
        "acme",
        name="Nobody",
        line1="Elsewhere",
        country="DE",
        locale="en",
        tax_rate_percent=50,
        tax_name="Tax",
        notes="X",
    )
    ts.tenants.update("acme", name="Renamed", billing_email="new@acme.example")
    again = ts.invoices.get(issued.id)
    assert again == issued
    assert render_invoice(again) == before
    # A draft is addressed when it is issued.
    assert (ts.invoices.finalize(draft.id).customer.name, ts.invoices.get(draft.id).total) == (
        "Nobody",
        money("15 USD"),
    )


def test_of_an_erased_tenant_the_details_go_and_the_invoices_stay(ts: Tallystick) -> None:
    acme(ts)
    ts.invoices.set_billing_details("acme", name="Acme Ltda", line1="Rua A, 1")
    issued = ts.invoices.create("acme", amount_cents=100)
    before = render_invoice(issued)
    ts.tenants.delete("acme")
    # Until then the deletion can be taken back, and a last invoice may have to be sent.
    assert ts.invoices.billing_details("acme").name == "Acme Ltda"
    ts.tenants.erase("acme")
    assert ts.invoices.billing_details("acme") == BillingDetails(PAYER)
    assert ts.invoices.get(issued.id) == issued
    assert render_invoice(ts.invoices.get(issued.id)) == before


def test_of_an_erased_person_too(ts: Tallystick) -> None:
    ts.invoices.set_billing_details("user:1", name="Ada")
    ts.invoices.set_billing_details("user:2", name="Grace")
    issued = ts.invoices.create("user:1", amount_cents=100)
    ts.usage.delete_for("user:1")
    assert ts.invoices.billing_details("user:1").name is None
    assert ts.invoices.billing_details("user:2").name == "Grace"
    assert ts.invoices.get(issued.id).customer.name == "Ada"


# -- tax numbers and countries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tax_id",
    [
        "529.982.247-25",
        "52998224725",
        "111.444.777-35",
        "11.222.333/0001-81",
        "11222333000181",
        "00.000.000/0001-91",
        "12.ABC.345/01DE-35",
        "12abc34501de35",
    ],
)
def test_brazilian_numbers_with_their_check_digits_are_taken_as_they_are(tax_id: str) -> None:
    assert checked_tax_id(tax_id, "BR") == tax_id


@pytest.mark.parametrize(
    "tax_id",
    [
        "529.982.247-26",
        "529.982.247-35",
        "111.111.111-11",
        "00000000000000",
        "11.222.333/0001-82",
        "12.ABC.345/01DE-36",
        "12.ABD.345/01DE-35",
        "12.ABC.345/01DE-3A",
        "5299822472",
        "BR52998224725",
        "٥٢٩٩٨٢٢٤٧٢٥",
    ],
)
def test_brazilian_numbers_with_others_are_refused(tax_id: str) -> None:
    with pytest.raises(InvalidInput, match="CPF or a CNPJ"):
        checked_tax_id(tax_id, "BR")


@given(st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=12, max_size=12))
def test_a_body_of_a_cnpj_has_exactly_one_pair_of_check_digits(body: str) -> None:
    assert sum(_is_taken(f"{body}{digits:02}") for digits in range(100)) == (0 if set(body) == {"0"} else 1)


def _is_taken(tax_id: str) -> bool:
    try:
        checked_tax_id(tax_id, "BR")
    except InvalidInput:
        return False
    return True


@pytest.mark.parametrize(
    ("country", "tax_id"),
    [
        ("AT", "ATU12345678"),
        ("BE", "BE 0123.456.789"),
        ("DE", "DE123456789"),
        ("ES", "ESX1234567L"),
        ("FR", "FRXX123456789"),
        ("GR", "EL123456789"),
        ("IE", "IE1234567FA"),
        ("NL", "NL123456789B01"),
        ("PT", "pt123456789"),
        ("SE", "SE123456789012"),
        ("DE", "12/345/67890"),
        ("NL", "DE123456789"),
        ("GB", "XI123456789"),
        ("US", "DE12"),
        (None, "DE12"),
    ],
)
def test_numbers_of_the_european_union_are_known_by_their_form(country: str | None, tax_id: str) -> None:
    assert checked_tax_id(tax_id, country) == tax_id


@pytest.mark.parametrize(
    ("country", "tax_id"),
    [
        ("AT", "AT12345678"),
        ("DE", "DE12345678"),
        ("DE", "DE1234567890"),
        ("FR", "FR1234567890"),
        ("NL", "NL123456789A01"),
        ("NL", "DE1"),
        ("GR", "EL12345678"),
        ("GB", "XI1"),
    ],
)
def test_numbers_of_the_european_union_of_another_form_are_refused(country: str, tax_id: str) -> None:
    with pytest.raises(InvalidInput, match="has another form"):
        checked_tax_id(tax_id, country)


def test_there_are_249_countries_and_those_of_the_union_are_among_them() -> None:
    assert len(COUNTRIES) == 249
    assert len(VAT_AREA) == 27
    assert VAT_AREA < COUNTRIES
