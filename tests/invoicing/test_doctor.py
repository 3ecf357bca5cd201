"""The doctor knows every number of invoices: nothing is amiss whatever was done, and each that is changed is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from tallystick import FixedClock, Tallystick
from tallystick.doctor import Finding
from tallystick.doctor.invoices import invoice_findings
from tests.acceptance.accounts import assert_healthy
from tests.values import money


@pytest.fixture
def books(database_url: str, clock: FixedClock) -> Iterator[Tallystick]:
    """Invoices of every kind: fees, use, overage, by hand, paid, credited, refunded, voided, drafts, with tax."""
    with Tallystick(database_url, clock=clock, invoicing={"tax": {"rate_percent": "19"}}) as ts:
        ts.plans.create(
            "pro",
            price=money("99.99 USD"),
            monthly_token_limit=100,
            overage_behavior="charge",
            overage_price_per_1k_tokens=money("0.333 USD"),
            usage_prices={"message": {"model": "per_unit", "price": "0.0037"}},
        )
        ts.subscriptions.create("user:1", "pro")
        ts.run_due_jobs()
        for number in range(3):
            ts.usage.record(billable="user:1", input_tokens=77, total_cost=money("0 USD"))
            ts.usage.record(billable="user:1", resource_type="message", quantity=3 + number)
        clock.set("2026-02-15T12:00:00Z")
        ts.run_due_jobs()
        ts.invoices.create("user:1", amount_cents=100, draft=True)
        ts.invoices.void(ts.invoices.create("user:1", amount_cents=100, draft=True).id)
        paid, owed = (ts.invoices.get(f"INV-2026-00000{number}") for number in (1, 2))
        ts.invoices.record_payment(paid.id, "200")
        ts.invoices.refund(paid.id, "10")
        ts.invoices.credit(paid.id, "3.33", reason="Goodwill")
        ts.invoices.credit(owed.id, "7", reason="Goodwill")
        ts.invoices.create("user:1", line_items=[{"description": "Setup", "amount": "50.005"}])
        ts.invoices.void(ts.invoices.create("user:1", amount_cents=100_000).id)
        yield ts


def damage(ts: Tallystick, *statements: str) -> list[Finding]:
    """Change something behind the engine's back, and ask the doctor."""
    assert_healthy(ts)
    for statement in statements:
        changed = ts._engine.lane.transact(
            lambda connection, sql=statement: (
                connection.execute(  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                    text(sql), execution_options={"preserve_rowcount": True}
                ).rowcount
            )
        )
        assert changed > 0, statement
    return [finding for finding in ts.doctor().findings if finding.severity == "drift"]


FIRST = "(SELECT id FROM invoices WHERE number = 'INV-2026-000001')"
SECOND = "(SELECT id FROM invoices WHERE number = 'INV-2026-000002')"


DAMAGE: list[tuple[str, set[str]]] = [
    (f"UPDATE invoice_lines SET amount = amount + 1 WHERE invoice_id = {FIRST}", {"subtotal", "items charged"}),
    (f"DELETE FROM invoice_lines WHERE invoice_id = {SECOND} AND kind = 'usage'", {"subtotal", "use charged"}),
    (f"DELETE FROM overages WHERE invoice_id = {SECOND}", {"overage charged"}),
    (f"UPDATE usage_charges SET amount = amount + 1 WHERE invoice_id = {SECOND}", {"use charged"}),
    (f"UPDATE usage_charges SET invoice_id = NULL WHERE invoice_id = {SECOND}", {"use charged"}),
    (f"UPDATE invoice_items SET invoice_id = {SECOND}", {"items charged", "invoice of item"}),
    (f"UPDATE overages SET sync_started_at = 1 WHERE invoice_id = {SECOND}", {"charges of overage"}),
    ("UPDATE invoices SET tax = tax + 10000000 WHERE number = 'INV-2026-000001'", {"tax"}),
    ("UPDATE invoices SET net = net - 10000000 WHERE number = 'INV-2026-000001'", {"net"}),
    ("UPDATE invoices SET total = total - 10000000 WHERE number = 'INV-2026-000004'", {"total"}),
    (
        "UPDATE invoices SET carried_out = carried_out + 1 WHERE number = 'INV-2026-000003'",
        {"carried_out", "carried"},
    ),
    ("UPDATE invoices SET amount_paid = 0 WHERE number = 'INV-2026-000001'", {"amount_paid", "credit"}),
    ("UPDATE invoices SET amount_credited = 0 WHERE number = 'INV-2026-000002'", {"amount_credited"}),
    ("UPDATE invoices SET amount_refunded = 0 WHERE number = 'INV-2026-000001'", {"amount_refunded"}),
    ("UPDATE invoices SET status = 'paid' WHERE number = 'INV-2026-000002'", {"status"}),
    ("UPDATE invoices SET status = 'pending', voided_at = NULL WHERE number = 'INV-2026-000004'", {"credit"}),
    ("UPDATE invoices SET credit_applied = 0 WHERE number = 'INV-2026-000003'", {"credit"}),
    ("DELETE FROM payments WHERE kind = 'refund'", {"amount_refunded", "refunds on credit notes", "status"}),
    ("UPDATE payments SET amount = amount + 1 WHERE kind = 'payment'", {"credit"}),
    ("UPDATE credit_notes SET amount = amount + 1 WHERE number = 'CN-2026-000003'", {"amount"}),
    ("UPDATE credit_notes SET tax = tax + 10000000 WHERE number = 'CN-2026-000003'", {"tax"}),
    ("UPDATE credit_notes SET invoice_id = 'inv_0' WHERE number = 'CN-2026-000003'", {"credit note"}),
    ("UPDATE credit_notes SET amount = 999000000000 WHERE number = 'CN-2026-000003'", {"credit notes"}),
    ("UPDATE billing_accounts SET credit = credit + 1", {"credit"}),
    ("UPDATE billing_accounts SET carried = carried - 1", {"carried"}),
    ("DELETE FROM billing_accounts", {"carried", "credit"}),
    ("UPDATE number_series SET last_number = last_number + 1", {"numbers"}),
    ("UPDATE number_series SET last_number = last_number - 1", {"numbers"}),
    ("UPDATE invoices SET number = 'INV-2026-000009' WHERE number = 'INV-2026-000004'", {"numbers"}),
    ("UPDATE invoices SET number = 'Nr 4' WHERE number = 'INV-2026-000004'", {"numbers", "series of number"}),
    ("DELETE FROM credit_notes WHERE number = 'CN-2026-000001'", {"numbers"}),
]


class Undone(Exception):
    """Raised so that nothing of a damage stays."""


def test_what_was_changed_is_found(books: Tallystick) -> None:
    assert_healthy(books)
    for statement, kinds in DAMAGE:
        found = {finding.kind.removesuffix(", in nanos,") for finding in found_after(books, statement)}
        assert kinds <= found, f"{statement}: {found}"
    assert_healthy(books)


def found_after(ts: Tallystick, statement: str) -> list[Finding]:
    """Change something, ask, and take it back."""
    found: list[Finding] = []

    def work(connection: Connection) -> None:
        changed = connection.execute(text(statement), execution_options={"preserve_rowcount": True}).rowcount
        assert changed > 0, statement
        found.extend(invoice_findings(connection))
        raise Undone

    with pytest.raises(Undone):
        ts._engine.lane.transact(work)
    return found


def test_an_item_that_stands_on_two_invoices_is_found(books: Tallystick) -> None:
    twice = (
        "INSERT INTO invoice_lines (invoice_id, position, kind, description, quantity, amount, item_id) "
        f"SELECT {SECOND}, 99, kind, description, quantity, 0, item_id FROM invoice_lines "
        f"WHERE invoice_id = {FIRST} AND item_id IS NOT NULL"
    )
    findings = damage(books, twice)
    assert {"lines of item", "invoice of item"} <= {finding.kind for finding in findings}


def test_a_finding_says_which_numbers_are_missing(books: Tallystick) -> None:
    (finding,) = damage(books, "UPDATE number_series SET last_number = 9 WHERE series LIKE 'CN%'")
    assert str(finding) == (
        "numbers of CN-2026-…: expected 1 to 9, found without 4, 5, 6, 7, 8 and 1 more. "
        "A document is lost, or its number was changed: restore it."
    )


def test_formats_that_were_changed_are_series_of_their_own(database_url: str, clock: FixedClock) -> None:
    for number_format in ("{number}", "{year}{number:04}", "F-{number}", "G-{number:,}", "H-{number:x}"):
        with Tallystick(database_url, clock=clock, invoicing={"number_format": number_format}) as ts:
            for _ in range(2):
                ts.invoices.create("acme", amount_cents=100)
            assert_healthy(ts)
