"""How a billable stands to its limits, as lines and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tallystick.cli.figures import amount, bar, count, percentage
from tallystick.cli.instants import zone_named

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_standing", "standing_as_json"]

_BAR_WIDTH = 20


def print_standing(out: Console, check: Any, zone: str) -> None:
    """Print a line for each limit, and when the period ends; nothing where nothing is limited and no plan holds."""
    if check.plan is None and check.token_limit is None and check.cost_limit is None:
        return
    until = f", until {check.resets_at.astimezone(zone_named(zone)):%Y-%m-%d %H:%M} {zone}" if check.resets_at else ""
    out.print()
    out.print(f"Limits now ({f'plan {check.plan}' if check.plan is not None else 'no plan'}{until})", style="bold")
    if check.token_limit is not None:
        _print_limit(out, "Tokens", (check.tokens_used, check.tokens_held, check.token_limit), count)
    if check.cost_limit is not None:
        costs = (check.cost_used, check.cost_held, check.cost_limit)
        _print_limit(out, "Cost", costs, amount)
    if check.token_limit is None and check.cost_limit is None:
        out.print("  None: use is counted and not limited.")
    if check.reason is not None:
        out.print(f"  {check.reason}", style="bold red")


def standing_as_json(check: Any) -> dict[str, object]:
    """Return a limit check as plain values."""
    return {
        "billable": check.billable,
        "allowed": check.allowed,
        "reason": check.reason,
        "plan": check.plan,
        "approaching": check.approaching,
        "limit_reached": check.limit_reached,
        "hard_limit_reached": check.hard_limit_reached,
        "usage_percentage": check.usage_percentage,
        "tokens": {
            "limit": check.token_limit,
            "used": check.tokens_used,
            "held": check.tokens_held,
            "remaining": check.remaining_tokens,
        },
        "cost": {
            "limit": check.cost_limit,
            "used": check.cost_used,
            "held": check.cost_held,
            "remaining": check.remaining_cost,
        },
        "period_start": check.period_start,
        "resets_at": check.resets_at,
    }


def _print_limit(out: Console, name: str, standing: tuple[Any, Any, Any], written: Any) -> None:
    from rich.text import Text

    used, held, limit = standing
    part, whole = (getattr(value, "nanos", value) for value in (used, limit))
    style = "bold red" if part >= whole else "yellow" if part * 100 >= whole * 80 else "green"
    drawn = bar(part, whole, width=_BAR_WIDTH).ljust(_BAR_WIDTH, "░")
    text = f" {percentage(part, whole):>4}  {written(used)} of {written(limit)}"
    if held:
        text += f", {written(held)} held by calls in flight"
    out.print(Text.assemble(f"  {name:<7} ", (drawn, style), text))
