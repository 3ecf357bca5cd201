"""docs/cli.md says what the program says."""

from __future__ import annotations

import re

import pytest

from tests.cli.commands import program, succeed
from tests.cli.reference import PAGE, helps, page_with, reference

COMMANDS = dict(helps())


def test_the_reference_is_the_help_of_every_command() -> None:
    assert PAGE.read_text("utf-8") == page_with(reference()), "run: python -m tests.cli.reference"


@pytest.mark.parametrize("path", COMMANDS)
def test_the_real_help_names_every_option_of_the_reference(path: str) -> None:
    said = succeed(*path.split()[1:], "--help")
    assert set(re.findall(r"--[a-z][a-z0-9-]*", COMMANDS[path])) <= set(re.findall(r"--[a-z][a-z0-9-]*", said))


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != "tallystick"])
def test_every_command_answers_as_json_and_takes_a_database(path: str) -> None:
    assert {"--json", "--database"} <= set(COMMANDS[path].split())
    assert ("--config" in COMMANDS[path]) == (path != "tallystick demo")


def test_the_installed_program_shows_its_help() -> None:
    ended = program("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert all(path.split()[1] in ended.stdout for path in COMMANDS if " " in path)
    assert "Exit codes" in ended.stdout


def test_without_arguments_it_shows_its_help_too() -> None:
    assert succeed() == succeed("--help")
