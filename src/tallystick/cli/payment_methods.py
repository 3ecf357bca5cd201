"""`tallystick payment-methods`: by what customers pay. Tokens come from gateways, never from a command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.cli.output import console, print_json, table
from tallystick.cli.subscriptions import Who

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

__all__ = ["payment_methods"]

payment_methods = typer.Typer(name="payment-methods", help="Payment methods that gateways keep: list.")


@payment_methods.callback()
def _root() -> None:
    pass


@payment_methods.command("list")
def list_payment_methods(
    billable: Who, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """List the payment methods of a billable, the default first. Their tokens are never shown.

    Example: tallystick payment-methods list tenant:acme
    """
    with open_existing(database, config) as ts:
        found = ts.payment_methods.list(billable)
    if as_json:
        print_json({"payment_methods": [one.to_dict() for one in found]})
    elif not found:
        console().print(f"{billable} has no payment method.")
    else:
        _show(console(), found)


def _show(out: Console, found: Sequence[Any]) -> None:
    shown = table("Payment method", "Gateway", "What", "Expires", "Holder", "")
    for one in found:
        ends = "" if one.last4 is None else f" … {one.last4}"
        expires = "" if one.exp_month is None else f"{one.exp_month:02}/{one.exp_year}"
        default = "default" if one.is_default else ""
        shown.add_row(one.id, one.gateway, f"{one.brand or one.kind}{ends}", expires, one.holder or "", default)
    out.print(shown)
