"""What goes out is written with what it tells of: every event, in its transaction, or not at all."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from tallystick import FixedClock, Tallystick
from tallystick.errors import InvalidInput, NotFound, QuotaExceeded, StorageError
from tallystick.events import Event, QuotaWarning, UsageRecorded
from tallystick.notify.payload import EVENT_NAMES
from tallystick.storage import tables
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS
from tests.notify.conftest import Opener
from tests.values import money

URL = "https://hooks.example.com/x"


def waiting(ts: Tallystick) -> list[dict[str, Any]]:
    """The events that wait to be posted, in the order in which they were written."""
    outbox = tables.outbox
    query = select(outbox.c.payload).where(outbox.c.channel == "webhook").order_by(outbox.c.id)
    rows = ts._engine.read(lambda connection: connection.execute(query).scalars().all())
    return [json.loads(payload) for payload in rows]


def types(ts: Tallystick) -> list[str]:
    return [event["type"] for event in waiting(ts)]


class Refused(Exception):
    status_code = 429


def play_everything(ts: Tallystick, clock: FixedClock) -> None:
    """Let everything happen that an event tells of."""
    ts.plans.create(
        "pro", monthly_token_limit=100, overage_behavior="charge", overage_price_per_1k_tokens=money("1 USD")
    )
    ts.subscriptions.create("user:1", "pro")
    ts.usage.record(billable="user:1", input_tokens=85)
    ts.usage.record(billable="user:1", input_tokens=40)

    def refuse() -> None:
        raise Refused("Your prompt was: secret")

    meter = ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini")
    with pytest.raises(Refused):
        meter.call(refuse)
    meter.hold(tokens=5)
    wallet = ts.wallets.get_or_create("user:2", "USD")
    wallet.set_minimum_balance("50")
    wallet.set_auto_top_up(below="20", amount="100")
    wallet.add_credits("100", expires_at="2026-01-20T00:00:00Z")
    wallet.deduct_credits("90")
    ts.quotas.set("acme", "message", 10, "daily", notification_threshold=80)
    ts.quotas.consume("acme", "message", 10)
    ts.plans.create("team", price=money("99 USD"))
    ts.plans.create("free")
    ts.subscriptions.create("user:3", "team", started_at="2025-12-17T00:00:00Z", ends_at="2026-01-18T00:00:00Z")
    ts.subscriptions.create("user:4", "free")
    ts.subscriptions.change_plan("user:4", "team")
    ts.subscriptions.payment_failed("user:4")
    ts.subscriptions.payment_succeeded("user:4")
    ts.subscriptions.cancel("user:1")
    ts.run_due_jobs()
    ts.invoices.record_payment(ts.invoices.list("user:3")[0].id)
    ts.invoices.create("user:4", 500, due_date="2026-01-16")
    clock.set("2026-01-18T12:00:00Z")
    ts.run_due_jobs()
    clock.set("2026-02-03T00:00:00Z")
    ts.run_due_jobs()


def test_every_event_reaches_an_endpoint_that_hears_all(ts: Tallystick, clock: FixedClock) -> None:
    ts.webhooks.add(URL)
    play_everything(ts, clock)
    assert set(types(ts)) - {"notification.created"} == set(EVENT_NAMES.values())


def test_handlers_and_endpoints_hear_the_same(ts: Tallystick, clock: FixedClock) -> None:
    heard: list[str] = []
    ts.webhooks.add(URL, list(EVENT_NAMES.values()))

    @ts.on(Event)
    def hear(event: Event) -> None:
        heard.append(EVENT_NAMES[type(event)])

    play_everything(ts, clock)
    assert Counter(heard) == Counter(types(ts))


def test_nothing_that_a_provider_said_leaves_the_house(ts: Tallystick, clock: FixedClock) -> None:
    ts.webhooks.add(URL)
    play_everything(ts, clock)
    [failed] = [event for event in waiting(ts) if event["type"] == "provider_call.failed"]
    assert failed["data"]["error"] == {"class": "Refused", "status_code": 429}
    assert "secret" not in json.dumps(waiting(ts))


def test_an_endpoint_hears_what_it_subscribes_to_of_whom_it_is_for(ts: Tallystick) -> None:
    ts.webhooks.add(URL, [UsageRecorded, "quota.warning"], tenant="acme")
    ts.quotas.set("acme", "message", 10, "daily", notification_threshold=80)
    ts.quotas.set("other", "message", 10, "daily", notification_threshold=80)
    for name in ("acme", "other"):
        ts.quotas.consume(name, "message", 10)
    assert types(ts) == ["quota.warning", "usage.recorded"] or types(ts) == ["usage.recorded", "quota.warning"]
    assert {event["data"]["billable"] for event in waiting(ts)} == {"tenant:acme"}


def test_an_endpoint_hears_what_customers_are_told(ts: Tallystick) -> None:
    ts.webhooks.add(URL, "notification.created")
    ts.notifications.set_preference("acme", "quiet", "webhook", "off")
    sent = ts.notifications.send("acme", "news", subject="Hello")
    ts.notifications.send("acme", "quiet", subject="Hush")
    [event] = waiting(ts)
    assert event["data"] == sent.to_dict()


def test_a_replay_is_not_told_again(ts: Tallystick) -> None:
    ts.webhooks.add(URL, "usage.recorded")
    for _ in range(3):
        ts.usage.record(billable="user:1", input_tokens=5, idempotency_key="once")
    assert types(ts) == ["usage.recorded"]


def test_what_is_refused_writes_nothing(ts: Tallystick) -> None:
    ts.webhooks.add(URL)
    ts.quotas.set("acme", "message", 10, "daily")
    with pytest.raises(QuotaExceeded):
        ts.quotas.consume("acme", "message", 11)
    assert types(ts) == []
    assert len(ts.notifications.list("acme")) == 0


def test_endpoints_are_added_changed_and_removed_at_once_in_every_process(
    database_url: str, ts: Tallystick, clock: FixedClock
) -> None:
    def use() -> int:
        before = len(types(ts))
        ts.usage.record(billable="user:1", input_tokens=5)
        return len(types(ts)) - before

    assert use() == 0
    with Tallystick(database_url, clock=clock) as other:
        endpoint = other.webhooks.add(URL, "usage.recorded")
        assert use() == 1
        other.webhooks.update(endpoint.id, events="quota.warning")
        assert use() == 0
        other.webhooks.update(endpoint.id, events=["usage.recorded", "usage.recorded"])
        assert use() == 1
        other.webhooks.update(endpoint.id, is_active=False)
        assert use() == 0
        other.webhooks.update(endpoint.id, is_active=True)
        assert use() == 1
        other.webhooks.remove(endpoint.id)
        assert use() == 0


@pytest.mark.parametrize("events", ["usage.recored", [], [UsageRecorded, "x"], Event, 5])
def test_an_event_that_does_not_exist_is_refused(ts: Tallystick, events: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        ts.webhooks.add(URL, events)
    assert refused.value.field == "events"


def test_an_endpoint_tells_its_secret_once_and_takes_one(ts: Tallystick) -> None:
    made = ts.webhooks.add(URL, QuotaWarning, tenant="acme", description="Ours")
    assert made.secret is not None
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)
    assert (made.events, made.billable, made.description) == (("quota.warning",), "tenant:acme", "Ours")
    assert [one.secret for one in ts.webhooks.list("acme")] == [None]
    assert ts.webhooks.list("other") == []
    given = "whsec_" + "QUJD" * 10
    assert ts.webhooks.add(URL, secret=given).secret == given
    for wrong in ("whsec_short", "plain text", ""):
        with pytest.raises(InvalidInput) as refused:
            ts.webhooks.add(URL, secret=wrong)
        assert wrong not in str(refused.value) or not wrong


def test_an_endpoint_of_another_tenant_does_not_exist(ts: Tallystick) -> None:
    theirs = ts.webhooks.add(URL, tenant="acme")
    for act in (ts.webhooks.get, ts.webhooks.remove, ts.webhooks.test):
        with pytest.raises(NotFound):
            act(theirs.id, tenant="other")
    for change in (ts.webhooks.update, ts.webhooks.rotate_secret):
        with pytest.raises(NotFound):
            change(theirs.id, tenant="other")
    assert ts.webhooks.get(theirs.id, tenant="acme").is_active


def test_a_batch_that_the_database_refuses_leaves_no_message(ts: Tallystick) -> None:
    ts.webhooks.add(URL, "usage.recorded")
    ts.usage.record(billable="user:1", input_tokens=5)
    ts._engine.lane.transact(lambda connection: connection.execute(text("ALTER TABLE usage_hourly RENAME TO away")))
    with pytest.raises(StorageError):
        ts.usage.record(billable="user:1", input_tokens=5)
    ts._engine.lane.transact(lambda connection: connection.execute(text("ALTER TABLE away RENAME TO usage_hourly")))
    ts.usage.record(billable="user:1", input_tokens=5)
    assert len(types(ts)) == 2


def test_a_text_that_fails_keeps_no_use_from_being_recorded(
    ts: Tallystick, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ts.quotas.set("acme", "message", 10, "daily", notification_threshold=80)
    monkeypatch.setitem(ts._engine.outgoing.wordings._texts, "en", {})
    ts.quotas.consume("acme", "message", 8)
    assert len(ts.usage.events(billable="tenant:acme")) == 1
    assert "Telling of 'quota_warning' failed" in caplog.text


def record_until_killed(url: str, journal: Path) -> None:
    """Record uses that reach a threshold each, and note each that returned."""
    with Tallystick(url) as ts, journal.open("a") as returned:
        for number in range(2_000):
            ts.quotas.set(f"t{number}", "message", 1, "total")
            ts.quotas.consume(f"t{number}", "message")
            returned.write("x\n")
            returned.flush()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_process_that_is_killed_leaves_a_message_for_each_use_and_for_no_other(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    with Tallystick(database_url) as ts:
        ts.webhooks.add(URL, ["usage.recorded", "quota.exceeded"])
    journal = tmp_path / "returned"
    process = CONTEXT.Process(target=record_until_killed, args=(database_url, journal))
    process.start()
    deadline = time.monotonic() + JOIN_SECONDS
    while not journal.exists() or journal.read_bytes().count(b"\n") < random.Random(seed).randrange(5, 60):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join(JOIN_SECONDS)
    with Tallystick(database_url) as ts:
        recorded = ts._engine.read(
            lambda connection: set(connection.execute(select(tables.usage_events.c.id)).scalars())
        )
        told = ts._engine.read(
            lambda connection: connection.execute(
                select(func.count()).where(tables.notifications.c.type == "quota_exceeded")
            ).scalar_one()
        )
        events = waiting(ts)
    assert {one["data"]["usage"]["id"] for one in events if one["type"] == "usage.recorded"} == recorded
    assert Counter(one["type"] for one in events) == {"usage.recorded": len(recorded), "quota.exceeded": len(recorded)}
    assert told == len(recorded)


def test_mail_and_webhooks_of_one_batch_are_written_together(opened: Opener) -> None:
    ts = opened(smtp={"host": "127.0.0.1", "port": 1, "security": "none", "sender": "a@example.com"})
    ts.tenants.create("Acme", slug="acme", billing_email="a@acme.example")
    ts.webhooks.add(URL, ["quota.warning", "notification.created"])
    ts.quotas.set("acme", "message", 10, "daily", notification_threshold=80)
    ts.quotas.consume("acme", "message", 8)
    written = {(one.channel, one.type, one.created_at) for one in ts.notifications.messages()}
    [notification] = ts.notifications.list("acme")
    assert written == {
        ("email", "quota_warning", notification.created_at),
        ("webhook", "quota.warning", notification.created_at),
        ("webhook", "notification.created", notification.created_at),
    }


def test_an_error_of_another_command_of_the_batch_harms_no_message(ts: Tallystick) -> None:
    ts.webhooks.add(URL, "usage.recorded")
    found = ts.usage.record_batch(
        [
            {"billable": "user:1", "input_tokens": 5},
            {"billable": "no reference", "input_tokens": 5},
            {"billable": "user:2", "input_tokens": 5},
        ]
    )
    assert (found.recorded, len(found.rejected)) == (2, 1)
    assert len(types(ts)) == 2


def consume_in_threads(url: str, threads: int, uses: int) -> None:
    """Use a quota from so many threads, as one of several processes."""
    with Tallystick(url, clock=FixedClock("2026-01-15T12:00:00Z")) as ts:

        def work(_: int) -> None:
            for _ in range(uses):
                with suppress(QuotaExceeded):
                    ts.quotas.consume("acme", "message")

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))


def test_threads_and_processes_at_one_quota_leave_one_warning_and_one_end_of_it(
    database_url: str, ts: Tallystick
) -> None:
    ts.webhooks.add(URL, ["quota.warning", "quota.exceeded", "notification.created"])
    ts.quotas.set("acme", "message", 100, "daily", is_hard_limit=True, notification_threshold=80)
    processes = [CONTEXT.Process(target=consume_in_threads, args=(database_url, 8, 10)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(JOIN_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [one.type for one in ts.notifications.list("acme")] == ["quota_exceeded", "quota_warning"]
    assert Counter(types(ts)) == {"quota.warning": 1, "quota.exceeded": 1, "notification.created": 2}
    [exceeded] = [event for event in waiting(ts) if event["type"] == "quota.exceeded"]
    assert exceeded["data"]["current"] == 100
