"""Signing webhooks as Standard Webhooks does, so that a receiver knows that they are ours, whole, and fresh.

`webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature` (a list of "v1," and base64) go with each request.
Signed is `id.timestamp.body` with HMAC-SHA256. While a secret is being replaced there are two signatures.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable, Mapping

from tallystick.errors import InvalidInput

__all__ = ["checked_secret", "new_secret", "signed_headers", "verify_webhook"]

_PREFIX = "whsec_"
_SECRET_BYTES = 32
_TOLERANCE_SECONDS = 300


def new_secret() -> str:
    """Return a new random secret: "whsec_" and base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def checked_secret(secret: str) -> str:
    """Return a secret that was given, if it is one.

    Raises:
        InvalidInput: it is not "whsec_" and base64 of 24 to 64 bytes.
    """
    if not 24 <= len(_key(secret)) <= 64:
        raise _no_secret()
    return secret


def signed_headers(message_id: str, at_seconds: int, body: str, signing: Iterable[str]) -> dict[str, str]:
    """Return the three headers of a request, signed with each of the secrets."""
    signatures = [f"v1,{_signature(secret, message_id, str(at_seconds), body)}" for secret in signing]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_seconds),
        "webhook-signature": " ".join(signatures),
    }


def verify_webhook(
    body: str | bytes,
    headers: Mapping[str, str],
    secret: str,
    *,
    at_seconds: float | None = None,
    tolerance_seconds: int = _TOLERANCE_SECONDS,
) -> bool:
    """Say whether a request that was received is what we have sent: for the receiver's side.

    `body` is the request's body as it came, before it is parsed. A request that is older than the tolerance, or from
    the future, is not accepted: it may be one that was recorded and is sent again.
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, stated = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not message_id or not stated.isdecimal():
        return False
    # A receiver has no engine and no clock of ours: this is the one place that asks the system for the time.
    now = time.time() if at_seconds is None else at_seconds
    if abs(now - int(stated)) > tolerance_seconds:
        return False
    text = body.decode("utf-8", "surrogateescape") if isinstance(body, bytes) else body
    expected = _signature(secret, message_id, stated, text)
    return any(
        hmac.compare_digest(signature.removeprefix("v1,").encode(), expected.encode())
        for signature in given.get("webhook-signature", "").split()
        if signature.startswith("v1,")
    )


def _signature(secret: str, message_id: str, timestamp: str, body: str) -> str:
    signed = f"{message_id}.{timestamp}.{body}".encode("utf-8", "surrogateescape")
    return base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise _no_secret() from None


def _no_secret() -> InvalidInput:
    # The secret itself is never repeated in an error.
    return InvalidInput(
        "secret", "whsec_…", 'Give "whsec_" and base64 of 24 to 64 random bytes, or none for a new one.'
    )
