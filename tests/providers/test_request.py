"""What a request asks for, read from its keyword arguments."""

from __future__ import annotations

from typing import Any

import pytest
from google.genai.types import GenerateContentConfig

from tallystick.providers import requested_model, requested_output_tokens


@pytest.mark.parametrize(
    ("kwargs", "tokens"),
    [
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 200, "max_tokens": 100}, 200),
        ({"max_output_tokens": 300}, 300),
        ({"config": {"max_output_tokens": 400}}, 400),
        ({"config": {"maxOutputTokens": 400}}, 400),
        ({"config": GenerateContentConfig(max_output_tokens=500)}, 500),
        ({"generationConfig": {"maxOutputTokens": 600}}, 600),
        ({"inferenceConfig": {"maxTokens": 700}}, 700),
        ({"options": {"num_predict": 800}}, 800),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"config": GenerateContentConfig(max_output_tokens=50, candidate_count=2)}, 100),
        ({"max_tokens": None}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": "many"}, None),
        ({"n": 3}, None),
        ({"config": None, "messages": []}, None),
        ({}, None),
    ],
)
def test_the_most_output_a_request_allows(kwargs: dict[str, Any], tokens: int | None) -> None:
    assert requested_output_tokens(kwargs) == tokens


@pytest.mark.parametrize(
    ("kwargs", "model"),
    [
        ({"model": "gpt-4o"}, "gpt-4o"),
        ({"modelId": "amazon.nova-lite-v1:0"}, "amazon.nova-lite-v1:0"),
        ({"model": None, "model_id": "m"}, "m"),
        ({"model": 5}, None),
        ({}, None),
    ],
)
def test_the_model_a_request_names(kwargs: dict[str, Any], model: str | None) -> None:
    assert requested_model(kwargs) == model
