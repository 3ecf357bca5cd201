"""`report`, `explain` and `reprice`: what was used, why it cost that, and what it should have cost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tallystick import FixedClock, Tallystick
from tests.cli.commands import answer, invoke, succeed

SAO_PAULO = '[period]\ntimezone = "America/Sao_Paulo"\n'


def record(ts: Tallystick, at: str, **fields: object) -> str:
    values: dict[str, object] = {
        "billable": "user:1",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "input_tokens": 1_000_000,
        "occurred_at": at,
    }
    return ts.usage.record(**(values | fields)).id


@pytest.fixture
def books(database_url: str) -> str:
    """A database of two customers, of January and February 2026."""
    with Tallystick(database_url) as ts:
        record(ts, "2026-01-01T00:00:00Z", feature="chat")
        record(ts, "2026-01-10T12:00:00Z", output_tokens=1_000_000, feature="search")
        record(ts, "2026-01-31T23:59:59.999999Z", billable="user:2", model="gpt-4o")
        record(ts, "2026-02-01T00:00:00Z", billable="user:2")
    return database_url


# events ---------------------------------------------------------------------------------------------------------------


def test_events_are_listed_the_newest_first_and_page_by_page(books: str) -> None:
    first = answer("events", "--limit", "3", "--database", books)
    assert [event["billable"] for event in first["events"]] == ["user:2", "user:2", "user:1"]
    rest = answer("events", "--limit", "3", "--cursor", first["next_cursor"], "--database", books)
    assert [event["occurred_at"] for event in rest["events"]] == ["2026-01-01T00:00:00+00:00"]
    assert rest["next_cursor"] is None


def test_a_listed_event_can_be_explained(books: str) -> None:
    said = succeed("events", "--billable", "user:2", "--end", "2026-02-01", "--database", books)
    [event_id] = re.findall(r"evt_[0-9a-f]{32}", said)
    assert re.search(r"2026-01-31 23:59:59 +user:2 +openai/gpt-4o +1,000,000 +2\.50 USD", said)
    assert "gpt-4o" in succeed("explain", event_id, "--database", books)


def test_no_events_are_said_to_be_none(books: str) -> None:
    assert succeed("events", "--billable", "user:9", "--database", books) == "No usage events.\n"


# report ---------------------------------------------------------------------------------------------------------------


def test_a_month_is_summed_up_to_the_last_microsecond(books: str) -> None:
    found = answer("report", "--month", "2026-01", "--database", books)
    assert (found["start"], found["end"]) == ("2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00")
    assert (found["totals"]["events"], found["totals"]["total_tokens"]) == (3, 4_000_000)
    # 0.15 twice and 0.60 for a million tokens of gpt-4o-mini, 2.50 of gpt-4o.
    assert found["totals"]["costs"] == [{"amount": "3.40", "currency": "USD"}]
    assert [group["name"] for group in found["by"]["billable"]] == ["user:2", "user:1"]
    assert [group["name"] for group in found["by"]["model"]] == ["gpt-4o", "gpt-4o-mini"]
    assert found["series"]["interval"] == "day"
    assert [point["events"] for point in found["series"]["points"]] == [1, *[0] * 8, 1, *[0] * 20, 1]


def test_a_report_is_the_same_for_people(books: str) -> None:
    said = succeed("report", "--month", "2026-01", "--database", books)
    assert "Usage of all billables, January 2026 (UTC)" in said
    assert re.search(r"Events +3\n", said)
    assert re.search(r"Tokens +4,000,000  \(3,000,000 in, 1,000,000 out\)", said)
    assert re.search(r"Cost +3\.40 USD", said)
    assert re.search(r"user:2 +2\.50 USD +1,000,000 +1 +74% █+", said)
    assert "at most 2.50 USD (2026-01-31)" in said
    assert re.search(r"^  ▁·{8}▃·{20}█$", said, re.MULTILINE)


def test_a_report_of_one_billable_has_its_features(books: str) -> None:
    found = answer("report", "--month", "2026-01", "--billable", "user:1", "--database", books)
    assert found["billable"] == "user:1"
    assert [group["name"] for group in found["by"]["feature"]] == ["search", "chat"]


@pytest.mark.parametrize("grouping", ["billable", "provider", "feature", "model", "resource-type"])
def test_one_table_can_be_asked_for(books: str, grouping: str) -> None:
    found = answer("report", "--month", "2026-01", "--by", grouping, "--database", books)
    assert list(found["by"]) == [grouping.replace("-", "_")]
    assert sum(group["events"] for group in found["by"][grouping.replace("-", "_")]) == 3


def test_a_long_table_says_how_many_rows_it_leaves_out(books: str) -> None:
    said = succeed("report", "--month", "2026-01", "--by", "billable", "--top", 1, "--database", books)
    assert "user:1" not in said
    assert "… and 1 more" in said


def test_months_days_and_times_are_those_of_the_accounts_zone(sqlite_url: str) -> None:
    Path("tallystick.toml").write_text(SAO_PAULO, encoding="utf-8")
    with Tallystick(sqlite_url) as ts:
        record(ts, "2026-01-01T02:59:59Z")
        record(ts, "2026-01-01T03:00:00Z")
    assert answer("report", "--month", "2025-12", "--database", sqlite_url)["totals"]["events"] == 1
    assert answer("report", "--month", "2026-01", "--database", sqlite_url)["totals"]["events"] == 1
    local = ("--start", "2026-01-01", "--end", "2026-01-01 00:00:01")
    assert answer("report", *local, "--database", sqlite_url)["start"] == "2026-01-01T03:00:00+00:00"
    instant = ("--start", "2026-01-01T02:00:00Z", "--end", "2026-01-01T03:00:00Z")
    found = answer("report", *instant, "--database", sqlite_url)
    assert (found["totals"]["events"], found["series"]["interval"]) == (1, "hour")


@pytest.mark.parametrize(
    ("start", "end", "interval"),
    [
        ("2026-01-10", "2026-01-12", "hour"),
        ("2026-01-01", "2026-03-01", "day"),
        ("2026-01-01", "2026-12-01", "week"),
        ("2025-01-01", "2027-01-01", "month"),
    ],
)
def test_the_chart_has_an_interval_that_suits_the_range(books: str, start: str, end: str, interval: str) -> None:
    options = ("--start", start, "--end", end, "--database", books)
    assert answer("report", *options)["series"]["interval"] == interval
    assert f"Cost by {interval}" in succeed("report", *options)


def test_an_open_range_goes_as_far_as_there_is_use(books: str) -> None:
    assert answer("report", "--start", "2026-01-31", "--database", books)["totals"]["events"] == 2
    assert answer("report", "--end", "2026-01-02", "--database", books)["totals"]["events"] == 1


def test_a_month_without_use_says_where_there_is_some(books: str) -> None:
    said = succeed("report", "--month", "2025-06", "--database", books)
    assert "Nothing was used. The last use is in February 2026: --month 2026-02" in said


def test_this_month_is_reported_without_a_range(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        ts.usage.log("acme", "message")
    assert answer("report", "--database", sqlite_url)["totals"]["events"] == 1


def test_a_missing_price_is_never_shown_as_nothing(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        record(ts, "2026-01-01T00:00:00Z", model="gpt-nope")
        record(ts, "2026-01-01T00:00:00Z")
    said = succeed("report", "--month", "2026-01", "--database", sqlite_url)
    assert "Unpriced 1 event: not in the cost." in said
    assert re.search(r"gpt-nope +unpriced ", said)
    assert re.search(r"user:1 +0\.15 USD \+ 1 unpriced", said)


def test_names_with_brackets_are_shown_as_they_are(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        record(ts, "2026-01-01T00:00:00Z", billable="team:[bold]:smile:", total_cost="1")
    assert "team:[bold]:smile:" in succeed("report", "--month", "2026-01", "--database", sqlite_url)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--month", "2026-13"), 'Write a month as "2026-01".'),
        (("--month", "January"), 'Write a month as "2026-01".'),
        (("--month", "2026-01", "--start", "2026-01-01"), "Give --month, or --start and --end."),
        (("--start", "2026-02-01", "--end", "2026-01-01"), "must not lie before start"),
        (("--billable", "user 1"), "billable"),
    ],
)
def test_a_range_or_name_that_cannot_be_is_refused(books: str, options: tuple[str, ...], said: str) -> None:
    result = invoke("report", *options, "--database", books)
    assert (result.exit_code, result.stdout) == (3, "")
    assert said in result.stderr


def test_the_limits_of_a_billable_belong_to_its_report(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        ts.plans.create("pro", monthly_token_limit=1_000)
        ts.subscriptions.create("user:1", "pro")
        ts.usage.record(billable="user:1", provider="openai", model="gpt-4o-mini", input_tokens=900)
    said = succeed("report", "--billable", "user:1", "--database", sqlite_url)
    assert re.search(r"Tokens +█+░+ +90%  900 of 1,000", said)


# explain --------------------------------------------------------------------------------------------------------------


def test_a_charge_is_taken_apart(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        event = record(ts, "2026-01-10T12:00:00Z", input_tokens=114, output_tokens=44, metadata={"ticket": 7})
    said = succeed("explain", event, "--database", database_url)
    assert re.search(r"input tokens +114 +0\.15 +1,000,000 +0\.0000171\n", said)
    assert re.search(r"output tokens +44 +0\.6 +1,000,000 +0\.0000264\n", said)
    assert re.search(r"together +0\.0000435\n", said)
    assert "Cost         0.0000435 USD\n" in said
    assert "ticket=7" in said
    found = answer("explain", event, "--database", database_url)
    assert (found["event"]["id"], found["exact"]) == (event, "0.0000435")


def test_a_cost_that_was_rounded_says_so(sqlite_url: str) -> None:
    Path("tallystick.toml").write_text(
        '[providers.own.models.m]\ninput_price_per_million = "0.0015"\noutput_price_per_million = "0"\n',
        encoding="utf-8",
    )
    with Tallystick(sqlite_url) as ts:
        event = record(ts, "2026-01-10T12:00:00Z", provider="own", model="m", input_tokens=3)
    said = succeed("explain", event, "--database", sqlite_url)
    assert "0.0000000045" in said
    assert "Cost         0.000000004 USD, rounded once, half-even, to 9 digits" in said


def test_an_overage_is_explained(sqlite_url: str) -> None:
    with Tallystick(sqlite_url, clock=FixedClock("2026-01-10T12:00:00Z")) as ts:
        ts.plans.create("pro", monthly_token_limit=100, overage_behavior="charge", overage_price_per_1k_tokens="0.5")
        ts.subscriptions.create("user:1", "pro")
        event = record(ts, "2026-01-10T12:00:00Z", input_tokens=1100)
    said = succeed("explain", event, "--database", sqlite_url)
    assert "Overage      0.50 USD: 1,000 tokens beyond the limit at 0.5 for 1,000" in said
    assert "Plan         pro, version 1" in said
    assert "Flagged overage" in said


def test_an_event_that_does_not_exist_is_not_found(books: str) -> None:
    assert answer("explain", "evt_none", "--database", books, exit_code=3)["error"]["code"] == "not_found"


# reprice --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def unpriced(database_url: str) -> str:
    """A database with use of a model that had no price, and settings that give it one now."""
    with Tallystick(database_url) as ts:
        record(ts, "2026-01-10T12:00:00Z", provider="own", model="m")
        record(ts, "2026-02-10T12:00:00Z", provider="own", model="m", billable="user:2")
        record(ts, "2026-01-10T12:00:00Z", provider="own", model="unknown")
        record(ts, "2026-01-10T12:00:00Z")
    Path("tallystick.toml").write_text(
        '[providers.own.models.m]\ninput_price_per_million = "2"\noutput_price_per_million = "4"\n', encoding="utf-8"
    )
    return database_url


def test_repricing_is_a_preview_until_it_is_applied(unpriced: str) -> None:
    options = ("reprice", "--provider", "own", "--database", unpriced)
    for _ in range(2):
        preview = answer(*options)
        assert (preview["applied"], len(preview["differences"]), preview["still_unpriced"]) == (False, 2, 1)
        assert preview["total_differences"] == [{"amount": "4.00", "currency": "USD"}]
        assert "Nothing was recorded: add --apply." in succeed(*options)
    applied = succeed(*options, "--apply")
    assert "2 corrections recorded, 4.00 USD in all." in applied
    assert answer(*options, "--apply")["differences"] == []
    assert answer("report", "--month", "2026-01", "--database", unpriced)["totals"]["unpriced_events"] == 1
    assert answer("doctor", "--database", unpriced)["ok"] is True


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), 2),
        (("--billable", "user:2"), 1),
        (("--start", "2026-02-01"), 1),
        (("--end", "2026-02-01"), 1),
        (("--model", "m"), 2),
        (("--model", "gpt-4o-mini"), 0),
        (("--only-unpriced",), 2),
        (("--provider", "openai"), 0),
    ],
)
def test_only_what_was_asked_for_is_priced_again(unpriced: str, options: tuple[str, ...], found: int) -> None:
    assert len(answer("reprice", *options, "--database", unpriced)["differences"]) == found


def test_what_is_unchanged_is_counted_unless_only_the_unpriced_are_asked_for(unpriced: str) -> None:
    assert answer("reprice", "--database", unpriced)["unchanged"] == 1
    assert answer("reprice", "--only-unpriced", "--database", unpriced)["unchanged"] == 0
    assert "No event would cost anything else." in succeed("reprice", "--provider", "openai", "--database", unpriced)
