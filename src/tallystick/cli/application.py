"""All commands in one application, in the order in which `tallystick --help` lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from tallystick.cli.adjust import adjust
from tallystick.cli.cleanup import cleanup
from tallystick.cli.coupons import coupons
from tallystick.cli.credits import cleanup_expired_credits, credits_commands
from tallystick.cli.demo import demo
from tallystick.cli.doctor import doctor
from tallystick.cli.encryption import encryption
from tallystick.cli.ending import Commands
from tallystick.cli.events import events
from tallystick.cli.explain import explain
from tallystick.cli.generate_invoices import generate_invoices
from tallystick.cli.imports import import_file
from tallystick.cli.init import init
from tallystick.cli.invoices import invoices
from tallystick.cli.limits import limits
from tallystick.cli.migrate import migrate
from tallystick.cli.migrate_plan import migrate_plan
from tallystick.cli.notifications import notifications
from tallystick.cli.overages import sync_overages
from tallystick.cli.payment_methods import payment_methods
from tallystick.cli.plans import plans
from tallystick.cli.quotas import quotas
from tallystick.cli.rate_limits import rate_limits
from tallystick.cli.report import report
from tallystick.cli.reprice import reprice
from tallystick.cli.simulate import simulate
from tallystick.cli.subscriptions import subscriptions
from tallystick.cli.sync_plans import sync_plans
from tallystick.cli.tenants import tenants
from tallystick.cli.validate import validate
from tallystick.cli.webhooks import webhooks
from tallystick.cli.worker import worker

__all__ = ["application"]

_TRY, _SET_UP, _USE, _CUSTOMERS = "To try it", "Set up and check", "Usage and costs", "Plans and limits"
_CREDITS = "Credits"
_NOTIFICATIONS = "Notifications"
_BILLING = "Billing"

application = typer.Typer(
    name="tallystick",
    cls=Commands,
    help="Meter, limit and bill the use of AI models.",
    epilog=(
        "Exit codes: 0 done; 1 the answer is no (drift, problems, rejected rows); 2 wrong usage; 3 an error. "
        "TALLYSTICK_DEBUG=1 shows where an error comes from."
    ),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tallystick import __version__

        typer.echo(f"tallystick {__version__}")
        raise typer.Exit


@application.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


application.command(rich_help_panel=_TRY)(demo)
application.command(rich_help_panel=_TRY)(simulate)
application.command(rich_help_panel=_SET_UP)(init)
application.command(rich_help_panel=_SET_UP)(migrate)
application.command(rich_help_panel=_SET_UP)(validate)
application.command(rich_help_panel=_SET_UP)(doctor)
application.add_typer(encryption, rich_help_panel=_SET_UP)
application.command(rich_help_panel=_SET_UP)(worker)
application.command(rich_help_panel=_USE)(report)
application.command(rich_help_panel=_USE)(events)
application.command(rich_help_panel=_USE)(explain)
application.command("import", rich_help_panel=_USE)(import_file)
application.command(rich_help_panel=_USE)(reprice)
application.command(rich_help_panel=_USE)(adjust)
application.command(rich_help_panel=_USE)(cleanup)
application.add_typer(tenants, rich_help_panel=_CUSTOMERS)
application.add_typer(plans, rich_help_panel=_CUSTOMERS)
application.command("sync-plans", rich_help_panel=_CUSTOMERS)(sync_plans)
application.add_typer(subscriptions, rich_help_panel=_CUSTOMERS)
application.command("migrate-plan", rich_help_panel=_CUSTOMERS)(migrate_plan)
application.add_typer(limits, rich_help_panel=_CUSTOMERS)
application.add_typer(quotas, rich_help_panel=_CUSTOMERS)
application.add_typer(rate_limits, rich_help_panel=_CUSTOMERS)
application.add_typer(credits_commands, rich_help_panel=_CREDITS)
application.command("cleanup-expired-credits", rich_help_panel=_CREDITS)(cleanup_expired_credits)
application.add_typer(coupons, rich_help_panel=_BILLING)
application.add_typer(invoices, rich_help_panel=_BILLING)
application.command("generate-invoices", rich_help_panel=_BILLING)(generate_invoices)
application.command("sync-overages", rich_help_panel=_BILLING)(sync_overages)
application.add_typer(payment_methods, rich_help_panel=_BILLING)
application.add_typer(notifications, rich_help_panel=_NOTIFICATIONS)
application.add_typer(webhooks, rich_help_panel=_NOTIFICATIONS)
