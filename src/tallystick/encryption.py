"""Encryption at rest: what would let somebody else charge or sign is unreadable in the database and its copies.

A text is encrypted with AES-256-GCM under the first of `security.encryption_keys`, and says which key that was:
`enc1.<key id>.<base64 of nonce and ciphertext>`. So an older key goes on reading what it encrypted until everything was
encrypted again. What a text belongs to is authenticated with it: moved to another row it is not read.

Each key is a master key of 32 random bytes. The keys that encrypt, that digest, and the id are derived from it with
HMAC-SHA256 under different labels, so that none says anything of another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from tallystick.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from pydantic import SecretStr

__all__ = ["Cipher", "generate_key"]

_SETTING = "security.encryption_keys"
_FORM = "enc1."
_KEY_BYTES = 32
_NONCE_BYTES = 12
_ID_LENGTH = 12
_HOW_TO_MAKE = "Make one with: tallystick encryption generate-key"


def generate_key() -> str:
    """Return a new random key for `security.encryption_keys`: 32 bytes in base64."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


class _Key:
    """One master key and what is derived from it. Its own text is not kept."""

    __slots__ = ("_aead", "_encryption", "digest_key", "id")

    def __init__(self, text: str, position: int) -> None:
        master = _decoded(text)
        if master is None:
            # The key itself is never repeated in an error.
            raise ConfigurationError(
                _SETTING, f"key {position}", f"A key is {_KEY_BYTES} random bytes in base64. {_HOW_TO_MAKE}."
            )
        self.id = _derived(master, "id").hex()[:_ID_LENGTH]
        self.digest_key = _derived(master, "digest")
        self._encryption = _derived(master, "encryption")
        self._aead: AESGCM | None = None

    @property
    def aead(self) -> AESGCM:
        if self._aead is None:
            self._aead = _aead(self._encryption)
        return self._aead


class Cipher:
    """Encrypts with the first key and decrypts with every one. Without keys it can do neither; see `has_keys`.

    Threads may share it. Without the package `cryptography` it is made all the same: only encrypting and decrypting
    need it.

    Raises:
        ConfigurationError: a key is not 32 bytes in base64, or is there twice.
    """

    def __init__(self, keys: Sequence[SecretStr] = ()) -> None:
        texts = [key.get_secret_value() for key in keys]
        self._keys = {key.id: key for key in (_Key(text, number) for number, text in enumerate(texts, start=1))}
        if len(self._keys) < len(texts):
            raise ConfigurationError(_SETTING, f"{len(texts)} keys", "One of them is there twice: name each once.")

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """What the keys are called in encrypted texts, the one that encrypts first. An id tells nothing of its key."""
        return tuple(self._keys)

    def encrypt(self, text: str, about: str) -> str:
        """Return a text encrypted with the first key. Twice the same text gives two different ones.

        `about` says what it is and whose, such as "payment_methods.token of pym_01…"; it must be said again to decrypt.

        Raises:
            ConfigurationError: there is no key, or the extra `encryption` is not installed.
        """
        key = self._first(about)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + key.aead.encrypt(nonce, text.encode(), about.encode())
        return self.prefix + base64.urlsafe_b64encode(sealed).decode()

    def decrypt(self, text: str, about: str) -> str:
        """Return what was encrypted, with whichever key.

        Raises:
            ConfigurationError: its key is not there any more, or the extra `encryption` is not installed.
            StorageError: the stored text was changed, damaged, or belongs to something else.
        """
        key_id, _, body = text.removeprefix(_FORM).partition(".")
        if not self.is_encrypted(text):
            raise _unreadable(about, "it is not an encrypted text")
        key = self._keys.get(key_id)
        if key is None:
            raise self._gone(about, key_id)
        aead = key.aead
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64.b64decode(body, altchars=b"-_", validate=True)
            return aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise _unreadable(about, f"it does not fit its key {key_id}") from error

    def rotate(self, text: str, about: str) -> str:
        """Return the same secret encrypted with the first key; a text that is so already is returned as it is.

        Raises:
            ConfigurationError, StorageError: as `decrypt`.
        """
        return text if text.startswith(self.prefix) else self.encrypt(self.decrypt(text, about), about)

    def digest(self, value: str) -> str:
        """Return a keyed hash (HMAC-SHA256), by which the same value is found again without being readable.

        Each key makes another, and a digest says whose it is. To find what an older key has digested look for
        `digests`; where keys are rotated, digests are made again from what was decrypted.

        Raises:
            ConfigurationError: there is no key.
        """
        return _digest(self._first("A digest"), value)

    def digests(self, value: str) -> list[str]:
        """Return the digest of a value by every key, that of the first one first."""
        return [_digest(key, value) for key in self._keys.values()]

    @property
    def prefix(self) -> str:
        """How every text begins that the first key has encrypted."""
        return f"{_FORM}{self._first('Rotating keys').id}."

    @property
    def digest_prefix(self) -> str:
        """How every digest begins that the first key has made."""
        return f"{self._first('Rotating keys').id}."

    @staticmethod
    def is_encrypted(text: str) -> bool:
        """Say whether a text has the form that `encrypt` gives, whatever its key."""
        return text.startswith(_FORM)

    def _first(self, about: str) -> _Key:
        for key in self._keys.values():
            return key
        raise ConfigurationError(
            _SETTING, (), f"{about} needs a key that encrypts it. {_HOW_TO_MAKE}; keep it apart from the database."
        )

    def _gone(self, about: str, key_id: str) -> ConfigurationError:
        return ConfigurationError(
            _SETTING,
            self.key_ids,
            f"{about} was encrypted with key {key_id}, which is not among them. Add that key again, after the first, "
            "until tallystick encryption rotate has run.",
        )


def _decoded(text: str) -> bytes | None:
    """Return the bytes of a key in either alphabet of base64; None where it is none."""
    plain = text.strip().rstrip("=").translate(str.maketrans("+/", "-_"))
    try:
        master = base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return master if len(master) == _KEY_BYTES else None


def _derived(master: bytes, purpose: str) -> bytes:
    return hmac.new(master, f"tallystick {purpose} 1".encode(), hashlib.sha256).digest()


def _digest(key: _Key, value: str) -> str:
    return f"{key.id}.{hmac.new(key.digest_key, value.encode(), hashlib.sha256).hexdigest()}"


def _aead(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise ConfigurationError(
            _SETTING, "the given keys", 'Encryption needs its package: pip install "tallystick[encryption]".'
        ) from None
    return AESGCM(key)


def _unreadable(about: str, reason: str) -> StorageError:
    return StorageError(
        f"{about} cannot be decrypted: {reason}. The stored text was changed or damaged; restore it from a backup, or "
        "store the secret anew."
    )
