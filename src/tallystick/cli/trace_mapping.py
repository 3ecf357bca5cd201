"""From the columns of a file to the fields of a usage record: which goes where, and how each value is read."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import typer

from tallystick.cli.instants import instant
from tallystick.cli.trace_file import MISSING, value_at
from tallystick.errors import InvalidInput
from tallystick.money import Money

__all__ = ["FieldMapping", "assignments", "known_fields"]

_Read: TypeAlias = Callable[[object, str], Any]

_PAYERS = ("billable", "tenant", "user")
_COSTS = ("total_cost", "input_cost", "output_cost")
# A cell of these that is empty is a mistake; any other one says nothing.
_REQUIRED = frozenset({"occurred_at", "billable"})


@dataclass(frozen=True, slots=True)
class _Source:
    """Where one field comes from and how it is read. `inner` is the key inside of metadata, counts or breakdown."""

    field: str
    inner: str
    column: str
    read: _Read

    @property
    def name(self) -> str:
        return f"{self.field}.{self.inner}" if self.inner else self.field


class FieldMapping:
    """How rows become records.

    `columns` are fields and the columns they are read from, `constants` fields that are the same for every row.

    Raises:
        BadParameter: a field that does not exist, or one that is given twice.
        InvalidInput: a constant that cannot be used.
    """

    def __init__(
        self, columns: Mapping[str, str], constants: Mapping[str, str], *, zone: ZoneInfo, currency: str
    ) -> None:
        for option, fields in (("--map", columns), ("--set", constants)):
            for field in fields:
                _require_known(field, option)
        for field in columns.keys() & constants.keys():
            raise typer.BadParameter(
                f"{field} is read from column {columns[field]!r} and given too: keep one.", param_hint="--map"
            )
        self._zone, self._currency = zone, currency
        # The currency first: the amounts after it are in it.
        ordered = sorted(columns.items(), key=lambda item: item[0] != "currency")
        self._sources = tuple(_Source(*_split(field), column, self._reader(field)) for field, column in ordered)
        self._constants: dict[str, Any] = {}
        for field, text in sorted(constants.items(), key=lambda item: item[0] != "currency"):
            name, inner = _split(field)
            _put(self._constants, name, inner, self._reader(field)(text, field))
        self._as_money(self._constants)
        self.fields = frozenset({*columns, *constants})
        self._measures = tuple(source for source in self._sources if source.field in _measures())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(source.column for source in self._sources)

    @property
    def names_payer(self) -> bool:
        return any(field in self.fields for field in _PAYERS)

    def constant(self, field: str) -> Any:
        """Return what a field is for every row; None where it is not."""
        return self._constants.get(field)

    def record(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Return the record that a row says. Columns that are not mapped are passed over.

        Raises:
            InvalidInput: a value that cannot be read, an empty time, or a row in which nothing was used.
        """
        record = {name: dict(value) if isinstance(value, dict) else value for name, value in self._constants.items()}
        for source in self._sources:
            value = value_at(values, source.column)
            if value is None or value is MISSING or (isinstance(value, str) and not value.strip()):
                if source.field in _REQUIRED:
                    raise InvalidInput(source.name, "", f"Column {source.column!r} is empty.")
                continue
            _put(record, source.field, source.inner, source.read(value, source.name))
        if self._measures and not any(_is_given(record, source) for source in self._measures):
            empty = ", ".join(source.name for source in self._measures)
            raise InvalidInput(empty, "", "One of them has to say how much was used.")
        self._as_money(record)
        return record

    def _reader(self, field: str) -> _Read:
        if field == "occurred_at":
            return lambda value, name: instant(value, self._zone, field=name)
        return known_fields()[_split(field)[0]]

    def _as_money(self, record: dict[str, Any]) -> None:
        for name in _COSTS:
            if isinstance(record.get(name), Decimal):
                record[name] = Money(record[name], record.get("currency") or self._currency)


@cache
def known_fields() -> Mapping[str, _Read]:
    """Return every field of a usage record, as `Usage.record_batch` names them, and how its value is read."""
    from tallystick import ProviderUsage

    fields: dict[str, _Read] = dict.fromkeys(
        ("billable", "user", "tenant", "provider", "model", "feature", "resource_type", "billing_mode"), _text
    )
    fields |= {"idempotency_key": _text, "currency": _text, "occurred_at": _text, "metadata": _metadata}
    fields |= {"quantity": _decimal, "total_tokens": _whole}
    by_annotation: Mapping[str, _Read] = {
        "int": _whole,
        "bool": _boolean,
        "Money | None": _decimal,
        "str | None": _text,
    }
    for name, parameter in inspect.signature(ProviderUsage.manual).parameters.items():
        fields.setdefault(name, by_annotation.get(str(parameter.annotation), _text))
    fields |= {"breakdown": _whole, "counts": _decimal}
    return fields


def assignments(given: Sequence[str], option: str) -> dict[str, str]:
    """Read "field=value" texts.

    Raises:
        BadParameter: one without "=", or a field that is given twice.
    """
    read: dict[str, str] = {}
    for text in given:
        field, equals, value = text.partition("=")
        if not equals or not field.strip() or not value.strip():
            raise typer.BadParameter(f"{text!r} is not of the form {option} FIELD=…", param_hint=option)
        if field.strip() in read:
            raise typer.BadParameter(f"{field.strip()} is given twice.", param_hint=option)
        read[field.strip()] = value.strip()
    return read


@cache
def _measures() -> Collection[str]:
    """Return the fields that say how much was used."""
    texts = {name for name, read in known_fields().items() if read in (_text, _metadata, _boolean)}
    return known_fields().keys() - texts


def _require_known(field: str, option: str) -> None:
    name, inner = _split(field)
    has_inner = name in {"metadata", "counts", "breakdown"}
    if name in known_fields() and (bool(inner) == has_inner or field == "metadata"):
        return
    if name in known_fields() and has_inner:
        remedy = f"{field} has several values: name one, such as {field}.<name>."
        raise typer.BadParameter(remedy, param_hint=option)
    near = get_close_matches(field, known_fields(), n=1, cutoff=0.5)
    meant = f" Did you mean {near[0]}?" if near else ""
    remedy = f"There is no field {field!r}.{meant} Fields: {', '.join(known_fields())}."
    raise typer.BadParameter(remedy, param_hint=option)


def _split(field: str) -> tuple[str, str]:
    name, _, inner = field.partition(".")
    return name, inner


def _put(record: dict[str, Any], field: str, inner: str, value: Any) -> None:
    if inner:
        record.setdefault(field, {})[inner] = value
    elif isinstance(value, dict):
        record[field] = {**record.get(field, {}), **value}
    else:
        record[field] = value


def _is_given(record: Mapping[str, Any], source: _Source) -> bool:
    return source.inner in record.get(source.field, ()) if source.inner else source.field in record


def _text(value: object, field: str) -> str:
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        return str(value).strip()
    raise InvalidInput(field, value, "Give text.")


def _whole(value: object, field: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    number = _decimal(value, field)
    # Spreadsheets and data frames write whole numbers as 12.0.
    if number != number.to_integral_value():
        raise InvalidInput(field, value, "Give a whole number.")
    return int(number)


def _decimal(value: object, field: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise InvalidInput(field, value, "Give a number.")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise InvalidInput(field, value, 'Give a plain number, such as "1234" or "0.15".') from None
    if not number.is_finite() or number.adjusted() > 30:
        raise InvalidInput(field, value, "Give a number of a sensible size.")
    return number


def _boolean(value: object, field: str) -> bool:
    written = str(value).strip().lower()
    if written not in {"true", "false", "1", "0", "yes", "no"}:
        raise InvalidInput(field, value, "Give true or false.")
    return written in {"true", "1", "yes"}


def _metadata(value: object, field: str) -> object:
    if field != "metadata":
        # One key of it: any value will do.
        return value
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise InvalidInput(field, value, "Give a JSON object, or map one key: metadata.<name>.")
    return read
