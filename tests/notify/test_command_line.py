"""Notifications and webhooks from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallystick import Tallystick
from tests.cli.commands import answer, invoke, succeed
from tests.notify import receivers
from tests.notify.receivers import MailServer, Receiver


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with receivers.mail_server() as made:
        yield made


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mail: MailServer) -> Path:
    """A settings file in an empty folder, with a mail server, and a database with one tenant."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tallystick.toml"
    file.write_text(
        f"""
[notifications]
webhook_private_addresses = true
[notifications.smtp]
host = "127.0.0.1"
port = {mail.port}
security = "none"
sender = "billing@example.com"
""",
        "utf-8",
    )
    with Tallystick(config=file) as ts:
        ts.tenants.create("Acme", slug="acme", billing_email="a@acme.example")
    return file


def test_something_is_told_delivered_and_listed(config: Path, mail: MailServer) -> None:
    assert "Nothing." in succeed("notifications", "list", "acme")
    sent = answer("notifications", "send", "acme", "news", "--subject", "Olá, você", "--idempotency-key", "k")
    again = answer("notifications", "send", "acme", "news", "--subject", "Olá, você", "--idempotency-key", "k")
    assert sent["id"] == again["id"]
    assert "1 message sent" in succeed("notifications", "deliver")
    assert mail.box.subjects == ["Olá, você"]
    listed = succeed("notifications", "list", "acme", "--unread")
    assert "Olá, você" in listed
    assert "1 unread notification." in listed
    found = answer("notifications", "list", "tenant:acme")
    assert (found["unread"], [one["subject"] for one in found["notifications"]]) == (1, ["Olá, você"])


def test_dead_letters_are_shown_and_sent_again(config: Path, mail: MailServer) -> None:
    mail.box.answer = lambda: "554 unwanted"
    succeed("notifications", "send", "acme", "news", "--subject", "Hello")
    assert answer("notifications", "deliver") == {"sent": 0, "retried": 0, "dead": 1, "dropped": 0}
    assert "554 unwanted" in succeed("notifications", "messages", "--status", "dead")
    [dead] = answer("notifications", "messages", "--tenant", "acme")["messages"]
    mail.box.answer = lambda: None
    assert "is due again" in succeed("notifications", "retry", dead["id"])
    assert answer("notifications", "deliver")["sent"] == 1
    assert invoke("notifications", "retry", dead["id"]).exit_code == 3


def test_an_endpoint_is_added_tested_changed_and_removed(config: Path) -> None:
    with receivers.receiver() as hook:
        made = answer("webhooks", "add", hook.url, "--event", "quota.warning", "--tenant", "acme")
        assert made["secret"].startswith("whsec_")
        assert "Delivered: 200." in succeed("webhooks", "test", made["id"])
        refused: Receiver = hook
        refused.answer = lambda _: 500
        failed = invoke("webhooks", "test", made["id"])
        assert (failed.exit_code, "answered 500" in failed.stdout) == (1, True)
    listed = succeed("webhooks", "list")
    assert "quota.warning" in listed
    assert made["secret"] not in listed
    assert answer("webhooks", "rotate-secret", made["id"])["secret"] != made["secret"]
    assert "is disabled" in succeed("webhooks", "enable", made["id"], "--disable")
    assert answer("webhooks", "enable", made["id"])["status"] == "active"
    succeed("webhooks", "remove", made["id"])
    assert "None." in succeed("webhooks", "list")
    assert invoke("webhooks", "remove", made["id"]).exit_code == 3
    assert "There are: " in invoke("webhooks", "add", "https://x.example", "--event", "nothing").output
