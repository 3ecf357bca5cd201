"""How long reading and pricing a usage takes, beside genai-prices: `python benchmarks/pricing.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import genai_prices

from tallystick.pricing import Pricing
from tallystick.providers import ProviderUsage, StreamUsage

if TYPE_CHECKING:
    from collections.abc import Callable

AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
ROUNDS = 7

OPENAI: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
}
ANTHROPIC: dict[str, Any] = {
    "type": "message",
    "model": "claude-opus-5",
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 2000,
        "cache_creation_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 80,
    },
}


def microseconds(function: Callable[[], object], calls: int) -> float:
    """Return the median time of one call, in µs."""
    function()
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        for _ in range(calls):
            function()
        times.append((perf_counter() - start) / calls * 1e6)
    return median(times)


def genai(body: dict[str, Any], provider: str, flavour: str) -> genai_prices.types.PriceCalculation:
    found = genai_prices.extract_usage(body, provider_id=provider, api_flavor=flavour)
    return found.calc_price(genai_request_timestamp=AT)


def stream_of(chunks: list[dict[str, Any]]) -> ProviderUsage | None:
    stream = StreamUsage("openai")
    for chunk in chunks:
        stream.feed(chunk)
    return stream.usage()


def report(name: str, ours: float, theirs: float | None = None) -> None:
    beside = f"   genai-prices {theirs:7.2f} µs   {theirs / ours:5.1f} times" if theirs is not None else ""
    print(f"{name:44} {ours:7.2f} µs{beside}")


def main() -> None:
    start = perf_counter()
    pricing = Pricing()
    pricing.find("openai", "gpt-4o-mini", AT)
    print(f"{'first price, which loads the data':44} {(perf_counter() - start) * 1e3:7.0f} ms")

    for name, body, provider, flavour in (
        ("openai, some input cached", OPENAI, "openai", "chat"),
        ("anthropic, read from and written to a cache", ANTHROPIC, "anthropic", "default"),
    ):
        usage = pricing.usage(body, provider)
        if usage is None:
            raise RuntimeError(f"{name}: no usage was read")
        model = usage.model
        reading = microseconds(lambda b=body, p=provider: pricing.usage(b, p), 20_000)  # type: ignore[misc]
        costing = microseconds(lambda u=usage, p=provider, m=model: pricing.cost(u, p, m, AT), 20_000)  # type: ignore[misc]
        theirs = microseconds(lambda b=body, p=provider, f=flavour: genai(b, p, f), 1_000)  # type: ignore[misc]
        report(f"{name}: read", reading)
        report(f"{name}: price", costing)
        report(f"{name}: both", reading + costing, theirs)

    plain = ProviderUsage(1200, 300)
    cost = pricing.cost(plain, "openai", "gpt-4o-mini", AT)
    report("a plain usage: price", microseconds(lambda: pricing.cost(plain, "openai", "gpt-4o-mini", AT), 20_000))
    report("its cost as stored JSON", microseconds(cost.to_dict, 20_000))
    report("the bound for a hold", microseconds(lambda: pricing.dearest("openai", "gpt-4o-mini", 1000, AT), 20_000))
    chunk: dict[str, Any] = {**OPENAI, "usage": None, "object": "chat.completion.chunk"}
    chunks = [chunk] * 99 + [OPENAI]
    report("a stream of 100 chunks, for each", microseconds(lambda: stream_of(chunks), 300) / 100)


if __name__ == "__main__":
    main()
