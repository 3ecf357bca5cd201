"""Logging use: resource types and their units, and use that comes late."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import InvalidInput, NotFound

SEVEN = ("message", "completion", "file_upload", "file_storage", "vector_query", "tool_call", "embedding")
MINUTES = {"resource_types": {"minute": {"unit": "minute", "fractions": True}, "seat": {"unit": "seat"}}}


def healthy(ts: Tallystick) -> None:
    assert ts.doctor().findings == ()


def opened(url: str, clock: FixedClock, **usage: Any) -> Tallystick:
    return Tallystick(url, clock=clock, usage=usage)


@pytest.fixture
def strict(database_url: str, clock: FixedClock) -> Iterator[Tallystick]:
    with opened(database_url, clock, strict_resource_types=True, **MINUTES) as ts:
        yield ts


@pytest.mark.parametrize("resource_type", SEVEN)
def test_the_seven_resource_types_are_known(strict: Tallystick, resource_type: str) -> None:
    assert strict.usage.log("acme", resource_type).resource_type == resource_type


def test_a_type_of_ones_own_is_registered_with_its_unit(strict: Tallystick) -> None:
    assert strict.usage.log("acme", "minute", "2.5").quantity == Decimal("2.5")
    assert strict.usage.log("acme", "seat", 3).quantity == 3
    with pytest.raises(InvalidInput, match=r"whole units \(seat\)"):
        strict.usage.log("acme", "seat", "0.5")


def test_a_misspelt_type_is_refused_where_types_are_strict(strict: Tallystick) -> None:
    with pytest.raises(InvalidInput, match=r"usage\.resource_types") as refused:
        strict.usage.log("acme", "mesage")
    assert refused.value.field == "resource_type"
    with pytest.raises(InvalidInput, match=r"usage\.resource_types"):
        strict.quotas.consume("acme", "mesage")
    with pytest.raises(InvalidInput, match=r"usage\.resource_types"):
        strict.meter.resource_type("mesage")
    assert strict.usage.record_batch([{"tenant": "acme", "resource_type": "mesage"}]).rejected[0].index == 0


def test_any_type_will_do_where_they_are_not(ts: Tallystick) -> None:
    assert ts.usage.log("acme", "lines-translated", "0.5").quantity == Decimal("0.5")


@pytest.mark.parametrize("resource_type", SEVEN)
def test_the_built_in_types_take_parts_of_a_unit(ts: Tallystick, resource_type: str) -> None:
    assert ts.usage.log("acme", resource_type, "0.5").quantity == Decimal("0.5")


def test_a_built_in_type_may_be_kept_to_whole_units(database_url: str, clock: FixedClock) -> None:
    with opened(database_url, clock, resource_types={"message": {"unit": "message"}}) as ts:
        assert ts.usage.log("acme", "message", "2.0").quantity == 2
        for wrong in (ts.usage.log, ts.quotas.consume):
            with pytest.raises(InvalidInput, match="whole units") as refused:
                wrong("acme", "message", "0.5")
            assert refused.value.field == "quantity"


@pytest.mark.parametrize("name", ["tokens", "requests", "cost"])
def test_what_is_counted_of_every_call_is_no_resource_type(ts: Tallystick, name: str) -> None:
    with pytest.raises(InvalidInput, match="counted of every call"):
        ts.usage.log("acme", name)
    with pytest.raises(InvalidInput, match="counted of every call"):
        ts.meter.resource_type(name)


def test_use_that_comes_late_counts_when_it_happened(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 10, "monthly")
    late = ts.usage.log("acme", "message", 4, occurred_at="2025-12-31T23:59:59.999999Z")
    assert late.flags == ("backdated",)
    assert ts.usage.log("acme", "message", 1, occurred_at="2026-01-01T00:00:00Z").flags == ()
    assert ts.quotas.check("acme", "message", "monthly").current == 1
    months = ts.usage.time_series("acme", "2025-12-01", "2026-02-01", "month")
    assert [point.totals.quantity for point in months] == [4, 1]
    healthy(ts)


def test_use_is_late_when_its_period_is_over_in_its_own_zone(ts: Tallystick) -> None:
    ts.tenants.create("Acme", timezone="America/Sao_Paulo")
    assert ts.usage.log("acme", "message", occurred_at="2026-01-01T02:59:59Z").flags == ("backdated",)
    assert ts.usage.log("acme", "message", occurred_at="2026-01-01T03:00:00Z").flags == ()


def test_a_batch_flags_what_comes_late(ts: Tallystick) -> None:
    old = {"tenant": "acme", "resource_type": "message", "occurred_at": "2025-11-01T00:00:00Z"}
    (event_id,) = ts.usage.record_batch([old]).event_ids
    assert ts.usage.get(event_id).flags == ("backdated",)


def test_use_older_than_the_setting_allows_is_refused(database_url: str, clock: FixedClock) -> None:
    with opened(database_url, clock, late_event_days=90) as ts:
        assert ts.usage.log("acme", "message", occurred_at="2025-10-17T12:00:00Z").flags == ("backdated",)
        with pytest.raises(InvalidInput, match="for 90 days") as refused:
            ts.usage.log("acme", "message", occurred_at="2025-10-17T11:59:59.999999Z")
        assert refused.value.field == "occurred_at"
        batch = ts.usage.record_batch([{"tenant": "acme", "resource_type": "message", "occurred_at": "2025-01-01"}])
        assert batch.rejected[0].code == "invalid_input"
        assert ts.usage.stats("acme").totals.events == 1


def test_a_tenant_is_named_by_its_id_too(ts: Tallystick) -> None:
    tenant = ts.tenants.create("Acme Corp")
    for name in (tenant.id, "acme-corp", "tenant:acme-corp", tenant):
        assert ts.usage.log(name, "message").billable == "tenant:acme-corp"
    assert ts.usage.stats(tenant.id).totals.events == 4
    with pytest.raises(NotFound, match="tenant"):
        ts.usage.log("ten_" + "0" * 32, "message")
