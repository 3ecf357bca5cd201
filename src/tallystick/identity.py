"""Names of things: references to who pays (`type:id`), and ids of records (`evt_` and 32 hexadecimal digits)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from uuid import UUID

from uuid_utils import uuid7

from tallystick.errors import InvalidInput

__all__ = ["ID_PREFIXES", "BillableResolver", "billable_reference", "new_id", "tenant_reference", "user_reference"]

BillableResolver = Callable[[object], "str | tuple[str, object] | None"]
"""An application's own way from its objects to a billable. It returns None for what it does not know."""

ID_PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "cpn": "coupon",
        "crn": "credit note",
        "dlv": "webhook delivery",
        "dsc": "discount",
        "ent": "ledger entry",
        "evt": "usage event",
        "grt": "grant",
        "hld": "hold",
        "inv": "invoice",
        "itm": "invoice item",
        "job": "job",
        "key": "API key",
        "lin": "invoice line item",
        "msg": "outbox message",
        "ntf": "notification",
        "ovg": "overage",
        "ovr": "limit override",
        "pay": "payment",
        "pln": "plan",
        "plv": "plan version",
        "pym": "payment method",
        "qta": "quota",
        "req": "request",
        "rtl": "rate limit",
        "sch": "change of a subscription",
        "ses": "session",
        "shd": "refusal in shadow mode",
        "sub": "subscription",
        "ten": "tenant",
        "tup": "top-up",
        "txn": "ledger transaction",
        "uch": "usage charge",
        "usr": "user of the service",
        "wal": "wallet",
        "whk": "webhook endpoint",
    }
)
"""What each id prefix names. An id without an entry here is not made."""

_REFERENCE_LENGTH_MAX = 200
_TYPE = re.compile(r"[A-Za-z0-9_.-]+")
_REMEDY = 'Give "user:42", ("user", 42), an object with billable_type and billable_id, or one with an id or pk.'
_MISSING = object()


def new_id(prefix: str) -> str:
    """Return a new id such as "evt_01a2…": unique everywhere, and ordered by the time of its making (UUIDv7)."""
    if prefix not in ID_PREFIXES:
        raise InvalidInput("prefix", prefix, f"Use one of {', '.join(ID_PREFIXES)}, or add it to ID_PREFIXES.")
    return f"{prefix}_{uuid7().hex}"


def billable_reference(value: object, resolver: BillableResolver | None = None) -> str:
    """Return who pays, as "type:id".

    A string "type:id" and a pair (type, id) say it themselves. For any other object the resolver is asked first, then
    `billable_type` and `billable_id`, then `id` or `pk`, with the class name in lower case as the type.

    Raises:
        InvalidInput: when no reference can be made; also for an object that was not saved yet, whose id is None.
    """
    if isinstance(value, str):
        return _checked(value)
    if resolver is not None and not isinstance(value, tuple):
        resolved = resolver(value)
        if resolved is not None:
            return billable_reference(resolved)
    billable_type, identifier = _named_pair(value) or (type(value).__name__.lower(), _own_id(value))
    return _joined(billable_type, identifier)


def tenant_reference(value: object) -> str:
    """Return a tenant as "tenant:id", from its slug or id, its reference, or an object that carries one of them.

    Raises:
        InvalidInput: when no reference can be made, or when it names something other than a tenant.
    """
    return _reference_of_type("tenant", value)


def user_reference(value: object) -> str:
    """Return a user as "user:id", from the id, the reference, or an object that carries one of them.

    Raises:
        InvalidInput: when no reference can be made, or when it names something other than a user.
    """
    return _reference_of_type("user", value)


def _reference_of_type(expected: str, value: object) -> str:
    if isinstance(value, str):
        reference = _checked(value if ":" in value else f"{expected}:{value}")
    elif isinstance(value, int | UUID):
        reference = _joined(expected, value)
    else:
        reference = _joined(*(_named_pair(value) or (expected, _own_id(value))))
    if not reference.startswith(f"{expected}:"):
        raise InvalidInput(expected, value, f'Give an id, or "{expected}:id".')
    return reference


def _named_pair(value: object) -> tuple[object, object] | None:
    """Return the type and id that a pair or an object states itself."""
    if isinstance(value, tuple):
        if len(value) != 2:
            raise InvalidInput("billable", value, _REMEDY)
        return value[0], value[1]
    billable_type, billable_id = getattr(value, "billable_type", None), getattr(value, "billable_id", None)
    return None if billable_type is None else (billable_type, billable_id)


def _own_id(value: object) -> object:
    # A class has an `id` too where its objects have one: a column, a property or a field's default.
    identifiers = [] if isinstance(value, type) else [getattr(value, name, _MISSING) for name in ("id", "pk")]
    present = [identifier for identifier in identifiers if identifier is not _MISSING]
    if not present:
        raise InvalidInput("billable", value, _REMEDY)
    return next((identifier for identifier in present if identifier is not None), None)


def _joined(billable_type: object, identifier: object) -> str:
    if identifier is None:
        raise InvalidInput("billable", billable_type, "It has no id yet: save it first.")
    if isinstance(identifier, bool | float | bytes):
        raise InvalidInput("billable", identifier, "Give the id as a string or an int.")
    if not isinstance(billable_type, str):
        raise InvalidInput("billable", billable_type, "Give the type as a string.")
    # Joined, not formatted: formatting a member of a str enumeration may write the enumeration's name.
    return _checked(billable_type + ":" + (identifier if isinstance(identifier, str) else str(identifier)))


@lru_cache(maxsize=8192)
def _checked(reference: str) -> str:
    """Return the reference itself if it is well formed. The hot path asks for the same few again and again."""
    billable_type, colon, identifier = reference.partition(":")
    if not colon:
        raise InvalidInput("billable", reference, f'A string names type and id: "user:{reference}". Or: {_REMEDY}')
    if not _TYPE.fullmatch(billable_type):
        raise InvalidInput("billable", reference, "The type before the colon is letters, digits, _ . and - only.")
    if not identifier or not identifier.isprintable() or " " in identifier:
        raise InvalidInput("billable", reference, "The id after the colon is printable and without whitespace.")
    if len(reference) > _REFERENCE_LENGTH_MAX:
        raise InvalidInput("billable", reference, f"A reference has at most {_REFERENCE_LENGTH_MAX} characters.")
    # A new string, so that a subclass that was seen first does not stand for the equal plain ones after it.
    return f"{billable_type}:{identifier}"
