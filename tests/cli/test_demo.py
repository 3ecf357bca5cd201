"""`tallystick demo` as people start it; what it plays is tested where it lives."""

from __future__ import annotations

import json

from tests.cli.commands import answer, program


def test_the_demo_reports_as_json_and_leaves_a_database_that_other_commands_read(sqlite_url: str) -> None:
    ended = program("demo", "--json", "--database", sqlite_url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["database"] == sqlite_url
    assert answer("report", "--database", sqlite_url)["totals"]["events"] > 0
    assert answer("doctor", "--database", sqlite_url)["ok"] is True
    again = program("demo", "--json", "--database", sqlite_url)
    assert (again.returncode, json.loads(again.stdout)["error"]["code"]) == (3, "conflict")
