"""What to do after the demo: commands that work on its database, and the lines that an application begins with."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.demo.customers import FERRY, RIVERBANK

if TYPE_CHECKING:
    from tallystick.demo.findings import Findings

__all__ = ["FIRST_LINES", "NextCommand", "next_commands"]

FIRST_LINES = """\
from openai import OpenAI
from tallystick import Tallystick
from tallystick.errors import LimitExceeded
ts = Tallystick()  # ./tallystick.db, or Tallystick("postgresql://...")
ts.plans.create("free", monthly_token_limit=10_000)
ts.subscriptions.create("user:ada", "free")
client = ts.wrap(OpenAI(), billable="user:ada", feature="chat")
try:
    print(client.responses.create(model="gpt-4o-mini", input="Hello").output_text)
except LimitExceeded as refusal:
    print(refusal)  # the provider was not called
"""


@dataclass(frozen=True, slots=True)
class NextCommand:
    """A command to try, and what it shows."""

    words: tuple[str, ...]
    shows: str

    def __str__(self) -> str:
        return shlex.join(self.words)

    def to_dict(self) -> dict[str, object]:
        return {"words": list(self.words), "text": str(self), "shows": self.shows}


def next_commands(database: str, findings: Findings) -> tuple[NextCommand, ...]:
    """Return commands that work on the demo's database, as they are to be typed in this folder."""
    program = _program()
    event_id = findings.explanation.event.id
    return (
        NextCommand((program, "report", "--database", database), "who used what this month"),
        NextCommand((program, "report", "--billable", RIVERBANK, "--database", database), "one customer"),
        NextCommand((program, "credits", "show", FERRY, "--database", database), "a wallet, and what is left of it"),
        NextCommand((program, "explain", event_id, "--database", database), "a charge, taken apart"),
        NextCommand((program, "doctor", "--database", database), "every number computed again"),
    )


def _program() -> str:
    """Return how `tallystick` is called from here: by its name where that leads to this very installation."""
    own = Path(sys.executable).with_name("tallystick")
    found = shutil.which("tallystick")
    if found is None and not own.exists():
        return "tallystick"
    if found is not None and (not own.exists() or Path(found).samefile(own)):
        return "tallystick"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)
