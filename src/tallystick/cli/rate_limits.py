"""`tallystick rate-limits`: how many in a second, minute or hour, as an operator sets and watches them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tallystick.cli.figures import count
from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing
from tallystick.cli.output import console, print_json, table
from tallystick.cli.quotas import Feature, Key, Tenant, User, fields_of, part_of

__all__ = ["rate_limits"]

rate_limits = typer.Typer(name="rate-limits", help="Rate limits: set and watch how many in a second, minute or hour.")

ResourceType = Annotated[
    str, typer.Argument(metavar="RESOURCE", help="What is used: message, embedding, …; requests or tokens of calls.")
]


@rate_limits.command("set")
def set_rate_limit(
    tenant: Tenant,
    resource_type: ResourceType,
    limit: Annotated[str, typer.Argument(metavar="LIMIT", help="How many.")],
    per: Annotated[str, typer.Argument(metavar="PER", help="second, minute or hour.")],
    burst: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="How many at once after a pause; otherwise LIMIT.")
    ] = None,
    user: User = None,
    feature: Feature = None,
    key: Key = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Set a rate limit, or change the one there is. It holds at once, in every process."""
    with open_any(database, config) as ts:
        made = ts.rate_limits.set(tenant, resource_type, limit, per, burst=burst, user=user, feature=feature, key=key)
    if as_json:
        print_json(fields_of(made))
    else:
        console().print(f"{made.billable}: {_described(made)} ({made.id})")


@rate_limits.command("list")
def list_rate_limits(tenant: Tenant, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the rate limits of a tenant, with their ids, and those of the settings that it has."""
    with open_existing(database, config) as ts:
        found = ts.rate_limits.list(tenant)
    if as_json:
        print_json({"rate_limits": [fields_of(one) for one in found]})
        return
    if not found:
        console().print("There are no rate limits.")
        return
    shown = table("id", "resource", "of", "limit", "per", "burst", right=("limit", "burst"))
    for one in found:
        where = one.id or "(settings)"
        shown.add_row(where, one.resource_type, part_of(one), count(one.limit), one.per, count(one.burst))
    console().print(shown)


@rate_limits.command("status")
def show_status(
    tenant: Tenant,
    user: Annotated[str | None, typer.Option(metavar="USER", help="As this user.")] = None,
    feature: Annotated[str | None, typer.Option(help="In this feature.")] = None,
    key: Annotated[str | None, typer.Option(metavar="NAME", help="With this API key.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what is left now of each rate limit that a use would count against."""
    with open_existing(database, config) as ts:
        found = ts.rate_limits.status(tenant, user=user, feature=feature, key=key)
    if as_json:
        standing = [
            {**fields_of(one.rate_limit), "remaining": one.remaining, "reset_at": one.reset_at} for one in found
        ]
        print_json({"tenant": tenant, "rate_limits": standing})
        return
    if not found:
        console().print("There are no rate limits.")
        return
    shown = table("resource", "of", "limit", "per", "burst", "left", right=("limit", "burst", "left"))
    for status in found:
        one = status.rate_limit
        left = count(status.remaining)
        shown.add_row(one.resource_type, part_of(one), count(one.limit), one.per, count(one.burst), left)
    console().print(shown)


@rate_limits.command("delete")
def delete_rate_limit(
    rate_limit_id: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, as tallystick rate-limits list shows it.")
    ],
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take a rate limit away. From now on one of the settings limits in its place, or none."""
    with open_existing(database, config) as ts:
        ts.rate_limits.delete(rate_limit_id)
    if as_json:
        print_json({"deleted": rate_limit_id})
    else:
        console().print(f"Took away {rate_limit_id}.")


def _described(one: Any) -> str:
    part = part_of(one)
    of = "" if part == "all" else f" of {part}"
    return f"{count(one.limit)} {one.resource_type}{of} a {one.per}, at most {count(one.burst)} at once"
