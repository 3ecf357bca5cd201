"""`tallystick webhooks`: where events are posted to."""

from __future__ import annotations

from typing import Annotated

import typer

from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing
from tallystick.cli.output import console, print_json, table

__all__ = ["webhooks"]

webhooks = typer.Typer(name="webhooks", help="Webhook endpoints: add, list, test, rotate-secret, enable, remove.")

Tenant = Annotated[
    str | None, typer.Option(metavar="TENANT", help="A tenant's slug, or a billable; otherwise the operator's own.")
]
EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The id of the endpoint: whk_…")]


@webhooks.command("add")
def add_endpoint(
    url: Annotated[str, typer.Argument(help="An https address.")],
    event: Annotated[
        list[str] | None, typer.Option(help="An event such as quota.warning; several times for several. Otherwise all.")
    ] = None,
    tenant: Tenant = None,
    description: Annotated[str | None, typer.Option(help="Whose or what it is.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Add an endpoint, and show its secret: it is shown this once."""
    with open_any(database, config) as ts:
        made = ts.webhooks.add(url, event or "*", tenant=tenant, description=description)
    if as_json:
        print_json(made.to_dict())
        return
    out = console()
    out.print(f"{made.id} hears {', '.join(made.events)} of {made.billable or 'everybody'}.")
    out.print(f"Its secret, shown this once: {made.secret}")


@webhooks.command("list")
def list_endpoints(
    tenant: Tenant = None, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """List the endpoints, the oldest first."""
    with open_existing(database, config) as ts:
        found = ts.webhooks.list(tenant)
    if as_json:
        print_json({"endpoints": [one.to_dict() for one in found]})
        return
    out = console()
    if not found:
        out.print("None. Add one: tallystick webhooks add URL")
        return
    shown = table("endpoint", "of", "url", "events", "status")
    for one in found:
        status = one.status if one.status_reason is None else f"{one.status}: {one.status_reason}"
        shown.add_row(one.id, one.billable or "everybody", one.url, ", ".join(one.events), status)
    out.print(shown)


@webhooks.command("test")
def try_endpoint(
    endpoint: EndpointId, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Post the event webhook.test now, and say what became of it. Exit code 1: it was not accepted."""
    with open_existing(database, config) as ts:
        tested = ts.webhooks.test(endpoint)
    if as_json:
        print_json(tested.to_dict())
    elif tested.is_delivered:
        console().print(f"Delivered: {tested.status_code}.")
    else:
        console().print(f"Not delivered: {tested.error}")
    if not tested.is_delivered:
        raise typer.Exit(1)


@webhooks.command("rotate-secret")
def rotate_secret(
    endpoint: EndpointId,
    old_valid_hours: Annotated[
        int, typer.Option(min=0, max=720, help="Hours for which requests are signed with the old one too.")
    ] = 24,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Replace the secret of an endpoint, and show the new one: it is shown this once."""
    with open_existing(database, config) as ts:
        changed = ts.webhooks.rotate_secret(endpoint, old_valid_hours=old_valid_hours)
    if as_json:
        print_json(changed.to_dict())
    else:
        console().print(f"Its new secret, shown this once: {changed.secret}")


@webhooks.command("enable")
def enable_endpoint(
    endpoint: EndpointId,
    disable: Annotated[bool, typer.Option("--disable", help="Disable it instead.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Enable an endpoint that was disabled. What it missed meanwhile is not sent."""
    with open_existing(database, config) as ts:
        changed = ts.webhooks.update(endpoint, is_active=not disable)
    if as_json:
        print_json(changed.to_dict())
    else:
        console().print(f"{changed.id} is {changed.status}.")


@webhooks.command("remove")
def remove_endpoint(
    endpoint: EndpointId, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Remove an endpoint. What waits for it is not sent any more."""
    with open_existing(database, config) as ts:
        ts.webhooks.remove(endpoint)
    if as_json:
        print_json({"removed": endpoint})
    else:
        console().print(f"{endpoint} is removed.")
