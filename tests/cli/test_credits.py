"""`credits` and `cleanup-expired-credits`: what an operator asks of credits and does to them from a shell."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.testing import CreditFactory
from tests.cli.commands import PROGRAM, answer, invoke, succeed
from tests.values import money


@pytest.fixture
def url(database_url: str, clock: FixedClock) -> str:
    """A database of January 2026: two wallets and a feature, used and partly expired."""
    with Tallystick(database_url, clock=clock) as ts:
        make = CreditFactory(ts)
        make.wallet("user:1", "100 USD")
        make.with_credits(money("20 USD")).expiring("user:1", in_days=3)
        make.wallet("user:2", "40 EUR")
        make.with_credits(10).loyalty("user:1", "api-calls")
        clock.advance(hours=8)
        wallet = ts.wallets.get("user:1")
        wallet.deduct_credits("5.25", "usage", feature="chat")
        wallet.refund(wallet.deduct_credits("2", "usage").id)
        ts.features.use("user:1", "api-calls", 4)
        clock.advance(days=4)
        ts.credits.expire()
    return database_url


MONTH = ("--month", "2026-01")


def test_a_report_says_what_moved_and_what_is_left(url: str) -> None:
    said = succeed("credits", "report", *MONTH, "--database", url)
    assert said.startswith("Credits, January 2026 (UTC)\n")
    assert re.search(r"\+ Granted +120\.00 USD +2 grants", said)
    assert re.search(r"– Used +7\.25 USD +2 uses", said)
    assert re.search(r"– Expired +20\.00 USD +1 grant\b", said)
    assert re.search(r"\+ Refunded +2\.00 USD", said)
    assert re.search(r"= Closing +94\.75 USD", said)
    assert re.search(r"Open now +1 grant, 94\.75 USD of 100\.00 USD left", said)
    assert re.search(r"Used by hour.*\n +00 to 23 .*most at 20:00\n +Mon to Sun .*most on Thursday", said)
    assert re.search(r"promotional +20\.00 USD +– +20\.00 USD +– +–\n", said)
    assert re.search(r"top-up +100\.00 USD +1 +7\.25 USD +–", said)
    assert re.search(r"chat +– +– +5\.25 USD +–", said)
    assert re.search(r"user:1 +120\.00 USD +2 +100% █+", said)
    assert re.search(
        r"api-calls \(extra credits\)\n +Opening +0\n +\+ Granted +10 +1 grant\n +– Used +4 +1 use\n", said
    )
    assert re.search(r"EUR\n +Opening +0\.00 EUR", said)


def test_a_report_is_of_one_unit_and_any_range(url: str) -> None:
    found = answer("credits", "report", *MONTH, "--unit", "USD", "--database", url)
    assert ([unit["unit"] for unit in found["units"]], found["label"]) == (["USD"], "January 2026")
    totals = found["units"][0]["totals"]
    assert (totals["used"], totals["granted_count"]) == ({"amount": "7.25", "currency": "USD"}, 2)
    days = answer("credits", "report", "--start", "2026-01-17", "--end", "2026-01-20", "--database", url)
    assert [unit["totals"]["used_count"] for unit in days["units"]] == [0, 0, 0]
    assert (days["label"], days["interval"]) == ("from 2026-01-17 until just before 2026-01-20", "day")
    feature = answer("credits", "report", *MONTH, "--unit", "feature:api-calls", "--database", url)["units"]
    assert [unit["totals"]["closing"] for unit in feature] == [6]


def test_a_month_without_credits_says_so(url: str) -> None:
    said = succeed("credits", "report", "--month", "2025-01", "--database", url)
    assert "Nothing was granted or used, and there are no credits." in said


def test_a_report_of_what_is_none_is_refused(url: str) -> None:
    both = answer("credits", "report", *MONTH, "--start", "2026-01-01", "--database", url, exit_code=3)
    assert both["error"]["field"] == "month"
    unit = answer("credits", "report", "--unit", "dollars", "--database", url, exit_code=3)["error"]
    assert (unit["field"], "feature:api-calls" in unit["message"]) == ("unit", True)


def test_a_billables_credits_are_shown_with_open_grants_and_the_last_lines(url: str) -> None:
    said = succeed("credits", "show", "user:1", "--database", url)
    assert re.search(r"USD wallet\n +Balance +94\.75 USD\n +Available +94\.75 USD\n", said)
    assert re.search(r"1\. +94\.75 USD +100\.00 USD +paid +top-up +50 +never", said)
    assert re.search(r"2026-01-15 20:00 +-5\.25 USD +114\.75 USD +deduction +usage +chat +txn_", said)
    assert re.search(r"api-calls \(extra credits\)\n +Left +6\n +Used +0 ", said)

    found = answer("credits", "show", "user:1", "--lines", 2, "--database", url)
    (wallet,) = found["wallets"]
    assert (wallet["currency"], wallet["available"]) == ("USD", {"amount": "94.75", "currency": "USD"})
    assert ([grant["reason"] for grant in wallet["grants"]], len(wallet["transactions"])) == (["top-up"], 2)
    # The use was in another month than this one.
    assert [(one["feature"], one["extra_remaining"], one["extra_used"]) for one in found["features"]] == [
        ("api-calls", 6, 0)
    ]


def test_who_has_no_credits_is_told_how_to_get_some(url: str) -> None:
    words = ("credits", "show", "user:9", "--database", url)
    assert "None. Add some: tallystick credits add user:9 100" in succeed(*words)
    assert answer(*words) == {"billable": "user:9", "wallets": [], "features": []}


def test_money_is_added_once_for_a_key(url: str) -> None:
    words = ("credits", "add", "user:7", "12.50", "--reason", "goodwill", "--idempotency-key", "ticket-1")
    added = answer(*words, "--expires", "2099-01-01", "--priority", 10, "--granted-by", "ada", "--database", url)
    assert (added["type"], added["reason"], added["replayed"]) == ("credit", "goodwill", False)
    again = answer(*words, "--expires", "2099-01-01", "--priority", 10, "--granted-by", "ada", "--database", url)
    assert (again["id"], again["replayed"]) == (added["id"], True)
    with Tallystick(url) as ts:
        (grant,) = ts.wallets.get("user:7").grants()
    assert (grant.amount, grant.kind) == (money("12.50 USD"), "promotional")
    assert (grant.priority, grant.granted_by) == (10, "ada")
    assert grant.expires_at is not None
    assert grant.expires_at.isoformat() == "2099-01-01T00:00:00+00:00"
    said = succeed("credits", "add", "user:7", "1", "--database", url)
    assert re.search(r"user:7: \+1\.00 USD \(top-up\), balance 13\.50 USD\n +txn_\w+, ", said)


@pytest.mark.parametrize(
    ("words", "currency", "balance"),
    [
        (("5 EUR",), "EUR", "5 EUR"),
        (("5", "--currency", "EUR"), "EUR", "5 EUR"),
        (("5 EUR", "--currency", "EUR"), "EUR", "5 EUR"),
        (("5",), "USD", "5 USD"),
    ],
)
def test_an_amount_says_its_wallet_or_the_option_does(
    sqlite_url: str, words: tuple[str, ...], currency: str, balance: str
) -> None:
    succeed("credits", "add", "user:7", *words, "--database", sqlite_url)
    with Tallystick(sqlite_url) as ts:
        assert [wallet.currency for wallet in ts.wallets.list("user:7")] == [currency]
        assert ts.wallets.get("user:7", currency).balance == money(balance)


def test_an_amount_of_another_currency_needs_a_rate(sqlite_url: str) -> None:
    words = ("credits", "add", "user:7", "5 USD", "--currency", "EUR", "--database", sqlite_url)
    assert answer(*words, exit_code=3)["error"]["code"] == "currency_mismatch"
    assert (
        answer("credits", "add", "user:7", "much", "--database", sqlite_url, exit_code=3)["error"]["field"] == "amount"
    )


def test_extra_credits_are_granted_of_a_feature(url: str) -> None:
    words = ("credits", "grant", "user:7", "api-calls", "2.5", "--reason", "Referral bonus", "--database", url)
    granted = answer(*words, "--expires", "2099-01-01", "--idempotency-key", "ref-1")
    assert (granted["feature_slug"], granted["kind"]) == ("api-calls", "promotional")
    assert Decimal(granted["amount"]) == Decimal("2.5")
    assert answer(*words, "--expires", "2099-01-01", "--idempotency-key", "ref-1")["id"] == granted["id"]
    said = succeed(*words)
    assert "user:7: 2.5 of api-calls granted (Referral bonus, promotional)" in said
    misspelt = answer("credits", "grant", "user:7", "api-cals", "1", "--database", url, exit_code=3)
    assert misspelt["error"]["field"] == "feature"


@pytest.mark.parametrize(
    "words",
    [
        ("credits", "report"),
        ("credits", "show", "user:1"),
        ("credits", "add", "user:1", "5"),
        ("credits", "grant", "user:1", "api-calls", "5"),
        ("cleanup-expired-credits",),
    ],
)
def test_a_database_that_is_not_there_is_a_wrong_name(tmp_path: Path, words: tuple[str, ...]) -> None:
    error = answer(*words, "--database", f"sqlite:///{tmp_path / 'none.db'}", exit_code=3)["error"]
    assert (error["code"], (tmp_path / "none.db").exists()) == ("not_found", False)


# -- cleaning up ------------------------------------------------------------------------------------------------------


def with_expired(url: str, number: int) -> None:
    with Tallystick(url) as ts:
        for n in range(number):
            CreditFactory(ts).expired(f"user:{n}", "api-calls")
        CreditFactory(ts).with_credits(money("2.50 USD")).expired("user:1")


def test_expired_credits_are_booked_after_a_dry_run_has_shown_them(database_url: str) -> None:
    with_expired(database_url, 4)
    words = ("cleanup-expired-credits", "--database", database_url)
    said = succeed(*words, "--dry-run")
    assert "5 grants would be booked as expired:\n  2.50 USD\n  40 of api-calls\nA dry run: nothing was booked." in said
    found = {"grants": 5, "amounts": {"USD": {"amount": "2.50", "currency": "USD"}, "feature:api-calls": 40}}
    assert answer(*words, "--dry-run") == {"dry_run": True, **found}
    assert answer(*words, "--batch-size", 2) == {"dry_run": False, **found}
    assert succeed(*words) == "Nothing has expired.\n"
    with Tallystick(database_url) as ts:
        assert ts.doctor().ok


def test_a_portion_has_one_grant_at_least(sqlite_url: str) -> None:
    assert invoke("cleanup-expired-credits", "--batch-size", 0, "--database", sqlite_url).exit_code == 2


@pytest.mark.parametrize(("options", "is_shown"), [((), True), (("--json",), False)])
def test_a_bar_is_shown_to_people_only(sqlite_url: str, options: tuple[str, ...], is_shown: bool) -> None:
    with_expired(sqlite_url, 3)
    terminal, end = pty.openpty()
    words = [*PROGRAM, "cleanup-expired-credits", "--database", sqlite_url, "--batch-size", "1", *options]
    ended = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=end, env={**os.environ, "TERM": "xterm"}, timeout=120, check=True
    )
    os.close(end)
    seen = b""
    # Without a byte a terminal has nothing to read, and its end is an error on some systems.
    os.set_blocking(terminal, False)
    try:
        while part := os.read(terminal, 65_536):
            seen += part
    except OSError:
        pass
    finally:
        os.close(terminal)
    assert (b"Booking expired credits" in seen) == is_shown
    assert b"4" in ended.stdout
