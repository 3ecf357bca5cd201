"""The billing driver: how overage is charged outside Tallystick's own invoices. An application writes its own class.

    # application/billing.py
    class OurBilling:
        def charge_overage(self, overage: OverageCharge, idempotency_key: str) -> str: ...

and in the settings `billing.driver = "application.billing:OurBilling"`. Without one, invoices charge overage.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from tallystick.errors import BillingError, ConfigurationError
from tallystick.named_imports import import_named

if TYPE_CHECKING:
    from tallystick.app import Tallystick
    from tallystick.invoicing.overage_charge import OverageCharge

__all__ = ["BillingDriver", "NullDriver", "finder_of", "load_driver"]

_SETTING = "billing.driver"
_NULL = "null"


class BillingDriver(Protocol):
    """What charges overage. Threads may call it at once, and no transaction is open while it works.

    It may also have `find_overage(idempotency_key) -> str | None`: what the gateway has already charged under a key.
    It is asked before an overage is sent again whose first outcome is not known.
    """

    def charge_overage(self, overage: OverageCharge, idempotency_key: str) -> str:
        """Charge one overage, and return what the gateway calls the charge.

        The key is the overage's id, and the same at every attempt: hand it to the gateway, so that it charges once.
        A negative amount is a correction: credit it, or raise where the gateway cannot. Any exception is noted, and the
        overage is tried again later.
        """


class NullDriver:
    """No driver: overage is charged on invoices."""

    def charge_overage(self, overage: OverageCharge, idempotency_key: str) -> str:  # noqa: ARG002  # as the protocol has it
        """Refuse: there is nobody to charge it.

        Raises:
            BillingError: always.
        """
        raise BillingError(f"Overage {overage.id} is charged on an invoice: {_SETTING} is {_NULL!r}.")


def load_driver(path: str, application: Tallystick) -> BillingDriver:
    """Return the driver that a setting names: "null", or the path of a class or of an object.

    A class is made without arguments, or with the Tallystick where its `__init__` needs one.

    Raises:
        ConfigurationError: it cannot be imported or made, or has no `charge_overage` that is a plain method.
    """
    if path == _NULL:
        return NullDriver()
    loaded = import_named(_SETTING, path)
    driver = _made(path, loaded, application) if isinstance(loaded, type) else loaded
    charge = getattr(driver, "charge_overage", None)
    if not callable(charge):
        raise ConfigurationError(_SETTING, path, "A driver has a method charge_overage(overage, idempotency_key).")
    for method in (charge, finder_of(driver)):
        if inspect.iscoroutinefunction(method):
            raise ConfigurationError(
                _SETTING, path, f"{method.__name__} is a coroutine function; it is called in a thread: make it plain."
            )
    checked: BillingDriver = driver
    return checked


def finder_of(driver: object) -> Callable[[str], str | None] | None:
    """Return a driver's `find_overage`, where it has one."""
    find: Any = getattr(driver, "find_overage", None)
    return find if callable(find) else None


def _made(path: str, made_by: type, application: Tallystick) -> Any:
    signature = inspect.signature(made_by)
    for arguments in ((), (application,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return made_by(*arguments)
    raise ConfigurationError(
        _SETTING, path, f"Its __init__{signature} needs more than the Tallystick: give the rest defaults."
    )
