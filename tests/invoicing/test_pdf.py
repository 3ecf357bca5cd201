"""Invoices and credit notes as PDF: what stands there, in which words, and always in the same bytes."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from tallystick.errors import ConfigurationError, InvalidInput
from tallystick.invoicing.pdf import render_credit_note, render_invoice
from tallystick.invoicing.pdf.wording import wording_of
from tallystick.invoicing.values import (
    CreditNote,
    Invoice,
    InvoiceStatus,
    LineItem,
    LineKind,
    Party,
    Payment,
    PaymentKind,
)
from tallystick.money import Money
from tests.values import money

ROOT = Path(__file__).parent.parent.parent
LOGO = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 10"><rect width="40" height="10" fill="#246"/></svg>'

SELLER = Party(
    name="Northwind Models Ltd",
    address=("42 Harbour Street", "Dublin D02 XY45"),
    country="IE",
    email="billing@northwind.example",
    tax_id="IE1234567FA",
    website="northwind.example",
    footer="Registered in Ireland 654321",
)
CUSTOMER = Party(
    name="Acme Analytics, Inc.", address=("500 Market Street",), country="US", email="ap@acme.example", tax_id="98-76"
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def line(
    description: str, amount: str, *, quantity: int | str = 1, kind: LineKind = LineKind.USAGE, **fields: Any
) -> LineItem:
    return LineItem(
        kind, description, quantity if isinstance(quantity, int) else Decimal(quantity), money(amount), **fields
    )


def invoice_of(*lines: LineItem, **fields: Any) -> Invoice:
    """Return an open invoice of these lines, without tax unless `fields` says otherwise."""
    currency = lines[0].amount.currency if lines else "USD"
    nothing = Money.from_nanos(0, currency)
    subtotal = sum((each.amount for each in lines), nothing)
    values: dict[str, Any] = {
        "id": "inv_1",
        "billable": "tenant:acme",
        "number": "INV-2026-000042",
        "status": InvoiceStatus.PENDING,
        "currency": currency,
        "subscription_id": None,
        "period_start": at("2026-01-01"),
        "period_end": at("2026-02-01"),
        "line_items": lines,
        "subtotal": subtotal,
        "carried_in": nothing,
        "carried_out": nothing,
        "net": subtotal,
        "tax": nothing,
        "total": subtotal,
        "credit_applied": nothing,
        "amount_paid": nothing,
        "amount_credited": nothing,
        "amount_refunded": nothing,
        "tax_rate_percent": None,
        "tax_name": None,
        "is_tax_inclusive": False,
        "seller": SELLER,
        "customer": CUSTOMER,
        "locale": "en",
        "zone": "UTC",
        "notes": None,
        "metadata": {},
        "external_payment_id": None,
        "created_at": at("2026-01-31T10:00"),
        "issued_at": at("2026-01-31T12:00"),
        "due_at": at("2026-02-15T12:00"),
        "paid_at": None,
        "voided_at": None,
        "archived_at": None,
    }
    return Invoice(**(values | fields))


def bill(**fields: Any) -> Invoice:
    """Return an invoice with something of everything."""
    return invoice_of(
        line(
            "Pro plan, monthly", "99 USD", kind=LineKind.FEE, period_start=at("2026-02-01"), period_end=at("2026-03-01")
        ),
        line("Tokens beyond the plan", "3.0864175 USD", quantity=1_234_567, kind=LineKind.OVERAGE),
        line("Seats returned on January 20", "-7.74 USD", quantity=2, kind=LineKind.PRORATION),
        line("Onboarding workshop", "1250 USD", quantity=0, kind=LineKind.ITEM),
        line("Welcome discount", "-35 USD", kind=LineKind.DISCOUNT),
        **{
            "carried_in": money("0.005 USD"),
            "carried_out": money("0.0014175 USD"),
            "net": money("1309.35 USD"),
            "tax": money("301.15 USD"),
            "total": money("1610.50 USD"),
            "tax_rate_percent": Decimal("23.00"),
            "tax_name": "VAT",
            "credit_applied": money("10 USD"),
            "notes": "Thank you.\nPlease quote the reference.",
        }
        | fields,
    )


def paid(amount: str, *, external_id: str = "pi_81", kind: PaymentKind = PaymentKind.PAYMENT) -> Payment:
    when = at("2026-02-03")
    return Payment("pay_1", "inv_1", "tenant:acme", kind, money(amount), "card", external_id, None, when, when)


def credit_note(**fields: Any) -> CreditNote:
    values: dict[str, Any] = {
        "id": "cn_1",
        "number": "CN-2026-000007",
        "invoice_id": "inv_1",
        "billable": "tenant:acme",
        "amount": money("61.50 USD"),
        "tax": money("11.50 USD"),
        "reduces": money("10 USD"),
        "refunds": money("40 USD"),
        "credits": money("11.50 USD"),
        "reason": "The workshop was shorter than agreed.",
        "seller": SELLER,
        "customer": CUSTOMER,
        "issued_at": at("2026-02-10"),
    }
    return CreditNote(**(values | fields))


def read(pdf: bytes) -> PdfReader:
    return PdfReader(io.BytesIO(pdf))


def pages_of(pdf: bytes) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in read(pdf).pages]


def text_of(pdf: bytes) -> str:
    return " ".join(pages_of(pdf))


def assert_says(pdf: bytes, *parts: str) -> None:
    text = text_of(pdf)
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in {text}"


# -- the same bytes ---------------------------------------------------------------------------------------------------


def everything() -> bytes:
    """Return a PDF that has all parts."""
    return render_invoice(bill(), payments=[paid("5 USD")], credit_notes=[credit_note()], logo=LOGO)


def test_the_same_invoice_gives_the_same_bytes() -> None:
    assert everything() == everything()


def test_another_process_in_another_place_gives_the_same_bytes(tmp_path: Path) -> None:
    program = "from tests.invoicing.test_pdf import *; print(sha256(everything()).hexdigest())"
    surroundings = {
        "HOME": str(tmp_path),
        "LC_ALL": "pt_BR.UTF-8",
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "SOURCE_DATE_EPOCH": "1",
        "TYPST_FONT_PATHS": str(tmp_path),
        "TZ": "Asia/Kolkata",
    }
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, check=True, text=True)
    assert answer.stdout.strip() == sha256(everything()).hexdigest()


def test_it_is_dated_when_it_was_issued_whatever_the_zone_of_that_instant() -> None:
    pdf = render_invoice(bill())
    elsewhere = bill(issued_at=at("2026-01-31T12:00").astimezone(ZoneInfo("Asia/Kolkata")))
    metadata = read(pdf).metadata
    assert metadata is not None
    assert metadata.creation_date == at("2026-01-31T12:00")
    assert render_invoice(elsewhere) == pdf


def test_an_invoice_does_not_change_by_becoming_overdue() -> None:
    assert render_invoice(bill(status=InvoiceStatus.OVERDUE)) == render_invoice(bill())


# -- what an invoice says ---------------------------------------------------------------------------------------------


def test_an_invoice_says_who_bills_whom_when_and_how_much_is_due() -> None:
    assert_says(
        render_invoice(bill()),
        "Invoice",
        "Northwind Models Ltd 42 Harbour Street Dublin D02 XY45 IE Tax ID: IE1234567FA billing@northwind.example",
        "Acme Analytics, Inc. 500 Market Street US Tax ID: 98-76 ap@acme.example",
        "Number INV-2026-000042",
        "Issue date January 31, 2026",
        "Due date February 15, 2026",
        "Billing period January 1 – 31, 2026",
        "Payment reference INV-2026-000042",
        "$1,600.50 due by February 15, 2026",
        "Thank you.",
        "Please quote the reference.",
        "Registered in Ireland 654321",
        "Page 1 of 1",
    )


def test_a_line_says_its_period_its_exact_price_and_its_exact_amount() -> None:
    assert_says(
        render_invoice(bill()),
        "Description Quantity Unit price Amount",
        "Pro plan, monthly February 1 – 28, 2026 1 $99.00 $99.00",
        "Tokens beyond the plan 1,234,567 $0.0000025 $3.0864175",
        "Seats returned on January 20 2 -$3.87 -$7.74",
        "Onboarding workshop $1,250.00",
    )


def test_the_totals_lead_step_by_step_from_the_lines_to_what_is_due() -> None:
    assert_says(
        render_invoice(bill(amount_paid=money("100 USD"), amount_credited=money("0.50 USD"))),
        "Before discounts $1,344.3464175 Welcome discount -$35.00 Subtotal $1,309.3464175"
        " Carried over from earlier invoices $0.005 Carried to the next invoice -$0.0014175"
        " Total before tax $1,309.35 VAT 23% (added) $301.15 Total (USD) $1,610.50"
        " Paid from account credit -$10.00 Credit notes -$0.50 Paid -$100.00 Amount due $1,500.00",
    )


def test_what_is_not_there_has_no_row() -> None:
    text = text_of(render_invoice(invoice_of(line("One", "10 USD"))))
    assert "Subtotal $10.00 Total (USD) $10.00 Amount due $10.00" in text
    assert not re.search("discount|Carried|tax|Credit|Paid|Refunded|Notes", text)


def test_an_included_tax_stands_below_the_total_that_contains_it() -> None:
    invoice = invoice_of(
        line("One", "119 USD"),
        net=money("100 USD"),
        tax=money("19 USD"),
        tax_rate_percent=Decimal(19),
        tax_name="VAT",
        is_tax_inclusive=True,
    )
    assert_says(
        render_invoice(invoice),
        "Subtotal $119.00 Total (USD) $119.00 Total before tax $100.00 VAT 19% (included) $19.00 Amount due $119.00",
    )


def test_a_tax_without_a_rate_or_a_name_is_still_told() -> None:
    invoice = invoice_of(line("One", "10 USD"), tax=money("1 USD"), total=money("11 USD"))
    assert_says(render_invoice(invoice), "Total before tax $10.00 Tax (added) $1.00 Total (USD) $11.00")


def test_a_price_that_is_no_exact_one_says_so() -> None:
    lines = (line("Steps", "4.4444 USD", quantity=1500), line("Halves", "1.25 USD", quantity="12.5"))
    assert_says(render_invoice(invoice_of(*lines)), "Steps 1,500 ≈ $0.002963 $4.4444", "Halves 12.5 $0.10 $1.25")


def test_a_tax_on_nothing_is_told_and_a_rate_of_zero_is_not() -> None:
    taxed = invoice_of(line("One", "0 USD"), tax_rate_percent=Decimal("8.25"), tax_name="Sales tax")
    assert_says(render_invoice(taxed), "Total before tax $0.00 Sales tax 8.25% (added) $0.00 Total (USD) $0.00")
    assert "tax" not in text_of(render_invoice(replace(taxed, tax_rate_percent=Decimal(0))))


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("1234 JPY", "¥1,234"),
        ("1234.5 BHD", "BHD 1,234.500"),
        ("1234.5 EUR", "€1,234.50"),
        ("1234.5 BRL", "R$1,234.50"),
        ("1234.5 CHF", "CHF 1,234.50"),
        ("-1234.5 CHF", "-CHF 1,234.50"),
        ("0 USD", "$0.00"),
    ],
)
def test_an_amount_has_the_form_of_its_currency(amount: str, shown: str) -> None:
    currency = amount.split()[1]
    assert_says(render_invoice(invoice_of(line("One", amount))), f"Total ({currency}) {shown} Amount due {shown}")


def test_an_invoice_of_nothing_to_nobody_by_nobody_is_still_one() -> None:
    nameless = invoice_of(seller=Party(), customer=Party(), number=None, issued_at=None, due_at=None, period_start=None)
    assert_says(render_invoice(nameless), "Invoice", "tenant:acme", "Nothing was charged.", "Total (USD) $0.00")


def test_the_headline_says_the_one_thing_that_matters() -> None:
    open_ended = invoice_of(line("One", "10 USD"), due_at=None)
    settled = replace(open_ended, status=InvoiceStatus.PAID, amount_paid=money("10 USD"), paid_at=at("2026-02-03"))
    assert_says(render_invoice(open_ended), "$10.00 due Description")
    assert_says(render_invoice(settled), "$10.00 paid on February 3, 2026")
    assert " due Description" not in text_of(render_invoice(replace(open_ended, credit_applied=money("10 USD"))))


@pytest.mark.parametrize(
    ("status", "mark", "has_amount_due"),
    [
        (InvoiceStatus.DRAFT, "DRAFT", False),
        (InvoiceStatus.PAID, "PAID", True),
        (InvoiceStatus.CANCELLED, "CANCELLED", False),
        (InvoiceStatus.REFUNDED, "REFUNDED", True),
        (InvoiceStatus.PARTIALLY_REFUNDED, "PARTIALLY REFUNDED", True),
    ],
)
def test_an_invoice_that_is_not_open_is_marked_and_asks_for_nothing(
    status: InvoiceStatus, mark: str, has_amount_due: bool
) -> None:
    text = text_of(render_invoice(bill(status=status)))
    # What has no effect says so across the page too, so that nobody pays it.
    assert text.count(mark) == (1 if has_amount_due else 2)
    assert "due by" not in text
    assert "Payment reference" not in text
    assert ("Amount due" in text) is has_amount_due


def test_a_paid_invoice_lists_how_it_was_paid_refunded_and_corrected() -> None:
    invoice = bill(
        status=InvoiceStatus.PARTIALLY_REFUNDED,
        paid_at=at("2026-02-03"),
        amount_paid=money("1600.50 USD"),
        amount_refunded=money("40 USD"),
    )
    refund = replace(paid("40 USD", kind=PaymentKind.REFUND, external_id="re_9"), id="pay_2")
    pdf = render_invoice(invoice, payments=[refund, paid("1600.50 USD")], credit_notes=[credit_note()])
    assert_says(
        pdf,
        "Paid -$1,600.50 Amount due $0.00 Refunded $40.00",
        "CN-2026-000007 February 10, 2026 The workshop was shorter than agreed. -$61.50",
        "Card February 3, 2026 pi_81 $1,600.50 Refund, Card February 3, 2026 re_9 -$40.00",
    )


def test_days_are_those_of_the_customers_zone() -> None:
    invoice = bill(
        zone="America/Sao_Paulo",
        issued_at=at("2026-02-01T02:00"),
        period_start=at("2026-01-01T03:00"),
        period_end=at("2026-02-01T03:00"),
    )
    assert_says(render_invoice(invoice), "Issue date January 31, 2026", "Billing period January 1 – 31, 2026")


# -- languages --------------------------------------------------------------------------------------------------------


def test_an_invoice_speaks_portuguese_with_its_accents_numbers_and_dates() -> None:
    invoice = invoice_of(
        line("Uso além do plano", "1234.56 BRL", period_start=at("2026-01-15"), period_end=at("2026-02-15")),
        locale="pt-BR",
        seller=Party(name="Acácia Inteligência Ltda.", country="BR", tax_id="12.345.678/0001-90"),
        customer=Party(name="Construções Ipê & Irmãos"),
        net=money("1198.76 BRL"),
        tax=money("35.80 BRL"),
        tax_rate_percent=Decimal("2.9"),
        tax_name="ISS",
        is_tax_inclusive=True,
        notes="Até já!",
    )
    pdf = render_invoice(invoice)
    assert_says(
        pdf,
        "Fatura",
        "Acácia Inteligência Ltda. BR CNPJ/CPF: 12.345.678/0001-90",
        "Construções Ipê & Irmãos",
        "Emissão 31 de janeiro de 2026",
        "Vencimento 15 de fevereiro de 2026",
        "Período 1 – 31 de janeiro de 2026",
        "R$ 1.234,56 com vencimento em 15 de fevereiro de 2026",
        "Descrição Quantidade Preço unitário Valor",
        "Uso além do plano 15 de janeiro – 14 de fevereiro de 2026 1 R$ 1.234,56 R$ 1.234,56",
        "ISS 2,9% (incluso) R$ 35,80 Valor a pagar R$ 1.234,56",
        "Observações Até já!",
        "Página 1 de 1",
    )
    assert str(read(pdf).root_object["/Lang"]) == "pt-BR"


@pytest.mark.parametrize(
    ("locale", "title"),
    [
        ("pt", "Fatura"),
        ("pt_PT", "Fatura"),
        ("PT-br", "Fatura"),
        ("en-GB", "Invoice"),
        ("ja", "Invoice"),
        ("", "Invoice"),
    ],
)
def test_a_locale_without_texts_gets_those_of_its_language_else_english(locale: str, title: str) -> None:
    assert_says(render_invoice(bill(locale=locale)), title)


def test_the_reader_chooses_another_language_than_the_invoice_has() -> None:
    assert_says(render_invoice(bill(), locale="pt-BR"), "Fatura", "US$ 1.600,50 com vencimento")


def test_all_languages_say_the_same_things() -> None:
    folder = files("tallystick.invoicing.pdf").joinpath("texts")
    texts = {file.name: tomllib.loads(file.read_text("utf-8")) for file in folder.iterdir()}

    def said(group: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
        for key, value in group.items():
            if isinstance(value, Mapping):
                yield from said(value, f"{path}{key}.")
            else:
                yield f"{path}{key}", tuple(sorted(re.findall(r"\{\w+\}", str(value))))

    # Which currencies have a symbol differs, and a form of dates need not name the same parts.
    common = {
        name: {each for each in said(text) if not each[0].startswith(("money.symbols", "dates"))}
        for name, text in texts.items()
    }
    assert common.keys() == {"en.toml", "pt-BR.toml"}
    assert common["en.toml"] == common["pt-BR.toml"]


@given(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from(["USD", "JPY", "BHD", "BRL"]), st.sampled_from(["en", "pt-BR"])
)
def test_no_digit_of_an_amount_is_lost_and_none_added(nanos: int, currency: str, locale: str) -> None:
    amount = Money.from_nanos(nanos, currency)
    shown = wording_of(locale, "UTC").money(amount)
    plain = re.sub(r"[^\d,.-]", "", shown)
    plain = plain.replace(",", "") if locale == "en" else plain.replace(".", "").replace(",", ".")
    assert Money(plain, currency) == amount


@pytest.mark.parametrize(
    ("start", "end", "shown"),
    [
        ("2026-01-01", "2026-01-02", "January 1, 2026"),
        ("2026-01-01", "2026-01-01", "January 1, 2026"),
        ("2025-12-15", "2026-01-15", "December 15, 2025 – January 14, 2026"),
        ("2026-01-15T12:00", "2026-02-15T12:00", "January 15 – February 15, 2026"),
        ("2026-01-15", None, "from January 15, 2026"),
        (None, "2026-02-01", "until January 31, 2026"),
        (None, None, None),
    ],
)
def test_a_period_is_told_by_its_first_and_last_day(start: str | None, end: str | None, shown: str | None) -> None:
    assert wording_of("en", "UTC").period(start and at(start), end and at(end)) == shown  # type: ignore[arg-type]


# -- long and strange texts -------------------------------------------------------------------------------------------


def test_a_description_is_never_markup() -> None:
    strange = '#panic("x") $ \\ [ *bold* _it_ `raw` <label> @ref // no /* -- ... "q" ~ ${1} {page}'
    lines = (line(strange, "1 USD"), line(strange, "-1 USD", kind=LineKind.DISCOUNT))
    strangers = {"number": strange, "seller": replace(SELLER, name=strange, footer=strange)}
    pdf = render_invoice(
        invoice_of(*lines, notes=strange, customer=Party(name=strange), **strangers),
        payments=[paid("1 USD", external_id=strange)],
    )
    assert text_of(pdf).count(strange) >= 6


@settings(max_examples=60)
@given(st.text(st.characters(codec=None)), st.text(max_size=20))
def test_any_text_can_be_written(text: str, other: str) -> None:
    invoice = invoice_of(line(text, "1 USD"), notes=text, number=other, customer=Party(name=other, address=(text,)))
    assert_says(render_invoice(invoice), "Amount due $1.00")


def test_a_mark_that_turns_the_direction_of_writing_is_left_out() -> None:
    assert_says(render_invoice(invoice_of(line("Ten \u202e01\u202c \x07bell", "10 USD"))), "Ten 01 bell")


def test_half_a_character_is_shown_as_an_unknown_one() -> None:
    assert_says(render_invoice(invoice_of(line("One \ud800 two", "1 USD"))), "One", "two 1 $1.00")


def test_an_accent_may_come_as_a_mark_of_its_own() -> None:
    assert_says(render_invoice(invoice_of(line("Cafe\u0301", "1 USD"))), "Café")


def test_an_invoice_with_a_character_that_no_font_has_is_made_and_claims_no_standard() -> None:
    pdf = render_invoice(invoice_of(line("Rocket 🚀 plan", "1 USD")))
    assert_says(pdf, "Rocket", "plan 1 $1.00")
    assert b"pdfuaid" not in pdf


def test_sixty_lines_go_over_pages_that_repeat_the_header_and_split_no_row() -> None:
    # Rows of four lines: at every end of a page one of them would have been split.
    lines = [line(f"<{number}\n…\n…\n{number}>", f"{number}.50 USD") for number in range(1, 66)]
    pages = pages_of(render_invoice(invoice_of(*lines)))
    assert len(pages) > 3
    for index, page in enumerate(pages, start=1):
        assert f"Invoice INV-2026-000042 Page {index} of {len(pages)}" in page
        assert page.count("Description Quantity Unit price Amount") == 1
    for number in range(1, 66):
        whole = f"<{number} … … {number}> 1 ${number}.50 ${number}.50"
        assert sum(whole in page for page in pages) == 1


def test_a_description_longer_than_a_page_loses_nothing() -> None:
    pdf = render_invoice(invoice_of(line(" ".join(f"word{number}." for number in range(3_000)), "1 USD")))
    assert len(read(pdf).pages) > 4
    text = text_of(pdf)
    assert all(f"word{number}." in text for number in range(3_000))


def test_more_discounts_than_fit_on_a_page_are_all_told() -> None:
    discounts = [line(f"Discount {number}.", "-1 USD", kind=LineKind.DISCOUNT) for number in range(200)]
    pages = pages_of(render_invoice(invoice_of(line("One", "100 USD"), *discounts)))
    assert len(pages) > 4
    text = " ".join(pages)
    assert all(f"Discount {number}. -$1.00" in text for number in range(200))


def test_a_word_that_is_wider_than_its_column_is_broken() -> None:
    pdf = render_invoice(invoice_of(line("x" * 400, "1 USD"), customer=Party(name="y" * 200)))
    runs = re.findall("x+|y+", read(pdf).pages[0].extract_text())
    assert max(map(len, runs)) < 100
    assert sum(len(run) for run in runs if run.startswith("x")) >= 400


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_says_what_it_is_to_archives_and_to_readers_that_cannot_see() -> None:
    pdf = render_invoice(bill(), logo=LOGO)
    reader = read(pdf)
    assert reader.metadata is not None
    assert reader.metadata.title == "Invoice INV-2026-000042 – Northwind Models Ltd"
    assert reader.metadata.author == "Northwind Models Ltd"
    assert str(reader.root_object["/Lang"]) == "en"
    assert reader.root_object["/MarkInfo"]["/Marked"]  # type: ignore[index]
    assert b"pdfuaid:part" in pdf
    assert b"pdfaid:part" in pdf


def test_only_the_font_that_comes_with_the_package_is_used() -> None:
    fonts = {
        str(font.get_object()["/BaseFont"]).partition("+")[2]
        for page in read(everything()).pages
        for font in page["/Resources"]["/Font"].values()  # type: ignore[index]
    }
    assert {font.partition("-Identity")[0] for font in fonts} == {"SourceSans3-Regular", "SourceSans3-Semibold"}


def test_more_fonts_change_nothing_that_the_built_in_one_can_write(tmp_path: Path) -> None:
    fonts = Path(str(files("tallystick.invoicing.pdf").joinpath("fonts")))
    copied = tmp_path / "another.ttf"
    copied.write_bytes((fonts / "SourceSans3-Regular.ttf").read_bytes())
    assert render_invoice(bill(), font_folder=tmp_path) == render_invoice(bill())
    with pytest.raises(InvalidInput) as caught:
        render_invoice(bill(), font_folder=tmp_path / "nowhere")
    assert caught.value.field == "font_folder"


@pytest.mark.parametrize(("country", "width"), [("IE", 595), ("US", 612), (None, 595)])
def test_the_paper_is_that_of_the_sellers_country(country: str | None, width: int) -> None:
    pdf = render_invoice(bill(seller=replace(SELLER, country=country)))
    assert int(read(pdf).pages[0].mediabox.width) == width


# -- the logo ---------------------------------------------------------------------------------------------------------


def png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + b"\x20\x40\x80" * 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format_name", [None, "png", "PNG", ".png", "image/png"])
def test_a_logo_takes_the_place_of_the_name_at_the_top(format_name: str | None) -> None:
    pdf = render_invoice(bill(), logo=png(), logo_format=format_name)
    assert len(read(pdf).pages[0].images) == 1
    assert (
        text_of(pdf).count("Northwind Models Ltd") == text_of(render_invoice(bill())).count("Northwind Models Ltd") - 1
    )


@pytest.mark.parametrize("format_name", [None, "svg", "image/svg+xml"])
def test_a_logo_may_be_a_drawing(format_name: str | None) -> None:
    assert render_invoice(bill(), logo=LOGO, logo_format=format_name) != render_invoice(bill())


@pytest.mark.parametrize(
    ("logo", "format_name", "field"),
    [
        (b"no image", None, "logo"),
        (LOGO, "png", "logo"),
        (b"x" * 1_000_001, None, "logo"),
        (LOGO, "tiff", "logo_format"),
    ],
)
def test_a_logo_that_cannot_be_drawn_is_refused(logo: bytes, format_name: str | None, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        render_invoice(bill(), logo=logo, logo_format=format_name)
    assert caught.value.field == field


# -- credit notes -----------------------------------------------------------------------------------------------------


def test_a_credit_note_says_what_it_corrects_and_where_the_money_goes() -> None:
    pdf = render_credit_note(credit_note(), bill(), logo=LOGO)
    assert_says(
        pdf,
        "Credit note",
        "Number CN-2026-000007",
        "Issue date February 10, 2026",
        "Corrects invoice INV-2026-000042",
        "Invoice date January 31, 2026",
        "$61.50 credited",
        "Total before tax $50.00 VAT 23% (added) $11.50 Total (USD) $61.50 Taken off the amount due $10.00"
        " Refunded to you $40.00 Added to your account credit $11.50",
        "Reason The workshop was shorter than agreed.",
    )
    assert render_credit_note(credit_note(), bill(), logo=LOGO) == pdf
    metadata = read(pdf).metadata
    assert metadata is not None
    assert metadata.title == "Credit note CN-2026-000007 – Northwind Models Ltd"
    assert metadata.creation_date == at("2026-02-10")


def test_a_credit_note_speaks_the_language_of_its_invoice() -> None:
    note = credit_note(reduces=money("0 USD"), credits=money("0 USD"), refunds=money("61.50 USD"))
    text = text_of(render_credit_note(note, bill(locale="pt-BR", is_tax_inclusive=True)))
    assert "Nota de crédito" in text
    assert "Crédito de US$ 61,50" in text
    assert "Total (USD) US$ 61,50 Total sem impostos US$ 50,00 VAT 23% (incluso) US$ 11,50 Reembolsado a você" in text
    assert "Abatido" not in text


def test_a_credit_note_without_parties_has_those_of_its_invoice() -> None:
    pdf = render_credit_note(credit_note(seller=Party(), customer=Party()), bill())
    assert_says(pdf, "Northwind Models Ltd", "Acme Analytics, Inc.")


# -- without the extra ------------------------------------------------------------------------------------------------


def test_without_typst_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(ConfigurationError, match=r"tallystick\[pdf\]"):
        render_invoice(bill())
