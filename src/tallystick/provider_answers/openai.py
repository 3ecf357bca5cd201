"""OpenAI: its errors, and which endpoint answers what."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tallystick.provider_answers.call import JsonObject
from tallystick.provider_answers.endpoint import Endpoint, Provider
from tallystick.provider_answers.openai_chat import openai_chat
from tallystick.provider_answers.openai_embeddings import openai_embeddings
from tallystick.provider_answers.openai_responses import openai_responses

__all__ = ["ENDPOINTS", "OPENAI"]

_OPENAI_ERRORS: Mapping[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "unknown_url"),
    429: ("requests", "rate_limit_exceeded"),
}


def _openai_error(status: int, message: str) -> JsonObject:
    kind, code = _OPENAI_ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


OPENAI = Provider("openai", _openai_error, key_headers=("authorization",))
ENDPOINTS = (
    Endpoint(OPENAI, "chat.completions", re.compile(r"/v1/chat/completions"), openai_chat),
    Endpoint(OPENAI, "responses", re.compile(r"/v1/responses"), openai_responses),
    Endpoint(OPENAI, "embeddings", re.compile(r"/v1/embeddings"), openai_embeddings),
)
