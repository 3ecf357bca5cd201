"""`tallystick simulate`: what a person reads at 80 columns, and what a program reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallystick import Tallystick
from tallystick.simulation import example_scenario, read_scenario
from tests.cli.commands import answer, invoke, succeed
from tests.simulation.scenarios import SHOP, written

SMALL = SHOP.replace("months = 3", "months = 2")


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    return written(tmp_path, SMALL)


def test_a_person_reads_months_customers_and_invoices_at_80_columns(
    scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = succeed("simulate", scenario)
    lines = said.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert lines[0] == "A shop: 2 months from 2026-01-01, 3 customers, seed 5"
    chart = [line for line in lines if line.startswith("2026-0") and "█" in line]
    assert [line.split()[0] for line in chart] == ["2026-01", "2026-02"]
    assert chart[1].count("█") + chart[1].count("▓") + chart[1].count("▒") == 44
    assert "Charged, USD  █ fees  ▓ usage  ▒ overage" in said
    assert "20.00" in said
    january = next(line.split() for line in lines if line.startswith("2026-01") and "█" not in line)
    assert january == ["2026-01", "20.00", "0.00", "0.00", "20.00", "20.00"]
    assert "tenant:pro-1" in said
    assert "active, pro" in said
    assert "INV-2026-000004" in said
    assert "Refused before the call: " in said
    assert lines[-1] == "All numbers agree."


def test_without_a_chart_there_are_only_tables(scenario: Path) -> None:
    assert "█" not in succeed("simulate", scenario, "--no-chart")


def test_many_customers_are_shown_by_their_tables(tmp_path: Path) -> None:
    text = SMALL.replace("count = 2", "count = 12").replace('"poisson:6"', "0").replace("months = 2", "months = 1")
    said = succeed("simulate", written(tmp_path, text), "--no-chart")
    assert "pro-{n}" in said
    assert "12 active" in said
    assert "The last 12 of" not in said


def test_json_is_the_same_each_time_and_another_with_another_seed(scenario: Path) -> None:
    first = succeed("simulate", scenario, "--json")
    assert succeed("simulate", scenario, "--json", "--no-chart") == first
    assert succeed("simulate", scenario, "--json", "--seed", "5") == first
    assert succeed("simulate", scenario, "--json", "--seed", "6") != first
    found = json.loads(first)
    assert [invoice["number"] for invoice in found["invoices"]] == [f"INV-2026-00000{n}" for n in (1, 2, 3, 4)]
    assert found["invoices"][0]["total"] == "10.00"
    assert found["doctor"] == {"ok": True, "drift": []}
    assert set(found) == {
        "scenario", "months", "customers", "invoices", "refused_calls", "failed_payments", "skipped_events", "doctor",
    }  # fmt: skip


def test_a_kept_database_answers_the_other_commands(scenario: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    said = succeed("simulate", scenario, "--keep", kept)
    assert f"tallystick report --database sqlite:///{kept}" in " ".join(said.split())
    with Tallystick(f"sqlite:///{kept}") as ts:
        assert len(ts.invoices.list()) == 4
    again = invoke("simulate", scenario, "--keep", kept)
    assert (again.exit_code, "exists already" in again.stderr) == (3, True)
    both = invoke("simulate", scenario, "--keep", tmp_path / "other.db", "--database", "sqlite:///x.db")
    assert (both.exit_code, "either --keep or --database" in both.stderr) == (3, True)


def test_a_database_of_ones_own_must_be_empty(scenario: Path, database_url: str) -> None:
    answer("simulate", scenario, "--database", database_url)
    refused = answer("simulate", scenario, "--database", database_url, exit_code=3)
    assert refused["error"]["code"] == "conflict"


def test_the_settings_of_a_file_lie_under_those_of_the_scenario(scenario: Path, tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text(
        '[billing]\ndriver = "nowhere:Driver"\n[invoicing]\nnumber_format = "R{number:03}"\n'
        '[notifications.smtp]\nhost = "mail.example.com"\nsender = "us@example.com"\n'
    )
    found = answer("simulate", scenario, "--config", config)
    assert found["invoices"][0]["number"] == "R001"
    missing = invoke("simulate", scenario, "--config", tmp_path / "none.toml")
    assert (missing.exit_code, "config" in missing.stderr) == (3, True)


def test_the_example_is_a_scenario_to_begin_with(folder: Path) -> None:
    printed = succeed("simulate", "--example")
    assert printed == example_scenario()
    (folder / "scenario.toml").write_text(printed, encoding="utf-8")
    assert read_scenario("scenario.toml").name == "A small SaaS"
    assert answer("simulate", "--example") == {"scenario": printed}


def test_a_wrong_scenario_is_refused_by_its_place(tmp_path: Path) -> None:
    wrong = written(tmp_path, SMALL.replace('plan = "free"', 'plan = "fre"'))
    ended = invoke("simulate", wrong)
    assert ended.exit_code == 3
    assert "scenario.toml: customers[2].plan: 'fre' cannot be used. Did you mean free?" in ended.stderr
    assert answer("simulate", wrong, exit_code=3)["error"]["field"] == "scenario.toml: customers[2].plan"


def test_without_a_scenario_the_example_is_played() -> None:
    assert "A small SaaS: 6 months from 2026-01-01, 22 customers" in succeed("simulate", "--no-chart")
