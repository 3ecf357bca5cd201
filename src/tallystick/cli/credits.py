"""`tallystick credits` and `tallystick cleanup-expired-credits`: prepaid credits, as an operator sees them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallystick.cli.credit_report import exactly, print_credit_report
from tallystick.cli.credit_standing import (
    print_grant,
    print_standing,
    print_transaction,
    read_standing,
    standing_as_json,
)
from tallystick.cli.figures import counts
from tallystick.cli.instants import instant, month, zone_named
from tallystick.cli.options import AsJson, Config, Database, End, Start, open_existing, the_same
from tallystick.cli.output import console, print_json
from tallystick.cli.plans import money
from tallystick.cli.progress import progress_bar
from tallystick.cli.subscriptions import Who
from tallystick.errors import InvalidInput
from tallystick.period import PeriodKind, calendar_period

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick import Tallystick

__all__ = ["cleanup_expired_credits", "credits_commands"]

credits_commands = typer.Typer(name="credits", help="Prepaid credits: report, show, add, grant.")

Expires = Annotated[str | None, typer.Option(metavar="TIME", help="When what is left of it expires; otherwise never.")]
Priority = Annotated[int | None, typer.Option(min=0, max=100, help="Place in the order of use; lower goes first.")]
Kind = Annotated[
    Literal["paid", "promotional"] | None, typer.Option(help="Paid for, or given away; otherwise as the reason says.")
]
GrantedBy = Annotated[str | None, typer.Option(help="Who grants it; it is kept.")]
Key = Annotated[
    str | None, typer.Option(metavar="KEY", help="Running the same command again with this key adds nothing more.")
]


@credits_commands.command("report")
def report_credits(
    month_name: Annotated[
        str | None, typer.Option("--month", metavar="YYYY-MM", help="That month. Without any range: this month.")
    ] = None,
    start: Start = None,
    end: End = None,
    unit: Annotated[
        str | None, typer.Option(help='Only this unit: a currency such as USD, or "feature:api-calls".')
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Report what was granted, used and lost of credits, what is open, and how long it lasts.

    This month, --month, or from --start until --end. Amounts of different units are never added up. The forecast takes
    all accounts of a unit for one; tallystick credits show has it for one billable.
    """
    with open_existing(database, config) as ts:
        starts, ends, label = _range(ts, month_name, start, end)
        report = ts.credits.report(starts, ends, unit)
    if as_json:
        print_json({"label": label, **report.to_dict()})
    else:
        print_credit_report(console(), report, label)


@credits_commands.command("show")
def show_credits(
    billable: Who,
    lines: Annotated[int, typer.Option(min=0, max=1000, help="How many of the last transactions of a wallet.")] = 10,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the wallets and extra credits of a billable: balances, open grants in their order of use, last lines."""
    with open_existing(database, config) as ts:
        standing = read_standing(ts, billable, lines=lines)
        zone = ts.settings.period.timezone
    if as_json:
        print_json(standing_as_json(standing))
    else:
        print_standing(console(), standing, zone)


@credits_commands.command("add")
def add_credits(
    billable: Who,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help='Such as "100 USD", or 100 in --currency.')],
    currency: Annotated[str | None, typer.Option(help="The wallet's currency; otherwise billing.currency.")] = None,
    reason: Annotated[
        str, typer.Option(help="Why; it is kept, and says whether it is paid or promotional.")
    ] = "top-up",
    expires: Expires = None,
    priority: Priority = None,
    kind: Kind = None,
    feature: Annotated[str | None, typer.Option(help="Only for use of this feature.")] = None,
    granted_by: GrantedBy = None,
    idempotency_key: Key = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Add money to the wallet of a billable, which is opened if there is none. It can be used at once."""
    with open_existing(database, config) as ts:
        zone = ts.settings.period.timezone
        stated = money(amount, currency or ts.settings.billing.currency, field="amount")
        if stated is None:
            raise InvalidInput("amount", amount, "Give an amount.")
        wallet = ts.wallets.get_or_create(billable, currency or stated.currency)
        line = wallet.add_credits(
            stated,
            reason,
            expires_at=_instant(expires, zone),
            priority=priority,
            granted_by=granted_by,
            kind=kind,
            feature=feature,
            idempotency_key=idempotency_key,
        )
    if as_json:
        print_json(line.to_dict() | {"replayed": line.replayed})
    else:
        print_transaction(console(), line, zone)


@credits_commands.command("grant")
def grant_credits(
    billable: Who,
    feature: Annotated[str, typer.Argument(help="The feature's slug, such as api-calls.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much of it, such as 5 or 2.5.")],
    reason: Annotated[str | None, typer.Option(help="Why; it is kept.")] = None,
    expires: Expires = None,
    priority: Priority = None,
    kind: Kind = None,
    granted_by: GrantedBy = None,
    idempotency_key: Key = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Grant a billable extra credits of a feature, beyond what its plan allows."""
    with open_existing(database, config) as ts:
        zone = ts.settings.period.timezone
        grant = ts.features.grant_credits(
            billable,
            feature,
            amount,
            reason,
            expires_at=_instant(expires, zone),
            granted_by=granted_by,
            priority=priority,
            kind=kind,
            idempotency_key=idempotency_key,
        )
    if as_json:
        print_json(grant.to_dict())
    else:
        print_grant(console(), grant, zone)


def cleanup_expired_credits(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be booked.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Grants in a portion.")] = 500,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Book the expiry of every grant whose time has come.

    What has expired cannot be used from its instant on, also without this; it takes it out of the books. What calls in
    flight have reserved stays theirs until they end. Nothing is deleted: the grants and their history stay.
    """
    with (
        open_existing(database, config) as ts,
        progress_bar("Booking expired credits", as_json=as_json) as progress,
    ):
        expiry = ts.credits.expire(dry_run=dry_run, batch_size=batch_size, progress=progress)
    if as_json:
        print_json(expiry.to_dict())
    else:
        _print_expiry(console(), expiry, the_same(ts.settings, database, config))


def _range(
    ts: Tallystick, month_name: str | None, start: str | None, end: str | None
) -> tuple[datetime | None, datetime | None, str]:
    """Return the range that was asked for, and what to call it; without one, this month."""
    zone = zone_named(ts.settings.period.timezone)
    if month_name is not None and (start is not None or end is not None):
        raise InvalidInput("month", month_name, "Give --month, or --start and --end.")
    if start is None and end is None:
        now = ts.clock.now()
        period = calendar_period(PeriodKind.MONTHLY, now, zone.key) if month_name is None else month(month_name, zone)
        return period.start, period.end, period.label
    starts = None if start is None else instant(start, zone, field="start")
    ends = None if end is None else instant(end, zone, field="end")
    parts = (f"from {start}" if start else "", f"until just before {end}" if end else "")
    return starts, ends, " ".join(part for part in parts if part)


def _instant(text: str | None, zone: str) -> datetime | None:
    return None if text is None else instant(text, zone_named(zone), field="expires")


def _print_expiry(out: Console, expiry: Any, same: str) -> None:
    if not expiry.grants:
        out.print("Nothing has expired.")
        return
    out.print(f"{counts(expiry.grants, 'grant')} {'would be' if expiry.dry_run else 'were'} booked as expired:")
    for unit, lost in expiry.amounts.items():
        feature = unit.removeprefix("feature:")
        out.print(f"  {exactly(lost)}" if feature == unit else f"  {exactly(lost)} of {feature}")
    if expiry.dry_run:
        out.print(f"A dry run: nothing was booked. To do it: tallystick cleanup-expired-credits{same}", soft_wrap=True)
