"""Recording use and reading it back: batches, pages, metadata, and what is refused by name."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick
from tallystick.errors import InvalidInput, NotFound
from tallystick.metering.metadata import MetadataPolicy
from tallystick.money import Money
from tests.acceptance.accounts import BILLABLE, assert_healthy, meter, standing

POLICY = MetadataPolicy(bytes_max=4096, keys_max=50, redact=("password", "api_key", "token"))


# -- recording --------------------------------------------------------------------------------------------------------


def test_a_logged_use_says_who_what_and_when(ts: Tallystick) -> None:
    event = ts.usage.log(
        "acme", "file_upload", Decimal("2.5"), {"size": 7}, occurred_at="2026-01-10T10:00:00+02:00", user=3
    )
    assert (event.billable, event.resource_type, event.quantity) == ("tenant:acme", "file_upload", Decimal("2.5"))
    assert event.occurred_at == datetime(2026, 1, 10, 8, tzinfo=UTC)
    assert (event.cost, event.total_tokens, event.flags) == (Money("0", "USD"), 0, ())
    assert event == ts.usage.get(event.id)
    assert ts.usage.log("user:1", "message").billable == "user:1"
    assert_healthy(ts)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "billable"),
    ({"billable": "nobody"}, "billable"),
    ({"billable": BILLABLE, "input_tokens": -1}, "input_tokens"),
    ({"billable": BILLABLE, "input_tokens": "5"}, "input_tokens"),
    ({"billable": BILLABLE, "input_tokens": 10**30}, "total_tokens"),
    ({"billable": BILLABLE, "quantity": -1}, "quantity"),
    ({"billable": BILLABLE, "quantity": "many"}, "quantity"),
    ({"billable": BILLABLE, "quantity": "NaN"}, "quantity"),
    ({"billable": BILLABLE, "quantity": "Infinity"}, "quantity"),
    ({"billable": BILLABLE, "quantity": "0.0000001"}, "quantity"),
    ({"billable": BILLABLE, "quantity": 10**30}, "quantity"),
    ({"billable": BILLABLE, "total_cost": 0.5}, "amount"),
    ({"billable": BILLABLE, "total_cost": "12.5.0"}, "amount"),
    ({"billable": BILLABLE, "total_cost": 10**15}, "amount"),
    ({"billable": BILLABLE, "total_cost": "1", "currency": "dollars"}, "currency"),
    ({"billable": BILLABLE, "model": "m\x00"}, "model"),
    ({"billable": BILLABLE, "model": "m\ud800"}, "model"),
    ({"billable": BILLABLE, "model": 5}, "model"),
    ({"billable": BILLABLE, "provider": "p\n" * 3}, "provider"),
    ({"billable": BILLABLE, "feature": "a b"}, "feature"),
    ({"billable": BILLABLE, "resource_type": "\x00"}, "resource_type"),
    ({"billable": BILLABLE, "idempotency_key": "k\x00"}, "idempotency_key"),
    ({"billable": BILLABLE, "idempotency_key": 5}, "idempotency_key"),
    ({"billable": BILLABLE, "billing_mode": "barter"}, "billing_mode"),
    ({"billable": BILLABLE, "occurred_at": "yesterday"}, "occurred_at"),
    ({"billable": BILLABLE, "occurred_at": datetime(2026, 1, 1)}, "occurred_at"),  # noqa: DTZ001
    ({"billable": BILLABLE, "occurred_at": 5}, "occurred_at"),
    ({"billable": BILLABLE, "metadata": {"a": object()}}, "metadata.a"),
    ({"billable": BILLABLE, "metadata": "text"}, "metadata"),
    ({"billable": BILLABLE, "tokens": 5}, "usage"),
]


def test_a_wrong_record_is_refused_by_the_name_of_its_field(ts: Tallystick) -> None:
    for record, field in WRONG:
        with pytest.raises(InvalidInput) as wrong:
            ts.usage.record(**record)
        assert wrong.value.field == field, record


def test_wrong_records_of_a_batch_are_rejected_and_harm_no_other(ts: Tallystick) -> None:
    good = {"billable": BILLABLE, "input_tokens": 1}
    batch: list[Any] = []
    for record, _ in WRONG:
        batch += [good, record]
    batch += ["no record", good]
    result = ts.usage.record_batch(batch)
    assert (result.recorded, result.duplicates) == (len(WRONG) + 1, 0)
    assert [one.index for one in result.rejected] == [*range(1, 2 * len(WRONG), 2), 2 * len(WRONG)]
    assert {one.code for one in result.rejected} == {"invalid_input"}
    assert standing(ts) == (len(WRONG) + 1, 0)
    assert_healthy(ts)


def test_a_batch_is_read_as_it_comes(ts: Tallystick) -> None:
    result = ts.usage.record_batch({"billable": f"user:{n % 7}", "input_tokens": n} for n in range(1_234))
    assert (result.recorded, len(result.event_ids), len(set(result.event_ids))) == (1_234, 1_234, 1_234)
    assert ts.usage.stats().totals.input_tokens == sum(range(1_234))
    assert ts.usage.record_batch([]).recorded == 0
    assert_healthy(ts)


def test_total_tokens_alone_count_as_input(ts: Tallystick) -> None:
    event = ts.usage.record(billable=BILLABLE, total_tokens=12)
    assert (event.usage.input_tokens, event.usage.output_tokens) == (12, 0)
    event = ts.usage.record(billable=BILLABLE, total_tokens=12, input_tokens=5, output_tokens=7)
    assert event.total_tokens == 12


def test_a_stated_cost_is_taken_at_its_word(ts: Tallystick) -> None:
    event = ts.usage.record(billable=BILLABLE, input_tokens=1, total_cost="0.123456789")
    assert event.cost == Money("0.123456789", "USD")
    assert_healthy(ts)


def test_use_counts_in_the_period_in_which_it_happened(ts: Tallystick, clock: FixedClock) -> None:
    ts.usage.record(billable=BILLABLE, input_tokens=5, occurred_at="2025-12-31T23:59:59.999999Z")
    ts.usage.record(billable=BILLABLE, input_tokens=7, occurred_at="2026-01-01")
    ts.usage.record(billable=BILLABLE, input_tokens=9, occurred_at="2026-02-01")
    assert standing(ts) == (7, 0)
    clock.set("2025-12-31")
    assert standing(ts) == (5, 0)
    assert_healthy(ts)


# -- pages ------------------------------------------------------------------------------------------------------------


def test_pages_show_every_event_once_the_newest_first(ts: Tallystick) -> None:
    instants = ["2026-01-10", "2026-01-11T00:00:00.000001Z", "2026-01-11"]
    ts.usage.record_batch({"billable": BILLABLE, "input_tokens": n, "occurred_at": instants[n % 3]} for n in range(50))
    found: list[str] = []
    cursor: str | None = None
    pages = 0
    while True:
        page = ts.usage.events(BILLABLE, limit=7, cursor=cursor)
        found += [event.id for event in page]
        pages += 1
        # What is recorded meanwhile, newer or older, moves nothing that was seen.
        ts.usage.record(billable=BILLABLE, input_tokens=1, occurred_at="2026-01-12")
        cursor = page.next_cursor
        if cursor is None:
            break
    assert (pages, len(found), len(set(found))) == (8, 50, 50)
    events = [ts.usage.get(event_id) for event_id in found]
    assert events == sorted(events, key=lambda event: (event.occurred_at, event.id), reverse=True)


def test_an_exact_number_of_pages_ends_without_an_empty_one(ts: Tallystick) -> None:
    ts.usage.record_batch({"billable": BILLABLE, "input_tokens": 1} for _ in range(10))
    page = ts.usage.events(limit=5)
    assert ts.usage.events(limit=5, cursor=page.next_cursor).next_cursor is None


def test_events_are_found_by_what_they_are(ts: Tallystick) -> None:
    meter(ts, "tenant:acme").for_user(1).feature("chat").with_manual_usage(input_tokens=1).call(lambda: None)
    ts.usage.log("acme", "message")
    ts.usage.log("other", "message", occurred_at="2026-01-10")
    wanted: list[tuple[dict[str, Any], int]] = [
        ({}, 3),
        ({"billable": "acme"}, 2),
        ({"user": 1}, 1),
        ({"tenant": "acme"}, 0),
        ({"provider": "manual"}, 1),
        ({"model": "model"}, 1),
        ({"feature": "chat"}, 1),
        ({"resource_type": "message"}, 2),
        ({"start": "2026-01-15T12:00:00Z"}, 2),
        ({"end": "2026-01-15T12:00:00Z"}, 1),
        ({"billable": "acme", "resource_type": "message"}, 1),
    ]
    for filters, number in wanted:
        assert len(ts.usage.events(**filters)) == number, filters


def test_a_cursor_or_a_limit_that_cannot_be_is_refused(ts: Tallystick) -> None:
    for cursor in ("x", "", "AAAA", "Zm9vIGJhcg", "é"):
        with pytest.raises(InvalidInput):
            ts.usage.events(cursor=cursor)
    wrong: list[Any] = [0, -1, 10_001, True, "5"]
    for limit in wrong:
        with pytest.raises(InvalidInput):
            ts.usage.events(limit=limit)


def test_an_event_that_is_not_there_is_not_found(ts: Tallystick) -> None:
    for ask in (ts.usage.get, ts.usage.explain):
        with pytest.raises(NotFound):
            ask("evt_none")


# -- metadata ---------------------------------------------------------------------------------------------------------


def test_metadata_comes_back_as_plain_values_without_secrets(ts: Tallystick) -> None:
    metadata = {
        "text": "héllo\x00\ud800\n\t\x1b[31m",
        "number": 1.5,
        "decimal": Decimal("1.10"),
        "uuid": UUID(int=1),
        "day": date(2026, 1, 2),
        "list": [1, (2, {"deep": True})],
        "password": "hunter2",
        "nested": {"X-API-Key": "sk-1", "max_tokens": 5, "userApiKey": "sk-2", "refresh_token": "r"},
        "none": None,
    }
    event = ts.usage.log("acme", "message", metadata=metadata)
    assert event.metadata == {
        "text": "héllo\n\t[31m",
        "number": 1.5,
        "decimal": "1.10",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "day": "2026-01-02",
        "list": [1, [2, {"deep": True}]],
        "password": "[redacted]",
        "nested": {
            "X-API-Key": "[redacted]",
            "max_tokens": 5,
            "userApiKey": "[redacted]",
            "refresh_token": "[redacted]",
        },
        "none": None,
    }
    assert ts.usage.get(event.id).metadata == event.metadata


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=5))
def test_whatever_is_accepted_can_be_stored_as_it_is(metadata: dict[str, Any]) -> None:
    try:
        encoded = POLICY.encoded(metadata)
    except InvalidInput:
        return
    if encoded is not None:
        assert "\x00" not in encoded
        assert len(encoded.encode("utf-8")) <= POLICY.bytes_max


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": b"bytes"},
        {"a": "x" * 5_000},
        {str(n): n for n in range(51)},
        {"a": {"b": {"c": {"d": {"e": 1}}}}},
        {"a": [[[[[1]]]]]},
    ],
)
def test_metadata_that_is_too_much_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        POLICY.encoded(metadata)


def test_metadata_that_contains_itself_is_refused(ts: Tallystick) -> None:
    metadata: dict[str, Any] = {}
    metadata["self"] = metadata
    with pytest.raises(InvalidInput):
        ts.usage.log("acme", "message", metadata=metadata)
