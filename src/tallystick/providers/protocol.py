"""What an application implements for a provider of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tallystick.providers.usage import ProviderUsage

__all__ = ["Provider", "UsageStream"]


@runtime_checkable
class Provider(Protocol):
    """A provider: its name, and how to read what a response used.

    ```python
    class CustomProvider:
        name = "custom"

        def extract(self, response) -> ProviderUsage | None:
            return ProviderUsage(
                input_tokens=response.input_tokens,
                output_tokens=response.output_tokens,
                input_cost=Money("0.001") * response.input_tokens * Decimal("0.001"),
                output_cost=Money("0.002") * response.output_tokens * Decimal("0.001"),
            )
    ```

    A usage that states its cost is charged at that cost; one that does not is priced like any other. Two more methods
    are used where they exist: `stream() -> UsageStream` for chunks that are not of a common shape, and
    `estimate(request: Mapping) -> int | None`, the tokens that a request may use, asked before the call.
    """

    name: str

    def extract(self, response: object) -> ProviderUsage | None:
        """Return what a response used, or None when it carries no usage."""
        ...


class UsageStream(Protocol):
    """Collects the usage of a stream: fed with every chunk, then asked."""

    def feed(self, chunk: object) -> None:
        """Take note of one chunk."""
        ...

    def usage(self) -> ProviderUsage | None:
        """Return what the chunks so far reported, or None."""
        ...
