"""`tallystick coupons`: codes that take something off invoices."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

import typer

from tallystick.cli.figures import amount, count, counts
from tallystick.cli.instants import instant, zone_named
from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing
from tallystick.cli.output import console, print_json, table
from tallystick.cli.plans import money

__all__ = ["coupons"]

coupons = typer.Typer(name="coupons", help="Coupons: create, list, archive and redeem codes of discounts.")

Code = Annotated[str, typer.Argument(metavar="CODE", help="Its code, such as WELCOME20, in capitals or not.")]


@coupons.command("create")
def create_coupon(
    code: Code,
    percent_off: Annotated[str | None, typer.Option(metavar="PERCENT", help="Percent off, such as 20 or 12.5.")] = None,
    amount_off: Annotated[
        str | None, typer.Option(metavar="MONEY", help='Amount off each invoice, such as "10 USD".')
    ] = None,
    name: Annotated[str | None, typer.Option(help="What invoices call it; otherwise the code.")] = None,
    duration: Annotated[
        Literal["once", "repeating", "forever"],
        typer.Option(help="For the next invoice, for --months, or until it is removed."),
    ] = "once",
    months: Annotated[int | None, typer.Option(min=1, help="For how many months it repeats.")] = None,
    max_redemptions: Annotated[int | None, typer.Option(min=1, help="By how many it can be redeemed.")] = None,
    redeem_by: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Until when it can be redeemed, such as 2026-12-31: that day is the last."),
    ] = None,
    plan: Annotated[
        list[str] | None, typer.Option(metavar="PLAN", help="Only off what this plan is charged for, once for each.")
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create a coupon. An amount without a currency is in billing.currency."""
    with open_any(database, config) as ts:
        zone = zone_named(ts.settings.period.timezone)
        coupon = ts.coupons.create(
            code,
            percent_off=percent_off,
            amount_off=money(amount_off, ts.settings.billing.currency, field="amount_off"),
            name=name,
            duration=duration,
            duration_months=months,
            max_redemptions=max_redemptions,
            redeem_by=redeem_by
            if redeem_by is None or _is_a_day(redeem_by)
            else instant(redeem_by, zone, field="redeem_by"),
            plans=plan or None,
        )
    if as_json:
        print_json(coupon.to_dict())
    else:
        console().print(f"{coupon.code}: {_gives(coupon)}, {_lasts(coupon)}.")


@coupons.command("list")
def list_coupons(
    active_only: Annotated[bool, typer.Option("--active-only", help="Only those that can be redeemed.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List coupons, the newest first."""
    with open_existing(database, config) as ts:
        found = ts.coupons.list(active_only=active_only)
        zone, now = zone_named(ts.settings.period.timezone), ts.clock.now()
    if as_json:
        print_json({"coupons": [coupon.to_dict() for coupon in found]})
        return
    if not found:
        console().print("There are no coupons.")
        return
    shown = table("code", "gives", "for", "plans", "redeemed", "until", "", right=("redeemed",))
    for one in found:
        redeemed = count(one.redemptions)
        if one.max_redemptions is not None:
            redeemed += f" of {count(one.max_redemptions)}"
        until = "" if one.redeem_by is None else f"{one.redeem_by.astimezone(zone):%Y-%m-%d %H:%M}"
        state = "archived" if one.archived_at is not None else "" if one.is_redeemable(now) else "over"
        shown.add_row(one.code, _gives(one), _lasts(one), ", ".join(one.plans or ("all",)), redeemed, until, state)
    console().print(shown)


@coupons.command("archive")
def archive_coupon(code: Code, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Let nobody redeem a coupon any more. Discounts of those who did go on."""
    with open_existing(database, config) as ts:
        coupon = ts.coupons.archive(code)
    if as_json:
        print_json(coupon.to_dict())
    else:
        console().print(f"{coupon.code} is archived. Redeemed: {count(coupon.redemptions)}.")


@coupons.command("redeem")
def redeem_coupon(
    payer: Annotated[str, typer.Argument(metavar="PAYER", help="A tenant, such as acme, or any billable: user:1.")],
    code: Code,
    subscription: Annotated[
        str | None, typer.Option(metavar="ID", help="Only off what this subscription is charged.")
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Redeem a coupon for a payer: off all that it is invoiced, or off one subscription."""
    with open_existing(database, config) as ts:
        discount = ts.coupons.redeem(payer, code, subscription=subscription)
        zone = zone_named(ts.settings.period.timezone)
    if as_json:
        print_json(discount.to_dict())
        return
    said = f"{discount.billable}: {_gives(discount)} from {discount.starts_at.astimezone(zone):%Y-%m-%d} on"
    if discount.ends_at is not None:
        said += f", until {discount.ends_at.astimezone(zone):%Y-%m-%d}"
    elif discount.invoices_left is not None:
        said += f", for {counts(discount.invoices_left, 'invoice')}"
    console().print(f"{said} ({discount.id})")


def _is_a_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _gives(coupon: Any) -> str:
    return f"{coupon.percent_off} % off" if coupon.amount_off is None else f"{amount(coupon.amount_off)} off"


def _lasts(coupon: Any) -> str:
    if coupon.duration == "repeating":
        return counts(coupon.duration_months, "month")
    return "the next invoice" if coupon.duration == "once" else "until removed"
