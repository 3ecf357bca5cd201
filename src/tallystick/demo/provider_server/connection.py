"""HTTP/1.1 as far as the SDKs speak it: requests in, replies out, one connection at a time."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, unquote, urlsplit

from tallystick.provider_answers.reply import RefusedError, Reply, Request

__all__ = ["Connection"]

BODY_BYTES_MAX = 32 * 1024 * 1024


class Connection:
    """One client's connection: requests are read from it and replies written to it, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read_request(self) -> Request | None:
        """Return the next request, or None where the client has closed. What cannot be read arrives as a `problem`."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            return _unreadable("GET", "/", 431, "The headers are too large.")
        request_line, *header_lines = head.decode("latin-1").strip().split("\r\n")
        method, _, rest = request_line.partition(" ")
        target = urlsplit(rest.partition(" ")[0])
        headers = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in header_lines)}
        path = unquote(target.path)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            return _unreadable(method, path, 411, "Send the body with a content-length.")
        if int(length) > BODY_BYTES_MAX:
            return _unreadable(method, path, 413, "The body is too large.")
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(
            method=method,
            path=path,
            query={name: values[-1] for name, values in parse_qs(target.query).items()},
            headers=headers,
            body=await self._reader.readexactly(int(length)),
            closes=headers.get("connection", "").lower() == "close",
        )

    async def send(self, reply: Reply) -> None:
        await self.begin(reply)
        await self.finish(reply)

    async def begin(self, reply: Reply) -> None:
        self.raise_if_gone()
        if reply.is_stream:
            await self._write(reply.head())

    async def send_event(self, chunk: bytes) -> None:
        self.raise_if_gone()
        await self._write(_framed(chunk))

    async def finish(self, reply: Reply) -> None:
        last = reply.chunks[-1]
        await self._write(_framed(last) + _framed(b"") if reply.is_stream else reply.head() + last)

    def raise_if_gone(self) -> None:
        if self._writer.is_closing() or self._reader.at_eof():
            raise ConnectionResetError

    def close(self) -> None:
        self._writer.close()

    async def _write(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()


def _unreadable(method: str, path: str, status: int, message: str) -> Request:
    return Request(method, path, query={}, headers={}, closes=True, problem=RefusedError(status, message))


def _framed(chunk: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)
