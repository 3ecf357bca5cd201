"""`tallystick tenants`: customer organisations, from their creation to their erasure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallystick.cli.account_zone import account_zone
from tallystick.cli.figures import amount, count, counts
from tallystick.cli.instants import instant, zone_named
from tallystick.cli.options import AsJson, Config, Database, End, Start, open_any, open_existing
from tallystick.cli.output import console, print_json, table
from tallystick.cli.quotas import fields_of, quotas_of_everyone
from tallystick.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from rich.console import Console

    from tallystick import Tallystick

__all__ = ["tenants"]

tenants = typer.Typer(name="tenants", help="Tenants: create, list, show, suspend, delete; members; shadow mode.")

Which = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's slug, such as acme, or its id.")]
Email = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where bills and notifications go.")]
Zone = Annotated[
    str | None,
    typer.Option(metavar="ZONE", help="Its time zone, such as America/Sao_Paulo; else that of the settings."),
]
Currency = Annotated[str | None, typer.Option(help="The currency of its costs; else that of the settings.")]
Locale = Annotated[str | None, typer.Option(help="The language that it is written to in: en, pt-BR.")]
TaxId = Annotated[str | None, typer.Option("--tax-id", help="Its tax number, for invoices.")]
Metadata = Annotated[
    str | None, typer.Option(metavar="JSON", help='Values of your own: {"crm": 7}. They replace all that there are.')
]
Reason = Annotated[str | None, typer.Option(help="Why; it is kept.")]
_CLEARABLE = ("billing_email", "timezone", "currency", "locale", "tax_id", "enforcement", "metadata")


# -- keeping ----------------------------------------------------------------------------------------------------------


@tenants.command("create")
def create_tenant(
    name: Annotated[str, typer.Argument(help="What it is called, such as Acme Corp.")],
    slug: Annotated[str | None, typer.Option(help="Its short name; otherwise made from the name.")] = None,
    billing_email: Email = None,
    plan: Annotated[str | None, typer.Option(help="Subscribe it to this plan.")] = None,
    timezone: Zone = None,
    currency: Currency = None,
    locale: Locale = None,
    tax_id: TaxId = None,
    metadata: Metadata = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create a tenant, with the quotas that tenants.default_quotas says. It pays as the billable tenant:<slug>."""
    with open_any(database, config) as ts:
        tenant = ts.tenants.create(
            name,
            slug,
            billing_email,
            plan,
            _metadata(metadata),
            timezone=timezone,
            currency=currency,
            locale=locale,
            tax_id=tax_id,
        )
    _print_tenant(tenant, as_json=as_json)


@tenants.command("list")
def list_tenants(
    search: Annotated[str | None, typer.Option(help="Only those with this in name, slug or address.")] = None,
    status: Annotated[
        Literal["active", "suspended", "deleted"] | None,
        typer.Option(help="Only these; otherwise all but the deleted."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only those that this user belongs to.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    cursor: Annotated[str | None, typer.Option(help="The next_cursor of the page before.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List tenants, the newest first."""
    with open_existing(database, config) as ts:
        page = ts.tenants.list(search, status, limit, cursor, user=user)
    if as_json:
        print_json({"tenants": [_as_json(tenant) for tenant in page], "next_cursor": page.next_cursor})
        return
    out = console()
    if not page:
        out.print("There are no such tenants.")
        return
    shown = table("Slug", "Name", "Status", "Zone", "Created", "Id")
    for tenant in page:
        created = f"{tenant.created_at:%Y-%m-%d}"
        shown.add_row(tenant.slug, tenant.name, str(tenant.status), tenant.timezone or "", created, tenant.id)
    out.print(shown)
    if page.next_cursor is not None:
        out.print(f"There are more: --cursor {page.next_cursor}")


@tenants.command("show")
def show_tenant(
    tenant: Which,
    start: Start = None,
    end: End = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show how a tenant stands: its use, this month or in a range, quotas, wallets, members, subscription."""
    with open_existing(database, config) as ts:
        stats = ts.tenants.stats(tenant, *_range(ts, tenant, start, end))
        members = ts.tenants.users(tenant)
        zone = stats.tenant.timezone or ts.settings.period.timezone
    if as_json:
        print_json(_stats_as_json(stats, members))
    else:
        _print_stats(console(), stats, zone)


@tenants.command("update")
def update_tenant(
    tenant: Which,
    name: Annotated[str | None, typer.Option(help="What it is called from now on.")] = None,
    billing_email: Email = None,
    timezone: Zone = None,
    currency: Currency = None,
    locale: Locale = None,
    tax_id: TaxId = None,
    metadata: Metadata = None,
    enforcement: Annotated[
        Literal["on", "shadow", "off"] | None,
        typer.Option(help="Refuse past a limit; decide, record and never refuse; or do not ask."),
    ] = None,
    clear: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Take this away: timezone, tax_id, …; several times.")
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given of a tenant. A time zone and a currency cannot change once the tenant has used anything."""
    stated = {
        "name": name,
        "billing_email": billing_email,
        "timezone": timezone,
        "currency": currency,
        "locale": locale,
        "tax_id": tax_id,
        "metadata": _metadata(metadata),
        "enforcement": enforcement,
    }
    changes: dict[str, Any] = {field: value for field, value in stated.items() if value is not None}
    for field in (name.replace("-", "_") for name in clear or []):
        if field not in _CLEARABLE:
            raise InvalidInput("clear", field, f"Name one of {', '.join(_CLEARABLE)}.")
        if field in changes:
            raise InvalidInput("clear", field, f"--{field.replace('_', '-')} is given too: keep one.")
        changes[field] = None
    _print_changed(lambda ts: ts.tenants.update(tenant, **changes), database, config, as_json=as_json)


@tenants.command("suspend")
def suspend_tenant(
    tenant: Which, reason: Reason = None, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Refuse every call of a tenant from now on, in every process. What is in flight is still recorded."""
    _print_changed(lambda ts: ts.tenants.suspend(tenant, reason), database, config, as_json=as_json)


@tenants.command("activate")
def activate_tenant(tenant: Which, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """End a suspension, or take a deletion back."""
    _print_changed(lambda ts: ts.tenants.activate(tenant), database, config, as_json=as_json)


@tenants.command("delete")
def delete_tenant(
    tenant: Which, reason: Reason = None, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Delete a tenant softly: it is refused, and nothing is lost. After tenants.erase_after_days it is erased."""
    _print_changed(lambda ts: ts.tenants.delete(tenant, reason), database, config, as_json=as_json)


@tenants.command("erase")
def erase_tenant(
    tenant: Which,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: it cannot be taken back.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Erase a deleted tenant for good: its usage, members, quotas, and what is known of it. Charges stay."""
    with open_existing(database, config) as ts:
        found = ts.tenants.get(tenant)
        if not yes:
            typer.confirm(f"Erase {found.slug} for good?", abort=True, err=True)
        erasure = ts.tenants.erase(found)
    if as_json:
        print_json({"tenant": found.slug, "events": erasure.events, "mentions": erasure.mentions})
    else:
        console().print(f"{found.slug} was erased, with {counts(erasure.events, 'event')}.")


# -- members ----------------------------------------------------------------------------------------------------------


@tenants.command("add-user")
def add_user(
    tenant: Which,
    user: Annotated[str, typer.Argument(help="The user's id, or user:<id>.")],
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a user a member of a tenant."""
    with open_existing(database, config) as ts:
        member = ts.tenants.add_user(tenant, user)
    if as_json:
        print_json(fields_of(member))
    else:
        console().print(f"{member.user} is a member of {member.tenant}.")


@tenants.command("remove-user")
def remove_user(
    tenant: Which,
    user: Annotated[str, typer.Argument(help="The user's id, or user:<id>.")],
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """End a user's membership. What the user did for the tenant stays recorded."""
    with open_existing(database, config) as ts:
        was_member = ts.tenants.remove_user(tenant, user)
    if as_json:
        print_json({"tenant": tenant, "user": user, "was_member": was_member})
    else:
        console().print(f"{user} is {'no longer' if was_member else 'not'} a member of {tenant}.")


@tenants.command("users")
def list_users(tenant: Which, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the members of a tenant."""
    with open_existing(database, config) as ts:
        members = ts.tenants.users(tenant)
    if as_json:
        print_json({"tenant": tenant, "users": [fields_of(member) for member in members]})
        return
    out = console()
    if not members:
        out.print(f"{tenant} has no members.")
        return
    shown = table("User", "Since")
    for member in members:
        shown.add_row(member.user, f"{member.since:%Y-%m-%d %H:%M} UTC")
    out.print(shown)


@tenants.command("attach")
def attach(
    tenant: Which,
    user: Annotated[list[str] | None, typer.Option(help="Make this user a member; may be given several times.")] = None,
    billable: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE:ID", help="Write the tenant's name on its use; may be given several times."),
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Take all use that has no tenant.")] = False,
    quotas: Annotated[bool, typer.Option("--quotas/--no-quotas", help="Set the default quotas that it lacks.")] = True,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it, only say what would be done.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Give a tenant what was there before it: users, use, and default quotas.

    Without --apply this is a preview. Who paid for use stays as it was. Doing it again attaches what has come since.
    """
    with open_existing(database, config) as ts:
        attached = ts.tenants.attach(
            tenant, users=user or (), billables=billable or (), everything=everything, quotas=quotas, apply=apply
        )
    if as_json:
        print_json({**fields_of(attached), "quotas": [fields_of(quota) for quota in attached.quotas]})
    else:
        _print_attached(console(), attached)


@tenants.command("shadow-report")
def show_shadow_report(
    tenant: Which,
    start: Start = None,
    end: End = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say what limits would have refused of a tenant, or any billable, while they were only tried out."""
    with open_existing(database, config) as ts:
        report = ts.tenants.shadow_report(tenant, *_range(ts, tenant, start, end))
    if as_json:
        groups = [fields_of(group) for group in report.groups]
        print_json({**fields_of(report), "refusals": report.refusals, "groups": groups})
        return
    out = console()
    if not report.groups:
        out.print(f"Nothing of {report.tenant} would have been refused.")
        return
    shown = table("Refusals", "Code", "Of", "Last", "As it would have been said", right=("Refusals",))
    for group in report.groups:
        last = f"{group.last_at:%Y-%m-%d %H:%M} UTC"
        shown.add_row(count(group.refusals), group.code, group.limit_type, last, group.message)
    out.print(shown)


# -- shown ------------------------------------------------------------------------------------------------------------


def _range(ts: Tallystick, tenant: str, start: str | None, end: str | None) -> tuple[datetime | None, datetime | None]:
    zone = zone_named(account_zone(ts, tenant))
    return (
        None if start is None else instant(start, zone, field="start"),
        None if end is None else instant(end, zone, field="end"),
    )


def _metadata(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        metadata = json.loads(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise InvalidInput("metadata", text, 'Write a JSON object: {"crm": 7}.')
    return metadata


def _print_changed(
    change: Callable[[Tallystick], Any], database: str | None, config: Path | None, *, as_json: bool
) -> None:
    with open_existing(database, config) as ts:
        tenant = change(ts)
    _print_tenant(tenant, as_json=as_json)


def _print_tenant(tenant: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(tenant))
        return
    reason = f" ({tenant.status_reason})" if tenant.status_reason else ""
    tried = f", enforcement {tenant.enforcement}" if tenant.enforcement else ""
    console().print(f"{tenant.slug}: {tenant.name}, {tenant.status}{reason}{tried} ({tenant.id})")


def _as_json(tenant: Any) -> dict[str, object]:
    return {**fields_of(tenant), "status": str(tenant.status), "metadata": dict(tenant.metadata)}


def _stats_as_json(stats: Any, members: list[Any]) -> dict[str, object]:
    totals = stats.usage.totals
    return {
        "tenant": _as_json(stats.tenant),
        "usage": {
            "start": stats.usage.start,
            "end": stats.usage.end,
            **fields_of(totals),
            "by_resource_type": [
                {"resource_type": group.name, "events": group.totals.events, "quantity": group.totals.quantity}
                for group in stats.usage.by_resource_type
            ],
        },
        "quotas": [{"id": one.id, **_quota_as_json(one)} for one in stats.quotas],
        "wallets": [fields_of(wallet) for wallet in stats.wallets],
        "users": [member.user for member in members],
        "subscription": None
        if stats.subscription is None
        else {
            "id": stats.subscription.id,
            "plan": stats.subscription.plan.slug,
            "status": str(stats.subscription_status),
        },
    }


def _quota_as_json(status: Any) -> dict[str, object]:
    names = ("resource_type", "period", "limit", "current", "remaining", "percentage", "is_hard_limit", "is_near_limit")
    return {name: getattr(status, name) for name in names}


def _print_stats(out: Console, stats: Any, zone: str) -> None:
    tenant, totals = stats.tenant, stats.usage.totals
    reason = f" ({tenant.status_reason})" if tenant.status_reason else ""
    out.print(f"{tenant.name} ({tenant.slug}), {tenant.status}{reason}", style="bold")
    start, end = (at.astimezone(zone_named(zone)) for at in (stats.usage.start, stats.usage.end))
    out.print(f"  {start:%Y-%m-%d %H:%M} until {end:%Y-%m-%d %H:%M} {zone}")
    costs = " + ".join(amount(cost) for cost in totals.costs)
    out.print(f"  {counts(totals.events, 'event')}, {count(totals.total_tokens)} tokens, {costs}")
    for group in stats.usage.by_resource_type:
        out.print(f"  {group.name}: {count(group.totals.quantity)}")
    if stats.subscription is not None:
        out.print(f"  Plan {stats.subscription.plan.slug}: {stats.subscription_status}")
    for wallet in stats.wallets:
        out.print(f"  Wallet: {amount(wallet.balance)}, {amount(wallet.available)} available")
    out.print(f"  {counts(stats.members, 'member')}")
    if stats.quotas:
        out.print()
        quotas_of_everyone(out, list(stats.quotas), zone)


def _print_attached(out: Console, attached: Any) -> None:
    would = "" if attached.applied else "would be "
    if not (attached.users or attached.events or attached.quotas):
        out.print(f"There is nothing to attach to {attached.tenant}.")
        return
    out.print(attached.tenant, style="bold")
    if attached.users:
        out.print(f"  {counts(len(attached.users), 'user')} {would}made members: {', '.join(attached.users)}")
    if attached.events:
        out.print(f"  {counts(attached.events, 'event')} {would}given its name, of {', '.join(attached.billables)}")
    for quota in attached.quotas:
        kind = "hard" if quota.is_hard_limit else "soft"
        out.print(f"  Quota {would}set: {count(quota.limit)} {quota.resource_type} {quota.period}, {kind}")
    if not attached.applied:
        out.print("Nothing was changed: add --apply.")
