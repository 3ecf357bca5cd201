"""How commands end: exit codes, one clean line for an error, JSON for programs, a traceback on request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tallystick
from tests.cli.commands import PROGRAM, answer, invoke, program, succeed


def test_an_error_is_one_line_on_standard_error_with_its_remedy() -> None:
    ended = program("report", "--database", "sqlite:///none.db")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr == (
        "Error: No database 'sqlite:///none.db'. Name another one with --database, or create it with tallystick init.\n"
    )


def test_an_error_as_json_is_on_standard_output_alone() -> None:
    ended = program("report", "--database", "sqlite:///none.db", "--json")
    assert (ended.returncode, ended.stderr) == (3, "")
    error = json.loads(ended.stdout)["error"]
    assert (error["code"], error["kind"], error["reference"]) == ("not_found", "database", "sqlite:///none.db")


def test_the_switch_for_tracebacks_shows_where_an_error_comes_from() -> None:
    ended = program("report", "--database", "sqlite:///none.db", TALLYSTICK_DEBUG="1")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "NotFound" in ended.stderr
    assert "Traceback" not in program("report", "--database", "sqlite:///none.db", TALLYSTICK_DEBUG="0").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("valdate",), "No such command 'valdate'. Did you mean 'validate'? Try: tallystick --help"),
        (("report", "--mont", "2026-01"), "--month"),
        (("plans",), "Missing command. Try: tallystick plans --help"),
        (("explain",), "Missing argument"),
        (("report", "--top", "many"), "Try: tallystick report --help"),
        (("report", "--by", "shoe-size"), "'model'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert said in result.stderr
    assert answer(*arguments, exit_code=2)["error"]["code"] == "usage"


@pytest.mark.parametrize("command", [("migrate",), ("report",), ("plans", "create", "pro")])
def test_a_database_that_cannot_be_reached_is_one_line_without_a_password(command: tuple[str, ...]) -> None:
    result = invoke(*command, "--database", "postgresql://ada:hunter2@127.0.0.1:1/none")
    assert result.exit_code == 3
    assert "The database cannot be opened: connection failed" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.stderr
    assert "sqlalche" not in result.stderr


def test_a_file_that_is_no_database_is_an_error_of_storage() -> None:
    Path("notes.txt").write_text("not a database, and long enough to be looked at " * 20, encoding="utf-8")
    error = answer("report", "--database", "sqlite:///notes.txt", exit_code=3)["error"]
    assert error["code"] == "storage_error"
    assert "file is not a database" in error["message"]


def test_a_reader_that_goes_away_ends_the_program_quietly(folder: Path) -> None:
    succeed("init")
    with subprocess.Popen(
        [*PROGRAM, "validate"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_terminal_without_the_characters_for_a_chart_is_no_error() -> None:
    succeed("init")
    ended = program("validate", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_colours_are_for_terminals() -> None:
    assert "\x1b" not in succeed("init") + succeed("validate") + invoke("nothing").stderr


def test_the_version_is_that_of_the_package() -> None:
    assert succeed("--version") == f"tallystick {tallystick.__version__}\n"


def test_the_commands_are_listed_without_importing_what_only_an_engine_needs() -> None:
    # The package itself opens no engine here: only what the command line adds is looked at.
    look = (
        "import sys, types; from importlib.util import find_spec; "
        "package = types.ModuleType('tallystick'); "
        "package.__path__ = list(find_spec('tallystick').submodule_search_locations); "
        "sys.modules['tallystick'] = package; "
        "import tallystick.cli.application; "
        "print(sorted({'sqlalchemy', 'alembic', 'pydantic', 'genai_prices', 'psycopg', 'rich'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
