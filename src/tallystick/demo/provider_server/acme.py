"""Acme, a home-made provider: it rewrites texts, and bills characters."""

from __future__ import annotations

import re

from tallystick.provider_answers.answer import compose, encoded
from tallystick.provider_answers.call import Call, JsonObject, tokens_of
from tallystick.provider_answers.endpoint import Endpoint, Provider
from tallystick.provider_answers.reply import RefusedError, Reply

__all__ = ["ACME", "ENDPOINTS"]


def _acme_error(status: int, message: str) -> JsonObject:
    code = {401: "key_missing", 404: "no_such_thing", 429: "too_many_requests"}.get(
        status, "acme_failed" if status >= 500 else "request_not_understood"
    )
    return {"problem": {"code": code, "detail": message}}


def _acme_rewrite(call: Call) -> Reply:
    """Rewrite a text. This provider knows no tokens: it bills characters, in a shape of its own."""
    text = call.required("text")
    if not isinstance(text, str):
        raise RefusedError(400, "`text` must be a string.")
    rewritten = compose(call, input_tokens=tokens_of(len(text)), tokens_max=None).text
    body = {
        "id": call.identifier("rw_"),
        "model": call.model or "acme-rewrite-1",
        "rewritten": rewritten,
        "billing": {"characters_in": len(text), "characters_out": len(rewritten)},
    }
    return Reply((encoded(body),), input_quantity=len(text), output_quantity=len(rewritten))


ACME = Provider("acme", _acme_error, key_headers=("authorization",))
ENDPOINTS = (Endpoint(ACME, "rewrite", re.compile(r"/acme/v1/rewrite"), _acme_rewrite, unit="characters"),)
