"""What a call to a provider used: extraction from responses and streams, and the protocol for custom providers."""

from __future__ import annotations

from tallystick.providers.extraction import extract
from tallystick.providers.protocol import Provider, UsageStream
from tallystick.providers.registry import Providers
from tallystick.providers.request import requested_model, requested_output_tokens
from tallystick.providers.streams import StreamUsage
from tallystick.providers.usage import ProviderUsage

__all__ = [
    "Provider",
    "ProviderUsage",
    "Providers",
    "StreamUsage",
    "UsageStream",
    "extract",
    "requested_model",
    "requested_output_tokens",
]
