"""OpenAI's models: their list, and which of them reason before they answer."""

from __future__ import annotations

import re

from tallystick.provider_answers.answer import DATED_MODELS, encoded
from tallystick.provider_answers.call import Call
from tallystick.provider_answers.reply import Reply

__all__ = ["REASONING_MODEL", "openai_models", "thinking_tokens_of"]

REASONING_MODEL = re.compile(r"(o\d|gpt-[5-9])(?!.*-chat)")
_THINKING_BLOCKS_OF_EFFORT = {"none": 0, "minimal": 0, "low": 1, "medium": 3, "high": 6, "xhigh": 10}


def thinking_tokens_of(call: Call, effort: object) -> int:
    """Return the hidden reasoning's size, in the blocks of 64 that the service reports. Other models do not reason."""
    if not REASONING_MODEL.match(call.model):
        return 0
    blocks = _THINKING_BLOCKS_OF_EFFORT.get(effort if isinstance(effort, str) else "medium", 3)
    return 64 * (blocks + call.pick("thinking", blocks + 1))


def openai_models() -> Reply:
    names = [*(name for name in DATED_MODELS if name.startswith("gpt")), "text-embedding-3-small"]
    data = [{"id": name, "object": "model", "created": 1_735_689_600, "owned_by": "demo"} for name in names]
    return Reply((encoded({"object": "list", "data": data}),))
