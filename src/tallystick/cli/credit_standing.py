"""What a billable has of credits: balances, open grants in the order in which they are used, and the last lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tallystick.cli.credit_report import column, exactly, roughly
from tallystick.cli.figures import count
from tallystick.cli.instants import zone_named
from tallystick.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick import Tallystick

__all__ = ["Standing", "print_grant", "print_standing", "print_transaction", "read_standing", "standing_as_json"]

_ALWAYS_SHOWN = ("Balance", "Available")
_GRANTS_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class WalletStanding:
    """A wallet, read once: each property of it asks the database."""

    id: str
    currency: str
    figures: dict[str, Any]
    grants: Sequence[Any]
    forecast: Any
    transactions: Sequence[Any]


@dataclass(frozen=True, slots=True)
class FeatureStanding:
    """A feature of which there are extra credits."""

    status: Any
    grants: Sequence[Any]
    forecast: Any


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that a billable has of credits."""

    billable: str
    wallets: tuple[WalletStanding, ...]
    features: tuple[FeatureStanding, ...]


def read_standing(ts: Tallystick, billable: str, *, lines: int) -> Standing:
    """Read wallets with their last lines, and the features of which extra credits are left or were used."""
    wallets = tuple(_wallet(ts, wallet, lines) for wallet in ts.wallets.list(billable))
    features = tuple(
        FeatureStanding(
            status=status,
            grants=ts.features.credits(billable, status.slug),
            forecast=ts.credits.forecast(billable, feature=status.slug),
        )
        for status in ts.features.usage(billable)
        if status.extra_remaining or status.extra_used
    )
    return Standing(billable, wallets, features)


def _wallet(ts: Tallystick, wallet: Any, lines: int) -> WalletStanding:
    names = ("balance", "available", "held", "paid", "promotional", "overdraft")
    return WalletStanding(
        id=wallet.id,
        currency=wallet.currency,
        figures={name.capitalize(): getattr(wallet, name) for name in names},
        grants=wallet.grants(),
        forecast=ts.credits.forecast(wallet.billable, wallet.currency),
        transactions=tuple(wallet.transactions(limit=lines)) if lines else (),
    )


def standing_as_json(standing: Standing) -> dict[str, object]:
    """Return what a billable has as plain values."""
    return {
        "billable": standing.billable,
        "wallets": [
            {
                "id": wallet.id,
                "currency": wallet.currency,
                **{name.lower(): value for name, value in wallet.figures.items()},
                "grants": [grant.to_dict() for grant in wallet.grants],
                "forecast": wallet.forecast.to_dict(),
                "transactions": [line.to_dict() for line in wallet.transactions],
            }
            for wallet in standing.wallets
        ],
        "features": [
            {
                "feature": feature.status.slug,
                "extra_remaining": feature.status.extra_remaining,
                "extra_used": feature.status.extra_used,
                "plan_used": feature.status.plan_used,
                "value": feature.status.value,
                "remaining": feature.status.remaining,
                "next_reset": feature.status.next_reset,
                "grants": [grant.to_dict() for grant in feature.grants],
                "forecast": feature.forecast.to_dict(),
            }
            for feature in standing.features
        ],
    }


# -- for people -------------------------------------------------------------------------------------------------------


def print_standing(out: Console, standing: Standing, zone: str) -> None:
    """Print each wallet and each feature under a heading of its own."""
    from rich.text import Text

    out.print(Text.assemble("Credits of ", (standing.billable, "bold")))
    if not standing.wallets and not standing.features:
        out.print()
        out.print(f"  None. Add some: tallystick credits add {standing.billable} 100")
    for wallet in standing.wallets:
        out.print()
        out.print(f"{wallet.currency} wallet", style="bold")
        _print_figures(out, wallet.figures)
        _print_forecast(out, wallet.forecast, zone)
        _print_grants(out, wallet.grants, zone)
        _print_lines(out, wallet.transactions, zone)
    for feature in standing.features:
        out.print()
        out.print(f"{feature.status.slug} (extra credits)", style="bold")
        status = feature.status
        _print_figures(out, {"Left": status.extra_remaining, "Used": status.extra_used}, "in this period")
        _print_forecast(out, feature.forecast, zone)
        _print_grants(out, feature.grants, zone)


def print_grant(out: Console, grant: Any, zone: str) -> None:
    """Print one new grant in a line or two."""
    until = "" if grant.expires_at is None else f", until {_instant(grant.expires_at, zone)} {zone}"
    what = exactly(grant.amount) if grant.currency else f"{exactly(grant.amount)} of {grant.feature_slug}"
    out.print(f"{grant.billable}: {what} granted ({grant.reason}, {grant.kind}{until})")
    out.print(f"  {grant.id}", style="dim")


def print_transaction(out: Console, line: Any, zone: str) -> None:
    """Print one new line of a statement."""
    sign = "+" if line.type == "credit" else "–"
    again = "  (recorded before: nothing was added now)" if line.replayed else ""
    out.print(
        f"{line.billable}: {sign}{exactly(line.amount)} ({line.reason}), balance {exactly(line.balance_after)}{again}"
    )
    out.print(f"  {line.id}, {_instant(line.created_at, zone)} {zone}", style="dim")


def _print_figures(out: Console, figures: dict[str, Any], remark: str = "") -> None:
    shown = {name: value for name, value in figures.items() if value or name in _ALWAYS_SHOWN or len(figures) <= 2}
    values = column(list(shown.values()))
    right = max(map(len, values))
    for name, value in zip(shown, values, strict=True):
        out.print(f"  {name:<11}  {value:>{right}}{f'  {remark}' if remark and name == 'Used' else ''}")


def _print_forecast(out: Console, forecast: Any, zone: str) -> None:
    if not forecast.daily_burn:
        return
    rate = f"at {roughly(forecast.daily_burn)} a day"
    if forecast.empty_at is None:
        out.print(f"  Lasts        for ever, {rate}")
    elif forecast.available:
        out.print(f"  Lasts        until about {forecast.empty_at.astimezone(zone_named(zone)):%Y-%m-%d}, {rate}")
    if forecast.will_expire:
        out.print(f"  Will expire  {exactly(forecast.will_expire)} before it is used", style="yellow")


def _print_grants(out: Console, grants: Sequence[Any], zone: str) -> None:
    if not grants:
        return
    shown = table(
        "Order",
        "Left",
        "Granted",
        "Kind",
        "Reason",
        "Priority",
        "Expires",
        "Only",
        right=("Left", "Granted", "Priority"),
    )
    first = grants[:_GRANTS_SHOWN_MAX]
    left, granted = column([grant.remaining for grant in first]), column([grant.amount for grant in first])
    for place, (grant, rest, whole) in enumerate(zip(first, left, granted, strict=True), start=1):
        expires = "never" if grant.expires_at is None else _instant(grant.expires_at, zone)
        shown.add_row(
            f"{place}.", rest, whole, grant.kind, grant.reason, count(grant.priority), expires, _restrictions(grant)
        )
    out.print()
    out.print(shown)
    if len(grants) > len(first):
        out.print(f"… and {len(grants) - len(first):,} more; --json lists all.", style="dim")


def _restrictions(grant: Any) -> str:
    found = [
        *([] if grant.feature is None or grant.currency is None else [f"for {grant.feature}"]),
        *([] if grant.subscription_id is None else [f"with {grant.subscription_id}"]),
        *([] if grant.limit is None else [f"{exactly(grant.limit)} {grant.limit_period}"]),
    ]
    return ", ".join(found)


def _print_lines(out: Console, lines: Sequence[Any], zone: str) -> None:
    if not lines:
        return
    shown = table("When", "Amount", "Balance", "Source", "Reason", "Feature", "Id", right=("Amount", "Balance"))
    signed, balances = column([line.signed_amount for line in lines]), column([line.balance_after for line in lines])
    for line, change, balance in zip(lines, signed, balances, strict=True):
        when = _instant(line.occurred_at, zone)
        shown.add_row(when, change, balance, line.source, line.reason, line.feature or "", line.id)
    out.print()
    out.print(shown)


def _instant(at: Any, zone: str) -> str:
    return f"{at.astimezone(zone_named(zone)):%Y-%m-%d %H:%M}"
