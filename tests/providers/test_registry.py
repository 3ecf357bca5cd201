"""Providers by name: those of the application, and all others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tallystick.errors import ConfigurationError, ProviderError
from tallystick.money import Money
from tallystick.providers import Provider, Providers, ProviderUsage, StreamUsage
from tests.providers.custom import Broken, CustomProvider, NoProvider, Wrong

CHAT = {"model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}


@pytest.mark.parametrize(
    "source",
    [
        "tests.providers.custom:CustomProvider",
        "tests.providers.custom.CustomProvider",
        CustomProvider,
        CustomProvider(),
    ],
)
def test_a_custom_provider_is_loaded_from_its_path_its_class_or_itself(source: Any) -> None:
    providers = Providers({"Custom": source})

    usage = providers.extract(SimpleNamespace(input_tokens=1500, output_tokens=500), "custom")

    assert usage == ProviderUsage(1500, 500, input_cost=Money("0.0015"), output_cost=Money("0.001"))
    assert usage is not None
    assert usage.total_cost == Money("0.0025")
    assert isinstance(providers.get("CUSTOM"), CustomProvider)


def test_a_custom_provider_may_find_no_usage() -> None:
    assert Providers({"custom": CustomProvider}).extract(None, "custom") is None


def test_a_provider_that_was_not_registered_is_read_by_shape() -> None:
    providers = Providers({"custom": CustomProvider})

    assert providers.extract(CHAT, "somebody") == ProviderUsage(1, 2, model="m")
    assert providers.get("somebody").extract(CHAT) == ProviderUsage(1, 2, model="m")
    assert isinstance(providers.get("somebody"), Provider)
    assert providers.get("somebody").name == "somebody"


def test_a_custom_provider_may_read_its_own_streams_and_estimate_requests() -> None:
    providers = Providers({"custom": CustomProvider, "wrong": Wrong})
    stream = providers.stream("custom")
    for chunk in ("a", "b", ""):
        stream.feed(chunk)

    assert stream.usage() == ProviderUsage(0, 2, estimated=True)
    assert providers.estimate("custom", {"prompt": "x" * 40}) == 10
    assert isinstance(providers.stream("wrong"), StreamUsage)
    assert isinstance(providers.stream("openai"), StreamUsage)
    assert providers.estimate("wrong", {}) is None
    assert providers.estimate("openai", {}) is None


def test_a_custom_provider_that_fails_is_named() -> None:
    providers = Providers({"broken": Broken, "wrong": Wrong})

    with pytest.raises(ProviderError, match="'broken' failed to read a response: KeyError"):
        providers.extract("x", "broken")
    with pytest.raises(ProviderError, match="'wrong' returned dict"):
        providers.extract("x", "wrong")


@pytest.mark.parametrize(
    "source",
    [
        "tests.providers.custom:Nothing",
        "tests.providers.nowhere:CustomProvider",
        "CustomProvider",
        "",
        NoProvider,
        NoProvider(),
        "tests.providers.custom:NoProvider",
        "tests.providers.custom:NeedsMore",
    ],
)
def test_a_class_that_is_no_provider_is_a_configuration_error(source: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Providers({"mine": source})

    assert refused.value.field == "providers.mine.class"
