"""Real response bodies, which are kept beside the repository and not in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def shared_bodies() -> list[dict[str, Any]]:
    """Return the bodies of the shared data, or none where it is not present."""
    path = _shared_folder() / "provider_usage_bodies.json"
    if not path.is_file():
        return []
    bodies: list[dict[str, Any]] = json.loads(path.read_text())
    return bodies


def _shared_folder() -> Path:
    stated = os.environ.get("TALLYSTICK_SHARED")
    if stated:
        return Path(stated) / "data"
    found = (parent / "shared" / "data" for parent in Path(__file__).resolve().parents)
    return next((folder for folder in found if folder.is_dir()), Path("shared/data"))


def origin(entry: dict[str, Any]) -> tuple[str, str]:
    """Return the provider that a body came from, and the flavour of its API."""
    body, usage = entry["body"], entry["body"].get("usage", {})
    if "usageMetadata" in body:
        return "google", "default"
    if "meta" in body:
        return "cohere", "embeddings"
    if "billed_units" in usage:
        return "cohere", "default"
    if "inputTokens" in usage:
        return "aws", "default"
    if "prompt_tokens" not in usage:
        return ("anthropic", "default") if "claude" in body.get("model", "") else ("openai", "responses")
    named = body["file"].lower()
    for provider, flavour in (
        ("groq", "default"),
        ("mistral", "default"),
        ("openrouter", "chat"),
        ("cerebras", "chat"),
    ):
        if provider in named:
            return provider, flavour
    for provider in ("deepseek", "zai"):
        if f"test_{provider}" in named:
            return provider, "chat"
    return "openai", "chat" if "completion_tokens" in usage else "embeddings"


def expected_usage(entry: dict[str, Any]) -> dict[str, int]:
    """Return the usage of the group that lists the provider of origin."""
    provider, flavour = origin(entry)
    for group in entry["extracted"]:
        if any((found["provider_id"], found["api_flavor"]) == (provider, flavour) for found in group["extractors"]):
            return {key: value for key, value in group["usage"].items() if value}
    raise LookupError(f"no group of {entry['body']['file']} lists {provider} {flavour}")
