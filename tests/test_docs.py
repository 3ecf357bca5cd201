"""The documentation is true: its examples run, its tables are complete, and its links lead somewhere.

The blocks of a page run in order, in one namespace and one empty folder, against the demo's provider server. A block
that begins with the name of a file (`# our_provider.py`, `# tallystick.toml`) is written to that file instead, and
`$ tallystick …` in a console block runs the command.

`# -> text` beside or below an expression says what it shows: its `str`, its `repr`, or what it prints. `...` stands for
anything, a run of spaces for any other, and lines that begin with three spaces after the `#` continue the text.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import tallystick
from tallystick import Tallystick, TallystickError, events
from tallystick.credits.credits import Credits
from tallystick.credits.features import Features
from tallystick.credits.ledger_view import Ledger
from tallystick.credits.wallets import Wallet, Wallets
from tallystick.demo.provider_server import ProviderServer
from tallystick.gateways.payment_methods import PaymentMethods
from tallystick.invoicing.coupons import Coupons
from tallystick.invoicing.invoices import Invoices
from tallystick.invoicing.overages import Overages
from tallystick.limits.limits import Limits
from tallystick.limits.quotas import Quotas
from tallystick.limits.rates import RateLimits
from tallystick.metering.hold import Hold
from tallystick.metering.meter import Meter
from tallystick.metering.usage import Usage
from tallystick.notify.notifications import Notifications
from tallystick.notify.webhooks import Webhooks
from tallystick.plans.plans import Plans
from tallystick.plans.subscriptions import Subscriptions
from tallystick.pricing.prices import Prices
from tallystick.settings import Settings, known_settings
from tallystick.tenants.tenants import Tenants

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
WITH_LINKS = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "src").rglob("README.md")))

FENCE = re.compile(r"^```(?P<language>[a-z]*)$(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (?P<name>[\w/]+\.(py|toml))$", re.MULTILINE)
EXPECTATION = "# -> "
MISWRITTEN = re.compile(r"#\s*[-=]+>")
CONTINUATION = "#   "

# What these do takes its time, and is tested where they live.
COMMANDS_TESTED_ELSEWHERE = ("demo", "worker")
COMMAND_SECONDS_MAX = 60


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and the line of the page on which the text begins."""

    language: str
    text: str
    line: int

    @property
    def file_name(self) -> str | None:
        named = FILE_NAME.match(self.text)
        return named["name"] if named else None


def blocks(markdown: str) -> list[Block]:
    return [
        Block(found["language"], found["text"].removeprefix("\n"), markdown.count("\n", 0, found.start("text")) + 2)
        for found in FENCE.finditer(markdown)
    ]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# -- running the examples ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expectation:
    """What an expression shows; `is_below` where the comment stands on the line after it."""

    text: str
    is_below: bool


@dataclass
class Example:
    """The blocks of one page as one program."""

    page: str
    folder: Path
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    output: io.StringIO = field(default_factory=io.StringIO)
    reached: set[int] = field(default_factory=set)

    def run(self, block: Block) -> None:
        if block.file_name is not None:
            path = self.folder / block.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            self._run_python(block)
        elif block.language == "toml":
            path = self.folder / f"settings-{block.line}.toml"
            path.write_text(block.text, encoding="utf-8")
            Settings.load(config=path)
        elif block.language == "console":
            for command, shown in commands(block):
                self._run_command(command, shown)

    def close(self) -> None:
        for value in self.namespace.values():
            close = getattr(value, "close", None)
            if callable(close) and not inspect.isclass(value) and not inspect.iscoroutinefunction(close):
                close()

    def _run_python(self, block: Block) -> None:
        # Moved to where it stands in the page, so that a traceback leads there.
        source = "\n" * (block.line - 1) + block.text
        wanted = expectations(source)
        expecting = _Expecting(wanted)
        tree = ast.fix_missing_locations(expecting.visit(ast.parse(source, self.page)))
        lost = wanted.keys() - expecting.attached
        assert not lost, f"{self.page}: no expression belongs to the expectation in line {min(lost)}"
        self.namespace |= {"__printed__": self.output.tell, "__expect__": self._expecter(wanted)}
        with redirect_stdout(self.output):
            exec(compile(tree, self.page, "exec", dont_inherit=True), self.namespace)
        missed = wanted.keys() - self.reached
        assert not missed, f"{self.page}: line {min(missed)} was never reached"

    def _expecter(self, wanted: dict[int, Expectation]) -> Callable[[int, object, int], object]:
        def expect(printed_before: int, value: object, line: int) -> object:
            self.reached.add(line)
            printed = self.output.getvalue()[printed_before:]
            shown = [printed] if value is None and printed else [str(value), repr(value)]
            told = wanted[line].text
            if not any(is_shown(told, text) for text in shown):
                pytest.fail(f"{self.page}, line {line}:\n  says  {told}\n  shows {shown[0].strip()}", pytrace=False)
            return value

        return expect

    def _run_command(self, command: str, shown: str) -> None:
        name, *arguments = shlex.split(os.path.expandvars(command))
        if name != "tallystick" or (arguments and arguments[0] in COMMANDS_TESTED_ELSEWHERE):
            return
        start = "from tallystick.cli import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", start, *arguments],
            cwd=self.folder,
            env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert ended.returncode == 0, f"{self.page}: $ {command}\n{ended.stdout}{ended.stderr}"
        assert not shown.strip() or is_shown(shown, ended.stdout), f"{self.page}: $ {command}\n{ended.stdout}"


class _Expecting(ast.NodeTransformer):
    """Hands the value of each expression that has an expectation to `__expect__`."""

    def __init__(self, wanted: dict[int, Expectation]) -> None:
        self.wanted = wanted
        self.attached: set[int] = set()

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        last = node.end_lineno or node.lineno
        line = last if last in self.wanted else last + 1
        if line not in self.wanted or (line > last and not self.wanted[line].is_below):
            return node
        self.attached.add(line)
        printed = ast.Call(ast.Name("__printed__", ast.Load()), [], [])
        call = ast.Call(ast.Name("__expect__", ast.Load()), [printed, node.value, ast.Constant(line)], [])
        return ast.copy_location(ast.Expr(call), node)


def expectations(source: str) -> dict[int, Expectation]:
    """Return what comments say that expressions show, by the line of the comment."""
    wanted: dict[int, Expectation] = {}
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, comment = token.start[0], token.string
        if comment.startswith(EXPECTATION):
            is_below = token.line.lstrip().startswith("#")
            wanted[line] = Expectation(comment.removeprefix(EXPECTATION), is_below=is_below)
            first = last = line
        elif MISWRITTEN.match(comment):
            pytest.fail(f"line {line}: write {EXPECTATION!r}, not {comment!r}", pytrace=False)
        elif wanted and line == last + 1 and comment.startswith(CONTINUATION):
            longer = wanted[first].text + "\n" + comment.removeprefix("#")
            wanted[first] = dataclasses.replace(wanted[first], text=longer)
            last = line
    return wanted


def is_shown(wanted: str, shown: str) -> bool:
    pattern = ".*?".join(r"\s+".join(map(re.escape, part.split(" "))) for part in _spaced(wanted).split("..."))
    return re.fullmatch(pattern, _spaced(shown), re.DOTALL) is not None


def _spaced(text: str) -> str:
    return " ".join(text.split())


def commands(block: Block) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with what the page shows of its output."""
    parts = re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)[1:]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


@pytest.fixture(scope="module")
def provider_server() -> Iterator[ProviderServer]:
    with ProviderServer(latency_seconds=0, chunk_seconds=0) as server:
        yield server


@pytest.fixture
def example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider_server: ProviderServer
) -> Iterator[Callable[[str], Example]]:
    """Makes a page's program, in an empty folder and in an environment where every provider is the demo's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in {
        "OPENAI_BASE_URL": f"{provider_server.url}/v1",
        "OPENAI_API_KEY": "no-secret",
        "ANTHROPIC_BASE_URL": provider_server.url,
        "ANTHROPIC_API_KEY": "no-secret",
        "GOOGLE_GEMINI_BASE_URL": provider_server.url,
        "GEMINI_API_KEY": "no-secret",
    }.items():
        monkeypatch.setenv(name, value)
    made: list[Example] = []

    def make(page: str) -> Example:
        made.append(Example(page, tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))], ids=name_of)
def test_the_examples_of_a_page_run_and_show_what_it_says(page: Path, example: Callable[[str], Example]) -> None:
    program = example(name_of(page))
    for block in blocks(page.read_text(encoding="utf-8")):
        program.run(block)


def page_of(*lines: str) -> Block:
    return blocks("\n".join(("```python", *lines, "```")))[0]


def test_an_example_that_shows_something_else_fails(example: Callable[[str], Example]) -> None:
    example("right").run(page_of("1 + 1  # -> 2", "print('a', 'b')", "# -> a ...", "{'k': 1}  # -> {'k': 1}"))
    with pytest.raises(pytest.fail.Exception, match=r"wrong, line 3:\n  says  3\n  shows 2"):
        example("wrong").run(page_of("1", "1 + 1  # -> 3"))


def test_an_expectation_that_is_never_checked_fails(example: Callable[[str], Example]) -> None:
    with pytest.raises(AssertionError, match="line 3 was never reached"):
        example("page").run(page_of("if False:", "    1  # -> 1"))
    with pytest.raises(AssertionError, match="no expression belongs to the expectation in line 2"):
        example("page").run(page_of("x = 1  # -> 1"))


# -- completeness -----------------------------------------------------------------------------------------------------


@cache
def guide() -> str:
    """Everything that a user reads, as one text."""
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES if "decisions" not in page.parts)


def public_names(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("ts", Tallystick),
        ("ts.usage", Usage),
        ("ts.pricing", Prices),
        ("ts.limits", Limits),
        ("ts.quotas", Quotas),
        ("ts.rate_limits", RateLimits),
        ("ts.plans", Plans),
        ("ts.subscriptions", Subscriptions),
        ("ts.overages", Overages),
        ("ts.invoices", Invoices),
        ("ts.coupons", Coupons),
        ("ts.payment_methods", PaymentMethods),
        ("ts.notifications", Notifications),
        ("ts.webhooks", Webhooks),
        ("ts.wallets", Wallets),
        ("wallet", Wallet),
        ("ts.features", Features),
        ("ts.credits", Credits),
        ("ts.ledger", Ledger),
        ("ts.tenants", Tenants),
        ("hold", Hold),
        ("", Meter),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_every_public_method_is_in_the_guide(written: str, kind: type) -> None:
    missing = [name for name in public_names(kind) if not re.search(rf"{re.escape(written)}\.{name}\b", guide())]
    assert not missing


def table(page: Path, first_column: str) -> list[list[str]]:
    """Return the rows of the table of a page whose first column is called so."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    rows: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


def subclasses(kind: type[TallystickError]) -> set[type[TallystickError]]:
    return {kind}.union(*(subclasses(below) for below in kind.__subclasses__()))


def errors_of_the_package() -> set[type[TallystickError]]:
    for module in pkgutil.walk_packages(tallystick.__path__, "tallystick."):
        # Migrations are run by Alembic and cannot be imported without it.
        if ".migrations" not in module.name and not module.name.endswith("__main__"):
            import_module(module.name)
    return {error for error in subclasses(TallystickError) if error.__module__.startswith("tallystick.")}


def test_every_error_is_in_the_table_with_its_code() -> None:
    told = {(row[0], row[1]) for row in table(DOCS / "errors-and-events.md", "code")}
    assert told == {(error.code, error.__name__) for error in errors_of_the_package() - {TallystickError}}


def test_every_event_is_in_the_table_with_its_fields() -> None:
    told = {row[0]: set(re.findall(r"`?(\w+)`?", row[2])) for row in table(DOCS / "errors-and-events.md", "event")}
    inherited = {one.name for one in dataclasses.fields(events.Event)}
    kinds = [getattr(events, name) for name in events.__all__ if name != "Event"]
    assert told == {kind.__name__: {one.name for one in dataclasses.fields(kind)} - inherited for kind in kinds}


def test_every_setting_that_a_page_names_exists() -> None:
    known = {setting.name for setting in known_settings()}
    # `limits.check` is a method, and what stands below `providers` has names of its own.
    groups = {name.partition(".")[0] for name in known if "." in name} - {"limits", "providers"}
    named = set(re.findall(rf"`((?:{'|'.join(sorted(groups))})\.[a-z_]+)`", guide()))
    assert not {name for name in named if not any(setting.startswith(name) for setting in known)}


# -- links ------------------------------------------------------------------------------------------------------------

LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", WITH_LINKS, ids=name_of)
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    broken = []
    for link in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        address, _, anchor = unquote(link["target"]).partition("#")
        if address.startswith(("http:", "https:", "mailto:")):
            continue
        target = (page.parent / address).resolve() if address else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link["target"])
    assert not broken


def test_every_page_is_reachable_from_the_map() -> None:
    linked = {link["target"].partition("#")[0] for link in LINK.finditer((DOCS / "index.md").read_text("utf-8"))}
    assert not {page.name for page in DOCS.glob("*.md")} - linked - {"index.md"}
