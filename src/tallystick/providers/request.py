"""Reading a request's keyword arguments: which model it asks for, and how much output at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tallystick.providers.body import Body, count_of, fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["requested_model", "requested_output_tokens"]

_LIMITS = (
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "maxOutputTokens",
    "maxTokens",
    "max_new_tokens",
    "num_predict",
)
_NESTED = ("config", "generation_config", "generationConfig", "inferenceConfig", "extra_body", "options")
_ANSWERS = ("n", "candidate_count", "candidateCount")
_MODELS = ("model", "modelId", "model_id", "model_name", "azure_deployment")


def requested_output_tokens(kwargs: Mapping[str, Any]) -> int | None:
    """Return the most output tokens that a request allows, over all the answers it asks for; None when it sets none.

    Reads the limit of every provider's SDK, at the top (`max_tokens`) or in a configuration (`config`,
    `inferenceConfig`, `generationConfig`), which may be an object or a dict.
    """
    sources = [kwargs, *(fields for name in _NESTED if (fields := fields_of(kwargs.get(name))))]
    limit = _first_count(sources, _LIMITS)
    if limit is None:
        return None
    return limit * (_first_count(sources, _ANSWERS) or 1)


def requested_model(kwargs: Mapping[str, Any]) -> str | None:
    """Return the model that a request names, or None."""
    for name in _MODELS:
        model = kwargs.get(name)
        if isinstance(model, str) and model:
            return model
    return None


def _first_count(sources: list[Body], names: tuple[str, ...]) -> int | None:
    for source in sources:
        for name in names:
            count = count_of(source.get(name))
            if count:
                return count
    return None
