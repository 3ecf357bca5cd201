"""The kinds of values that settings of several groups have: each is checked as it is read, with a remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from tallystick.errors import InvalidInput
from tallystick.money import Money

__all__ = [
    "Ascending",
    "ClassPath",
    "Currency",
    "Exact",
    "Frozen",
    "Group",
    "Lowered",
    "Name",
    "NullOrClassPath",
    "Separated",
    "Whole",
    "lower_case",
]

_MODULE_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")


def lower_case(value: object) -> object:
    """Return text in lower case, without the spaces around it; anything else stays as it is."""
    return value.strip().lower() if isinstance(value, str) else value


def _not_a_boolean(value: object) -> object:
    # Python takes True for 1; in a settings file, `ttl_seconds = true` is a mistake.
    if isinstance(value, bool):
        raise ValueError("Give a number.")  # noqa: TRY004 - the error that pydantic takes for an objection
    return value


def _not_a_float(value: object) -> object:
    if isinstance(value, float):
        remedy = f'A float is not exact: write it as text, "{value!r}", or give a Decimal.'
        raise ValueError(remedy)  # noqa: TRY004 - the error that pydantic takes for an objection
    return _not_a_boolean(value)


def _currency(value: str) -> str:
    try:
        return Money(0, value).currency
    except InvalidInput as error:
        raise ValueError(error.remedy) from None


def _class_path(value: str) -> str:
    if not _MODULE_ATTRIBUTE.fullmatch(value):
        raise ValueError('Name a class with its module, such as "application.providers:OurProvider".')
    return value


def _null_or_class_path(value: str) -> str:
    return value.strip().lower() if value.strip().lower() == "null" else _class_path(value)


def _separated_names(value: object) -> object:
    return [name for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _ascending(value: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(value)))


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

# Text in one case, however it was written; a list given as text with commas; whole numbers in order, each once.
Lowered = BeforeValidator(lower_case)
Separated = BeforeValidator(_separated_names)
Ascending = AfterValidator(_ascending)

Frozen = Annotated[Mapping[_Key, _Value], AfterValidator(MappingProxyType)]
Whole = Annotated[int, BeforeValidator(_not_a_boolean)]
Exact = Annotated[Decimal, BeforeValidator(_not_a_float)]
Name = Annotated[str, Lowered]
Currency = Annotated[str, AfterValidator(_currency)]
ClassPath = Annotated[str, AfterValidator(_class_path)]
NullOrClassPath = Annotated[str, AfterValidator(_null_or_class_path)]


class Group(BaseModel):
    """A group of settings: it knows its keys, and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
