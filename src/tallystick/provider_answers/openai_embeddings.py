"""OpenAI's embeddings."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct

from tallystick.provider_answers.answer import encoded
from tallystick.provider_answers.call import Call, tokens_of
from tallystick.provider_answers.reply import RefusedError, Reply

__all__ = ["openai_embeddings"]

_EMBEDDING_DIMENSIONS = {"text-embedding-3-large": 3072, "mistral-embed": 1024}


def openai_embeddings(call: Call) -> Reply:
    model = call.required("model")
    given = call.required("input")
    # One text and one list of token ids are each a single input.
    inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    if not all(isinstance(item, str | list) for item in inputs):
        raise RefusedError(400, "`input` must be a text, a list of texts, or one or several lists of token ids.")
    dimensions = call.count("dimensions") or _EMBEDDING_DIMENSIONS.get(call.model, 1536)
    vectors = [_vector(call, item, dimensions) for item in inputs]
    as_base64 = call.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(max(1, tokens_of(len(item))) if isinstance(item, str) else len(item) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"object": "list", "data": data, "model": model, "usage": usage}
    return Reply((encoded(body),), input_quantity=tokens)


def _vector(call: Call, item: object, dimensions: int) -> list[float]:
    """Return the unit vector that this seed and model always give for the item, whatever else the request holds."""
    source = hashlib.shake_128(json.dumps([call.seed, call.model, item]).encode()).digest(2 * dimensions)
    numbers = struct.unpack(f"<{dimensions}h", source)
    length = math.hypot(*numbers) or 1.0
    return [number / length for number in numbers]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
