"""`init`, `migrate`, `validate` and `doctor`: from an empty folder to an installation that is known to be sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import text

from tallystick import Tallystick
from tallystick.errors import SchemaOutOfDate
from tallystick.settings import Settings, known_settings
from tallystick.storage.engines import is_sqlite_safe, open_engine
from tests.cli.commands import answer, invoke, succeed
from tests.values import money

SETTINGS = Path("tallystick.toml")


def execute(url: str, statement: str) -> None:
    engine = open_engine(Settings.load(url))
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def write_settings(*lines: str) -> None:
    SETTINGS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def checks(*options: object, exit_code: int = 0) -> dict[str, tuple[str, str]]:
    """Return what `validate` says of each thing that it looks at: outcome, and detail with remedy."""
    found = answer("validate", *options, exit_code=exit_code)
    assert found["ok"] == (exit_code == 0)
    return {check["subject"]: (check["outcome"], f"{check['detail']} {check['remedy']}") for check in found["checks"]}


# init -----------------------------------------------------------------------------------------------------------------


def test_init_leaves_a_file_that_changes_nothing_and_a_database() -> None:
    succeed("init")
    assert {row.source for row in Settings.load().describe()} == {"default"}
    assert succeed("report").startswith("Usage of all billables")


def test_the_settings_file_has_every_setting_and_each_line_can_be_put_in_force() -> None:
    succeed("init")
    written = SETTINGS.read_text("utf-8")
    in_force = re.sub(r"^#(?=[\w\[])", "", written, flags=re.MULTILINE)
    write_settings(in_force)
    rows = {row.key: row for row in Settings.load().describe()}
    for setting in known_settings():
        if "<" in setting.name:
            continue
        assert rows[setting.name].source.startswith("file"), setting.name
        if setting.default is not None:
            assert rows[setting.name].value == setting.default
    assert rows["billing.currency_rates.usd_eur"].value == "0.92"
    assert rows["providers.openai.models.gpt-4o-mini.input_price_per_1k"].value == "0.00015"


def test_init_overwrites_nothing_unless_it_is_forced_to() -> None:
    write_settings('enforcement = "shadow"')
    error = answer("init", exit_code=3)["error"]
    assert (error["code"], "--force" in error["message"]) == ("conflict", True)
    assert SETTINGS.read_text("utf-8") == 'enforcement = "shadow"\n'
    assert not Path("tallystick.db").exists()
    succeed("init", "--force")
    assert Settings.load().enforcement == "on"


def test_init_mends_a_file_that_is_broken() -> None:
    write_settings("enforcement = ")
    succeed("init", "--force")
    assert Settings.load().enforcement == "on"


def test_init_says_where_its_file_has_to_be_named() -> None:
    said = succeed("init", "--config", "own settings.toml", "--database", "sqlite:///own.db")
    assert "Created the database sqlite:///own.db" in said
    assert "Next: tallystick validate --config 'own settings.toml'" in said
    assert Settings.load(config="own settings.toml").database_url == "sqlite:///own.db"


def test_init_never_overwrites_a_database(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        ts.usage.log("acme", "message")
    succeed("init", "--database", sqlite_url)
    with Tallystick() as ts:
        assert ts.usage.stats("acme").totals.events == 1


def test_init_writes_no_password() -> None:
    # No server answers there: neither the file nor anything else is left behind.
    result = invoke("init", "--database", "postgresql://ada:hunter2@127.0.0.1:1/none")
    assert result.exit_code == 3
    assert list(Path.cwd().iterdir()) == []


def test_init_keeps_a_password_out_of_the_file(postgres_url: str) -> None:
    # The test's server asks for no password, and so takes any.
    url = postgres_url.replace("postgres@", "postgres:hunter2@")
    said = succeed("init", "--database", url)
    assert "Its password is not in the file: set TALLYSTICK_DATABASE_URL" in said
    assert "hunter2" not in SETTINGS.read_text("utf-8") + said
    assert Settings.load().database_url == "sqlite:///tallystick.db"


# migrate --------------------------------------------------------------------------------------------------------------


def test_migrate_says_the_version_before_and_after(empty_database_url: str) -> None:
    first = answer("migrate", "--database", empty_database_url)
    assert (first["before"], first["changed"]) == (None, True)
    assert answer("migrate", "--database", empty_database_url) == {
        "before": first["after"],
        "after": first["after"],
        "changed": False,
    }
    with Tallystick(empty_database_url, auto_migrate=False) as ts:
        assert ts.doctor().ok


def test_migrate_refuses_a_schema_that_is_newer(database_url: str) -> None:
    succeed("migrate", "--database", database_url)
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    assert answer("migrate", "--database", database_url, exit_code=3)["error"]["code"] == SchemaOutOfDate.code
    assert checks("--database", database_url, exit_code=1)["database"][0] == "problem"


# validate -------------------------------------------------------------------------------------------------------------


def test_a_sound_installation_has_no_problems(database_url: str) -> None:
    succeed("migrate", "--database", database_url)
    found = checks("--database", database_url)
    assert {outcome for outcome, _ in found.values()} <= {"ok", "warning"}
    assert ("SQLite library" in found) == (database_url.startswith("sqlite") and not is_sqlite_safe())


def test_validate_names_every_setting_with_its_source() -> None:
    write_settings('enforcement = "shadow"', "[period]", 'timezone = "America/Sao_Paulo"')
    rows = {row["key"]: row for row in answer("validate")["settings"]}
    assert rows["enforcement"] == {"key": "enforcement", "value": "shadow", "source": "file tallystick.toml"}
    assert rows["billing.currency"]["source"] == "default"
    said = succeed("validate")
    assert re.search(r"period\.timezone +America/Sao_Paulo +file tallystick\.toml", said)


def test_validate_creates_nothing() -> None:
    outcome, detail = checks()["database"]
    assert (outcome, "tallystick migrate" in detail) == ("warning", True)
    assert list(Path.cwd().iterdir()) == []


def test_a_missing_schema_is_a_problem_where_nobody_will_make_it() -> None:
    write_settings("auto_migrate = false")
    assert checks(exit_code=1)["database"][0] == "problem"


def test_a_setting_that_does_not_exist_is_a_problem() -> None:
    write_settings("[billing]", 'curency = "EUR"')
    outcome, detail = checks(exit_code=1)["configuration"]
    assert (outcome, "billing.currency?" in detail) == ("problem", True)


def test_a_database_that_cannot_be_reached_is_a_problem_and_its_password_a_secret() -> None:
    result = invoke("validate", "--database", "postgresql://ada:hunter2@127.0.0.1:1/none")
    assert result.exit_code == 1
    assert "✗ database: The database cannot be opened" in result.stdout
    assert "hunter2" not in result.output


def test_each_provider_class_is_tried() -> None:
    Path("own_providers.py").write_text("class Broken:\n    def __init__(self):\n        1 / 0\n", encoding="utf-8")
    write_settings(
        "[providers.good]",
        'class = "tallystick.demo.acme:AcmeProvider"',
        "[providers.lost]",
        'class = "no_such_module:Provider"',
        "[providers.empty]",
        'class = "json.JSONDecoder"',
    )
    found = checks(exit_code=1)
    assert [found[f"provider {name}"][0] for name in ("good", "lost", "empty")] == ["ok", "problem", "problem"]
    assert "no_such_module" in found["provider lost"][1]


def test_prices_that_cannot_be_used_or_hold_at_no_time_are_named() -> None:
    write_settings(
        "[providers.openai.models.whole]",
        'input_price_per_1k = "0.1"',
        'output_price_per_1k = "0.2"',
        "[providers.openai.models.half]",
        'input_price_per_1k = "0.1"',
        "[providers.openai.models.cached]",
        'cached_input_price_per_1k = "0.1"',
        'output_price_per_1k = "0.1"',
        "[providers.openai.models.past]",
        'input_price_per_1k = "0.1"',
        'output_price_per_1k = "0.2"',
        "effective_until = 2001-01-01T00:00:00Z",
    )
    found = checks(exit_code=1)
    assert found["price openai/whole"][0] == "ok"
    assert found["price openai/half"] == (
        "warning",
        "output tokens have no price: calls that use them are not priced Set output_price_per_1k; free is 0.",
    )
    assert found["price openai/cached"][0] == "problem"
    assert found["price openai/past"][0] == "warning"


def test_a_currency_without_a_rate_is_a_problem_and_with_it_none(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        ts.plans.create("euro", price=money("9 EUR"))
    outcome, detail = checks("--database", database_url, exit_code=1)["currencies"]
    assert (outcome, "plan euro is in EUR" in detail, "billing.currency_rates.usd_eur" in detail) == (
        "problem",
        True,
        True,
    )
    write_settings("[billing.currency_rates]", 'usd_eur = "0.9"')
    assert checks("--database", database_url)["currencies"][0] == "ok"


def test_a_default_provider_that_nobody_knows_is_a_warning() -> None:
    write_settings('default_provider = "opnai"')
    assert checks()["default_provider"][0] == "warning"
    write_settings('default_provider = "openai"')
    assert "default_provider" not in checks()


# doctor ---------------------------------------------------------------------------------------------------------------


def test_the_doctor_finds_nothing_in_books_that_agree(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        ts.usage.record(billable="user:1", provider="openai", model="gpt-4o-mini", input_tokens=100)
    found = answer("doctor", "--database", database_url)
    assert (found["ok"], found["events"], found["findings"]) == (True, 1, [])
    assert "All numbers agree: 1 event," in succeed("doctor", "--database", database_url)


def test_the_doctor_ends_with_1_where_a_number_drifts(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        ts.usage.record(billable="user:1", provider="openai", model="gpt-4o-mini", input_tokens=100)
    execute(database_url, "UPDATE counters SET used = used + 1 WHERE meter = 'tokens'")
    found = answer("doctor", "--database", database_url, exit_code=1)
    assert [(one["kind"], one["expected"], one["found"]) for one in found["findings"]] == [("used", "100", "101")]
    result = invoke("doctor", "--database", database_url)
    assert (result.exit_code, "1 number out of step" in result.stdout) == (1, True)


def test_costs_are_computed_again_unless_that_is_declined(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        ts.usage.record(billable="user:1", provider="openai", model="gpt-4o-mini", input_tokens=100)
    for table in ("usage_events", "usage_hourly", "usage_daily"):
        execute(sqlite_url, f"UPDATE {table} SET total_cost = total_cost + 1")
    execute(sqlite_url, "UPDATE counters SET used = used + 1 WHERE meter LIKE 'cost%'")
    assert invoke("doctor", "--database", sqlite_url).exit_code == 1
    assert invoke("doctor", "--no-prices", "--database", sqlite_url).exit_code == 0


def test_a_notice_is_shown_and_is_no_drift(sqlite_url: str) -> None:
    with Tallystick(sqlite_url, on_unknown_price="record_unpriced") as ts:
        ts.usage.record(billable="user:1", provider="openai", model="gpt-nope", input_tokens=100)
    said = succeed("doctor", "--database", sqlite_url)
    assert "Worth knowing" in said
    assert "unpriced events" in said


@pytest.mark.parametrize("command", [("doctor",), ("report",), ("reprice",), ("explain", "evt_1"), ("plans", "list")])
def test_a_question_to_a_database_that_does_not_exist_is_refused_and_creates_none(command: tuple[str, ...]) -> None:
    assert answer(*command, exit_code=3)["error"]["code"] == "not_found"
    assert list(Path.cwd().iterdir()) == []
