"""What becomes of holds inside a batch: what they claim is loaded, given back, or expires."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.credits.account import CreditKey
from tallystick.credits.posting import account_of, account_ready, release_pins, require_pins
from tallystick.storage.workspace import MoreNeeded, Workspace

if TYPE_CHECKING:
    from tallystick.storage.workspace import HoldRow

__all__ = ["expire_hold", "expire_released", "lapsed_give_way", "let_go", "require_claims"]


def require_claims(workspace: Workspace, hold: HoldRow, at: int) -> None:
    """Make sure that what a hold claims and pins is loaded; the caller of a command may not have known it."""
    missing = [claim.key for claim in hold.claims if claim.key not in workspace.counters]
    for key in missing:
        workspace.want_counter(key)
    if hold.pins:
        require_pins(workspace, hold)
        for unit in {pin.unit for pin in hold.pins}:
            account_ready(workspace, CreditKey(hold.billable, unit), at)
    if missing:
        raise MoreNeeded


def let_go(workspace: Workspace, hold: HoldRow, *, status: str, at: int, event_id: str | None = None) -> None:
    """Give a hold its end. What an open one claimed and pinned is free again."""
    if hold.status == "open" and hold.pins:
        release_pins(workspace, hold)
    workspace.close_hold(hold, status=status, at=at, event_id=event_id)


def expire_hold(workspace: Workspace, hold: HoldRow, at: int) -> None:
    """Release a hold whose time ran out, and report it."""
    let_go(workspace, hold, status="expired", at=at)
    expire_released(workspace, hold, at)
    workspace.notices.append(hold)
    workspace.free_key(hold)


def expire_released(workspace: Workspace, hold: HoldRow, at: int) -> None:
    """Expire what a hold has given back of grants that lapsed while it was pinned."""
    for unit in {pin.unit for pin in hold.pins}:
        account_of(workspace, CreditKey(hold.billable, unit), at)


def lapsed_give_way(workspace: Workspace, billable: str, at: int) -> bool:
    """Expire a billable's lapsed holds: one that ran out must not refuse a new call. Says whether any did."""
    if billable not in workspace.lapsed:
        workspace.want_lapsed(billable, at)
        raise MoreNeeded
    lapsed = [hold for hold in workspace.lapsed[billable] if hold.status == "open"]
    for hold in lapsed:
        require_claims(workspace, hold, at)
    for hold in lapsed:
        expire_hold(workspace, hold, at)
    return bool(lapsed)
