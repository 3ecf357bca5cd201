"""How the secrets of webhook endpoints are kept: encrypted where there is a key, and as they are where there is none.

What was kept before a key was set stays readable; rotating the keys encrypts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement

from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.encryption import Cipher

__all__ = ["encrypted_anew", "is_encrypted_otherwise", "kept", "signing_secrets"]


def kept(cipher: Cipher, secret: str, endpoint_id: str) -> str:
    """Return a secret as it is written to `webhook_endpoints`."""
    return cipher.encrypt(secret, _secret_of(endpoint_id)) if cipher.has_keys else secret


def signing_secrets(cipher: Cipher, endpoint: Any, now: int) -> list[str]:
    """Return the secrets with which an endpoint, a row of `webhook_endpoints`, is signed at an instant (µs).

    Raises:
        ConfigurationError: the key of one is not there any more. StorageError: the stored text was changed.
    """
    stored = [endpoint.secret]
    if endpoint.previous_secret is not None and (endpoint.previous_secret_until or 0) > now:
        stored.append(endpoint.previous_secret)
    return [cipher.decrypt(text, _secret_of(endpoint.id)) if cipher.is_encrypted(text) else text for text in stored]


def is_encrypted_otherwise(cipher: Cipher) -> ColumnElement[bool]:
    """Return the condition of rows that the first key has not encrypted."""
    endpoints = tables.webhook_endpoints.c
    previous = endpoints.previous_secret
    return ~endpoints.secret.startswith(cipher.prefix, autoescape=True) | (
        previous.isnot(None) & ~previous.startswith(cipher.prefix, autoescape=True)
    )


def encrypted_anew(cipher: Cipher, row: Any) -> dict[str, object]:
    """Return the columns of a row as the first key encrypts them."""
    about = _secret_of(row.id)
    return {
        name: None if text is None else _anew(cipher, text, about)
        for name, text in (("secret", row.secret), ("previous_secret", row.previous_secret))
    }


def _anew(cipher: Cipher, text: str, about: str) -> str:
    return cipher.rotate(text, about) if cipher.is_encrypted(text) else cipher.encrypt(text, about)


def _secret_of(endpoint_id: str) -> str:
    # One name for both: the secret of today is the previous one of tomorrow.
    return f"The secret of {endpoint_id}"
