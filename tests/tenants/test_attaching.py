"""Attaching what was there before its tenant: first as a preview, then for good, and any number of times."""

from __future__ import annotations

from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import NotFound

QUOTAS: dict[str, Any] = {"tenants": {"default_quotas": {"message": {"monthly": 10000}, "embedding": {"daily": 5}}}}


def use_before_tenants(ts: Tallystick) -> None:
    for _ in range(3):
        ts.usage.log("user:1", "message")
    ts.usage.log("agent:7", "message", user=1)
    ts.usage.log("user:2", "message", 1)
    ts.usage.record(billable="user:2", tenant="globex", resource_type="message")


def test_without_apply_it_only_says_what_would_be_attached(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        ts.tenants.create("Acme")
        use_before_tenants(ts)
    with Tallystick(database_url, clock=clock, **QUOTAS) as ts:
        planned = ts.tenants.attach("acme", users=[1, 2], billables=["agent:7"])
        assert planned.users == ("user:1", "user:2")
        assert planned.billables == ("agent:7", "user:1", "user:2")
        assert planned.events == 5
        assert [(one.resource_type, one.period, one.limit) for one in planned.quotas] == [
            ("message", "monthly", 10000),
            ("embedding", "daily", 5),
        ]
        assert not planned.applied
        assert ts.tenants.users("acme") == []
        assert ts.quotas.list("acme") == []
        assert len(ts.usage.events(tenant="acme")) == 0


def test_with_apply_it_does_what_it_said(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        ts.tenants.create("Acme")
        use_before_tenants(ts)
    with Tallystick(database_url, clock=clock, **QUOTAS) as ts:
        ts.quotas.set("acme", "message", 7, "monthly")
        before = ts.usage.stats()
        planned = ts.tenants.attach("acme", users=[1], billables=["agent:7"])
        done = ts.tenants.attach("acme", users=[1], billables=["agent:7"], apply=True)
        assert (done.users, done.billables, done.events) == (planned.users, planned.billables, planned.events)
        assert done.applied
        assert [member.user for member in ts.tenants.users("acme")] == ["user:1"]
        assert {event.billable for event in ts.usage.events(tenant="acme")} == {"user:1", "agent:7"}
        assert {(one.resource_type, one.limit) for one in ts.quotas.list("acme")} == {("message", 7), ("embedding", 5)}
        assert ts.usage.stats() == before
        again = ts.tenants.attach("acme", users=[1], billables=["agent:7"], apply=True)
        assert (again.users, again.billables, again.events, again.quotas) == ((), (), 0, ())
        assert ts.doctor().findings == ()


def test_everything_without_a_tenant_is_attached_and_nothing_else(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    use_before_tenants(ts)
    ts.usage.log("globex", "message")
    done = ts.tenants.attach("acme", everything=True, quotas=False, apply=True)
    assert (done.users, done.billables, done.events) == (("user:1", "user:2"), ("agent:7", "user:1", "user:2"), 5)
    assert len(ts.usage.events(tenant="globex")) == 1
    assert [event.tenant for event in ts.usage.events("globex")] == [None]


def test_more_events_than_a_portion_are_all_attached(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    ts.usage.record_batch({"billable": "user:1", "resource_type": "message"} for _ in range(1203))
    assert ts.tenants.attach("acme", users=[1], apply=True).events == 1203
    assert len(ts.usage.events(tenant="acme", limit=2000)) == 1203


def test_a_tenant_that_is_not_there_gets_nothing(ts: Tallystick) -> None:
    with pytest.raises(NotFound, match="tenant"):
        ts.tenants.attach("acme", users=[1])
