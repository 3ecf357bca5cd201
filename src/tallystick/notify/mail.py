"""Mail: notifications as text and HTML, over SMTP.

A message keeps its Message-ID at each attempt, so a mailbox that gets one twice can tell. Without Jinja2 (the extra
"mail") mail is text alone.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tallystick.notify.channels import DeliveryFailed, OutgoingNotification
from tallystick.notify.wording import Voice, Wordings

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.settings import NotificationSettings

__all__ = ["Mail"]

_PERMANENT = range(500, 600)


class Mail:
    """One connection to the mail server, for the mails of a round. Its thread closes it."""

    def __init__(self, settings: NotificationSettings, wordings: Wordings, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._wordings = wordings
        self._now = now
        self._server: smtplib.SMTP | None = None

    def send(self, notifications: Sequence[OutgoingNotification]) -> None:
        """Send one mail of one or several notifications to the address of their billable.

        Raises:
            DeliveryFailed: the server is away, or does not take the mail.
        """
        mail = self._written(notifications)
        try:
            server = self._connected()
            server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            code, said = next(iter(error.recipients.values()))
            self._reset()
            raise DeliveryFailed(f"The mail server said {code} {_text(said)}.", is_permanent=code in _PERMANENT) from (
                error
            )
        except smtplib.SMTPResponseException as error:
            is_login = isinstance(error, smtplib.SMTPAuthenticationError)
            self._reset()
            raise DeliveryFailed(
                f"The mail server said {error.smtp_code} {_text(error.smtp_error)}.",
                # A wrong password is mended by the operator; the mail is not at fault.
                is_permanent=error.smtp_code in _PERMANENT and not is_login and _is_about_the_mail(error),
                is_unreachable=is_login or not _is_about_the_mail(error),
            ) from error
        except smtplib.SMTPNotSupportedError as error:
            self.close()
            raise DeliveryFailed(f"The mail server cannot do this: {error}.", is_unreachable=True) from error
        except (OSError, smtplib.SMTPException) as error:
            self.close()
            raise DeliveryFailed(
                f"The mail server is away: {str(error) or type(error).__name__}.", is_unreachable=True
            ) from error

    def close(self) -> None:
        """Take leave of the server, if it is still there."""
        if self._server is not None:
            with suppress(OSError, smtplib.SMTPException):
                self._server.quit()
            self._server = None

    # -- the server ---------------------------------------------------------------------------------------------------

    def _connected(self) -> smtplib.SMTP:
        if self._server is None:
            smtp = self._settings.smtp
            host, timeout = smtp.host or "", smtp.timeout_seconds
            context = ssl.create_default_context()
            server: smtplib.SMTP
            if smtp.security == "tls":
                server = smtplib.SMTP_SSL(host, smtp.port, timeout=timeout, context=context)
            else:
                server = smtplib.SMTP(host, smtp.port, timeout=timeout)
            # Also one that fails on the way is closed in the end.
            self._server = server
            if smtp.security == "starttls":
                server.starttls(context=context)
            if smtp.username is not None:
                password = smtp.password.get_secret_value() if smtp.password is not None else ""
                server.login(smtp.username, password)
        return self._server

    def _reset(self) -> None:
        """Make the connection fit for the next mail, or let it go."""
        try:
            if self._server is not None:
                self._server.rset()
        except (OSError, smtplib.SMTPException):
            self.close()

    # -- the mail -----------------------------------------------------------------------------------------------------

    def _written(self, notifications: Sequence[OutgoingNotification]) -> EmailMessage:
        first = notifications[0]
        voice = self._wordings.voice(first.locale, "UTC")
        sender_name, sender = parseaddr(self._settings.smtp.sender or "")
        is_digest = len(notifications) > 1
        subject = first.subject
        if is_digest:
            subject = voice.mail("digest_subject", count=len(notifications))
        mail = EmailMessage(policy=SMTP)
        mail["Subject"] = subject
        mail["From"] = Address(sender_name, addr_spec=sender)
        mail["To"] = self._recipient(first)
        mail["Date"] = format_datetime(self._now())
        mail["Message-ID"] = f"<{_identity(notifications)}@{sender.partition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        around = self._around(voice, first)
        mail.set_content(_as_text(notifications, around))
        html = self._as_html(notifications, around, subject)
        if html is not None:
            mail.add_alternative(html, subtype="html")
        return mail

    def _recipient(self, first: OutgoingNotification) -> Address:
        address = parseaddr(first.address or "")[1]
        try:
            return Address(first.name or "", addr_spec=address)
        except Exception as error:
            raise DeliveryFailed(f"{first.address!r} is no mail address.", is_permanent=True) from error

    def _around(self, voice: Voice, first: OutgoingNotification) -> dict[str, str]:
        product = self._settings.product
        named, footed = "greeting" if first.name else "greeting_without_name", "footer"
        footer = voice.mail(footed, product=product) if product else voice.mail("footer_without_product")
        return {
            "greeting": voice.mail(named, name=first.name or ""),
            "footer": footer,
            "product": product,
            "locale": voice.locale,
        }

    def _as_html(
        self, notifications: Sequence[OutgoingNotification], around: dict[str, str], subject: str
    ) -> str | None:
        if self._templates is None:
            return None
        names = ["mail.html"]
        if len(notifications) == 1:
            names.insert(0, f"{notifications[0].type}.html")
        template = self._templates.select_template(names)
        return str(template.render(notifications=notifications, subject=subject, **around))

    @cached_property
    def _templates(self) -> Any:
        """The templates: those of the application's folder before the built-in one. None without Jinja2."""
        if find_spec("jinja2") is None:
            return None
        from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader

        folder = self._settings.templates
        own = [FileSystemLoader(folder)] if folder is not None else []
        return Environment(loader=ChoiceLoader([*own, PackageLoader("tallystick.notify")]), autoescape=True)


def _identity(notifications: Sequence[OutgoingNotification]) -> str:
    """Return an id that the same mail has at each attempt, and no other: a digest may have grown in between."""
    if len(notifications) == 1:
        return notifications[0].id
    return sha256(" ".join(one.id for one in notifications).encode()).hexdigest()[:40]


def _as_text(notifications: Sequence[OutgoingNotification], around: dict[str, str]) -> str:
    parts = [around["greeting"]]
    for one in notifications:
        lines = [one.subject, one.message] if len(notifications) > 1 else [one.message or one.subject]
        if one.action_url:
            lines.append(f"{one.action}: {one.action_url}" if one.action else one.action_url)
        parts.append("\n".join(line for line in lines if line))
    return "\n\n".join([*parts, f"-- \n{around['footer']}"]) + "\n"


def _is_about_the_mail(error: smtplib.SMTPResponseException) -> bool:
    """Say whether it is this mail that the server does not take, and not us: sender and content are judged so."""
    return isinstance(error, smtplib.SMTPDataError)


def _text(said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return " ".join(text.split())[:500]
