"""Plans as code: a TOML file that says what is sold, read into checked values, and written from plans.

    [plans.pro]
    name = "Pro"
    price = "99 USD"
    monthly_token_limit = 1_000_000

    [plans.pro.features]
    api-calls = {value = 1000, reset = "daily"}

    [plans.pro.usage_prices]
    message = "0.01"

The keys of a plan's table are the keywords of `ts.plans.create`, with `active` for whether it is on sale.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tallystick.errors import InvalidInput, NotFound
from tallystick.money import Money
from tallystick.plans.saving import NewPlan
from tallystick.plans.terms import Plan, PlanFeature, PlanType
from tallystick.plans.terms_input import (
    TERM_NAMES,
    checked_description,
    checked_label,
    checked_name,
    checked_slug,
    checked_terms,
    checked_type,
)
from tallystick.plans.usage_price_input import known_only
from tallystick.plans.version_terms import VersionTerms

if TYPE_CHECKING:
    from tallystick.settings import Settings

__all__ = ["WantedPlan", "plans_as_toml", "read_plan_file"]

_PLAN_KEYS = ("name", "description", "plan_type", "active", "label")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class WantedPlan:
    """A plan as a file wants it."""

    plan: NewPlan
    is_active: bool


# -- reading ----------------------------------------------------------------------------------------------------------


def read_plan_file(path: str | os.PathLike[str], settings: Settings) -> list[WantedPlan]:
    """Return the plans of a file, all of it checked. Numbers with a point are read as `Decimal`, through their text.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is not TOML, or something in it cannot be; `field` names file, table and key.
    """
    file = Path(path)
    content = _content(file)
    with _naming(str(file)):
        known_only("", content, ("plans",))
        tables = _table("plans", content.get("plans", {}), "Write a table for each plan, such as [plans.pro].")
    wanted: list[WantedPlan] = []
    for slug, table in tables.items():
        with _naming(f"{file}: plans.{_key(slug)}", separator="."):
            wanted.append(_wanted(slug, _table("", table, f"Write a table: [plans.{_key(slug)}]."), settings))
    return wanted


@contextmanager
def _naming(place: str, separator: str = ": ") -> Iterator[None]:
    """Let an error say where in which file it is."""
    try:
        yield
    except InvalidInput as error:
        path = f"{place}{separator}{error.field}" if error.field else place
        raise InvalidInput(path, error.value, error.remedy) from None


def _content(file: Path) -> dict[str, Any]:
    try:
        # A file written on Windows may begin with a byte order mark, which TOML does not know.
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound("file", str(file), "Name a TOML file of plans; ts.plans.export() writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput("path", str(file), f"The file cannot be read: {reason}.") from None
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except ValueError as error:
        # The parser says in which line and column.
        raise InvalidInput("path", str(file), f"The file is not TOML: {error}.") from None


def _wanted(slug: str, table: Mapping[str, object], settings: Settings) -> WantedPlan:
    checked_slug(slug)
    known_only("", table, (*_PLAN_KEYS, *TERM_NAMES))
    terms = {name: value for name, value in table.items() if name in TERM_NAMES}
    plan = NewPlan(
        slug=slug,
        name=checked_name(table.get("name", slug)),
        plan_type=checked_type(table.get("plan_type", PlanType.CUSTOM)),
        description=checked_description(table.get("description")),
        label=checked_label(table.get("label")),
        terms=checked_terms(terms, base=None, settings=settings),
    )
    return WantedPlan(plan, _flag("active", table.get("active", True)))


def _table(field: str, table: object, remedy: str) -> Mapping[str, object]:
    if not isinstance(table, Mapping):
        raise InvalidInput(field, table, remedy)
    return table


def _flag(field: str, flag: object) -> bool:
    if not isinstance(flag, bool):
        raise InvalidInput(field, flag, "Write true or false.")
    return flag


# -- writing ----------------------------------------------------------------------------------------------------------


def plans_as_toml(plans: Iterable[Plan]) -> str:
    """Return plans as they are sold now as TOML; one of which nothing was ever published is left out."""
    return "\n".join("\n".join(_plan_lines(plan)) + "\n" for plan in plans if plan.current.is_published)


def _plan_lines(plan: Plan) -> Iterator[str]:
    table = f"plans.{_key(plan.slug)}"
    version = plan.current
    yield f"[{table}]"
    stated: dict[str, object] = {
        "name": plan.name,
        "plan_type": str(plan.plan_type),
        "description": plan.description,
        "active": None if plan.is_active else False,
        "label": version.label,
    }
    terms = VersionTerms.of(version)
    stated |= {name: getattr(terms, name) for name in TERM_NAMES if name not in ("features", "usage_prices")}
    if not terms.trial_days:
        del stated["trial_days"]
    for name, value in stated.items():
        if value is not None:
            yield f"{name} = {_value(value)}"
    if terms.features:
        yield from ("", f"[{table}.features]")
        yield from (f"{_key(slug)} = {_value(_feature(one))}" for slug, one in terms.features.items())
    for name, price in terms.usage_prices.items():
        yield from ("", f"[{table}.usage_prices.{_key(name)}]")
        yield from (f"{key} = {_value(value)}" for key, value in price.to_dict().items())


def _feature(feature: PlanFeature) -> object:
    """Return a feature as short as it may be written."""
    value = ("unlimited" if feature.value is None else feature.value) if feature.is_consumable else True
    stated: dict[str, object] = {
        "value": value,
        "reset": feature.reset if feature.is_consumable else None,
        "name": None if feature.name == feature.slug else feature.name,
        "display_value": feature.display_value,
        "hidden": feature.is_hidden or None,
        "sort_order": feature.sort_order or None,
    }
    said = {name: one for name, one in stated.items() if one is not None}
    return True if said == {"value": True} else said


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        # As text: what reads TOML elsewhere makes a float of a number with a point.
        return _text(f"{value:f}")
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    if isinstance(value, Money):
        return _text(str(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(name))} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return _text(str(value))


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    # A JSON string is a TOML string, but for one control character that JSON does not escape.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
