"""Tenants from their creation to their erasure: names, zones, suspension, members, statistics, shadow mode."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import Conflict, InvalidInput, NotFound, PlanNotFound, QuotaExceeded, TenantSuspended
from tallystick.tenants.tenant import TenantStatus
from tests.values import money

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def healthy(ts: Tallystick) -> None:
    assert ts.doctor().findings == ()


# Creating and changing ------------------------------------------------------------------------------------------------


def test_a_tenant_is_what_it_was_said_to_be(ts: Tallystick) -> None:
    tenant = ts.tenants.create(
        name=" Acme Corp ",
        slug="acme",
        billing_email="billing@acme.com",
        metadata={"crm": 7, "api_key": "sk-1"},
        timezone="America/Sao_Paulo",
        currency="BRL",
        locale="pt-BR",
        tax_id="12.345.678/0001-90",
    )
    assert (tenant.name, tenant.slug, tenant.billable) == ("Acme Corp", "acme", "tenant:acme")
    assert tenant.id.startswith("ten_")
    assert (tenant.status, tenant.is_active, tenant.status_reason) == (TenantStatus.ACTIVE, True, None)
    assert (tenant.timezone, tenant.currency, tenant.locale) == ("America/Sao_Paulo", "BRL", "pt-BR")
    assert (tenant.billing_email, tenant.tax_id) == ("billing@acme.com", "12.345.678/0001-90")
    assert tenant.metadata == {"crm": 7, "api_key": "[redacted]"}
    assert (tenant.created_at, tenant.updated_at, tenant.deleted_at) == (NOON, NOON, None)
    for name in ("acme", tenant.id, "tenant:acme", tenant, ("tenant", "acme")):
        assert ts.tenants.get(name) == tenant


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Acme Corp", "acme-corp"),
        ("  São Paulo Ltda. ", "sao-paulo-ltda"),
        ("Müller & Söhne", "muller-sohne"),
        ("A" * 80, "a" * 63),
    ],
)
def test_a_name_makes_the_slug(ts: Tallystick, name: str, slug: str) -> None:
    assert ts.tenants.create(name).slug == slug


def test_a_second_tenant_of_a_slug_is_refused(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    with pytest.raises(Conflict, match=r"'acme' \(active\)"):
        ts.tenants.create("ACME")
    ts.tenants.delete("acme")
    with pytest.raises(Conflict, match="activate"):
        ts.tenants.create("Acme")


def test_many_at_once_create_one_tenant(ts: Tallystick) -> None:
    def create(_: int) -> bool:
        try:
            ts.tenants.create("Acme")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 1


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": None}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "株式会社"}, "slug"),
        ({"slug": "Acme"}, "slug"),
        ({"slug": "-acme"}, "slug"),
        ({"slug": "a:b"}, "slug"),
        ({"billing_email": "acme.com"}, "billing_email"),
        ({"billing_email": "a@b.c\nBcc: d@e.f"}, "billing_email"),
        ({"timezone": "Sao Paulo"}, "timezone"),
        ({"currency": "reais"}, "currency"),
        ({"locale": "portuguese"}, "locale"),
        ({"tax_id": ""}, "tax_id"),
        ({"metadata": {"x": object()}}, "metadata.x"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_field(ts: Tallystick, stated: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ts.tenants.create(**{"name": "Acme", **stated})
    assert refused.value.field == field
    assert len(ts.tenants.list()) == 0


def test_a_tenant_is_subscribed_to_its_plan(ts: Tallystick) -> None:
    ts.plans.create(slug="pro", name="Pro", monthly_token_limit=1000)
    ts.tenants.create("Acme", plan="pro")
    assert ts.subscriptions.get("tenant:acme").plan.slug == "pro"
    with pytest.raises(PlanNotFound):
        ts.tenants.create("Globex", plan="premium")
    with pytest.raises(NotFound):
        ts.tenants.get("globex")


def test_a_tenant_gets_the_default_quotas(database_url: str, clock: FixedClock) -> None:
    quotas = {
        "message": {"daily": 100, "monthly": 1000, "notification_threshold": 70},
        "file_storage": {"total": "2.5", "is_hard_limit": False},
    }
    with Tallystick(database_url, clock=clock, tenants={"default_quotas": quotas}) as ts:
        ts.tenants.create("Acme")
        found = {
            (one.resource_type, one.period): (one.limit, one.is_hard_limit, one.thresholds)
            for one in ts.quotas.list("acme")
        }
    assert found == {
        ("message", "daily"): (100, True, (70,)),
        ("message", "monthly"): (1000, True, (70,)),
        ("file_storage", "total"): (Decimal("2.5"), False, (80,)),
    }


def test_an_update_changes_what_is_given_and_nothing_else(ts: Tallystick, clock: FixedClock) -> None:
    before = ts.tenants.create("Acme", billing_email="a@acme.com", tax_id="1", metadata={"crm": 7})
    clock.advance(minutes=1)
    after = ts.tenants.update("acme", name="Acme Inc.", billing_email=None, metadata={"crm": 8})
    assert (after.name, after.billing_email, after.tax_id, after.metadata) == ("Acme Inc.", None, "1", {"crm": 8})
    assert (after.id, after.slug, after.created_at) == (before.id, "acme", before.created_at)
    assert after.updated_at == clock.now()
    assert ts.tenants.get("acme") == after
    with pytest.raises(NotFound, match=r"ts\.tenants\.create"):
        ts.tenants.update("globex", name="Globex")


# Zones and currencies -------------------------------------------------------------------------------------------------


def test_a_zone_may_be_chosen_until_there_is_use(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    ts.tenants.update("acme", timezone="Europe/Vienna")
    ts.tenants.update("acme", timezone="America/Sao_Paulo", currency="BRL")
    ts.usage.log("acme", "message")
    for change in ({"timezone": "Europe/Vienna"}, {"timezone": None}, {"currency": "EUR"}, {"currency": None}):
        with pytest.raises(InvalidInput, match="has been used in") as refused:
            ts.tenants.update("acme", **change)
        assert refused.value.field == next(iter(change))
    assert ts.tenants.update("acme", timezone="America/Sao_Paulo", currency="BRL", name="A").name == "A"


def test_use_before_the_tenant_was_made_fixes_its_zone(ts: Tallystick) -> None:
    ts.usage.log("acme", "message")
    with pytest.raises(InvalidInput, match="has been used in UTC"):
        ts.tenants.create("Acme", timezone="Europe/Vienna")
    assert ts.tenants.create("Acme", timezone="UTC").timezone == "UTC"


def test_a_call_in_flight_fixes_the_zone_too(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    hold = ts.meter.billable("tenant:acme").using_provider("openai", "gpt-4o-mini").hold(tokens=10)
    with pytest.raises(InvalidInput, match="timezone"):
        ts.tenants.update("acme", timezone="Europe/Vienna")
    hold.void()
    ts.tenants.update("acme", timezone="Europe/Vienna")


def test_costs_are_in_the_tenants_currency(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"currency_rates": {"usd_brl": "5"}}) as ts:
        ts.tenants.create("Acme", currency="BRL")
        ts.usage.record(tenant="acme", provider="openai", model="gpt-4o", input_tokens=1, total_cost="2")
        assert ts.usage.stats("acme").totals.cost == money("10 BRL")
        healthy(ts)


# Suspending, deleting, erasing ----------------------------------------------------------------------------------------


def test_a_suspended_tenant_is_refused_and_what_it_has_in_flight_is_recorded(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    call = ts.meter.billable("tenant:acme").using_provider("openai", "gpt-4o-mini")
    running = call.hold(tokens=100)
    suspended = ts.tenants.suspend("acme", "unpaid")
    assert (suspended.status, suspended.status_reason) == (TenantStatus.SUSPENDED, "unpaid")

    for refused in (
        lambda: call.hold(tokens=1),
        lambda: ts.quotas.consume("acme", "message"),
        lambda: ts.meter.billable("user:1").for_tenant("acme").using_provider("openai", "gpt-4o-mini").hold(tokens=1),
    ):
        with pytest.raises(TenantSuspended, match="unpaid") as error:
            refused()
        assert (error.value.tenant, error.value.status) == ("acme", "suspended")
    running.settle(input_tokens=40)
    ts.usage.log("acme", "message")
    assert ts.usage.stats("acme").totals.total_tokens == 40

    assert ts.tenants.activate("acme").status_reason is None
    ts.quotas.consume("acme", "message")
    healthy(ts)


def test_a_suspension_holds_in_another_process_at_once(ts: Tallystick, database_url: str, clock: FixedClock) -> None:
    ts.tenants.create("Acme")
    with Tallystick(database_url, clock=clock) as other:
        other.quotas.consume("acme", "message")
        ts.tenants.suspend("acme")
        with pytest.raises(TenantSuspended):
            other.quotas.consume("acme", "message")


def test_a_suspension_holds_in_shadow_mode_too(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    ts.tenants.update("acme", enforcement="shadow")
    ts.tenants.suspend("acme")
    with pytest.raises(TenantSuspended):
        ts.quotas.consume("acme", "message")


def test_suspending_again_keeps_the_newer_reason(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    ts.tenants.suspend("acme", "unpaid")
    assert ts.tenants.suspend("acme").status_reason == "unpaid"
    assert ts.tenants.suspend("acme", "fraud").status_reason == "fraud"
    ts.tenants.delete("acme")
    with pytest.raises(Conflict, match="deleted"):
        ts.tenants.suspend("acme")


def test_a_deleted_tenant_is_refused_and_can_be_taken_back(ts: Tallystick, clock: FixedClock) -> None:
    ts.tenants.create("Acme")
    ts.usage.log("acme", "message")
    deleted = ts.tenants.delete("acme", "contract ended")
    assert (deleted.status, deleted.deleted_at) == (TenantStatus.DELETED, NOON)
    clock.advance(days=1)
    assert ts.tenants.delete("acme").deleted_at == NOON
    with pytest.raises(TenantSuspended, match="deleted"):
        ts.quotas.consume("acme", "message")
    assert [tenant.slug for tenant in ts.tenants.list()] == []
    assert [tenant.slug for tenant in ts.tenants.list(status="deleted")] == ["acme"]
    assert ts.tenants.activate("acme").deleted_at is None
    assert ts.quotas.consume("acme", "message").quantity == 1
    assert ts.usage.stats("acme").totals.events == 2


def test_a_deleted_tenant_is_erased_when_its_time_has_come(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, tenants={"erase_after_days": 30}) as ts:
        tenant = ts.tenants.create("Acme", billing_email="b@acme.com", tax_id="1", metadata={"crm": 7})
        ts.tenants.create("Globex")
        ts.quotas.set("acme", "message", 10, "total")
        ts.rate_limits.set("acme", "message", 10, "minute")
        ts.tenants.add_user("acme", 7)
        ts.quotas.consume("acme", "message", 9, user=7)
        ts.meter.billable("user:7").for_tenant("acme").using_provider("openai", "gpt-4o").hold(tokens=5).settle()
        ts.tenants.delete("acme")
        clock.advance(days=29)
        assert ts.run_due_jobs().tenants_erased == 0
        assert ts.usage.stats("acme").totals.events == 1
        clock.advance(days=1)
        assert ts.run_due_jobs().tenants_erased == 1
        assert ts.run_due_jobs().tenants_erased == 0

        erased = ts.tenants.get(tenant.id)
        assert (erased.name, erased.billing_email, erased.tax_id, erased.metadata) == ("", None, None, {})
        assert ts.usage.stats("acme").totals.events == 0
        assert ts.quotas.list("acme") == []
        assert ts.tenants.users("acme") == []
        assert [event.tenant for event in ts.usage.events("user:7")] == [None]
        with pytest.raises(Conflict, match="was erased"):
            ts.tenants.activate("acme")
        with pytest.raises(Conflict, match="was erased"):
            ts.tenants.update("acme", name="A")
        with pytest.raises(Conflict, match="acme"):
            ts.tenants.create("Acme")
        assert [one.slug for one in ts.tenants.list()] == ["globex"]
        healthy(ts)


def test_without_the_setting_nothing_is_erased_by_itself(ts: Tallystick, clock: FixedClock) -> None:
    ts.tenants.create("Acme")
    ts.usage.log("acme", "message")
    ts.tenants.delete("acme")
    clock.advance(days=5000)
    assert ts.run_due_jobs().tenants_erased == 0
    assert ts.tenants.erase("acme").events == 1
    assert ts.tenants.get("acme").name == ""


def test_only_a_deleted_tenant_is_erased(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    with pytest.raises(Conflict, match="Delete it first"):
        ts.tenants.erase("acme")


def test_asyncio_has_the_same_tenants(ts: Tallystick, database_url: str, clock: FixedClock) -> None:
    async def keep() -> None:
        async with AsyncTallystick(database_url, clock=clock) as asynchronous:
            tenants = asynchronous.tenants
            await tenants.create("Acme")
            event = await asynchronous.quotas.consume("acme", "message", 5)
            await asynchronous.usage.adjust(event.id, quantity=-2, reason="wrong")
            await tenants.suspend("acme", "unpaid")
            with pytest.raises(TenantSuspended):
                await asynchronous.quotas.consume("acme", "message")
            assert (await asynchronous.usage.cleanup(dry_run=True)).events == 0

    asyncio.run(keep())
    assert ts.tenants.get("acme").status_reason == "unpaid"
    assert ts.usage.stats("acme").totals.quantity == 3


# Finding --------------------------------------------------------------------------------------------------------------


def test_tenants_are_listed_the_newest_first_a_page_at_a_time(ts: Tallystick, clock: FixedClock) -> None:
    for number in range(7):
        ts.tenants.create(f"Tenant {number}")
        clock.advance(seconds=number % 2)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = ts.tenants.list(limit=3, cursor=cursor)
        seen += [tenant.slug for tenant in page]
        ts.tenants.create(f"Later {len(seen)}")
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"tenant-{number}" for number in (6, 5, 4, 3, 2, 1, 0)]


def test_tenants_are_found_by_name_slug_and_address(ts: Tallystick) -> None:
    ts.tenants.create("Acme Corp", slug="acme", billing_email="pay@example.com")
    ts.tenants.create("100% Cotton", slug="cotton")
    ts.tenants.suspend("cotton")
    assert [tenant.slug for tenant in ts.tenants.list("ACME")] == ["acme"]
    assert [tenant.slug for tenant in ts.tenants.list("@example")] == ["acme"]
    assert [tenant.slug for tenant in ts.tenants.list("0%")] == ["cotton"]
    assert [tenant.slug for tenant in ts.tenants.list("%")] == ["cotton"]
    assert [tenant.slug for tenant in ts.tenants.list(status="suspended")] == ["cotton"]
    assert len(ts.tenants.list()) == 2
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"status": "gone"}, "status"),
        ({"limit": 0}, "limit"),
        ({"cursor": "?"}, "cursor"),
    ]
    for wrong, field in wrongs:
        with pytest.raises(InvalidInput) as refused:
            ts.tenants.list(**wrong)
        assert refused.value.field == field


# Members --------------------------------------------------------------------------------------------------------------


def test_users_are_members_once_and_may_leave(ts: Tallystick, clock: FixedClock) -> None:
    ts.tenants.create("Acme")
    ts.tenants.create("Globex")
    first = ts.tenants.add_user("acme", 42)
    assert (first.tenant, first.user, first.since) == ("tenant:acme", "user:42", NOON)
    clock.advance(days=1)
    assert ts.tenants.add_user("acme", "user:42") == first
    ts.tenants.add_user("acme", "7")
    ts.tenants.add_user("globex", 42)
    assert [member.user for member in ts.tenants.users("acme")] == ["user:42", "user:7"]
    assert [tenant.slug for tenant in ts.tenants.list(user=42)] == ["globex", "acme"]
    assert ts.tenants.remove_user("acme", 42) is True
    assert ts.tenants.remove_user("acme", 42) is False
    assert [member.user for member in ts.tenants.users("acme")] == ["user:7"]
    with pytest.raises(NotFound):
        ts.tenants.add_user("initech", 42)


# Statistics -----------------------------------------------------------------------------------------------------------


def test_stats_say_how_a_tenant_stands(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create(slug="pro", name="Pro", trial_days=14)
    ts.tenants.create("Acme", plan="pro", timezone="America/Sao_Paulo")
    ts.tenants.add_user("acme", 42)
    ts.quotas.set("acme", "message", 10, "daily")
    ts.quotas.set("acme", "embedding", 10, "daily")
    ts.usage.log("acme", "message", 5, occurred_at="2026-01-01T02:59:59Z")
    ts.usage.log("acme", "message", 8)
    ts.wallets.get_or_create("tenant:acme").add_credits("25")

    stats = ts.tenants.stats("acme")

    assert stats.tenant == ts.tenants.get("acme")
    assert stats.usage.start == datetime(2026, 1, 1, 3, tzinfo=UTC)
    assert stats.usage.totals.quantity == 8
    assert [(one.resource_type, one.current) for one in stats.quotas] == [("embedding", 0), ("message", 8)]
    assert [one.resource_type for one in stats.quotas_near_limit] == ["message"]
    assert [(one.currency, one.balance, one.available) for one in stats.wallets] == [
        ("USD", money("25 USD"), money("25 USD"))
    ]
    assert stats.members == 1
    assert stats.subscription is not None
    assert (stats.subscription.plan.slug, stats.subscription_status) == ("pro", "trial")
    assert ts.tenants.stats("acme", "2025-12-01", "2026-02-01").usage.totals.quantity == 13
    with pytest.raises(InvalidInput, match="end"):
        ts.tenants.stats("acme", "2026-02-01", "2026-01-01")


def test_stats_of_a_new_tenant_are_empty(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    stats = ts.tenants.stats("acme")
    assert (stats.usage.totals.events, stats.quotas, stats.wallets, stats.members) == (0, (), (), 0)
    assert (stats.subscription, stats.subscription_status) == (None, None)


# Shadow mode ----------------------------------------------------------------------------------------------------------


def test_a_tenant_in_shadow_mode_is_never_refused_and_the_report_says_what_would_have_been(
    ts: Tallystick, clock: FixedClock
) -> None:
    for name in ("Acme", "Globex"):
        ts.tenants.create(name)
        ts.quotas.set(name.lower(), "message", 2, "daily")
        ts.rate_limits.set(name.lower(), "embedding", 1, "hour")
    ts.tenants.update("acme", enforcement="shadow")
    for _ in range(5):
        ts.quotas.consume("acme", "message")
        clock.advance(seconds=1)
    for _ in range(2):
        ts.quotas.consume("acme", "embedding")
    ts.quotas.consume("globex", "message", 2)
    with pytest.raises(QuotaExceeded):
        ts.quotas.consume("globex", "message")

    report = ts.tenants.shadow_report("acme")

    assert [(one.code, one.limit_type, one.refusals) for one in report.groups] == [
        ("quota_exceeded", "message", 3),
        ("rate_limited", "", 1),
    ]
    assert report.refusals == 4
    assert report.groups[0].first_at == datetime(2026, 1, 15, 12, 0, 2, tzinfo=UTC)
    assert report.groups[0].last_at == datetime(2026, 1, 15, 12, 0, 4, tzinfo=UTC)
    assert "4 of 2 used" in report.groups[0].message
    assert ts.tenants.shadow_report("acme", "2026-01-15T12:00:03Z", "2026-01-15T12:00:04Z").refusals == 1
    assert ts.tenants.shadow_report("globex").groups == ()
    assert ts.quotas.check("acme", "message", "daily").current == 5
    healthy(ts)


def test_the_end_of_shadow_mode_enforces_at_once(ts: Tallystick) -> None:
    ts.tenants.create("Acme")
    ts.quotas.set("acme", "message", 1, "daily")
    ts.tenants.update("acme", enforcement="off")
    ts.quotas.consume("acme", "message", 3)
    assert ts.tenants.shadow_report("acme").refusals == 0
    ts.tenants.update("acme", enforcement=None)
    with pytest.raises(QuotaExceeded):
        ts.quotas.consume("acme", "message")
    with pytest.raises(InvalidInput, match="enforcement"):
        ts.tenants.update("acme", enforcement="shade")


def test_clean_up_forgets_old_refusals(ts: Tallystick, clock: FixedClock) -> None:
    ts.tenants.create("Acme")
    ts.tenants.update("acme", enforcement="shadow")
    ts.quotas.set("acme", "message", 1, "daily")
    ts.quotas.consume("acme", "message", 2)
    clock.advance(days=91)
    assert ts.usage.cleanup(dry_run=True).refusals == 1
    assert ts.usage.cleanup().refusals == 1
    assert ts.tenants.shadow_report("acme").refusals == 0
