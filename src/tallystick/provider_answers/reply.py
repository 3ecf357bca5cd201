"""A request as it came in, and the finished answer that goes out: bytes, not yet sent by anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import responses as reason_phrases

__all__ = ["RefusedError", "Reply", "Request"]


class RefusedError(Exception):
    """The provider answers this call with an error of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    closes: bool = False
    problem: RefusedError | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer: one chunk, or one for each event of a stream."""

    chunks: tuple[bytes, ...]
    status: int = 200
    is_stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    input_quantity: int = 0
    output_quantity: int = 0

    def head(self) -> bytes:
        reason = reason_phrases.get(self.status, "Failed")
        headers = {
            "content-type": "text/event-stream; charset=utf-8" if self.is_stream else "application/json",
            "cache-control": "no-store",
            **self.headers,
        }
        if self.is_stream:
            headers["transfer-encoding"] = "chunked"
        else:
            headers["content-length"] = str(len(self.chunks[0]))
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")
