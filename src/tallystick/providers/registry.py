"""The providers of an application by name: its own ones, and every other through the shapes of their responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tallystick.errors import ConfigurationError, ProviderError
from tallystick.named_imports import import_named
from tallystick.providers.extraction import extract
from tallystick.providers.streams import StreamUsage
from tallystick.providers.usage import ProviderUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tallystick.providers.protocol import Provider, UsageStream

__all__ = ["Providers", "load_provider"]


@dataclass(slots=True)
class _ByShape:
    """A provider whose responses are read by their shape."""

    name: str

    def extract(self, response: object) -> ProviderUsage | None:
        return extract(response, self.name)

    def stream(self) -> StreamUsage:
        return StreamUsage(self.name)


class Providers:
    """The providers by name, in any case. A custom one is an instance, a class, or the path of a class.

    Raises:
        ConfigurationError: for a path that cannot be imported and an object without `extract`.
    """

    def __init__(self, custom: Mapping[str, str | Provider | type] | None = None) -> None:
        self._providers: dict[str, Provider] = {
            name.lower(): load_provider(name, source) for name, source in (custom or {}).items()
        }

    def get(self, name: str) -> Provider:
        """Return the provider of that name; one that was not registered is read by the shape of its responses."""
        return self._providers.get(name.lower()) or _ByShape(name)

    def is_custom(self, name: str) -> bool:
        """Say whether the application registered this provider itself."""
        return name.lower() in self._providers

    def extract(self, response: object, provider: str, model: str | None = None) -> ProviderUsage | None:
        """Return what a response used, or None when it carries no usage.

        Raises:
            ProviderError: when a custom provider fails, or returns something else than a usage.
        """
        custom = self._providers.get(provider.lower()) if self._providers else None
        if custom is None:
            return extract(response, provider, model)
        try:
            usage = custom.extract(response)
        except Exception as error:
            raise ProviderError(f"Provider {provider!r} failed to read a response: {error!r}") from error
        return _require_usage(provider, usage)

    def stream(self, provider: str, model: str | None = None) -> UsageStream:
        """Return a collector for the chunks of one stream of this provider."""
        stream = getattr(self._providers.get(provider.lower()), "stream", None)
        collector: UsageStream = stream() if callable(stream) else StreamUsage(provider, model)
        return collector

    def estimate(self, provider: str, request: Mapping[str, Any]) -> int | None:
        """Return the tokens that a request may use as its custom provider estimates them, or None."""
        estimate = getattr(self._providers.get(provider.lower()), "estimate", None)
        tokens = estimate(request) if callable(estimate) else None
        return tokens if type(tokens) is int and tokens >= 0 else None


def load_provider(name: str, source: str | Provider | type) -> Provider:
    """Return the provider that a setting names: "package.module:Class", "package.module.Class", a class, an instance.

    Raises:
        ConfigurationError: when it cannot be imported, or has no `extract`.
    """
    loaded: Any = import_named(f"providers.{name}.class", source) if isinstance(source, str) else source
    try:
        provider: Any = loaded() if isinstance(loaded, type) else loaded
    except TypeError as error:
        raise ConfigurationError(
            f"providers.{name}.class", source, f"A provider's class is made without arguments ({error})."
        ) from error
    if not callable(getattr(provider, "extract", None)):
        raise ConfigurationError(
            f"providers.{name}.class", source, "A provider has a method extract(response) -> ProviderUsage | None."
        )
    checked: Provider = provider
    return checked


def _require_usage(provider: str, usage: object) -> ProviderUsage | None:
    if usage is None or isinstance(usage, ProviderUsage):
        return usage
    raise ProviderError(
        f"Provider {provider!r} returned {type(usage).__name__} from extract; return a ProviderUsage or None."
    )
