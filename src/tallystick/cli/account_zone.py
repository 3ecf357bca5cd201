"""In which zone an account's times are read and written: a tenant's own, else that of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from tallystick import Tallystick

__all__ = ["account_zone"]


def account_zone(ts: Tallystick, billable: str | None) -> str:
    """Return the name of an account's zone. Only a tenant may have one of its own."""
    if billable is not None:
        try:
            return ts.tenants.get(billable).timezone or ts.settings.period.timezone
        except (InvalidInput, NotFound):
            # It is no tenant, or none that anybody has created.
            pass
    return ts.settings.period.timezone
