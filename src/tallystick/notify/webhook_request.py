"""One request to a webhook endpoint, with the care that an address given by a customer needs.

The name is resolved here, and only public addresses are connected to, so that an endpoint cannot be made to point into
the operator's own network, also not by a name that changes its address in between. Redirects are not followed. The
time is limited as a whole, however slowly the other side answers.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial
from urllib.parse import SplitResult, urlsplit

from tallystick.errors import InvalidInput
from tallystick.notify.channels import DeliveryFailed

__all__ = ["checked_url", "post"]

_NO_ANSWER = "No answer in time"
_GONE = 410
_BUSY = (429, 503)
_URL_LENGTH_MAX = 2000


def checked_url(url: object, *, allows_plain: bool, field: str = "url") -> str:
    """Return a web address to which webhooks may go, as far as it can be told from its text.

    Raises:
        InvalidInput: it is no web address, carries a password, or is not encrypted.
    """
    remedy = 'Give an address such as "https://example.com/webhooks".'
    if not isinstance(url, str) or len(url) > _URL_LENGTH_MAX or not url.isprintable() or " " in url:
        raise InvalidInput(field, url, remedy)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise InvalidInput(field, url, remedy) from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise InvalidInput(field, url, remedy)
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(field, parts.hostname, "Leave user and password out: requests are signed.")
    if parts.scheme != "https" and not allows_plain:
        raise InvalidInput(field, url, "Give an https address: what is posted is about your customers.")
    return url


def post(url: str, body: bytes, headers: Mapping[str, str], *, timeout_seconds: float, allows_private: bool) -> int:
    """Post a body and return the status of the answer, which is below 300.

    Raises:
        DeliveryFailed: it was not accepted, or not reached.
    """
    parts = urlsplit(url)
    connection = _connection(parts, timeout_seconds, allows_private=allows_private)
    # A peer that sends a byte now and then never runs into the timeout of a single read.
    is_cut_off = threading.Event()
    watchdog = threading.Timer(timeout_seconds, partial(_cut_off, connection, is_cut_off))
    watchdog.daemon = True
    watchdog.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body=body, headers=dict(headers))
        # What it says beside its status is of no interest.
        with closing(connection.getresponse()) as answer:
            status, retry_after = answer.status, answer.getheader("Retry-After")
    except (OSError, http.client.HTTPException, ValueError) as error:
        what = _NO_ANSWER if isinstance(error, TimeoutError) or is_cut_off.is_set() else _said(error)
        raise DeliveryFailed(f"{parts.hostname}: {what}.", is_unreachable=True) from error
    finally:
        watchdog.cancel()
        connection.close()
    if is_cut_off.is_set():
        # What had come by then may look like an answer.
        raise DeliveryFailed(f"{parts.hostname}: {_NO_ANSWER}.", is_unreachable=True)
    if not 200 <= status < 300:
        raise DeliveryFailed(
            f"{parts.hostname} answered {status}.",
            is_permanent=status == _GONE,
            is_unreachable=status in _BUSY,
            retry_after_seconds=_seconds(retry_after),
            status_code=status,
        )
    return status


def _connection(parts: SplitResult, timeout_seconds: float, *, allows_private: bool) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port or 443, timeout=timeout_seconds, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port or 80, timeout=timeout_seconds)
    # http.client makes its socket by this attribute; TLS is still done for the name, not for the address.
    connection._create_connection = partial(_connect, allows_private=allows_private)  # type: ignore[attr-defined]  # not in its type stubs
    return connection


def _connect(
    address: tuple[str, int], timeout: float, source_address: object = None, *, allows_private: bool
) -> socket.socket:
    """Connect to the first address of a name that is public and answers."""
    del source_address
    host, port = address
    refused: OSError | None = None
    for family, kind, protocol, _, location in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not allows_private and not _is_public(str(location[0])):
            refused = refused or OSError(f"{location[0]} is a private address")
            continue
        made = socket.socket(family, kind, protocol)
        made.settimeout(timeout)
        try:
            made.connect(location)
        except OSError as error:
            made.close()
            refused = error
        else:
            return made
    raise refused or OSError("it has no address")


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    return all(one.is_global and not one.is_multicast for one in (found, mapped) if one is not None)


def _cut_off(connection: http.client.HTTPConnection, is_cut_off: threading.Event) -> None:
    is_cut_off.set()
    made = connection.sock
    if made is not None:
        with suppress(OSError):
            made.shutdown(socket.SHUT_RDWR)


def _said(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _seconds(retry_after: str | None) -> float | None:
    """Return how long a busy endpoint asks to be left alone; a date instead of seconds counts as nothing."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
