"""`tallystick adjust`: correcting a quantity that was recorded wrongly."""

from __future__ import annotations

from typing import Annotated

import typer

from tallystick.cli.account_zone import account_zone
from tallystick.cli.figures import count
from tallystick.cli.instants import instant, zone_named
from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.cli.output import console, print_json

__all__ = ["adjust"]


def adjust(
    what: Annotated[str, typer.Argument(metavar="EVENT|BILLABLE", help="An event's id; or a tenant or any billable.")],
    resource_type: Annotated[
        str | None, typer.Argument(metavar="[RESOURCE]", help="With a billable: what was used, such as message.")
    ] = None,
    *,
    quantity: Annotated[str, typer.Option(metavar="NUMBER", help="-5 takes five back, 5 adds five.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="With a billable: when it was used; otherwise now.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="With a billable: who used it.")] = None,
    feature: Annotated[str | None, typer.Option(help="With a billable: for which feature.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Running the same command again with this key adjusts nothing more."),
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Correct a quantity that was recorded wrongly: of an event, or of a resource on a day.

    The adjustment is an event of its own, which quotas, reports and statistics follow. Nothing is edited. Tokens and
    costs stay: see tallystick reprice.
    """
    with open_existing(database, config) as ts:
        zone = zone_named(account_zone(ts, what))
        event = ts.usage.adjust(
            what,
            resource_type,
            quantity=quantity,
            reason=reason,
            occurred_at=None if at is None else instant(at, zone, field="at"),
            user=user,
            feature=feature or "",
            idempotency_key=idempotency_key,
        )
    if as_json:
        print_json(event.to_dict())
        return
    when = event.occurred_at.astimezone(zone)
    counted_at = f"{when:%Y-%m-%d %H:%M} {zone.key}"
    console().print(f"{event.billable}: {count(event.quantity)} {event.resource_type} at {counted_at} ({event.id})")
