"""Usage of Mistral's document reading; its chat has the shape of chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.providers.body import Body, count_of, reported_usage

if TYPE_CHECKING:
    from decimal import Decimal

    from tallystick.providers.usage import ProviderUsage

__all__ = ["read_pages"]


def read_pages(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read Mistral's document reading, which is charged by the page."""
    pages = count_of(usage.get("pages_processed"))
    counts: dict[str, int | Decimal] = {"input_document_pages": pages}
    if body.get("document_annotation"):
        counts["input_annotated_document_pages"] = pages
    return reported_usage(body, 0, 0, {}, counts)
