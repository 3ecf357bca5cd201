"""Whose part of a billable's use a limit is for: from what callers say to the scope that is stored, and back."""

from __future__ import annotations

from typing import NamedTuple

from tallystick.errors import InvalidInput
from tallystick.identity import user_reference
from tallystick.limits.quota import EVERY_USER, Caller
from tallystick.metering.input import checked_name

__all__ = ["Scope", "caller_of", "scope_of", "scope_parts"]

_FEATURE, _KEY = "feature:", "key:"


class Scope(NamedTuple):
    """A scope as callers say it: at most one of them is given."""

    user: str | None
    feature: str | None
    key: str | None


def scope_of(user: object, feature: str | None, key: str | None) -> str:
    """Return the scope that is stored: empty for all use, "user:42", "user:*", "feature:chat", "key:…".

    Raises:
        InvalidInput: more than one of them is given, or a bad name.
    """
    given = [name for name, value in (("user", user), ("feature", feature), ("key", key)) if value is not None]
    if len(given) > 1:
        raise InvalidInput(given[1], {"user": user, "feature": feature, "key": key}, f"Give it or {given[0]}.")
    if user is not None:
        return user_reference(user)
    if feature is not None:
        return _FEATURE + checked_name("feature", feature)
    return "" if key is None else _KEY + checked_name("key", key)


def scope_parts(scope: str) -> Scope:
    """Return a stored scope as callers say it."""
    if scope.startswith(_FEATURE):
        return Scope(None, scope.removeprefix(_FEATURE), None)
    if scope.startswith(_KEY):
        return Scope(None, None, scope.removeprefix(_KEY))
    return Scope(scope or None, None, None)


def caller_of(user: object, feature: str | None, key: str | None) -> Caller:
    """Return whose use is meant. A caller may be all of it: a user, in a feature, with a key.

    Raises:
        InvalidInput: a bad name, or "*", which is nobody.
    """
    reference = None if user is None else user_reference(user)
    if reference == EVERY_USER:
        raise InvalidInput("user", user, "Name one user.")
    return Caller(
        reference,
        checked_name("feature", feature) if feature else "",
        None if key is None else checked_name("key", key),
    )
