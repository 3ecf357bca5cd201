"""Idempotency keys: what a key that comes with other input is answered with."""

from __future__ import annotations

import json

from tallystick.errors import IdempotencyConflict

__all__ = ["idempotency_conflict"]


def idempotency_conflict(key: str, first: str, second: str) -> IdempotencyConflict:
    """Return the error of a key that comes with other input, naming the first field that differs."""
    before, now = json.loads(first or "{}"), json.loads(second)
    fields = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    name = fields[0] if fields else "input"
    return IdempotencyConflict(key, name, before.get(name), now.get(name))
