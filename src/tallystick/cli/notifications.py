"""`tallystick notifications`: what customers were told, and what became of the messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallystick.cli.figures import counts
from tallystick.cli.instants import zone_named
from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.cli.output import console, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick.settings import Settings

__all__ = ["notifications"]

notifications = typer.Typer(name="notifications", help="Notifications: list, send, deliver, messages, retry.")

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant's slug, or a billable such as user:1.")]
MessageId = Annotated[str, typer.Argument(metavar="MESSAGE", help="The id of the message: msg_…")]


@notifications.command("list")
def list_notifications(
    tenant: Tenant,
    unread: Annotated[bool, typer.Option("--unread", help="Only those that were not read.")] = False,
    type_name: Annotated[str | None, typer.Option("--type", help="Only this type, such as quota_warning.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many of the newest.")] = 20,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List what a tenant was told, the newest first."""
    with open_existing(database, config) as ts:
        found = ts.notifications.list(tenant, unread_only=unread, type=type_name, limit=limit)
        unread_count = ts.notifications.unread_count(tenant)
        zone = zone_named(ts.settings.period.timezone)
    if as_json:
        print_json({"notifications": [one.to_dict() for one in found], "unread": unread_count})
        return
    out = console()
    if not len(found):
        out.print("Nothing.")
        return
    shown = table("at", "type", "priority", "subject", "read")
    for one in found:
        at = f"{one.created_at.astimezone(zone):%Y-%m-%d %H:%M}"
        shown.add_row(at, one.type, one.priority.value, one.subject, "yes" if one.is_read else "")
    out.print(shown)
    out.print(f"{counts(unread_count, 'unread notification')}.")


@notifications.command("send")
def send_notification(
    tenant: Tenant,
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="A type such as maintenance.")],
    subject: Annotated[str, typer.Option(help="What it is about, in a line.")],
    message: Annotated[str | None, typer.Option(help="What it says.")] = None,
    priority: Annotated[
        Literal["low", "normal", "high", "urgent"] | None, typer.Option(help="Otherwise as its type says.")
    ] = None,
    action_url: Annotated[str | None, typer.Option("--link", metavar="URL", help="Where it leads.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Running the same command again with this key tells nothing more.")
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Tell a tenant something. It goes out with the next delivery."""
    with open_existing(database, config) as ts:
        sent = ts.notifications.send(
            tenant,
            type_name,
            subject=subject,
            message=message,
            priority=priority,
            action_url=action_url,
            idempotency_key=idempotency_key,
        )
    if as_json:
        print_json(sent.to_dict())
    else:
        console().print(f"{sent.id} tells {sent.billable}: {sent.subject}")


@notifications.command("deliver")
def deliver_messages(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many messages at most.")] = 500,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Deliver the mails and webhooks that are due, once. Any number of workers may do so at the same time."""
    with open_existing(database, config) as ts:
        done = ts.notifications.deliver(limit)
    if as_json:
        print_json(done.to_dict())
        return
    console().print(
        f"{counts(done.sent, 'message')} sent, {done.retried} to be tried again, {done.dead} given up, "
        f"{done.dropped} without a destination."
    )


@notifications.command("messages")
def list_messages(
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only those of this tenant or billable.")] = None,
    status: Annotated[
        Literal["pending", "sent", "dead", "dropped"] | None, typer.Option(help="Only these; dead ones were given up.")
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Only those of a channel, such as email or webhook.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many of the newest.")] = 20,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List the messages of the outbox, the newest first: was it sent, and if not, why not?"""
    with open_existing(database, config) as ts:
        found = ts.notifications.messages(tenant, status=status, channel=channel, limit=limit)
        settings = ts.settings
    if as_json:
        print_json({"messages": [one.to_dict() for one in found]})
    elif len(found):
        _print_messages(console(), found, settings)
    else:
        console().print("Nothing.")


@notifications.command("retry")
def retry_message(
    message: MessageId, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Give a message that was given up all its attempts again. The next delivery tries it."""
    with open_existing(database, config) as ts:
        revived = ts.notifications.retry(message)
    if as_json:
        print_json(revived.to_dict())
    else:
        console().print(f"{revived.id} is due again.")


def _print_messages(out: Console, found: Any, settings: Settings) -> None:
    zone = zone_named(settings.period.timezone)
    shown = table("message", "at", "to", "on", "what", "status", "attempts", "last error", right=("attempts",))
    for one in found:
        shown.add_row(
            one.id,
            f"{one.created_at.astimezone(zone):%Y-%m-%d %H:%M}",
            one.destination or one.billable,
            one.channel,
            one.type,
            one.status,
            str(one.attempts),
            one.last_error or "",
        )
    out.print(shown)
