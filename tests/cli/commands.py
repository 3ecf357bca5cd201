"""Running `tallystick` in a test: in this process, or as the program that people start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from tallystick.cli.application import application

PROGRAM = (sys.executable, "-c", "from tallystick.cli import main; main()")


def invoke(*arguments: object) -> Result:
    """Run a command in this process, whatever comes of it."""
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    """Run a command that must end well, and return what it says."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def answer(*arguments: object, exit_code: int = 0) -> Any:
    """Run a command with --json, and return its answer; nothing else may be printed."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def program(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real program in a process of its own."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def start(*arguments: object, output: Path) -> subprocess.Popen[bytes]:
    """Start the real program and leave it running; what it says goes to a file."""
    with output.open("wb") as out:
        return subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=out, stderr=subprocess.STDOUT)
