"""All endpoints of all providers, and who answers where there is none."""

from __future__ import annotations

from tallystick.demo.provider_server import acme
from tallystick.demo.provider_server.acme import ACME
from tallystick.provider_answers import anthropic, gemini, mistral, openai
from tallystick.provider_answers.anthropic import ANTHROPIC
from tallystick.provider_answers.endpoint import Endpoint, Provider
from tallystick.provider_answers.gemini import GEMINI
from tallystick.provider_answers.mistral import MISTRAL
from tallystick.provider_answers.openai import OPENAI

__all__ = ["ENDPOINTS", "provider_for"]

ENDPOINTS: tuple[Endpoint, ...] = (
    *openai.ENDPOINTS,
    *anthropic.ENDPOINTS,
    *gemini.ENDPOINTS,
    *mistral.ENDPOINTS,
    *acme.ENDPOINTS,
)


def provider_for(path: str) -> Provider:
    """Return whose error shape answers a path that no endpoint has."""
    beginnings = {
        "/v1/messages": ANTHROPIC,
        "/v1/models/": GEMINI,
        "/v1beta/": GEMINI,
        "/mistral/": MISTRAL,
        "/acme/": ACME,
    }
    return next((provider for start, provider in beginnings.items() if path.startswith(start)), OPENAI)
