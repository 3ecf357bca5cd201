"""What `validate` says of notifications, and what their settings refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallystick.errors import ConfigurationError
from tallystick.settings import Settings
from tallystick.validation import validate

SMTP = {"host": "mail.example.com", "sender": "Example <billing@example.com>"}


def checks(tmp_path: Path, toml: str) -> list[tuple[str, str, str]]:
    file = tmp_path / "settings.toml"
    file.write_text(toml, "utf-8")
    found = validate(f"sqlite:///{tmp_path / 'x.db'}", file).checks
    return [(one.subject, one.outcome, one.detail) for one in found if one.subject in ("mail", "notifications")]


def test_a_mail_server_is_shown_and_a_password_in_the_clear_is_warned_of(tmp_path: Path) -> None:
    stated = '[notifications.smtp]\nhost = "mail.example.com"\nsender = "a@example.com"\n'
    assert checks(tmp_path, stated) == [("mail", "ok", "mail.example.com:587, starttls")]
    [mail] = checks(tmp_path, f'{stated}security = "none"\nusername = "a"\npassword = "secret"\n')
    assert mail == ("mail", "warning", "The password goes to the mail server unencrypted")


def test_what_cannot_be_imported_or_read_is_a_problem(tmp_path: Path) -> None:
    found = checks(
        tmp_path,
        '[notifications]\naddress_of = "nowhere:at_all"\ntemplates = "absent"\n'
        '[notifications.channels.sms]\nclass = "tests.notify.test_delivery:Sms"\n',
    )
    assert [outcome for _, outcome, _ in found] == ["ok", "problem", "problem"]


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("smtp.sender", {"smtp": {"host": "mail.example.com"}}),
        ("smtp.sender", {"smtp": {**SMTP, "sender": "nobody"}}),
        ("smtp.sender", {"smtp": {**SMTP, "sender": "a@example.com\nBcc: b@example.com"}}),
        ("smtp.security", {"smtp": {**SMTP, "security": "ssl"}}),
        ("base_url", {"base_url": "javascript:alert(1)"}),
        ("locale", {"locale": "../etc"}),
        ("channels.email", {"channels": {"email": {"class": "a:B"}}}),
        ("digest_hour", {"digest_hour": 24}),
        ("lease_seconds", {"lease_seconds": 60, "webhook_timeout_seconds": 40}),
    ],
)
def test_settings_that_cannot_work_are_refused(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(notifications=given)
    assert refused.value.field == f"notifications.{field}"


def test_the_password_is_never_shown() -> None:
    settings = Settings.load(notifications={"smtp": {**SMTP, "password": "geheim"}})
    assert "geheim" not in repr(settings)
    assert "geheim" not in str(settings.describe())
