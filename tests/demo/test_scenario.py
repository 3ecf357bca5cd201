"""The demo does what it says: its numbers are the providers', its commands work, and it finds its own faults."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tallystick import Tallystick
from tallystick.demo import scenario
from tallystick.demo.clients import PLAIN_HTTP
from tallystick.demo.findings import Check, Findings
from tallystick.demo.next_steps import FIRST_LINES, NextCommand, next_commands
from tallystick.demo.provider_server import ProviderServer
from tallystick.demo.report import show
from tallystick.errors import Conflict

WITHOUT_SDKS = """
import sys
for name in ("openai", "anthropic", "google.genai", "mistralai", "mistralai.client"):
    sys.modules[name] = None
from tallystick.demo.scenario import run
sys.exit(run(sys.argv[1], as_json=True))
"""


@dataclass(frozen=True)
class Played:
    """One run of the demo, which all tests here look at."""

    findings: Findings
    commands: tuple[NextCommand, ...]
    data: dict[str, Any]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    url = f"sqlite:///{tmp_path_factory.mktemp('demo') / 'demo.db'}"
    announced: list[str] = []
    findings = scenario.play(url, announce=announced.append)
    assert len(announced) == 15
    return Played(findings, next_commands(url, findings), json.loads(json.dumps(findings.to_dict())))


def customer(played: Played, billable: str) -> dict[str, Any]:
    [found] = [one for one in played.data["customers"] if one["billable"] == billable]
    assert isinstance(found, dict)
    return found


def stopped(data: dict[str, Any], billable: str) -> dict[str, Any]:
    found = next(one for one in data["stopped"] if one["billable"] == billable)
    assert isinstance(found, dict)
    return found


def wallet(played: Played) -> dict[str, Any]:
    found = played.data["wallet"]
    assert isinstance(found, dict)
    return found


def grant(played: Played, reason: str) -> dict[str, Any]:
    [found] = [one for one in wallet(played)["grants"] if one["reason"] == reason]
    assert isinstance(found, dict)
    return found


def usd(data: dict[str, Any], *names: str) -> list[Decimal]:
    return [Decimal(data[name]["amount"]) for name in names]


def shown(played: Played, *, width: int, findings: Findings | None = None) -> list[str]:
    """The report's lines, without the commands at its end, which are never broken."""
    file = io.StringIO()
    show(Console(file=file, width=width, highlight=False), findings or played.findings, played.commands)
    return [line.rstrip() for line in file.getvalue().splitlines() if "--database" not in line]


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_every_check_holds(played: Played) -> None:
    assert [check for check in played.data["checks"] if not check["ok"]] == []
    assert played.data["ok"] is True
    assert played.data["doctor"]["findings"] == []


def test_every_call_is_accounted_for(played: Played) -> None:
    calls = dict(played.data["calls"])
    assert calls.pop("in_flight_peak") > 1
    assert calls == {
        "attempted": 180,
        "refused": 47,
        "replayed": 1,
        "failed": 1,
        "reached_providers": 132,
        "recorded": 131,
    }


def test_of_forty_threads_exactly_the_twelve_with_room_reach_the_provider(played: Played) -> None:
    crowd = stopped(played.data, "user:ada")
    assert (crowd["attempted"], crowd["room"], crowd["received"], crowd["refused"]) == (40, 12, 12, 28)
    assert {(error["code"], error["limit"], error["requested"]) for error in crowd["errors"]} == {
        ("limit_exceeded", 10_000, 800)
    }
    assert (customer(played, "user:ada")["tokens"], customer(played, "user:ada")["calls"]) == (9_600, 12)


def test_a_limit_in_money_stops_before_it_is_passed(played: Played) -> None:
    job = stopped(played.data, "tenant:oldmill")
    assert job["received"] == job["room"] == job["attempted"] - job["refused"] > 0
    assert job["refused"] > 0
    assert {error["limit_type"] for error in job["errors"]} == {"cost"}
    assert Decimal(customer(played, "tenant:oldmill")["cost"]["amount"]) <= Decimal("0.02")


def test_a_raised_limit_is_the_one_in_force(played: Played) -> None:
    ben = customer(played, "user:ben")
    assert (ben["plan"], ben["limit"]) == ("free", "25,000 tokens")
    assert 10_000 < ben["tokens"] < 25_000


def test_only_what_lies_beyond_the_limit_is_charged(played: Played) -> None:
    beyond = customer(played, "tenant:riverbank")["tokens"] - 50_000
    overages = played.data["overages"]
    assert sum(charge["tokens"] for charge in overages) == beyond > 0
    assert sum(Decimal(charge["amount"]["amount"]) for charge in overages) == beyond * Decimal("0.02") / 1000
    # The first of them straddles the limit.
    explained = played.data["explanation"]
    assert explained["event"]["id"] == overages[0]["usage_event_id"]
    assert 0 < overages[0]["tokens"] < explained["event"]["total_tokens"]


def test_a_limit_that_lets_pass_charges_nothing(played: Played) -> None:
    assert customer(played, "tenant:lighthouse")["usage_percentage"] > 100
    assert {charge["billable"] for charge in played.data["overages"]} == {"tenant:riverbank"}


def test_the_lines_of_the_explained_charge_sum_to_it(played: Played) -> None:
    explained = played.data["explanation"]
    units = {line["unit"] for line in explained["lines"]}
    assert units >= {"input_tokens", "output_tokens", "cache_read_tokens"}
    amounts = [Decimal(line["quantity"]) * Decimal(line["rate"]) / line["per"] for line in explained["lines"]]
    assert sum(amounts) == Decimal(explained["cost"]["amount"])


def test_the_providers_counted_what_was_recorded_of_every_model(played: Played) -> None:
    models = {model["model"]: model for model in played.data["models"]}
    assert {model["provider"] for model in models.values()} == {"openai", "anthropic", "google", "mistral", "acme"}
    for model in models.values():
        assert model["counted"] == model["input_quantity"] + model["output_quantity"] > 0
    assert models["acme-rewrite-1"]["unit"] == "characters"


def test_the_home_made_provider_is_charged_as_it_says(played: Played) -> None:
    [acme] = [model for model in played.data["models"] if model["provider"] == "acme"]
    expected = acme["input_quantity"] * Decimal("0.00002") + acme["output_quantity"] * Decimal("0.00006")
    assert Decimal(acme["cost"]["amount"]) == expected


def test_a_retry_calls_once_and_a_failure_leaves_nothing(played: Played) -> None:
    [retry], [failure] = played.data["retries"], played.data["failures"]
    assert (retry["received"], retry["replayed"], len(set(retry["usage_event_ids"]))) == (1, True, 1)
    assert failure["error"] == "openai.RateLimitError"
    assert (failure["status"], failure["is_the_providers_own"], failure["tokens_left"]) == (429, True, 0)


def test_the_listeners_hear_each_event_once(played: Played) -> None:
    assert played.data["events"] == {
        "CreditsExpired": 1,
        "CreditsLow": 2,
        "LimitApproaching": 4,
        "LimitReached": 2,
        "OverageCharged": 2,
        "ProviderCallFailed": 1,
    }


# -- credits ----------------------------------------------------------------------------------------------------------


def test_of_forty_threads_exactly_as_many_as_the_wallet_can_pay_reach_the_provider(played: Played) -> None:
    crowd = stopped(played.data, "tenant:ferry")
    [cost] = {Decimal(error["required"].removesuffix(" USD")) for error in crowd["errors"]}
    assert crowd["received"] == crowd["room"] == Decimal("0.70") // cost < crowd["attempted"] == 40
    assert crowd["refused"] == 40 - crowd["received"] == len(crowd["errors"])
    assert {error["code"] for error in crowd["errors"]} == {"credits_insufficient"}


def test_a_payment_that_is_announced_twice_is_added_once(played: Played) -> None:
    assert [(line["amount"], line["balance_after"]) for line in wallet(played)["statement"][:2]] == [
        ("0.50", "0.50"),
        ("0.20", "0.70"),
    ]


def test_each_line_of_the_statement_follows_from_the_one_before_and_none_is_below_zero(played: Played) -> None:
    balance = Decimal(0)
    for number, line in enumerate(wallet(played)["statement"], start=1):
        balance += Decimal(line["amount"]) * (1 if line["type"] == "credit" else -1)
        assert (line["number"], Decimal(line["balance_after"])) == (number, balance)
        assert balance >= 0
    assert [balance] == usd(wallet(played), "balance")


def test_gifts_are_burned_before_what_was_paid_for_and_only_that_is_revenue(played: Played) -> None:
    gift, paid = grant(played, "promotion"), grant(played, "top-up")
    assert usd(gift, "used", "left") == [Decimal("0.20"), 0]
    accounts = {name: Decimal(amount) for name, amount in wallet(played)["accounts"].items()}
    used, refunded = usd(paid, "used", "refunded")
    assert accounts["revenue"] == used - refunded > 0
    assert accounts["spent"] == sum(usd(gift, "used") + usd(grant(played, "goodwill"), "used"))
    cost, given_back = usd(wallet(played), "cost", "refunded")
    assert accounts["revenue"] + accounts["spent"] == cost - given_back
    assert sum(accounts.values()) == accounts["held"] == 0


def test_a_refund_goes_back_to_the_credits_that_the_call_was_paid_from(played: Played) -> None:
    [refund] = [line for line in wallet(played)["statement"] if line["source"] == "refund"]
    assert usd(grant(played, "top-up"), "refunded") == [Decimal(refund["amount"])]
    assert refund["reverses_id"] in {line["id"] for line in wallet(played)["statement"]}


def test_what_is_left_of_a_gift_expires_at_its_instant(played: Played) -> None:
    [midnight] = wallet(played)["midnights"]
    before, after = usd(midnight, "before", "after")
    gift = grant(played, "goodwill")
    assert usd(gift, "expired", "left") == [before - after, 0]
    assert before > after
    assert (midnight["was_enough"], midnight["is_enough"]) == (True, False)
    [line] = [line for line in wallet(played)["statement"] if line["source"] == "expiry"]
    assert line["occurred_at"] == gift["expires_at"]


def test_a_feature_is_used_by_its_extra_credits_and_then_by_the_days_allowance(played: Played) -> None:
    first, second = wallet(played)["feature_days"]
    assert (first["asked"], first["used"], first["extra_used"], first["plan_used"]) == (20, 8, 5, 3)
    assert (second["asked"], second["used"], second["extra_used"], second["plan_used"]) == (20, 3, 0, 3)
    assert first["remaining"] == second["remaining"] == 0


# -- the report -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [100, 80, 200])
def test_the_report_fits_and_cuts_nothing_off(played: Played, width: int) -> None:
    lines = shown(played, width=width)
    assert max(len(line) for line in lines) <= min(width, 100)
    assert not [line for line in lines if "…" in line]


def test_the_report_says_the_same_in_a_terminal_without_colour_or_special_characters(played: Played) -> None:
    content = io.BytesIO()
    file = io.TextIOWrapper(content, encoding="ascii")
    show(Console(file=file, width=100, highlight=False), played.findings, played.commands)
    file.flush()
    text = content.getvalue().decode("ascii")
    assert "\x1b" not in text
    assert "12 admitted, 28 refused" in text
    assert "24 calls" in text
    assert "NOT OK" not in text


def test_a_failed_check_is_told_at_the_end_and_in_its_place(played: Played) -> None:
    failed = Check("calls reached the provider", expected="12", found="13")
    lines = shown(played, width=100, findings=replace(played.findings, checks=(failed, *played.findings.checks)))
    assert [line.split()[:4] for line in lines if "NOT OK" in line] == [["NOT", "OK", "13", "12"]]
    assert lines[-1].startswith("The demo failed.")


def test_the_demo_fails_where_more_calls_are_admitted_than_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scenario, "SETTINGS", {**scenario.SETTINGS, "enforcement": "off"})
    assert scenario.run(f"sqlite:///{tmp_path / 'demo.db'}", as_json=True) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is False
    assert stopped(data, "user:ada")["received"] == 40
    assert "12 of 40" in {check["expected"] for check in data["checks"] if not check["ok"]}


def test_a_database_with_plans_is_left_alone(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        ts.plans.create("ours")
        with pytest.raises(Conflict, match="empty database"):
            scenario.run(sqlite_url)
        assert [plan.slug for plan in ts.plans.list()] == ["ours"]


# -- what a reader does next ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(5))
def test_the_commands_at_the_end_work(played: Played, number: int) -> None:
    command = played.commands[number]
    done = subprocess.run(command.words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_there_are_no_more_commands_than_are_tried(played: Played) -> None:
    assert [command.words[1] for command in played.commands] == ["report", "report", "credits", "explain", "doctor"]


def test_the_first_lines_run_as_they_are_shown(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(FIRST_LINES)
    with ProviderServer(latency_seconds=0) as server:
        environment = {**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "none", "NO_PROXY": "*"}
        command = [sys.executable, "first.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        [served] = server.requests
    with Tallystick(f"sqlite:///{tmp_path / 'tallystick.db'}") as ts:
        assert ts.usage.stats("user:ada").totals.total_tokens == served.input_quantity + served.output_quantity


# -- where it runs ----------------------------------------------------------------------------------------------------


def test_without_any_sdk_it_goes_by_plain_http(played: Played, sqlite_url: str) -> None:
    command = [sys.executable, "-c", WITHOUT_SDKS, sqlite_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert data["ok"] is True
    assert set(data["through"].values()) == {PLAIN_HTTP}
    assert data["calls"]["reached_providers"] == played.data["calls"]["reached_providers"]
    assert stopped(data, "user:ada")["received"] == 12
    assert data["failures"][0]["status"] == 429
    assert stopped(data, "tenant:ferry")["received"] == stopped(played.data, "tenant:ferry")["received"]
    assert data["wallet"]["balance"] == wallet(played)["balance"]
    # What was sent is the same, and so is what was charged beyond the limit.
    assert [charge["amount"] for charge in data["overages"]] == [charge["amount"] for charge in played.data["overages"]]


def test_neither_settings_nor_a_proxy_of_the_environment_change_it(tmp_path: Path) -> None:
    folder, temporary = tmp_path / "folder", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    (folder / "tallystick.toml").write_text('enforcement = "off"\n[billing]\noverage_behavior = "allow"\n')
    environment = {
        **os.environ,
        **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9"),
        "TALLYSTICK_PERIOD__TYPE": "rolling",
        "TMPDIR": str(temporary),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    program = "import sys; from tallystick.demo.scenario import run; sys.exit(run())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 admitted, 28 refused" in done.stdout
    assert "\x1b" not in done.stdout
    # Nothing is left but the database that the commands at the end of the report name.
    assert [path.name for path in folder.iterdir()] == ["tallystick.toml"]
    [kept] = temporary.glob("*/demo.db")
    assert f"sqlite:///{kept}" in done.stdout


def test_it_plays_on_postgresql_too(played: Played, postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert scenario.run(postgres_url, as_json=True) == 0
    data = json.loads(capsys.readouterr().out)
    assert [data[name] for name in ("tokens", "cost", "events")] == [
        played.data[name] for name in ("tokens", "cost", "events")
    ]
    assert data["wallet"]["accounts"] == wallet(played)["accounts"]
