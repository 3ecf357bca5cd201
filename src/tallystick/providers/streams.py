"""Collecting the usage of a stream while its chunks pass by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tallystick.providers.body import Body, fields_of
from tallystick.providers.extraction import Found, find_usage, read_usage

if TYPE_CHECKING:
    from tallystick.providers.usage import ProviderUsage

__all__ = ["StreamUsage"]

_BODY_FIELDS = (
    *("model", "modelVersion", "model_version", "id", "responseId", "response_id"),
    *("service_tier", "serviceTier", "output"),
)


class StreamUsage:
    """Feed it every chunk of a stream, in order; `usage()` is what was reported so far.

    Every provider's counts are cumulative, so a later number replaces an earlier one and nothing is ever added up:
    OpenAI and Mistral report once, at the end (OpenAI only with `stream_options={"include_usage": True}`), Gemini in
    every chunk, Anthropic the input at the start and the output at the end. Not for use by two threads at once.
    """

    __slots__ = ("_body", "_is_started_only", "_provider", "_usage")

    def __init__(self, provider: str, model: str | None = None) -> None:
        self._provider = provider
        self._usage: dict[str, Any] = {}
        self._body: dict[str, Any] = {"model": model} if model else {}
        self._is_started_only = False

    def feed(self, chunk: object) -> None:
        """Take note of a chunk, an SDK's object or a dict. A chunk without usage costs next to nothing."""
        fields = fields_of(chunk)
        found = find_usage(fields)
        if found is None:
            return
        self._is_started_only = fields.get("type") == "message_start"
        for name, value in found.usage.items():
            if value is not None:
                self._usage[name] = value
        self._take_body(found.body, fields)

    def usage(self) -> ProviderUsage | None:
        """Return the usage reported so far, or None when there was none.

        A message of Anthropic that broke off before its end reported its input only: that usage is `estimated`.
        """
        if not self._usage:
            return None
        usage = read_usage(Found(self._usage, self._body), self._provider)
        return replace(usage, estimated=True) if usage is not None and self._is_started_only else usage

    def _take_body(self, body: Body, chunk: Body) -> None:
        for name in _BODY_FIELDS:
            value = body.get(name) or chunk.get(name)
            if value:
                self._body[name] = value
        kind = chunk.get("type")
        if isinstance(kind, str) and kind.startswith("message"):
            self._body["type"] = "message"
