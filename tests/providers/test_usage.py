"""The value that says what a call used."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import CurrencyMismatch, InvalidInput
from tallystick.money import Money
from tallystick.providers import ProviderUsage
from tallystick.providers.units import INPUT, OUTPUT, TOKEN_UNITS, UNITS

parts = st.dictionaries(
    st.sampled_from(sorted(set(TOKEN_UNITS) - {"input_tokens", "output_tokens"})), st.integers(0, 5000), max_size=12
)
counted = st.dictionaries(
    st.sampled_from(sorted(set(UNITS) - set(TOKEN_UNITS) - {"requests"})),
    st.integers(1, 5000) | st.decimals(0, 5000, places=3).filter(bool),
    max_size=3,
)
usages = st.builds(
    ProviderUsage,
    st.integers(0, 3000),
    st.integers(0, 3000),
    parts,
    counted,
    st.integers(1, 5),
    estimated=st.booleans(),
    model=st.none() | st.text(max_size=10),
    service_tier=st.sampled_from([None, "batch"]),
    response_id=st.none() | st.text(max_size=10),
)


@given(usages)
def test_the_classes_sum_to_the_total_whatever_was_reported(usage: ProviderUsage) -> None:
    classes = usage.classes

    assert sum(classes.values()) == usage.total_tokens
    assert all(tokens > 0 for tokens in classes.values())
    inputs = sum(tokens for name, tokens in classes.items() if not name.startswith(("output", "reasoning", "citation")))
    assert inputs == usage.input_tokens


@st.composite
def disjoint_usages(draw: st.DrawFn) -> tuple[ProviderUsage, dict[str, int]]:
    """A usage as an exact provider would report it, and the classes that it was made of."""
    classes: dict[str, int] = {}
    reported: dict[str, int] = {}
    for direction in (INPUT, OUTPUT):
        for kind in (direction.plain, *direction.kinds):
            for modality, key in kind.keys.items():
                tokens = draw(st.integers(0, 200)) if modality else 0
                if not tokens:
                    continue
                name = kind.name if modality == "text" else f"{kind.name}_{modality}"
                classes[name] = classes.get(name, 0) + tokens
                for whole, unit in TOKEN_UNITS.items():
                    if unit.contains(TOKEN_UNITS[key]):
                        reported[whole] = reported.get(whole, 0) + tokens
    input_tokens, output_tokens = reported.pop("input_tokens", 0), reported.pop("output_tokens", 0)
    return ProviderUsage(input_tokens, output_tokens, reported), classes


@given(disjoint_usages())
def test_consistent_numbers_are_taken_apart_exactly(made: tuple[ProviderUsage, dict[str, int]]) -> None:
    usage, classes = made

    assert usage.classes == classes


def test_an_unreported_overlap_is_taken_to_be_as_small_as_can_be() -> None:
    apart = ProviderUsage(100, 0, {"cache_read_tokens": 60, "input_audio_tokens": 40})
    overlapping = ProviderUsage(100, 0, {"cache_read_tokens": 80, "input_audio_tokens": 40})

    assert apart.classes == {"cached_input": 60, "input_audio": 40}
    assert overlapping.classes == {"cached_input": 60, "cached_input_audio": 20, "input_audio": 20}


def test_cache_writes_without_a_lifetime_are_a_class_of_their_own() -> None:
    usage = ProviderUsage(100, 0, {"cache_write_tokens": 50, "cache_write_5m_tokens": 20, "cache_write_1h_tokens": 10})

    assert usage.classes == {"cache_write_5m": 20, "cache_write_1h": 10, "cache_write": 20, "input": 50}


def test_of_kinds_that_do_not_fit_the_first_takes_all() -> None:
    kinds = {"cache_read_tokens": 100, "input_tool_tokens": 50, "input_audio_tool_tokens": 50, "input_audio_tokens": 50}

    assert ProviderUsage(100, 0, kinds).classes == {"cached_input": 50, "cached_input_audio": 50}


def test_a_part_without_its_whole_is_kept() -> None:
    assert ProviderUsage(100, 0, {"cache_audio_read_tokens": 30}).classes == {"cached_input_audio": 30, "input": 70}


@given(usages)
def test_a_usage_survives_the_database(usage: ProviderUsage) -> None:
    stored = json.loads(json.dumps(usage.to_dict()))
    restored = ProviderUsage.from_dict(stored)

    assert restored.to_dict() == usage.to_dict()
    assert restored.classes == usage.classes
    assert restored.counts == {key: count for key, count in usage.counts.items() if count}
    assert (restored.requests, restored.estimated) == (usage.requests, usage.estimated)


def test_stored_json_is_compact() -> None:
    usage = ProviderUsage.manual(450, 900, cached_input_tokens=0, counts={"audio_seconds": Decimal("1.5")})

    assert usage.to_dict() == {"input_tokens": 450, "output_tokens": 900, "audio_seconds": "1.5"}
    assert ProviderUsage().to_dict() == {}


def test_stated_costs_survive_the_database() -> None:
    usage = ProviderUsage(1, 2, total_cost=Money("0.000000001", "EUR"))

    assert ProviderUsage.from_dict(usage.to_dict()) == usage


def test_a_unit_of_a_later_version_is_not_lost() -> None:
    restored = ProviderUsage.from_dict({"input_tokens": 5, "holograms": 3})

    assert restored.counts == {"holograms": 3}
    assert restored.to_dict() == {"input_tokens": 5, "holograms": 3}


@given(usages, usages, usages)
def test_adding_is_associative_and_loses_nothing(a: ProviderUsage, b: ProviderUsage, c: ProviderUsage) -> None:
    together = a + b + c

    assert together.to_dict() == (a + (b + c)).to_dict() == sum([a, b, c]).to_dict()  # type: ignore[union-attr]
    assert together.total_tokens == a.total_tokens + b.total_tokens + c.total_tokens
    assert together.requests == a.requests + b.requests + c.requests


def test_adding_adds_stated_costs_and_parts() -> None:
    a = ProviderUsage(10, 5, {"cache_read_tokens": 4}, {"web_searches": 1}, total_cost=Money("1"), model="m")
    b = ProviderUsage(20, 6, {"output_reasoning_tokens": 3}, {"web_searches": 2}, total_cost=Money("2"), model="n")

    assert a + b == ProviderUsage(
        30,
        11,
        {"cache_read_tokens": 4, "output_reasoning_tokens": 3},
        {"web_searches": 3},
        2,
        total_cost=Money("3"),
    )


def test_a_stated_cost_is_not_lost_in_a_sum() -> None:
    with pytest.raises(InvalidInput, match="total_cost"):
        ProviderUsage(1, 1, total_cost=Money("1")) + ProviderUsage(1, 1)


def test_both_costs_make_the_total() -> None:
    usage = ProviderUsage(1, 1, input_cost=Money("0.10"), output_cost=Money("0.20"))

    assert usage.total_cost == Money("0.30")
    assert usage.with_cost(Money("5")).total_cost == Money("5")
    with pytest.raises(CurrencyMismatch):
        ProviderUsage(1, 1, input_cost=Money("0.10"), output_cost=Money("0.20", "EUR"))


def test_manual_usage_names_its_classes() -> None:
    usage = ProviderUsage.manual(
        1000,
        200,
        Money("0.02"),
        cached_input_tokens=300,
        cache_write_5m_tokens=100,
        cache_write_1h_tokens=50,
        reasoning_tokens=150,
        breakdown={"input_audio_tokens": 10},
        counts={"web_searches": 2},
        model="m",
        service_tier="batch",
    )

    assert usage.total_tokens == 1200
    assert usage.classes == {
        "cached_input": 300,
        "cache_write_5m": 100,
        "cache_write_1h": 50,
        "input": 540,
        "input_audio": 10,
        "reasoning": 150,
        "output": 50,
    }
    assert (usage.cached_input_tokens, usage.cache_write_tokens, usage.reasoning_tokens) == (300, 150, 150)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"input_tokens": -1}, "input_tokens"),
        ({"output_tokens": 1.0}, "output_tokens"),
        ({"input_tokens": True}, "input_tokens"),
        ({"input_tokens": "5"}, "input_tokens"),
        ({"input_tokens": 5, "cached_input_tokens": -1}, "cached_input_tokens"),
        ({"input_tokens": 5, "cached_input_tokens": 6}, "cached_input_tokens"),
        ({"input_tokens": 5, "cached_input_tokens": 3, "cache_write_tokens": 3}, "cached_input_tokens"),
        ({"output_tokens": 5, "reasoning_tokens": 6}, "reasoning_tokens"),
        ({"input_tokens": 5, "breakdown": {"input_audio_tokens": 9}}, "input_audio_tokens"),
        ({"input_tokens": 5, "breakdown": {"audio": 9}}, "breakdown"),
        ({"counts": {"searches": 1}}, "counts"),
        ({"counts": {"web_searches": -1}}, "web_searches"),
        ({"counts": {"audio_seconds": Decimal("NaN")}}, "audio_seconds"),
        ({"total_cost": 0.5}, "total_cost"),
        ({"total_cost": Money("-1")}, "total_cost"),
    ],
)
def test_manual_usage_that_makes_no_sense_is_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ProviderUsage.manual(**arguments)

    assert refused.value.field == field


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_tokens": -1},
        {"output_tokens": None},
        {"breakdown": {"cache_read_tokens": -1}},
        {"breakdown": {"cache_read_tokens": 1.5}},
        {"breakdown": {"nothing": 1}},
    ],
)
def test_a_usage_holds_whole_numbers_of_known_units(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        ProviderUsage(**arguments)
