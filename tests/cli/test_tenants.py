"""Tenants, adjustments and clean-up on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tallystick import Tallystick
from tests.cli.commands import answer, invoke, succeed


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    Tallystick(url).close()
    return url


def run(database: str, *arguments: object) -> str:
    return succeed(*arguments, "--database", database)


def test_a_tenant_is_created_shown_changed_and_listed(database: str) -> None:
    made = answer("tenants", "create", "Acme Corp", "--timezone", "America/Sao_Paulo", "--metadata", '{"crm": 7}',
                  "--billing-email", "b@acme.com", "--database", database)  # fmt: skip
    assert (made["slug"], made["timezone"], made["metadata"], made["status"]) == (
        "acme-corp", "America/Sao_Paulo", {"crm": 7}, "active")  # fmt: skip
    changed = answer("tenants", "update", made["id"], "--name", "Acme", "--clear", "billing_email",
                     "--enforcement", "shadow", "--database", database)  # fmt: skip
    assert (changed["name"], changed["billing_email"], changed["enforcement"]) == ("Acme", None, "shadow")
    listed = answer("tenants", "list", "--search", "acm", "--database", database)
    assert [tenant["slug"] for tenant in listed["tenants"]] == ["acme-corp"]
    assert "acme-corp" in run(database, "tenants", "list")
    assert "no such tenants" in run(database, "tenants", "list", "--status", "deleted")


def test_a_tenant_is_shown_with_all_it_has(database: str) -> None:
    with Tallystick(database) as ts:
        ts.plans.create(slug="pro", name="Pro")
        ts.tenants.create("Acme", plan="pro")
        ts.quotas.set("acme", "message", 10, "monthly")
        ts.wallets.get_or_create("tenant:acme").add_credits("25")
        ts.usage.log("acme", "message", 9)
    run(database, "tenants", "add-user", "acme", "42")
    shown = answer("tenants", "show", "acme", "--database", database)
    assert shown["usage"]["by_resource_type"] == [{"resource_type": "message", "events": 1, "quantity": 9}]
    assert [(quota["current"], quota["is_near_limit"]) for quota in shown["quotas"]] == [(9, True)]
    assert shown["wallets"][0]["balance"] == {"amount": "25.00", "currency": "USD"}
    assert (shown["users"], shown["subscription"]["plan"]) == (["user:42"], "pro")
    said = run(database, "tenants", "show", "acme")
    assert all(text in said for text in ("Acme (acme), active", "message: 9", "Plan pro", "25.00 USD", "1 member"))


def test_a_tenant_is_suspended_deleted_taken_back_and_erased(database: str) -> None:
    run(database, "tenants", "create", "Acme")
    assert "suspended (unpaid)" in run(database, "tenants", "suspend", "acme", "--reason", "unpaid")
    assert "active" in run(database, "tenants", "activate", "acme")
    refused = invoke("tenants", "erase", "acme", "--yes", "--database", database)
    assert (refused.exit_code, "Delete it first" in refused.stderr) == (3, True)
    assert "deleted" in run(database, "tenants", "delete", "acme")
    asked = invoke("tenants", "erase", "acme", "--database", database)
    assert asked.exit_code == 1
    assert "was erased" in run(database, "tenants", "erase", "acme", "--yes")


def test_members_come_and_go(database: str) -> None:
    run(database, "tenants", "create", "Acme")
    assert "no members" in run(database, "tenants", "users", "acme")
    assert answer("tenants", "add-user", "acme", "42", "--database", database)["user"] == "user:42"
    assert "user:42" in run(database, "tenants", "users", "acme")
    assert "no longer" in run(database, "tenants", "remove-user", "acme", "42")
    assert answer("tenants", "remove-user", "acme", "42", "--database", database)["was_member"] is False


def test_attaching_is_a_preview_first(database: str) -> None:
    with Tallystick(database) as ts:
        ts.tenants.create("Acme")
        ts.usage.log("user:1", "message")
    planned = run(database, "tenants", "attach", "acme", "--user", "1", "--everything")
    assert "1 user would be made members: user:1" in planned
    assert "add --apply" in planned
    done = answer("tenants", "attach", "acme", "--user", "1", "--apply", "--database", database)
    assert (done["applied"], done["events"], done["users"]) == (True, 1, ["user:1"])
    assert "nothing to attach" in run(database, "tenants", "attach", "acme", "--user", "1", "--apply")


def test_the_report_of_shadow_mode(database: str) -> None:
    run(database, "tenants", "create", "Acme")
    assert "Nothing of tenant:acme" in run(database, "tenants", "shadow-report", "acme")
    with Tallystick(database) as ts:
        ts.tenants.update("acme", enforcement="shadow")
        ts.quotas.set("acme", "message", 1, "monthly")
        ts.quotas.consume("acme", "message", 2)
    report = answer("tenants", "shadow-report", "acme", "--database", database)
    assert (report["refusals"], report["groups"][0]["code"]) == (1, "quota_exceeded")
    assert "quota_exceeded" in run(database, "tenants", "shadow-report", "acme")


def test_a_quantity_is_adjusted(database: str) -> None:
    with Tallystick(database) as ts:
        event = ts.usage.log("acme", "message", 5)
    done = answer("adjust", event.id, "--quantity", "-2", "--reason", "sent twice", "--database", database)
    assert (done["quantity"], done["corrects_event_id"]) == (-2, event.id)
    assert "tenant:acme: -3 message" in run(
        database, "adjust", "acme", "message", "--quantity", "-3", "--reason", "failed", "--idempotency-key", "k"
    )
    refused = answer("adjust", "acme", "message", "--quantity", "-1", "--reason", "x", "--database", database,
                     exit_code=3)  # fmt: skip
    assert refused["error"]["field"] == "quantity"


def test_clean_up_says_what_goes_and_then_removes_it(database: str) -> None:
    with Tallystick(database) as ts:
        old = datetime.now(UTC) - timedelta(days=100)
        for _ in range(3):
            ts.usage.log("acme", "message", occurred_at=old)
        ts.usage.record(billable="user:1", provider="ours", model="large", input_tokens=1, occurred_at=old)
    planned = run(database, "cleanup", "--dry-run")
    assert "3 events of 1 billable " in planned
    assert "would be removed" in planned
    assert f"tallystick cleanup --database {database}" in planned
    assert "Kept until there is a price: 1 event" in planned
    done = answer("cleanup", "--batch-size", "2", "--database", database)
    assert (done["events"], done["unpriced"], done["dry_run"]) == (3, 1, False)
    assert "Nothing is older" in run(database, "cleanup")
    assert "removed by clean-up" in run(database, "doctor")


@pytest.mark.parametrize("metadata", ["7", "{", "[]"])
def test_metadata_is_a_json_object(database: str, metadata: str) -> None:
    refused = answer("tenants", "create", "Acme", "--metadata", metadata, "--database", database, exit_code=3)
    assert refused["error"]["field"] == "metadata"


def test_a_tenants_month_is_reported_in_its_zone(database: str) -> None:
    with Tallystick(database) as ts:
        ts.tenants.create("Acme", timezone="America/Sao_Paulo")
        for at in ("2026-01-01T02:59:59Z", "2026-01-01T03:00:00Z", "2026-02-01T02:59:59Z", "2026-02-01T03:00:00Z"):
            ts.usage.log("acme", "message", occurred_at=at)
    report = answer("report", "--month", "2026-01", "--billable", "tenant:acme", "--database", database)
    assert (report["timezone"], report["totals"]["quantity"]) == ("America/Sao_Paulo", 2)
    assert report["series"]["points"][0]["start"] == "2026-01-01T03:00:00+00:00"
    said = run(database, "report", "--month", "2026-01", "--billable", "tenant:acme")
    assert "January 2026 (America/Sao_Paulo)" in said
    listed = answer(
        "events", "--billable", "acme", "--start", "2026-01-01", "--end", "2026-02-01", "--database", database
    )
    assert len(listed["events"]) == 2
    shown = answer("tenants", "show", "acme", "--start", "2026-01-01", "--end", "2026-02-01", "--database", database)
    assert shown["usage"]["quantity"] == 2
