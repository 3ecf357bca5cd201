"""What customers are told: words, reading, other people's, preferences, and what is told by itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import ConfigurationError, IdempotencyConflict, InvalidInput, NotFound, QuotaExceeded
from tallystick.events import SubscriptionEndingSoon
from tallystick.notify.erasure import erase_notifications
from tallystick.notify.kinds import KINDS
from tallystick.notify.wording import Wordings
from tallystick.period import parse_instant
from tallystick.storage import tables
from tests.notify.conftest import Opener
from tests.values import money


def count(ts: Tallystick, table: Any) -> int:
    return ts._engine.read(lambda connection: connection.execute(select(func.count()).select_from(table)).scalar_one())


# -- what is told by itself --------------------------------------------------------------------------------------------


def test_a_quota_warns_at_its_threshold_and_tells_when_it_is_used_up_each_once(ts: Tallystick) -> None:
    ts.tenants.create("Acme", slug="acme")
    ts.quotas.set("acme", "message", 10, "daily", is_hard_limit=True, notification_threshold=80)
    for _ in range(10):
        ts.quotas.consume("acme", "message")
    with pytest.raises(QuotaExceeded):
        ts.quotas.consume("acme", "message")
    exceeded, warning = ts.notifications.list("acme")
    assert (warning.type, warning.priority, exceeded.type, exceeded.priority) == (
        "quota_warning",
        "high",
        "quota_exceeded",
        "urgent",
    )
    assert warning.subject == "80% of the daily quota of messages is used"
    assert warning.message == (
        "Used of the daily quota of messages: 8 of 10. It starts anew at 2026-01-16 00:00 (UTC)."
    )
    assert exceeded.subject == "The daily quota of messages is used up"
    assert (warning.metadata["current"], warning.metadata["limit"], warning.metadata["threshold"]) == (8, 10, 80)


def test_one_quotas_warning_does_not_silence_anothers(ts: Tallystick) -> None:
    ts.tenants.create("Acme", slug="acme")
    for resource_type in ("message", "embedding"):
        ts.quotas.set("acme", resource_type, 10, "daily", notification_threshold=80)
        ts.quotas.consume("acme", resource_type, 8)
    told = [str(one.metadata["resource_type"]) for one in ts.notifications.list("acme")]
    assert sorted(told) == ["embedding", "message"]


def test_a_tenant_is_told_in_its_language_its_figures_and_its_zone(ts: Tallystick) -> None:
    ts.tenants.create("Ação", slug="acao", locale="pt-BR", timezone="America/Sao_Paulo")
    ts.quotas.set("acao", "message", 1000, "daily", notification_threshold=80)
    ts.quotas.consume("acao", "message", 1000)
    exceeded, warning = ts.notifications.list("acao")
    assert warning.subject == "Uso de 80% da cota diária de mensagens"
    assert exceeded.message == (
        "Uso da cota diária de mensagens: 1.000 de 1.000. Ela recomeça em 16/01/2026 00:00 (America/Sao_Paulo)."
    )
    assert exceeded.locale == "pt-BR"


def test_a_quota_of_one_user_says_whose_it_is(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 2, "total", user="*", notification_threshold=50)
    ts.quotas.consume("acme", "message", user=7)
    [warning] = ts.notifications.list("acme")
    assert "This counts the use of user:7 only." in warning.message
    assert "starts anew" not in warning.message


def test_limits_of_a_plan_are_told_too(ts: Tallystick) -> None:
    ts.plans.create("tiny", monthly_token_limit=100)
    ts.subscriptions.create("user:1", "tiny")
    ts.usage.record(billable="user:1", input_tokens=85)
    ts.usage.record(billable="user:1", input_tokens=15)
    reached, approaching = ts.notifications.list("user:1")
    assert (approaching.type, reached.type) == ("limit_approaching", "limit_reached")
    assert approaching.message == "85% of your plan's limit of tokens is used in this period. Left: 15."


def test_low_credits_are_told_with_their_amounts(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create("tenant:acme", "USD")
    wallet.add_credits("100")
    wallet.set_minimum_balance("20")
    wallet.deduct_credits("85.50")
    [low] = ts.notifications.list("acme")
    assert low.subject == "Your credits are low: 14.50 USD left"
    assert low.metadata == {
        "available": {"amount": "14.50", "currency": "USD"},
        "minimum": {"amount": "20.00", "currency": "USD"},
    }


def test_what_ends_soon_is_told_once_by_whoever_looks(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", name="Pro", trial_days=10)
    ts.subscriptions.create("user:1", "pro")
    ts.wallets.get_or_create("user:1", "USD").add_credits("5", expires_at="2026-01-20T12:00:00Z")
    assert ts.run_due_jobs().notifications == 1
    assert ts.run_due_jobs().notifications == 0
    [credits] = ts.notifications.list("user:1")
    assert (credits.type, credits.subject) == ("credits_expiring", "5.00 USD of your credits expire soon")
    clock.set("2026-01-23T12:00:00Z")
    assert [ts.run_due_jobs().notifications for _ in range(2)] == [1, 0]
    clock.set("2026-01-26T12:00:00Z")
    ts.subscriptions.cancel("user:1")
    heard: list[SubscriptionEndingSoon] = []
    ts.on(SubscriptionEndingSoon)(heard.append)
    clock.set("2026-02-19T12:00:00Z")
    assert [ts.run_due_jobs().notifications for _ in range(2)] == [1, 0]
    assert [one.ends_at for one in heard] == [parse_instant("2026-02-25T12:00:00Z")]
    clock.set("2026-02-25T12:00:00Z")
    assert [ts.run_due_jobs().notifications for _ in range(2)] == [1, 0]
    ended, ending, trial, _ = ts.notifications.list("user:1")
    assert (trial.type, ending.type, ended.type) == ("trial_ending", "subscription_expiring", "subscription_expired")
    assert trial.message == "Your trial of Pro ends at 2026-01-25 12:00 (UTC)."
    assert ended.message == "Your subscription to Pro ended at 2026-02-25 12:00 (UTC)."


def test_a_subscription_that_goes_on_after_all_is_told_of_its_next_end(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro")
    ts.subscriptions.create("user:1", "pro")
    ts.subscriptions.cancel("user:1")
    clock.set("2026-02-10T12:00:00Z")
    ts.run_due_jobs()
    ts.subscriptions.resume("user:1")
    clock.set("2026-02-20T12:00:00Z")
    ts.subscriptions.cancel("user:1")
    clock.set("2026-03-10T12:00:00Z")
    ts.run_due_jobs()
    assert [one.metadata["ends_at"] for one in ts.notifications.list("user:1")] == [
        "2026-03-15T12:00:00Z",
        "2026-02-15T12:00:00Z",
    ]


def test_a_failed_payment_and_its_end_are_told(ts: Tallystick) -> None:
    ts.plans.create("pro", name="Pro")
    ts.subscriptions.create("user:1", "pro")
    ts.subscriptions.payment_failed("user:1")
    ts.subscriptions.payment_failed("user:1")
    ts.subscriptions.payment_succeeded("user:1")
    success, failed = ts.notifications.list("user:1")
    assert failed.message.startswith("Your subscription to Pro stays in force until 2026-01-22 12:00 (UTC).")
    assert success.message == "Your subscription to Pro is in order again."


def test_nothing_is_told_by_itself_where_it_is_turned_off(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, notifications={"enabled": False}) as ts:
        ts.quotas.set("acme", "message", 1, "daily")
        ts.quotas.consume("acme", "message")
        ts.wallets.get_or_create("acme:1", "USD").add_credits("5", expires_at="2026-01-20T12:00:00Z")
        ts.run_due_jobs()
        assert count(ts, tables.notifications) == 0
        ts.notifications.send("acme", "maintenance", subject="Tonight at ten")
        assert ts.notifications.unread_count("acme") == 1


# -- what is sent by the application -----------------------------------------------------------------------------------


def test_a_built_in_type_has_its_words_about_the_values_given(ts: Tallystick) -> None:
    sent = ts.notifications.send(
        "acme",
        "invoice_due",
        metadata={"invoice": "INV-7", "amount": money("1234.50 USD"), "due_date": "2026-02-01T00:00:00Z"},
    )
    assert sent.subject == "Invoice INV-7 is due"
    assert sent.message == "Invoice INV-7 is due at 2026-02-01 00:00 (UTC). Its amount is 1,234.50 USD."
    assert sent.metadata["amount"] == {"amount": "1234.50", "currency": "USD"}
    assert ts.notifications.get(sent.id) == sent


def test_a_value_that_the_words_need_and_is_missing_is_asked_for(ts: Tallystick) -> None:
    with pytest.raises(InvalidInput, match=r"invoice_due speaks of invoice too"):
        ts.notifications.send("acme", "invoice_due", metadata={"amount": 5})
    with pytest.raises(InvalidInput, match="There is no text for it: give subject and message"):
        ts.notifications.send("acme", "maintenance")


def test_a_type_of_ones_own_says_what_it_is_given(ts: Tallystick) -> None:
    sent = ts.notifications.send(
        "acme",
        "maintenance",
        subject="Tonight\nat  ten",
        message="For an hour.",
        priority="low",
        action_url="https://x.io",
    )
    assert (sent.subject, sent.message, sent.priority, sent.action_url) == (
        "Tonight at ten",
        "For an hour.",
        "low",
        "https://x.io",
    )


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("type", {"type": "No Such"}),
        ("priority", {"priority": "critical"}),
        ("action_url", {"action_url": "javascript:alert(1)"}),
        ("subject", {"subject": " "}),
    ],
)
def test_what_cannot_be_told_is_refused(ts: Tallystick, field: str, given: dict[str, str]) -> None:
    stated = {"type": "maintenance", "subject": "x", "message": "y", **given}
    with pytest.raises(InvalidInput) as refused:
        ts.notifications.send("acme", stated.pop("type"), **stated)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_a_key_tells_once_and_refuses_other_words(ts: Tallystick) -> None:
    said = {"subject": "Hello", "idempotency_key": "welcome"}
    first = ts.notifications.send("acme", "welcome", **said)  # type: ignore[arg-type]
    assert ts.notifications.send("acme", "welcome", **said) == first  # type: ignore[arg-type]
    assert ts.notifications.send("other", "welcome", **said) != first  # type: ignore[arg-type]
    with pytest.raises(IdempotencyConflict, match="subject"):
        ts.notifications.send("acme", "welcome", subject="Goodbye", idempotency_key="welcome")
    assert ts.notifications.unread_count("acme") == 1


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_list_is_of_one_tenant_newest_first_in_pages_and_filtered(ts: Tallystick, clock: FixedClock) -> None:
    for number in range(5):
        ts.notifications.send("acme", "news", subject=f"News {number}", priority="low" if number % 2 else "urgent")
        clock.advance(seconds=1)
    ts.notifications.send("other", "news", subject="Not theirs")
    page = ts.notifications.list("acme", limit=2)
    assert [one.subject for one in page] == ["News 4", "News 3"]
    page = ts.notifications.list("acme", limit=2, cursor=page.next_cursor)
    assert [one.subject for one in page] == ["News 2", "News 1"]
    page = ts.notifications.list("acme", limit=2, cursor=page.next_cursor)
    assert ([one.subject for one in page], page.next_cursor) == (["News 0"], None)
    assert [one.subject for one in ts.notifications.list("acme", priority="low")] == ["News 3", "News 1"]
    assert len(ts.notifications.list("acme", type="quota_warning")) == 0


def test_reading_is_noted_once_and_counted(ts: Tallystick, clock: FixedClock) -> None:
    first, second, _ = (ts.notifications.send("acme", "news", subject=f"News {number}") for number in range(3))
    ts.notifications.send("other", "news", subject="x")
    assert ts.notifications.unread_count("acme") == 3
    read = ts.notifications.mark_read(first.id)
    clock.advance(hours=1)
    assert ts.notifications.mark_read(first.id, tenant="acme").read_at == read.read_at
    assert ts.notifications.unread_count("acme") == 2
    assert [one.id for one in ts.notifications.list("acme", unread_only=True)][-1] == second.id
    assert ts.notifications.mark_all_read("acme") == 2
    assert ts.notifications.mark_all_read("acme") == 0
    assert ts.notifications.unread_count("other") == 1


def test_a_tenant_neither_reads_nor_marks_anothers(ts: Tallystick) -> None:
    theirs = ts.notifications.send("acme", "news", subject="x")
    for act in (ts.notifications.get, ts.notifications.mark_read):
        with pytest.raises(NotFound):
            act(theirs.id, tenant="other")
        with pytest.raises(NotFound):
            act("ntf_none", tenant="acme")
    assert not ts.notifications.get(theirs.id, tenant="acme").is_read


# -- preferences -------------------------------------------------------------------------------------------------------


def test_every_type_and_channel_has_a_preference_that_can_be_changed(ts: Tallystick) -> None:
    usual = {(one.type, one.channel): (one.mode, one.is_default) for one in ts.notifications.preferences("acme")}
    assert len(usual) == len(KINDS) * 3
    assert usual["quota_warning", "email"] == ("immediate", True)
    ts.notifications.set_preference("acme", "*", "email", "digest")
    ts.notifications.set_preference("acme", "payment_failed", "email", "immediate")
    changed = {(one.type, one.channel): (one.mode, one.is_default) for one in ts.notifications.preferences("acme")}
    assert changed["quota_warning", "email"] == ("digest", False)
    assert changed["payment_failed", "email"] == ("immediate", False)
    assert {one.is_default for one in ts.notifications.preferences("other")} == {True}


@pytest.mark.parametrize(
    ("type_name", "channel", "mode"),
    [
        ("quota_warning", "sms", "off"),
        ("quota_warning", "email", "weekly"),
        ("quota_warning", "in_app", "digest"),
        ("Quota", "email", "off"),
    ],
)
def test_a_preference_that_means_nothing_is_refused(ts: Tallystick, type_name: str, channel: str, mode: str) -> None:
    with pytest.raises(InvalidInput):
        ts.notifications.set_preference("acme", type_name, channel, mode)


def test_what_is_turned_off_in_the_application_is_kept_and_not_listed(ts: Tallystick) -> None:
    ts.notifications.set_preference("acme", "quota_warning", "in_app", "off")
    ts.quotas.set("acme", "message", 10, "daily", notification_threshold=80)
    ts.quotas.consume("acme", "message", 8)
    assert (len(ts.notifications.list("acme")), ts.notifications.unread_count("acme")) == (0, 0)
    assert count(ts, tables.notifications) == 1


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", ["en", "pt-BR"])
def test_every_type_has_its_words_in_every_language(locale: str) -> None:
    voice = Wordings(None, "en").voice(locale, "UTC")
    at = datetime(2026, 1, 31, 10, 30, tzinfo=UTC)
    instants = ("resets_at", "expires_at", "ends_at", "due_date", "grace_until", "effective_at")
    names = (
        "resource",
        "period",
        "scope",
        "limit_type",
        "feature",
        "plan",
        "previous_plan",
        "invoice",
        "url",
        "reason",
    )
    values = dict.fromkeys(instants, at) | {name: name for name in names}
    figures = dict.fromkeys(
        ("used", "limit", "percentage", "remaining", "available", "minimum", "amount"), Decimal("1234.5")
    )
    for kind in KINDS:
        text = voice.say(kind, {**values, **figures})
        assert text.subject
        assert text.message
        assert text.action
        assert "{" not in text.subject + text.message


@pytest.mark.parametrize(
    ("asked", "found"),
    [("pt", "pt-BR"), ("pt-PT", "pt-BR"), ("PT_br", "pt-BR"), ("en-GB", "en"), ("fr", "en"), (None, "en")],
)
def test_the_nearest_language_is_spoken(asked: str | None, found: str) -> None:
    assert Wordings(None, "en").voice(asked, "UTC").locale == found


def test_texts_of_ones_own_replace_single_words_and_add_languages(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "en.toml").write_text('[quota_warning]\nsubject = "Careful: {percentage} of {resource}"\n', "utf-8")
    (tmp_path / "es.toml").write_text(
        '[welcome]\nsubject = "Bienvenido, {name}"\nmessage = "Tiene {credits}."\n', "utf-8"
    )
    ts = opened(templates=str(tmp_path))
    ts.quotas.set("acme", "message", 10, "daily", notification_threshold=80)
    ts.quotas.consume("acme", "message", 8)
    assert ts.notifications.list("acme")[0].subject == "Careful: 80% of messages"
    ts.tenants.create("Uno", slug="uno", locale="es")
    sent = ts.notifications.send("uno", "welcome", metadata={"name": "Uno", "credits": money("3 USD")})
    assert (sent.subject, sent.message, sent.locale) == ("Bienvenido, Uno", "Tiene 3.00 USD.", "es")


def test_a_text_that_speaks_of_what_is_not_known_is_refused_when_the_engine_opens(
    tmp_path: Path, opened: Opener
) -> None:
    (tmp_path / "en.toml").write_text('[quota_warning]\nsubject = "{percent} used"\n', "utf-8")
    with pytest.raises(ConfigurationError, match=r"quota_warning\.subject.*\{percentage\}"):
        opened(templates=str(tmp_path))
    with pytest.raises(ConfigurationError, match="There is no such folder"):
        opened(templates=str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="There are texts in en, pt-BR"):
        opened(locale="tlh")


# -- keeping and erasing -----------------------------------------------------------------------------------------------


def test_old_notifications_and_messages_are_removed_once_a_day(opened: Opener, clock: FixedClock) -> None:
    ts = opened(keep_days=30)
    ts.notifications.send("acme", "news", subject="Old")
    clock.advance(days=31)
    ts.notifications.send("acme", "news", subject="New")
    ts.run_due_jobs()
    assert [one.subject for one in ts.notifications.list("acme")] == ["New"]


def test_erasing_a_billable_takes_all_that_it_was_told(ts: Tallystick) -> None:
    for name in ("acme", "other"):
        ts.notifications.send(name, "news", subject="x")
        ts.notifications.set_preference(name, "news", "email", "off")
        ts.webhooks.add("https://hooks.example.com", tenant=name)
    ts.notifications.send("acme", "news", subject="x")
    ts._engine.lane.transact(lambda connection: erase_notifications(connection, ["tenant:acme"]))
    assert len(ts.notifications.list("acme")) == 0
    assert len(ts.notifications.list("other")) == 1
    assert [one.billable for one in ts.webhooks.list()] == ["tenant:other"]
    assert len(ts.notifications.messages("acme")) == 0
    assert {one.is_default for one in ts.notifications.preferences("acme")} == {True}


def test_both_colours_tell_the_same(sqlite_url: str) -> None:
    async def work() -> None:
        async with AsyncTallystick(sqlite_url) as ts:
            sent = await ts.notifications.send("acme", "news", subject="x")
            assert (await ts.notifications.mark_read(sent.id)).is_read
            assert await ts.notifications.unread_count("acme") == 0
            assert (await ts.webhooks.add("https://hooks.example.com")).secret is not None

    asyncio.run(work())


def test_erasing_a_person_takes_what_names_them_out_of_messages_and_of_what_others_were_told(
    ts: Tallystick, clock: FixedClock
) -> None:
    ts.webhooks.add("https://hooks.example.com", "usage.recorded")
    ts.quotas.set("acme", "message", 2, "daily", user="*", notification_threshold=50)
    for user in (1, 11):
        ts.quotas.consume("acme", "message", user=user)
    ts.usage.record(billable="user:1", input_tokens=5)
    assert (len(ts.notifications.messages()), len(ts.notifications.list("acme"))) == (3, 2)
    ts.usage.delete_for("user:1")
    [left] = ts.notifications.messages()
    assert '"user:11"' in left.payload
    assert [one.metadata["scope"] for one in ts.notifications.list("acme")] == ["user:11"]
    clock.advance(days=400)
    ts.webhooks.remove(ts.webhooks.list()[0].id)
    ts.usage.anonymize_before(clock.now())
    assert len(ts.notifications.messages()) == 0
