"""Settings of usage: what is logged as used, what may be stored with it, and how a use is logged only once."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from tallystick.settings.values import Frozen, Group, Name, Separated, Whole

__all__ = ["IdempotencySettings", "MetadataSettings", "ResourceTypeSettings", "UsageSettings"]


class MetadataSettings(Group):
    """What an application may store with a usage event."""

    max_bytes: Whole = Field(default=4096, ge=0, le=1_048_576, description="Size of an event's metadata as JSON")
    max_keys: Whole = Field(default=50, ge=0, le=10_000, description="Number of keys in an event's metadata")
    redact: Annotated[tuple[Name, ...], Separated] = Field(
        default=(
            "access_token",
            "api_key",
            "apikey",
            "authorization",
            "client_secret",
            "cookie",
            "credentials",
            "password",
            "private_key",
            "refresh_token",
            "secret",
            "token",
        ),
        description="Keys, in any case, whose values are never stored; a list given replaces this one",
    )


class IdempotencySettings(Group):
    """How a second caller with the same key is treated while the first is at work."""

    wait_seconds: Whole = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds that a call waits for another with its idempotency key to finish",
    )


class ResourceTypeSettings(Group):
    """What a resource type is counted in."""

    unit: Annotated[str, Field(min_length=1, max_length=50)] = Field(
        default="unit", description='What one of it is called, such as "minute"'
    )
    fractions: bool = Field(default=False, description="Whether parts of a unit are recorded, such as 0.5")


# They take parts of a unit: of files some count the number and some the size, and so with the others.
_BUILT_IN_RESOURCE_TYPES = {
    name: ResourceTypeSettings(unit=unit, fractions=True)
    for name, unit in {
        "message": "message",
        "completion": "completion",
        "file_upload": "file",
        "file_storage": "GB",
        "vector_query": "query",
        "tool_call": "call",
        "embedding": "embedding",
    }.items()
}


class UsageSettings(Group):
    """What is logged as used, and until when."""

    resource_types: Frozen[str, ResourceTypeSettings] = Field(default_factory=lambda: MappingProxyType({}))
    strict_resource_types: bool = Field(
        default=False,
        description="Refuse a resource type that is neither built in nor registered, such as a misspelt one",
    )
    late_event_days: Annotated[Whole, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="Days after which a use can no longer be logged late; none: however old it is"
    )

    def resource_type(self, name: str) -> ResourceTypeSettings | None:
        """Return what is known of a resource type: as it is registered, else as it is built in, else nothing."""
        return self.resource_types.get(name) or _BUILT_IN_RESOURCE_TYPES.get(name)

    @property
    def known_resource_types(self) -> tuple[str, ...]:
        """The names of all resource types that are known, the built-in ones first."""
        return tuple(dict.fromkeys((*_BUILT_IN_RESOURCE_TYPES, *self.resource_types)))
