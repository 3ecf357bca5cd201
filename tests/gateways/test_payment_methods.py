"""Payment methods: tokens that nobody sees, one default for each billable, and no card number anywhere."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import String, select

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from tallystick.gateways.card_number import has_card_number
from tallystick.gateways.payment_method import PaymentMethod
from tallystick.storage import tables
from tests.acceptance.accounts import in_threads
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS, run_in_processes

KEY, NEXT_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
ROUNDS = 40
# The test numbers that card schemes and gateways publish.
CARD_NUMBERS = (
    "4242424242424242",
    "4242 4242 4242 4242",
    "4242-4242-4242-4242",
    "378282246310005",
    "3782 822463 10005",
    "6011000990139424",
    "5555555555554444",
    "4222222222222",
    "6304000000000000000",
    "４２４２４２４２４２４２４２４２",
    "4242\u20114242\u20114242\u20114242",
    "4242\u00a04242\u00a04242\u00a04242",
    "٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢",
)


@pytest.fixture
def ts(database_url: str, clock: FixedClock) -> Iterator[Tallystick]:
    """An engine with an encryption key."""
    with Tallystick(database_url, clock=clock, security={"encryption_keys": [KEY]}) as engine:
        yield engine


def refused(work: Callable[[], object]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        work()
    return caught.value


def everything_stored(ts: Tallystick) -> str:
    """Return every text that stands anywhere in the database."""

    def look(connection: Any) -> str:
        columns = [
            one for table in tables.metadata.sorted_tables for one in table.columns if isinstance(one.type, String)
        ]
        return " ".join(str(value) for one in columns for value in connection.execute(select(one)).scalars())

    return ts._engine.read(look)


def ids(methods: list[PaymentMethod]) -> list[str]:
    return [one.id for one in methods]


def the_default(ts: Tallystick, billable: str) -> str | None:
    """Return the id of the default, and make sure that there is no second one."""
    defaults = [one.id for one in ts.payment_methods.list(billable) if one.is_default]
    assert len(defaults) <= 1
    found = ts.payment_methods.default(billable)
    assert (found.id if found is not None else None) == (defaults[0] if defaults else None)
    return defaults[0] if defaults else None


# -- adding, choosing, removing ---------------------------------------------------------------------------------------


def test_a_payment_method_is_what_its_customer_knows_it_by(ts: Tallystick, clock: FixedClock) -> None:
    made = ts.payment_methods.add(
        "user:1", "Stripe", "pm_1", brand="Visa", last4="0042", exp_month=12, exp_year=2027, holder=" Ada Lovelace "
    )
    assert made == PaymentMethod(
        id=made.id,
        billable="user:1",
        gateway="stripe",
        kind="card",
        brand="Visa",
        last4="0042",
        exp_month=12,
        exp_year=2027,
        holder="Ada Lovelace",
        is_default=True,
        created_at=clock.now(),
        updated_at=clock.now(),
        removed_at=None,
    )
    assert made.id.startswith("pym_")
    assert made.expires_at == datetime(2028, 1, 1, tzinfo=UTC)
    assert ts.payment_methods.get(made.id) == made
    assert ts.payment_methods.list("user:1") == [made]
    assert ts.payment_methods.token(made.id) == "pm_1"


def test_the_first_is_the_default_until_another_is_chosen(ts: Tallystick) -> None:
    first = ts.payment_methods.add("user:1", "stripe", "pm_1")
    second = ts.payment_methods.add("user:1", "stripe", "pm_2")
    other = ts.payment_methods.add("user:2", "stripe", "pm_3")
    assert the_default(ts, "user:1") == first.id
    assert ts.payment_methods.set_default(second.id).is_default
    assert the_default(ts, "user:1") == second.id
    assert ids(ts.payment_methods.list("user:1")) == [second.id, first.id]
    third = ts.payment_methods.add("user:1", "asaas", "pm_1", kind="pix", make_default=True)
    assert (the_default(ts, "user:1"), the_default(ts, "user:2")) == (third.id, other.id)


def test_the_same_token_again_is_the_same_method_with_the_details_of_now(ts: Tallystick, clock: FixedClock) -> None:
    first = ts.payment_methods.add("user:1", "stripe", "pm_1", last4="4242", holder="Ada", exp_month=1, exp_year=2026)
    ts.payment_methods.add("user:1", "stripe", "pm_2", make_default=True)
    clock.advance(days=1)
    again = ts.payment_methods.add("user:1", "STRIPE", "pm_1", exp_month=1, exp_year=2030, make_default=True)
    assert (again.id, again.last4, again.holder, again.exp_year) == (first.id, "4242", "Ada", 2030)
    assert (again.created_at, again.updated_at) == (first.created_at, clock.now())
    assert the_default(ts, "user:1") == first.id
    assert len(ts.payment_methods.list("user:1")) == 2
    # Another's, and another gateway's, are others.
    assert ts.payment_methods.add("user:2", "stripe", "pm_1").id != first.id
    assert ts.payment_methods.add("user:1", "asaas", "pm_1").id != first.id


def test_the_same_token_is_known_again_after_the_key_was_changed(database_url: str, ts: Tallystick) -> None:
    first = ts.payment_methods.add("user:1", "stripe", "pm_1")
    with Tallystick(database_url, security={"encryption_keys": [NEXT_KEY, KEY]}) as both:
        assert both.payment_methods.add("user:1", "stripe", "pm_1").id == first.id


def test_removing_erases_token_and_holder_and_chooses_nothing_silently(ts: Tallystick, clock: FixedClock) -> None:
    first = ts.payment_methods.add("user:1", "stripe", "pm_1", last4="4242", holder="Ada Lovelace")
    second = ts.payment_methods.add("user:1", "stripe", "pm_2")
    removed = ts.payment_methods.remove(first.id)
    assert (removed.removed_at, removed.holder, removed.last4, removed.is_default) == (clock.now(), None, "4242", False)
    assert ts.payment_methods.get(first.id) == removed == ts.payment_methods.remove(first.id)
    methods = tables.payment_methods
    row = ts._engine.read(lambda connection: connection.execute(select(methods).where(methods.c.id == first.id)).one())
    assert (row.token, row.token_digest, row.holder) == ("", "", None)
    assert ids(ts.payment_methods.list("user:1")) == [second.id]
    assert the_default(ts, "user:1") is None
    with pytest.raises(NotFound, match="It was removed"):
        ts.payment_methods.token(first.id)
    with pytest.raises(Conflict, match="was removed"):
        ts.payment_methods.set_default(first.id)
    anew = ts.payment_methods.add("user:1", "stripe", "pm_1")
    assert anew.id != first.id
    assert the_default(ts, "user:1") == anew.id


def test_what_is_not_there_is_said_to_be_missing(ts: Tallystick) -> None:
    methods = ts.payment_methods
    for work in (methods.get, methods.set_default, methods.remove, methods.token):
        with pytest.raises(NotFound, match="pym_1"):
            work("pym_1")
    assert methods.list("user:1") == []
    assert methods.default("user:1") is None


def test_a_tenant_is_named_by_its_slug(ts: Tallystick) -> None:
    ts.tenants.create("Acme", slug="acme")
    made = ts.payment_methods.add("acme", "stripe", "pm_1")
    assert made.billable == "tenant:acme"
    assert ids(ts.payment_methods.list("acme")) == ids(ts.payment_methods.list("tenant:acme")) == [made.id]


def test_what_will_have_expired_is_found_before_it_has(ts: Tallystick, clock: FixedClock) -> None:
    def add(number: int, month: int | None, year: int | None) -> str:
        return ts.payment_methods.add(f"user:{number}", "stripe", f"pm_{number}", exp_month=month, exp_year=year).id

    gone, january, february, december = add(1, 12, 2025), add(2, 1, 2026), add(3, 2, 2026), add(4, 12, 2026)
    never = add(5, None, None)
    removed = add(6, 1, 2026)
    ts.payment_methods.remove(removed)
    assert ids(ts.payment_methods.expiring()) == [gone, january]
    assert ids(ts.payment_methods.expiring(within_days=16)) == [gone]
    assert ids(ts.payment_methods.expiring(within_days=17)) == [gone, january]
    assert ids(ts.payment_methods.expiring(within_days=60)) == [gone, january, february]
    assert ids(ts.payment_methods.expiring(within_days=3650)) == [gone, january, february, december]
    assert ts.payment_methods.get(never).expires_at is None
    clock.set("2026-01-31T23:59:59Z")
    assert ids(ts.payment_methods.expiring(within_days=0)) == [gone]
    clock.advance(seconds=1)
    assert ids(ts.payment_methods.expiring(within_days=0)) == [gone, january]
    for days in (-1, 3651, True, "30"):
        assert refused(lambda days=days: ts.payment_methods.expiring(days)).field == "within_days"  # type: ignore[misc]


def test_without_a_key_no_payment_method_is_kept(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        with pytest.raises(ConfigurationError, match="encryption generate-key"):
            ts.payment_methods.add("user:1", "stripe", "pm_1")
        assert ts.payment_methods.list("user:1") == []


# -- what is never shown ----------------------------------------------------------------------------------------------


def test_a_token_is_in_no_value_no_log_and_not_in_the_database(
    ts: Tallystick, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = ts.payment_methods.add("user:1", "stripe", "pm_secret", holder="Ada Lovelace")
    again = ts.payment_methods.add("user:1", "stripe", "pm_secret")
    ts.payment_methods.set_default(again.id)
    shown = repr(made) + str(made) + json.dumps(made.to_dict()) + repr(ts.payment_methods.list("user:1"))
    assert "pm_secret" not in shown + caplog.text
    assert "Ada" not in repr(made) + caplog.text
    assert made.to_dict()["holder"] == "Ada Lovelace"
    assert not hasattr(made, "token")
    stored = everything_stored(ts)
    assert made.id in stored
    assert "pm_secret" not in stored
    assert "Lovelace" not in stored
    ts.payment_methods.remove(made.id)
    assert everything_stored(ts).count("enc1.") == 0


@pytest.mark.parametrize("field", ["token", "holder", "brand", "last4", "kind", "gateway"])
def test_a_card_number_is_refused_and_not_repeated(ts: Tallystick, field: str) -> None:
    number = "4242 4242-42424242"
    given: dict[str, Any] = {"gateway": "stripe", "token": "pm_1", field: number}
    error = refused(lambda: ts.payment_methods.add("user:1", **given))
    assert error.field == field
    assert number not in error.message + str(error.data()) + repr(error)
    assert ts.payment_methods.list("user:1") == []


@pytest.mark.parametrize("number", CARD_NUMBERS)
def test_a_card_number_is_found_however_it_is_written(number: str) -> None:
    assert has_card_number(number)
    assert has_card_number(number, is_identifier=True)


def test_a_card_number_among_other_words_is_found() -> None:
    assert has_card_number("Ada, 4242 4242 4242 4242, 12/27")
    assert has_card_number("12 4242 4242 4242 4242 99")
    assert has_card_number("no4242424242424242x")
    assert has_card_number("tok_4242424242424242", is_identifier=True)


def test_what_only_resembles_a_card_number_is_none() -> None:
    assert not has_card_number("4242424242424241")
    assert not has_card_number("424242424242")
    assert not has_card_number("42424242424242424242")
    assert not has_card_number("Ada Lovelace, 1815-12-10")
    for token in (
        "pm_1NXWPnGWf3hYB8CqzKQW3vnT",
        "tok_4242x4242424242424242",
        "a75a1d98-c52d-4a6b-a413-71e00b193c99",
        "42424242-4242-4242-8242-424242424242",
        "x4242424242424242",
    ):
        assert not has_card_number(token, is_identifier=True), token


@given(st.integers(min_value=10**11, max_value=10**18 - 1))
def test_every_number_that_luhn_passes_is_found_and_no_other(payload: int) -> None:
    # The check digit, computed as the standard describes it, from the left of a reversed payload.
    total = sum(sum(divmod(int(one) * (2 - place % 2), 10)) for place, one in enumerate(reversed(str(payload))))
    check = -total % 10
    for digit in range(10):
        number = f"{payload}{digit}"
        assert has_card_number(number) is (digit == check)
        assert has_card_number("-".join(number), is_identifier=True) is (digit == check)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token", ""),
        ("token", "a\nb"),
        ("token", "x" * 1_001),
        ("token", 7),
        ("gateway", ""),
        ("gateway", "a b"),
        ("kind", "k" * 21),
        ("brand", "b" * 51),
        ("holder", "h" * 201),
        ("holder", "a\x00b"),
        ("last4", "424"),
        ("last4", "42424"),
        ("last4", "４２４２"),
        ("last4", 4242),
        ("exp_month", 13),
        ("exp_month", 0),
        ("exp_month", True),
        ("exp_year", 27),
        ("exp_year", "2027"),
    ],
)
def test_what_cannot_be_is_refused(ts: Tallystick, field: str, value: Any) -> None:
    given: dict[str, Any] = {"gateway": "stripe", "token": "pm_1", "exp_month": 1, "exp_year": 2027, field: value}
    assert refused(lambda: ts.payment_methods.add("user:1", **given)).field == field


def test_an_expiry_has_both_parts(ts: Tallystick) -> None:
    assert refused(lambda: ts.payment_methods.add("user:1", "stripe", "pm_1", exp_month=1)).field == "exp_month"


# -- many at once -----------------------------------------------------------------------------------------------------


def test_many_who_add_at_once_leave_one_default_and_no_method_twice(ts: Tallystick) -> None:
    made = in_threads(24, lambda index: ts.payment_methods.add("user:1", "stripe", f"pm_{index % 6}"))
    assert len({one.id for one in made}) == 6
    assert len(ts.payment_methods.list("user:1")) == 6
    assert the_default(ts, "user:1") is not None


def add_and_choose(index: int, answers: Any, url: str, ready: Any) -> None:
    """Add the same two tokens as the other processes, at the same moment, and choose one of them."""
    keys = [NEXT_KEY, KEY] if index % 2 else [KEY, NEXT_KEY]
    with Tallystick(url, security={"encryption_keys": keys}) as ts:
        for number in range(ROUNDS):
            ready.wait(timeout=JOIN_SECONDS)
            made = [ts.payment_methods.add(f"user:{number}", "stripe", f"pm_{one}") for one in (1, 2)]
            ts.payment_methods.set_default(made[index % 2].id)
        answers.put(ts.payment_methods.list("user:0")[0].billable)


def rotate_meanwhile(index: int, answers: Any, url: str, ready: Any) -> None:
    if index:
        add_and_choose(index, answers, url, ready)
        return
    with Tallystick(url, security={"encryption_keys": [KEY, NEXT_KEY]}) as ts:
        for _ in range(ROUNDS):
            ready.wait(timeout=JOIN_SECONDS)
            ts.rotate_keys()
        answers.put("rotated")


@pytest.mark.parametrize("work", [add_and_choose, rotate_meanwhile])
def test_processes_that_add_choose_and_rotate_at_once_leave_one_default_and_no_method_twice(
    database_url: str, work: Callable[..., None]
) -> None:
    run_in_processes(3, work, database_url, CONTEXT.Barrier(3))
    with Tallystick(database_url, security={"encryption_keys": [KEY, NEXT_KEY]}) as ts:
        for number in range(ROUNDS):
            methods = ts.payment_methods.list(f"user:{number}")
            assert {ts.payment_methods.token(one.id) for one in methods} == {"pm_1", "pm_2"}
            assert len(methods) == 2
            assert the_default(ts, f"user:{number}") is not None


# -- erasure, async ---------------------------------------------------------------------------------------------------


def test_erasing_a_billable_takes_its_payment_methods(ts: Tallystick) -> None:
    gone = ts.payment_methods.add("user:1", "stripe", "pm_1", holder="Ada")
    ts.payment_methods.remove(ts.payment_methods.add("user:1", "stripe", "pm_2").id)
    other = ts.payment_methods.add("user:2", "stripe", "pm_1")
    ts.usage.delete_for("user:1")
    with pytest.raises(NotFound):
        ts.payment_methods.get(gone.id)
    rows = ts._engine.read(lambda connection: connection.execute(select(tables.payment_methods.c.id)).scalars().all())
    assert rows == [other.id]


def test_erasing_a_tenant_takes_its_payment_methods(database_url: str, clock: FixedClock) -> None:
    settings: dict[str, Any] = {"security": {"encryption_keys": [KEY]}, "tenants": {"erase_after_days": 30}}
    with Tallystick(database_url, clock=clock, **settings) as ts:
        ts.tenants.create("Acme", slug="acme")
        ts.payment_methods.add("acme", "stripe", "pm_1")
        ts.tenants.delete("acme")
        clock.advance(days=31)
        assert ts.run_due_jobs().tenants_erased == 1
        assert ts.payment_methods.list("tenant:acme") == []
        assert "enc1." not in everything_stored(ts)


def test_payment_methods_are_awaited(database_url: str) -> None:
    async def use() -> None:
        async with AsyncTallystick(database_url, security={"encryption_keys": [KEY]}) as ts:
            made = await ts.payment_methods.add("user:1", "stripe", "pm_1")
            assert await ts.payment_methods.token(made.id) == "pm_1"
            assert await ts.payment_methods.default("user:1") == made
            assert await ts.rotate_keys() == 0

    asyncio.run(use())
