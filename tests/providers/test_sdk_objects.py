"""The objects of the real SDKs, parsed by them from the same bodies."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import Message
from anthropic.types.beta import BetaMessage
from google.genai import types as google_types
from mistralai.client import models as mistral_models
from openai.types import CreateEmbeddingResponse, ImagesResponse
from openai.types.audio import Transcription, TranscriptionVerbose
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from tallystick.providers import extract
from tests.providers.bodies import EXAMPLES

BODIES = {example.name: example.body for example in EXAMPLES}
VERBOSE = {"text": "Hi.", "duration": 4.0, "language": "en"}

OBJECTS = {
    "openai chat": ChatCompletion.model_validate(BODIES["openai chat"]),
    "openai chat with audio": ChatCompletion.construct(**BODIES["openai chat with audio"]),
    "openai embeddings": CreateEmbeddingResponse.model_validate(BODIES["openai embeddings"]),
    "openai responses": Response.construct(**BODIES["openai responses"]),
    "openai images": ImagesResponse.model_validate(BODIES["openai images"]),
    "openai transcription by tokens": Transcription.model_validate(BODIES["openai transcription by tokens"]),
    "openai transcription by seconds": Transcription.model_validate(BODIES["openai transcription by seconds"]),
    "groq verbose transcription": TranscriptionVerbose.model_validate(VERBOSE),
    "deepseek": ChatCompletion.construct(**BODIES["deepseek"]),
    "openrouter": ChatCompletion.construct(**BODIES["openrouter"]),
    "groq": ChatCompletion.construct(**BODIES["groq"]),
    "anthropic": Message.model_validate(BODIES["anthropic"]),
    "anthropic in fast mode": BetaMessage.construct(**BODIES["anthropic in fast mode"]),
    "gemini": google_types.GenerateContentResponse.model_validate(BODIES["gemini"]),
    "mistral": mistral_models.ChatCompletionResponse.model_validate(BODIES["mistral"]),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_sdk_object_is_read_like_its_body(name: str) -> None:
    example = next(example for example in EXAMPLES if example.name == name)

    usage = extract(OBJECTS[name], example.provider)

    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (example.input_tokens, example.output_tokens)
    assert usage.classes == example.classes
    assert usage.counts == example.counts
    assert usage.model == example.model
    assert usage.service_tier == example.service_tier


def answering(body: dict[str, Any]) -> httpx2.MockTransport:
    return httpx2.MockTransport(lambda request: httpx2.Response(200, json=body, request=request))


def test_a_raw_response_of_openai_is_read() -> None:
    client = openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=answering(BODIES["openai chat"])))
    ask: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}

    raw = client.chat.completions.with_raw_response.create(**ask)
    parsed = client.chat.completions.create(**ask)

    assert extract(raw, "openai") == extract(parsed, "openai") == extract(BODIES["openai chat"], "openai")


def test_a_raw_response_of_anthropic_is_read() -> None:
    client = anthropic.Anthropic(api_key="k", http_client=httpx2.Client(transport=answering(BODIES["anthropic"])))
    ask: dict[str, Any] = {
        "model": "claude-opus-5",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "Hello"}],
    }

    raw = client.messages.with_raw_response.create(**ask)

    assert extract(raw, "anthropic") == extract(BODIES["anthropic"], "anthropic")


def test_a_long_response_is_not_dumped_to_be_read() -> None:
    class Watched(ChatCompletion):
        def model_dump(self, *_: object, **__: object) -> dict[str, Any]:
            raise AssertionError("dumped")

    body = json.loads(json.dumps(BODIES["openai chat"]))

    assert extract(Watched.model_validate(body), "openai") == extract(body, "openai")
