"""The rules of the house that no linter knows: what files may say, what is locked, and who may import whom."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"

# Modules and packages of functions over values: no database, no settings, whatever they import in turn.
PURE = (
    "clock",
    "credits.account",
    "credits.burn_down",
    "credits.forecast",
    "credits.ledger",
    "errors",
    "events",
    "identity",
    "invoicing.countries",
    "invoicing.fees",
    "invoicing.coupon",
    "invoicing.lines",
    "invoicing.pdf.document",
    "invoicing.pdf.wording",
    "invoicing.percentage",
    "invoicing.standing",
    "invoicing.tax_ids",
    "invoicing.totals",
    "invoicing.values",
    "invoicing.wording",
    "limits.decision",
    "limits.quota",
    "money",
    "notify.kinds",
    "notify.payload",
    "notify.signature",
    "notify.wording",
    "period",
    "plans.changing",
    "plans.cycle",
    "plans.terms",
    "plans.usage_prices",
    "plans.version_terms",
    "pricing",
    "provider_answers",
    "providers",
    "quantity",
)
IMPURE = ("tallystick.storage", "tallystick.settings", "sqlalchemy", "psycopg", "sqlite3")

# What people and programs touch from outside: these parts use the engine as any application does.
FACES = ("cli", "dashboard", "server", "simulation", "worker")
PUBLIC = (
    "aio",
    "app",
    "clock",
    "demo",
    "encryption",
    "errors",
    "events",
    "identity",
    "money",
    "period",
    "settings",
    "upkeep",
    "validation",
)

# Patterns are put together here, so that this file does not contain what it looks for.
REGISTRIES = [rf"{name}\.{end}" for name, end in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"))]
MACHINE_PATHS = [rf"(?<![\w.])/{folder}/" for folder in ("work", "root", "tmp", "opt", "home", "Users")]
UNFINISHED = [rf"\b{first}{rest}\b" for first, rest in (("TO", "DO"), ("FIX", "ME"), ("XX", "X"))]

SILENCED = re.compile(r"#\s*(noqa|type:\s*ignore)", re.IGNORECASE)
CODE = r"#\s*(noqa: [A-Z]+\d+(, ?[A-Z]+\d+)*|type: ignore\[[\w-]+(, ?[\w-]+)*\])"
SILENCED_BY_CODE = re.compile(CODE)
SILENCED_WITH_REASON = re.compile(rf"{CODE}\W+\w.{{4,}}")


@cache
def files() -> tuple[Path, ...]:
    """Every file that is, or would be, part of the repository."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
        found = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        # A copy without its history, or without git: what the version control would pass over begins with a dot.
        hidden = re.compile(r"/(\.(?!ci|gitignore)|__pycache__)")
        found = [path for path in ROOT.rglob("*") if not hidden.search(f"/{path.relative_to(ROOT).as_posix()}")]
    return tuple(sorted(path for path in found if path.is_file()))


def python_files() -> list[Path]:
    return [path for path in files() if path.suffix == ".py"]


def assert_none(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


def occurrences(patterns: list[str]) -> list[str]:
    wanted = re.compile("|".join(patterns).encode())
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100].decode(errors='replace')}"
        for path in files()
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if wanted.search(line)
    ]


def test_no_file_names_a_package_registry() -> None:
    assert_none(occurrences(REGISTRIES))


def test_no_file_names_a_path_of_one_machine() -> None:
    assert_none(occurrences(MACHINE_PATHS))


def test_nothing_is_left_for_another_day() -> None:
    assert_none(occurrences(UNFINISHED))


def test_files_are_named_after_a_concept() -> None:
    assert_none(
        [str(path) for path in python_files() if path.stem in {"utils", "util", "helpers", "helper", "service"}]
    )


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.is_relative_to(SOURCE) and not ast.get_docstring(ast.parse(path.read_bytes()))
    ]
    assert_none(silent)


def test_a_check_is_only_silenced_by_its_code_and_in_the_package_with_a_reason() -> None:
    unexplained = [
        f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"
        for path in python_files()
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.COMMENT
        and SILENCED.search(token.string)
        # In a test, a wrong type is given on purpose, as its name says.
        and not (SILENCED_WITH_REASON if path.is_relative_to(SOURCE) else SILENCED_BY_CODE).search(token.string)
    ]
    assert_none(unexplained)


# The lock file ------------------------------------------------------------------------------------------------------


def locked() -> dict[str, str]:
    """Every entry of the lock file as name → its whole text, continued lines joined."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {re.split(r"[=\s\[]", entry, maxsplit=1)[0]: entry for entry in entries}


def test_every_entry_of_the_lock_is_one_version_with_hashes_and_nothing_else() -> None:
    form = re.compile(r"[a-z0-9-]+==[\w.]+( ; [^\\]+?)?\s+(--hash=sha256:[0-9a-f]{64}\s*)+")
    assert_none([entry[:80] for entry in locked().values() if not form.fullmatch(entry)])


def test_the_lock_satisfies_all_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(each for extra in project["project"]["optional-dependencies"].values() for each in extra),
        *project["dependency-groups"]["dev"],
    ]
    entries = locked()
    for requirement in map(Requirement, asked):
        if requirement.name != "tallystick":
            entry = entries.get(requirement.name.lower().replace("_", "-"))
            assert entry is not None, f"{requirement} is not locked: make lock"
            version = Version(entry.split("==")[1].split()[0])
            assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: make lock"


# Who imports whom ---------------------------------------------------------------------------------------------------


@cache
def modules() -> dict[str, Path]:
    """The modules of the package by name, a package standing for its `__init__`."""
    paths = [path for path in python_files() if path.is_relative_to(SOURCE)]
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return dict(zip(names, paths, strict=True))


@cache
def imports(module: str, *, at_run_time: bool = False) -> frozenset[str]:
    """What a module imports anywhere in it; `from package import module` counts as that module."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(modules()[module].read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(inner & modules().keys() or {node.module})
        elif at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))
    return frozenset(found)


def within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def members(names: tuple[str, ...]) -> list[str]:
    return [module for module in modules() if within(module, tuple(f"tallystick.{name}" for name in names))]


def test_every_pure_part_exists() -> None:
    assert_none([name for name in PURE if not members((name,))])


def test_pure_parts_reach_neither_storage_nor_settings() -> None:
    trespasses: list[str] = []
    for start in members(PURE):
        ways = {imported: f"{start} → {imported}" for imported in imports(start)}
        waiting = list(imports(start, at_run_time=True))
        while waiting:
            module = waiting.pop()
            if module in modules():
                fresh = imports(module, at_run_time=True) - ways.keys()
                ways |= {imported: f"{ways[module]} → {imported}" for imported in fresh}
                waiting.extend(fresh)
        trespasses.extend(way for end, way in ways.items() if within(end, IMPURE) or end == "tallystick")
    assert_none(trespasses)


def test_faces_use_the_engine_as_any_application_does() -> None:
    allowed = tuple(f"tallystick.{name}" for name in (*PUBLIC, *FACES))
    trespasses = [
        f"{module} → {imported}"
        for module in members(FACES)
        for imported in sorted(imports(module))
        if within(imported, ("tallystick", "sqlalchemy", "psycopg", "sqlite3"))
        and imported != "tallystick"
        # Settings are asked for of their package: what is inside it is its own.
        and (not within(imported, allowed) or imported.startswith("tallystick.settings."))
    ]
    assert_none(trespasses)
