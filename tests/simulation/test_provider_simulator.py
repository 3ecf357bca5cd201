"""A provider without a network answers as the real ones do: with the counts, delays and failures that one wants."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import InvalidInput, LimitExceeded
from tallystick.events import HoldExpired
from tallystick.testing import ProviderSimulator, SimulatedProviderError

MODELS = [
    ("openai", "gpt-4o-mini", None),
    ("openai", "gpt-4o-mini", "responses"),
    ("openai", "gpt-5-mini", None),
    ("anthropic", "claude-haiku-4-5", None),
    ("google", "gemini-2.5-flash", None),
    ("google", "gemini-2.0-flash", None),
    ("mistral", "mistral-small-latest", None),
]


@pytest.fixture
def ts(sqlite_url: str, clock: FixedClock) -> Any:
    with Tallystick(sqlite_url, clock=clock) as engine:
        yield engine


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("provider", "model", "endpoint"), MODELS)
def test_each_provider_is_metered_with_exactly_the_tokens_that_were_stated(
    ts: Tallystick, provider: str, model: str, endpoint: str | None, stream: bool
) -> None:
    simulator = ProviderSimulator()
    meter = ts.meter.billable("user:1").using_provider(provider, model)
    result = meter.call(
        lambda: simulator.call(model, endpoint=endpoint, input_tokens=3000, output_tokens=250, stream=stream)
    )
    if stream:
        assert len(list(result.response)) > 2
    assert (result.usage.input_tokens, result.usage.output_tokens) == (3000, 250)
    assert result.usage.total_cost is not None
    served = simulator.requests[0]
    assert (served.provider, served.model, served.is_stream, served.status) == (provider, model, stream, 200)
    assert (served.input_tokens, served.output_tokens) == (3000, 250)


@pytest.mark.parametrize(("provider", "model", "endpoint"), [one for one in MODELS if one[0] != "mistral"])
def test_tokens_of_the_cache_cost_less(ts: Tallystick, provider: str, model: str, endpoint: str | None) -> None:
    simulator = ProviderSimulator(cached_tokens=1024, input_tokens=3000, output_tokens=10)
    meter = ts.meter.billable("user:1").using_provider(provider, model)
    cached = meter.call(lambda: simulator.call(model, endpoint=endpoint))
    fresh = meter.call(lambda: simulator.call(model, endpoint=endpoint, cached_tokens=0))
    assert cached.usage.input_tokens == fresh.usage.input_tokens == 3000
    assert cached.usage.classes["cached_input"] == 1024
    assert cached.usage.total_cost is not None
    assert fresh.usage.total_cost is not None
    assert cached.usage.total_cost < fresh.usage.total_cost


def test_embeddings_have_an_input_alone(ts: Tallystick) -> None:
    simulator = ProviderSimulator()
    meter = ts.meter.billable("user:1").using_provider("openai", "text-embedding-3-small")
    result = meter.call(lambda: simulator.call("text-embedding-3-small", endpoint="embeddings", input_tokens=12))
    assert (result.usage.input_tokens, result.usage.output_tokens) == (12, 0)


def test_the_same_seed_draws_the_same_numbers() -> None:
    def counts(seed: int) -> list[tuple[int, int]]:
        simulator = ProviderSimulator(input_tokens=(200, 800), output_tokens=(0, 90), seed=seed)
        for _ in range(50):
            simulator.call()
        return [(one.input_tokens, one.output_tokens) for one in simulator.requests]

    def answers() -> list[Any]:
        simulator = ProviderSimulator()
        return [*(simulator.call() for _ in range(3)), *simulator.call("gemini-2.5-flash", stream=True)]

    assert answers() == answers()
    assert len({answer["usage"]["completion_tokens"] for answer in answers()[:3]}) > 1

    assert counts(7) == counts(7)
    assert counts(7) != counts(8)
    inputs, outputs = zip(*counts(7), strict=True)
    assert 200 <= min(inputs) < 300
    assert 700 < max(inputs) <= 800
    assert 0 <= min(outputs) < max(outputs) <= 90


def test_messages_are_counted_where_nothing_is_stated() -> None:
    simulator = ProviderSimulator()
    short = simulator.call(messages=[{"role": "user", "content": "Hello"}])
    long = simulator.call(messages=[{"role": "user", "content": "Hello " * 400}])
    assert short["usage"]["prompt_tokens"] < 10
    assert 590 < long["usage"]["prompt_tokens"] < 610
    assert long["usage"]["completion_tokens"] > short["usage"]["completion_tokens"] > 0


def test_a_client_can_be_wrapped(ts: Tallystick) -> None:
    simulator = ProviderSimulator(input_tokens=100, output_tokens=20)
    messages = [{"role": "user", "content": "Hello"}]
    openai = ts.wrap(simulator, billable="user:1", provider="openai")
    openai.chat.completions.create(model="gpt-4o-mini", messages=messages)
    list(openai.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True))
    openai.responses.create(model="gpt-4o-mini", input="Hello")
    openai.embeddings.create(model="text-embedding-3-small", input="Hello")
    anthropic = ts.wrap(simulator, billable="user:1", provider="anthropic")
    anthropic.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=messages)
    google = ts.wrap(simulator, billable="user:1", provider="google")
    google.models.generate_content(model="gemini-2.5-flash", contents="Hello")
    list(google.models.generate_content_stream(model="gemini-2.5-flash", contents="Hello"))
    assert [event.usage.total_tokens for event in ts.usage.events()] == [120, 120, 120, 100, 120, 120, 120]
    assert {event.provider for event in ts.usage.events()} == {"openai", "anthropic", "google"}


def test_a_stream_of_openai_tells_its_usage_only_where_it_is_asked_to() -> None:
    simulator = ProviderSimulator()
    create = simulator.chat.completions.create
    silent = list(create(model="gpt-4o-mini", stream=True, stream_options={"include_usage": False}))
    assert not any(event.get("usage") for event in silent)
    assert any(event.get("usage") for event in create(model="gpt-4o-mini", stream=True))


def test_failures_come_as_they_were_told_and_release_what_was_held(ts: Tallystick) -> None:
    simulator = ProviderSimulator(output_tokens=10)
    meter = ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini")
    simulator.fail_next(429, count=2)
    simulator.fail_next(503)
    for code in ("rate_limit_exceeded", "rate_limit_exceeded", None):
        with pytest.raises(SimulatedProviderError) as caught:
            meter.call(simulator.call)
        assert caught.value.body["error"]["code"] == code
    assert caught.value.status_code == 503
    meter.call(simulator.call)
    assert (simulator.calls, [one.status for one in simulator.requests]) == (4, [429, 429, 503, 200])
    assert len(ts.usage.events()) == 1
    assert ts.limits.check("user:1").tokens_held == 0


def test_a_share_of_the_calls_fails() -> None:
    simulator = ProviderSimulator(failure_rate=0.2, failure_status=529)
    refusals: list[SimulatedProviderError] = []
    for _ in range(500):
        try:
            simulator.call("claude-haiku-4-5")
        except SimulatedProviderError as error:
            refusals.append(error)
    assert {(one.status_code, one.body["error"]["type"]) for one in refusals} == {(529, "overloaded_error")}
    failed = [one for one in simulator.requests if one.status == 529]
    assert 70 < len(failed) < 130
    assert all(one.output_tokens == 0 for one in failed)


def test_a_stream_breaks_off_where_it_was_told_to(ts: Tallystick) -> None:
    simulator = ProviderSimulator(input_tokens=100, output_tokens=100)
    simulator.fail_next(500, after_chunks=3)
    meter = ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini").expecting(200)
    events: list[Any] = []
    with pytest.raises(SimulatedProviderError, match="broke off"):
        events.extend(meter.call(lambda: simulator.call(stream=True)).response)
    # What was used until then is not known: it is estimated, and nothing stays held.
    assert [event.usage.estimated for event in ts.usage.events()] == [True]
    assert ts.limits.check("user:1").tokens_held == 0


def test_delays_pass_on_the_clock_and_nobody_waits(ts: Tallystick, clock: FixedClock) -> None:
    simulator = ProviderSimulator(clock=clock, delay_seconds=(30, 60), chunk_seconds=1)
    before = clock.now()
    simulator.call()
    assert 30 <= (clock.now() - before).total_seconds() <= 60
    started = clock.now()
    events = list(simulator.call(stream=True))
    assert (clock.now() - started).total_seconds() >= 30 + len(events)


def test_a_call_that_takes_too_long_comes_back_late(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("free", monthly_token_limit=10_000, overage_behavior="block")
    ts.subscriptions.create("user:1", "free")
    expired: list[HoldExpired] = []
    ts.on(HoldExpired)(expired.append)
    simulator = ProviderSimulator(clock=clock, delay_seconds=3600, input_tokens=100, output_tokens=50)

    def slow() -> Any:
        answer = simulator.call()
        ts.run_due_jobs()
        return answer

    result = ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini").estimate(tokens=500).call(slow)
    assert (result.usage.total_tokens, len(expired)) == (150, 1)


def test_a_refused_call_never_reaches_the_provider(ts: Tallystick) -> None:
    ts.plans.create("free", monthly_token_limit=100, overage_behavior="block")
    ts.subscriptions.create("user:1", "free")
    simulator = ProviderSimulator()
    with pytest.raises(LimitExceeded):
        ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini").estimate(tokens=500).call(simulator.call)
    assert simulator.calls == 0


def test_threads_share_a_simulator() -> None:
    simulator = ProviderSimulator(output_tokens=(10, 99), failure_rate=0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: simulator.call(), range(400)))
    assert sorted(one.number for one in simulator.requests) == list(range(1, 401))


def test_asynchronous_calls_and_streams_are_answered_too(sqlite_url: str) -> None:
    async def ask() -> tuple[int, int]:
        simulator = ProviderSimulator(input_tokens=10, output_tokens=5)
        async with AsyncTallystick(sqlite_url) as ts:
            meter = ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini")
            plain = await meter.call(lambda: simulator.acall("gpt-4o-mini"))
            streamed = await meter.call(lambda: simulator.acall("gpt-4o-mini", stream=True))
            _ = [event async for event in streamed.response]
            return plain.usage.total_tokens, streamed.usage.total_tokens

    assert asyncio.run(ask()) == (15, 15)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"input_tokens": -1}, "input_tokens"),
        ({"output_tokens": (9, 3)}, "output_tokens"),
        ({"failure_rate": 1.5}, "failure_rate"),
        ({"failure_status": 200}, "failure_status"),
        ({"delay_seconds": 3}, "clock"),
    ],
)
def test_arguments_out_of_their_range_are_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ProviderSimulator(**arguments)
    assert caught.value.field == field


def test_an_endpoint_that_does_not_exist_is_refused_with_those_that_do() -> None:
    simulator = ProviderSimulator()
    with pytest.raises(InvalidInput, match="openai responses"):
        simulator.call("claude-haiku-4-5", endpoint="responses")
    with pytest.raises(InvalidInput, match="anthropic messages"):
        simulator.call(provider="acme")
    with pytest.raises(InvalidInput):
        simulator.fail_next(200)
    assert simulator.calls == 0
