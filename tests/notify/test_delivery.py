"""Delivery: mail and webhooks to real servers, that go away and come back, and workers that die."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import select

from tallystick import FixedClock, Tallystick
from tallystick.errors import Conflict, NotFound
from tallystick.notify import DeliveryFailed, OutgoingNotification, verify_webhook
from tallystick.notify.delivery import PAUSES_SECONDS
from tallystick.notify.notification import Deliveries
from tallystick.storage import tables
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS
from tests.notify.conftest import Opener
from tests.notify.receivers import MailServer, Receiver

MOST_JITTER = 1.25


def acme(ts: Tallystick, **fields: Any) -> None:
    ts.tenants.create("Ação & Filhos", slug="acme", billing_email="financeiro@acme.example", **fields)


def told(ts: Tallystick, *subjects: str, type_name: str = "news") -> None:
    for subject in subjects:
        ts.notifications.send("acme", type_name, subject=subject, message=f"{subject}, in full.")


def after_the_pause(clock: FixedClock, attempt: int) -> None:
    clock.advance(seconds=PAUSES_SECONDS[attempt - 1] * MOST_JITTER + 1)


# -- mail --------------------------------------------------------------------------------------------------------------


def test_a_mail_says_it_in_text_and_html_with_a_subject_of_any_letters(
    opened: Opener, mail: MailServer, clock: FixedClock
) -> None:
    ts = opened(mail, base_url="https://app.example.com/billing", product="Sistema Ágil")
    acme(ts, locale="pt-BR")
    ts.quotas.set("acme", "message", 10, "daily", notification_threshold=80)
    ts.quotas.consume("acme", "message", 8)
    assert ts.run_due_jobs().deliveries == Deliveries(sent=1)
    [sent] = mail.box.mails
    assert sent["Subject"] == "Uso de 80% da cota diária de mensagens"
    assert sent["From"] == "Contas Ação <billing@example.com>"
    assert sent["To"] == "Ação & Filhos <financeiro@acme.example>"
    assert mail.box.recipients == [["financeiro@acme.example"]]
    assert sent["Date"] == "Thu, 15 Jan 2026 12:00:00 +0000"
    [notification] = ts.notifications.list("acme")
    assert sent["Message-ID"] == f"<{notification.id}@example.com>"
    text, html = (sent.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert text.get_content().replace("\r\n", "\n") == (
        "Olá, Ação & Filhos,\n\n"
        "Uso da cota diária de mensagens: 8 de 10. Ela recomeça em 16/01/2026 00:00 (UTC).\n"
        "Ver suas cotas: https://app.example.com/billing/quotas\n\n"
        "-- \nVocê recebe este e-mail porque ele diz respeito à sua conta em Sistema Ágil.\n"
    )
    assert html is not None
    page = html.get_content()
    assert "Olá, Ação &amp; Filhos," in page
    assert 'href="https://app.example.com/billing/quotas"' in page
    assert '<html lang="pt-BR">' in page


def test_what_is_told_is_escaped_in_html_and_breaks_no_header(opened: Opener, mail: MailServer) -> None:
    ts = opened(mail)
    acme(ts)
    ts.notifications.send("acme", "news", subject="<b>\r\nBcc: all@example.com", message="<script>")
    ts.notifications.deliver()
    [sent] = mail.box.mails
    assert (sent["Subject"], sent["Bcc"]) == ("<b> Bcc: all@example.com", None)
    html = sent.get_body(("html",))
    assert html is not None
    assert "&lt;script&gt;" in html.get_content()
    assert "<script>" not in html.get_content()


def test_a_mail_server_that_is_away_is_asked_again_and_nothing_is_lost_or_doubled(
    opened: Opener, mail: MailServer, clock: FixedClock
) -> None:
    ts = opened(mail)
    acme(ts)
    told(ts, "One", "Two", "Three")
    mail.stop()
    # Who is away is asked once, not once for each mail.
    assert ts.notifications.deliver() == Deliveries(retried=1)
    assert ts.notifications.deliver() == Deliveries()
    assert sorted(one.attempts for one in ts.notifications.messages()) == [0, 0, 1]
    [failed] = [one for one in ts.notifications.messages() if one.attempts]
    assert "The mail server is away" in str(failed.last_error)
    mail.start()
    after_the_pause(clock, 1)
    assert ts.notifications.deliver() == Deliveries(sent=3)
    assert ts.notifications.deliver() == Deliveries()
    assert sorted(mail.box.subjects) == ["One", "Three", "Two"]


def test_after_its_last_attempt_a_mail_is_a_dead_letter_and_can_be_sent_again(
    opened: Opener, mail: MailServer, clock: FixedClock
) -> None:
    ts = opened(mail, attempts_max=3)
    acme(ts)
    told(ts, "One")
    mail.box.answer = lambda: "451 later"
    outcomes = []
    for attempt in (1, 2, 3):
        outcomes.append(ts.notifications.deliver())
        after_the_pause(clock, attempt)
    assert outcomes == [Deliveries(retried=1), Deliveries(retried=1), Deliveries(dead=1)]
    [dead] = ts.notifications.dead_letters()
    assert (dead.attempts, dead.last_error) == (3, "The mail server said 451 later.")
    assert ts.notifications.deliver() == Deliveries()
    mail.box.answer = lambda: None
    assert ts.notifications.retry(dead.id).status == "pending"
    assert ts.notifications.deliver() == Deliveries(sent=1)
    assert len(ts.notifications.dead_letters()) == 0
    with pytest.raises(Conflict, match="was sent"):
        ts.notifications.retry(dead.id)
    with pytest.raises(NotFound):
        ts.notifications.retry("msg_none")


def test_a_mail_that_is_refused_for_good_is_given_up_at_once_and_the_next_is_sent(
    opened: Opener, mail: MailServer
) -> None:
    ts = opened(mail)
    acme(ts)
    answers = iter(["554 no", None])
    mail.box.answer = lambda: next(answers)
    told(ts, "One", "Two")
    assert ts.notifications.deliver() == Deliveries(sent=1, dead=1)
    assert mail.box.subjects == ["Two"]


def test_mail_is_not_sent_in_the_clear_where_encryption_is_asked_for(
    database_url: str, mail: MailServer, clock: FixedClock
) -> None:
    smtp = {**mail.settings, "security": "starttls"}
    with Tallystick(database_url, clock=clock, notifications={"smtp": smtp}) as ts:
        acme(ts)
        told(ts, "One")
        assert ts.notifications.deliver() == Deliveries(retried=1)
        [message] = ts.notifications.messages()
        assert "The mail server cannot do this: STARTTLS" in str(message.last_error)
    assert mail.box.mails == []


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # the test server's advice to itself
def test_a_wrong_password_is_the_operators_fault_and_no_mails(
    sqlite_url: str, mail: MailServer, clock: FixedClock
) -> None:
    mail.stop()
    mail.password = "right"
    mail.start()

    def deliver(password: str) -> Deliveries:
        smtp = {**mail.settings, "username": "billing", "password": password}
        with Tallystick(sqlite_url, clock=clock, notifications={"smtp": smtp}) as ts:
            return ts.notifications.deliver()

    with Tallystick(sqlite_url, clock=clock, notifications={"smtp": mail.settings}) as ts:
        acme(ts)
        told(ts, "One", "Two")
    assert deliver("wrong") == Deliveries(retried=1)
    after_the_pause(clock, 1)
    assert deliver("right") == Deliveries(sent=2)


def test_a_deleted_tenant_gets_no_mail(opened: Opener, mail: MailServer) -> None:
    ts = opened(mail)
    acme(ts)
    told(ts, "One")
    ts.tenants.delete("acme")
    assert ts.notifications.deliver() == Deliveries(dropped=1)
    assert mail.box.mails == []


def test_the_pauses_grow_and_are_never_quite_the_same(opened: Opener, mail: MailServer, clock: FixedClock) -> None:
    ts = opened(mail)
    acme(ts)
    told(ts, "One")
    mail.box.answer = lambda: "451 later"
    waits = []
    for attempt in range(1, 6):
        ts.notifications.deliver()
        [message] = ts.notifications.messages()
        waits.append((message.due_at - clock.now()).total_seconds())
        assert PAUSES_SECONDS[attempt - 1] <= waits[-1] <= PAUSES_SECONDS[attempt - 1] * MOST_JITTER
        clock.set(message.due_at)
    assert waits == sorted(waits)
    assert all(wait != pause for wait, pause in zip(waits, PAUSES_SECONDS, strict=False))


def test_who_has_no_address_gets_no_mail_and_is_told_in_the_application(opened: Opener, mail: MailServer) -> None:
    ts = opened(mail)
    ts.tenants.create("Acme", slug="acme")
    told(ts, "One")
    assert len(ts.notifications.messages()) == 0
    assert ts.notifications.unread_count("acme") == 1


def address_of(billable: str) -> str | None:
    return "person@example.com" if billable == "user:1" else None


def test_the_application_can_say_where_mail_goes(opened: Opener, mail: MailServer) -> None:
    ts = opened(mail, address_of="tests.notify.test_delivery:address_of")
    for billable in ("user:1", "user:2"):
        ts.notifications.send(billable, "news", subject=f"For {billable}")
    assert ts.notifications.deliver() == Deliveries(sent=1, dropped=1)
    assert mail.box.recipients == [["person@example.com"]]
    [dropped] = ts.notifications.messages(status="dropped")
    assert dropped.last_error == "user:2 has no address for mail."


def test_what_is_turned_off_is_not_mailed(opened: Opener, mail: MailServer) -> None:
    ts = opened(mail)
    acme(ts)
    ts.notifications.set_preference("acme", "news", "email", "off")
    told(ts, "One")
    told(ts, "Two", type_name="alarm")
    ts.notifications.deliver()
    assert mail.box.subjects == ["Two"]


def test_a_digest_goes_out_once_a_day_in_the_tenants_morning_as_one_mail(
    opened: Opener, mail: MailServer, clock: FixedClock
) -> None:
    ts = opened(mail, digest_hour=8)
    acme(ts, timezone="America/Sao_Paulo")
    ts.notifications.set_preference("acme", "*", "email", "digest")
    told(ts, *(f"News {number:02}" for number in range(40)))
    assert ts.notifications.deliver() == Deliveries()
    clock.set("2026-01-16T10:59:59Z")
    assert ts.notifications.deliver() == Deliveries()
    clock.set("2026-01-16T11:00:00Z")
    assert ts.notifications.deliver(limit=3) == Deliveries(sent=40)
    [sent] = mail.box.mails
    assert sent["Subject"] == "40 notifications"
    body = sent.get_body(("plain",))
    assert body is not None
    assert all(f"News {number:02}, in full." in body.get_content() for number in range(40))


def test_more_than_so_many_mails_in_an_hour_become_one(opened: Opener, mail: MailServer, clock: FixedClock) -> None:
    ts = opened(mail, mails_per_hour=3)
    acme(ts)
    told(ts, *(f"News {number}" for number in range(8)))
    assert ts.notifications.deliver() == Deliveries(sent=3)
    clock.advance(minutes=59)
    told(ts, "News 8")
    assert ts.notifications.deliver() == Deliveries()
    clock.advance(minutes=1)
    assert ts.notifications.deliver() == Deliveries(sent=5)
    assert mail.box.subjects[-1] == "5 notifications"
    clock.advance(hours=1)
    ts.notifications.deliver()
    assert mail.box.subjects[-1] == "News 8"


def test_templates_of_ones_own_replace_the_mail(opened: Opener, mail: MailServer, tmp_path: Path) -> None:
    (tmp_path / "mail.html").write_text("<p>{{ notifications[0].subject }}</p>", "utf-8")
    (tmp_path / "alarm.html").write_text("<b>{{ notifications[0].subject }}</b>", "utf-8")
    ts = opened(mail, templates=str(tmp_path))
    acme(ts)
    told(ts, "One")
    told(ts, "Two", type_name="alarm")
    ts.notifications.deliver()
    bodies = [sent.get_body(("html",)) for sent in mail.box.mails]
    assert sorted(body.get_content().strip() for body in bodies if body is not None) == ["<b>Two</b>", "<p>One</p>"]


# -- webhooks ----------------------------------------------------------------------------------------------------------


def test_a_webhook_is_signed_as_standard_webhooks_does(opened: Opener, hook: Receiver, clock: FixedClock) -> None:
    ts = opened()
    endpoint = ts.webhooks.add(hook.url + "?a=1", "usage.recorded")
    event = ts.usage.record(billable="tenant:acme", input_tokens=3, feature="chat")
    assert ts.notifications.deliver() == Deliveries(sent=1)
    [request] = hook.requests
    assert request.path == "/hooks?a=1"
    assert request.event["type"] == "usage.recorded"
    assert request.event["timestamp"] == "2026-01-15T12:00:00Z"
    assert request.event["data"]["usage"]["id"] == event.id
    assert request.headers["content-type"] == "application/json; charset=utf-8"
    assert request.headers["webhook-id"].startswith("msg_")
    at = clock.now().timestamp()
    secret = endpoint.secret or ""
    assert verify_webhook(request.body, request.headers, secret, at_seconds=at)
    assert not verify_webhook(request.body + b" ", request.headers, secret, at_seconds=at)
    assert not verify_webhook(request.body, request.headers, secret, at_seconds=at + 301)
    other = ts.webhooks.add(hook.url).secret or ""
    assert not verify_webhook(request.body, request.headers, other, at_seconds=at)
    assert not verify_webhook(request.body, {}, secret, at_seconds=at)


def test_a_webhook_keeps_its_id_and_its_body_at_each_attempt(opened: Opener, hook: Receiver, clock: FixedClock) -> None:
    ts = opened()
    ts.webhooks.add(hook.url, "usage.recorded")
    ts.usage.record(billable="tenant:acme", input_tokens=3)
    answers = iter([500, 302, 200])
    hook.answer = lambda _: next(answers)
    for attempt in (1, 2, 3):
        ts.notifications.deliver()
        after_the_pause(clock, attempt)
    assert len(hook.requests) == 3
    assert len({(one.headers["webhook-id"], one.body) for one in hook.requests}) == 1
    assert len({one.headers["webhook-timestamp"] for one in hook.requests}) == 3


def test_while_a_secret_is_replaced_both_are_valid(opened: Opener, hook: Receiver, clock: FixedClock) -> None:
    ts = opened()
    old = ts.webhooks.add(hook.url, "usage.recorded")
    new = ts.webhooks.rotate_secret(old.id)
    assert old.secret
    assert new.secret
    assert new.secret != old.secret
    valid = []
    for _ in range(2):
        ts.usage.record(billable="tenant:acme", input_tokens=3)
        ts.notifications.deliver()
        request, at = hook.requests[-1], clock.now().timestamp()
        secrets = (old.secret, new.secret)
        valid.append([verify_webhook(request.body, request.headers, one, at_seconds=at) for one in secrets])
        clock.advance(hours=24)
    assert valid == [[True, True], [False, True]]
    assert ts.webhooks.get(new.id).secret is None


def test_an_endpoint_that_is_away_does_not_keep_the_others_waiting(opened: Opener, clock: FixedClock) -> None:
    from tests.notify import receivers

    ts = opened(webhook_timeout_seconds=1)
    with receivers.receiver() as silent, receivers.receiver() as quick:
        answered = threading.Event()
        silent.answer = lambda _: (answered.wait(10), 200)[1]
        ts.webhooks.add(silent.url, "usage.recorded")
        ts.webhooks.add(quick.url, "usage.recorded")
        for _ in range(30):
            ts.usage.record(billable="tenant:acme", input_tokens=3)
        started = time.monotonic()
        first = ts.notifications.deliver(limit=1000)
        assert time.monotonic() - started < 8
        assert (first.sent, first.retried) == (30, 1)
        assert ts.notifications.deliver(limit=1000) == Deliveries()
        assert len(silent.requests) == 1
        answered.set()
        after_the_pause(clock, 1)
        assert ts.notifications.deliver(limit=1000) == Deliveries(sent=30)
    assert len({one.headers["webhook-id"] for one in silent.requests}) == 30
    assert len(quick.requests) == 30


def test_an_answer_that_drips_is_cut_off_in_time(opened: Opener) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not over.wait(0.2):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        threading.Thread(target=drip, daemon=True).start()
        ts = opened(webhook_timeout_seconds=1)
        endpoint = ts.webhooks.add(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        started = time.monotonic()
        tested = ts.webhooks.test(endpoint.id)
        over.set()
    assert time.monotonic() - started < 4
    assert (tested.is_delivered, tested.error) == (False, "127.0.0.1: No answer in time.")


def test_a_busy_endpoint_is_left_alone_as_long_as_it_asks(opened: Opener, hook: Receiver, clock: FixedClock) -> None:
    ts = opened()
    ts.webhooks.add(hook.url, "usage.recorded")
    hook.answer = lambda _: (429, {"Retry-After": "3600"})
    for _ in range(3):
        ts.usage.record(billable="tenant:acme", input_tokens=3)
    assert ts.notifications.deliver() == Deliveries(retried=1)
    clock.advance(seconds=3599)
    assert ts.notifications.deliver() == Deliveries()
    hook.answer = lambda _: 200
    clock.advance(seconds=2)
    assert ts.notifications.deliver() == Deliveries(sent=3)


def test_an_endpoint_that_is_gone_gets_nothing_more_and_its_tenant_is_told(opened: Opener, hook: Receiver) -> None:
    ts = opened()
    endpoint = ts.webhooks.add(hook.url, "usage.recorded", tenant="acme")
    for _ in range(2):
        ts.usage.record(billable="tenant:acme", input_tokens=3)
    hook.answer = lambda _: 410
    assert ts.notifications.deliver() == Deliveries(dead=2)
    assert len(hook.requests) == 1
    assert ts.webhooks.get(endpoint.id).status == "disabled"
    [told_of] = ts.notifications.list("acme")
    assert told_of.type == "webhook_disabled"
    ts.usage.record(billable="tenant:acme", input_tokens=3)
    assert len(ts.notifications.messages(status="pending")) == 0
    hook.answer = lambda _: 200
    ts.webhooks.update(endpoint.id, is_active=True)
    for dead in ts.notifications.dead_letters():
        ts.notifications.retry(dead.id)
    assert ts.notifications.deliver() == Deliveries(sent=2)


def test_days_of_failures_disable_an_endpoint_and_one_success_starts_anew(
    opened: Opener, hook: Receiver, clock: FixedClock
) -> None:
    ts = opened(webhook_disable_after_days=2)
    endpoint = ts.webhooks.add(hook.url, "usage.recorded")

    def use(status: int) -> str:
        hook.answer = lambda _: status
        ts.usage.record(billable="tenant:acme", input_tokens=3)
        ts.notifications.deliver()
        clock.advance(days=1)
        return ts.webhooks.get(endpoint.id).status

    assert [use(status) for status in (500, 500, 200, 500, 500, 500)] == ["active"] * 5 + ["disabled"]
    assert "2 days" in str(ts.webhooks.get(endpoint.id).status_reason)


def test_private_addresses_and_plain_http_are_refused(database_url: str, clock: FixedClock, hook: Receiver) -> None:
    from tallystick.errors import InvalidInput

    with Tallystick(database_url, clock=clock) as ts:
        for url in (hook.url, "ftp://example.com", "https://", "https://user:pass@example.com", "https://ex ample.com"):
            with pytest.raises(InvalidInput):
                ts.webhooks.add(url)
        # The name of a private address is only known when it is resolved.
        for url in (
            "https://localhost:1/",
            "https://[::1]:1/",
            "https://169.254.169.254/",
            "https://[::ffff:10.0.0.1]/",
        ):
            tested = ts.webhooks.test(ts.webhooks.add(url).id)
            assert not tested.is_delivered
            assert "is a private address" in str(tested.error)
    assert hook.requests == []


def test_a_test_event_says_what_became_of_it(opened: Opener, hook: Receiver) -> None:
    ts = opened()
    endpoint = ts.webhooks.add(hook.url, "quota.warning")
    assert ts.webhooks.test(endpoint.id).to_dict() == {"is_delivered": True, "status_code": 200, "error": None}
    hook.answer = lambda _: 404
    assert ts.webhooks.test(endpoint.id).to_dict() == {
        "is_delivered": False,
        "status_code": 404,
        "error": "127.0.0.1 answered 404.",
    }
    assert hook.types == ["webhook.test", "webhook.test"]
    assert len(ts.notifications.messages()) == 0


def test_a_removed_endpoint_gets_nothing_more(opened: Opener, hook: Receiver) -> None:
    ts = opened()
    endpoint = ts.webhooks.add(hook.url, "usage.recorded", tenant="acme")
    ts.usage.record(billable="tenant:acme", input_tokens=3)
    with pytest.raises(NotFound):
        ts.webhooks.remove(endpoint.id, tenant="other")
    ts.webhooks.remove(endpoint.id, tenant="acme")
    ts.usage.record(billable="tenant:acme", input_tokens=3)
    assert ts.notifications.deliver() == Deliveries()
    assert [one.status for one in ts.notifications.messages()] == ["dropped"]


# -- channels of the application's own ---------------------------------------------------------------------------------


class Sms:
    sent: ClassVar[list[tuple[str, str | None]]] = []
    failure: ClassVar[Exception | None] = None

    def send(self, notifications: Sequence[OutgoingNotification]) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.extend((one.subject, one.name) for one in notifications)


@pytest.fixture
def sms() -> type[Sms]:
    Sms.sent.clear()
    Sms.failure = None
    return Sms


def test_a_channel_of_ones_own_is_delivered_to_as_mail_is(opened: Opener, sms: type[Sms], clock: FixedClock) -> None:
    ts = opened(channels={"sms": {"class": "tests.notify.test_delivery:Sms"}})
    acme(ts)
    ts.notifications.set_preference("acme", "chatter", "sms", "off")
    told(ts, "One")
    told(ts, "Two", type_name="chatter")
    sms.failure = RuntimeError("no signal")
    assert ts.notifications.deliver() == Deliveries(retried=1)
    sms.failure = DeliveryFailed("no such number", is_permanent=True)
    after_the_pause(clock, 1)
    assert ts.notifications.deliver() == Deliveries(dead=1)
    sms.failure = None
    ts.notifications.retry(ts.notifications.dead_letters()[0].id)
    assert ts.notifications.deliver() == Deliveries(sent=1)
    assert sms.sent == [("One", "Ação & Filhos")]


# -- several workers, and dead ones ------------------------------------------------------------------------------------


def test_workers_side_by_side_deliver_each_message_once(
    database_url: str, opened: Opener, hook: Receiver, clock: FixedClock
) -> None:
    ts = opened()
    ts.webhooks.add(hook.url, "usage.recorded")
    for _ in range(120):
        ts.usage.record(billable="tenant:acme", input_tokens=3)
    total: list[int] = []

    def work() -> None:
        with Tallystick(database_url, clock=clock, notifications={"webhook_private_addresses": True}) as worker:
            while (done := worker.notifications.deliver(limit=20)) != Deliveries():
                total.append(done.sent)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (done := ts.notifications.deliver()) != Deliveries():
        total.append(done.sent)
    assert sum(total) == len(hook.requests) == 120
    assert len({one.headers["webhook-id"] for one in hook.requests}) == 120


def work_until_killed(url: str) -> None:
    """What a worker does; the receiver sees to it that it dies on the way."""
    from tallystick import FixedClock, Tallystick

    settings = {"webhook_private_addresses": True, "webhook_timeout_seconds": 60}
    with Tallystick(url, clock=FixedClock("2026-01-15T12:00:00Z"), notifications=settings) as ts:
        ts.notifications.deliver()


def test_a_worker_killed_between_sending_and_noting_leaves_it_to_the_next(
    database_url: str, opened: Opener, hook: Receiver, clock: FixedClock
) -> None:
    ts = opened(lease_seconds=300)
    ts.webhooks.add(hook.url, "usage.recorded")
    ts.usage.record(billable="tenant:acme", input_tokens=3)
    received, over = threading.Event(), threading.Event()

    def wait(_: object) -> int:
        received.set()
        over.wait(JOIN_SECONDS)
        return 200

    hook.answer = wait
    worker = CONTEXT.Process(target=work_until_killed, args=(database_url,))
    worker.start()
    assert received.wait(JOIN_SECONDS)
    # kill -9: the receiver has the message, and nobody has noted it.
    worker.kill()
    worker.join(JOIN_SECONDS)
    over.set()
    hook.answer = lambda _: 200
    assert ts.notifications.deliver() == Deliveries()
    [message] = ts.notifications.messages()
    with pytest.raises(Conflict, match="is being sent now"):
        ts.notifications.retry(message.id)
    clock.advance(seconds=300)
    assert ts.notifications.deliver() == Deliveries(sent=1)
    # At least once: the receiver got it twice, and can tell by its id.
    assert len(hook.requests) == 2
    assert len({one.headers["webhook-id"] for one in hook.requests}) == 1


def test_a_worker_whose_lease_ran_out_does_not_note_what_another_does(
    database_url: str, opened: Opener, hook: Receiver, clock: FixedClock
) -> None:
    ts = opened(lease_seconds=30)
    ts.webhooks.add(hook.url, "usage.recorded")
    ts.usage.record(billable="tenant:acme", input_tokens=3)
    received, over = threading.Event(), threading.Event()

    def wait(_: object) -> int:
        received.set()
        over.wait(JOIN_SECONDS)
        return 500

    hook.answer = wait
    settings = {"webhook_private_addresses": True, "webhook_timeout_seconds": 60}
    with Tallystick(database_url, clock=clock, notifications=settings) as slow:
        thread = threading.Thread(target=slow.notifications.deliver)
        thread.start()
        assert received.wait(JOIN_SECONDS)
        clock.advance(seconds=301)
        hook.answer = lambda _: 200
        assert ts.notifications.deliver() == Deliveries(sent=1)
        over.set()
        thread.join()
    [message] = ts.notifications.messages()
    assert (message.status, message.last_error) == ("sent", None)


def test_delivering_holds_no_transaction_while_the_receiver_thinks(opened: Opener, hook: Receiver) -> None:
    ts = opened()
    ts.webhooks.add(hook.url, "limit.reached")
    ts.plans.create("tiny", monthly_token_limit=1)
    ts.subscriptions.create("user:1", "tiny")
    ts.usage.record(billable="user:1", input_tokens=1)
    recorded: list[str] = []

    def record(_: object) -> int:
        recorded.append(ts.usage.record(billable="user:2", input_tokens=1).id)
        return 200

    hook.answer = record
    assert ts.notifications.deliver() == Deliveries(sent=1)
    assert len(recorded) == 1


def test_messages_kept_long_enough_go_and_dead_letters_stay(opened: Opener, hook: Receiver, clock: FixedClock) -> None:
    ts = opened(outbox_keep_days=1, attempts_max=1)
    ts.webhooks.add(hook.url, "usage.recorded")
    answers = iter([200, 500])
    hook.answer = lambda _: next(answers)
    for _ in range(2):
        ts.usage.record(billable="tenant:acme", input_tokens=3)
    ts.notifications.deliver()
    clock.advance(days=2)
    ts.run_due_jobs()
    rows = ts._engine.read(lambda connection: connection.execute(select(tables.outbox.c.status)).scalars().all())
    assert rows == ["dead"]


def test_messages_are_listed_newest_first_in_pages_by_what_became_of_them(opened: Opener, hook: Receiver) -> None:
    ts = opened(attempts_max=1)
    ts.webhooks.add(hook.url, "usage.recorded")
    answers = iter([200, 500, 200, 500, 500])
    hook.answer = lambda _: next(answers)
    for number in range(5):
        ts.usage.record(billable=f"user:{number}", input_tokens=3)
        ts.notifications.deliver()
    ts.usage.record(billable="user:9", input_tokens=3)
    page = ts.notifications.dead_letters(limit=2)
    assert [one.billable for one in page] == ["user:4", "user:3"]
    page = ts.notifications.dead_letters(limit=2, cursor=page.next_cursor)
    assert ([one.billable for one in page], page.next_cursor) == (["user:1"], None)
    assert [one.billable for one in ts.notifications.messages(limit=2)] == ["user:9", "user:4"]
    assert [one.billable for one in ts.notifications.messages(status="pending")] == ["user:9"]
    assert [one.status for one in ts.notifications.messages("user:2")] == ["sent"]


def test_a_long_queue_of_one_and_a_long_past_cost_the_others_nothing(sqlite_url: str) -> None:
    """What is asked again and again goes by an index that has only the rows in question."""
    ts = Tallystick(sqlite_url)
    outbox, notifications = tables.outbox.c, tables.notifications.c
    due = (outbox.status == "pending", outbox.due_at <= 5)
    questions = {
        "ix_outbox_waiting": [select(outbox.id).where(*due).limit(1)],
        "ix_outbox_due": [select(outbox.id).where(*due, outbox.channel == "x", outbox.destination == "y")],
        "ix_outbox_done": [select(outbox.id).where(outbox.status == "sent", outbox.closed_at < 5)],
        "ix_outbox_sent": [select(outbox.id).where(outbox.billable == "x", outbox.closed_at > 5)],
        "ix_notifications_unread": [
            select(notifications.id).where(notifications.billable == "x", notifications.read_at.is_(None))
        ],
    }
    for index, queries in questions.items():
        for query in queries:
            sql = str(query.compile(ts._engine.database, compile_kwargs={"literal_binds": True}))
            with ts._engine.database.connect() as connection:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all()
            assert index in str(plan[0]), plan
    ts.close()
