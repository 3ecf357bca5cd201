"""What settings exist, and which values are in force, as plain data for documentation and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel, SecretStr

from tallystick.settings.credits import CreditReasonSettings
from tallystick.settings.limits import RateLimitSettings
from tallystick.settings.providers import ModelPrices, ProviderSettings
from tallystick.settings.sources import HIDDEN, KeyPath, without_password
from tallystick.settings.tenants import DefaultQuotaSettings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["SettingKey", "SettingRow", "plain", "setting_fields", "values_in_force"]


_PLACEHOLDERS = {
    "providers": "<name>",
    "rate_limits": "<resource_type>",
    "models": "<model>",
    "currency_rates": "<source>_<target>",
    "reasons": "<reason>",
    "resource_types": "<resource_type>",
    "default_quotas": "<resource_type>",
    "channels": "<channel>",
}

# Of these, what is not set is not worth a line.
_SPARSE = (ModelPrices, ProviderSettings, CreditReasonSettings, DefaultQuotaSettings, RateLimitSettings)


@dataclass(frozen=True, slots=True)
class SettingKey:
    """A setting that exists. `<name>` in its name stands for any."""

    name: str
    environment: str
    default: object
    description: str


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting's value as plain data, and where it was given: "default", "argument", "environment …", "file …"."""

    key: str
    value: object
    source: str


def setting_fields(model: type[BaseModel], above: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Walk all settings that exist below a group, each with its path; what stands for any name is in brackets."""
    for name, field in model.model_fields.items():
        path = (*above, field.alias or name)
        if name in _PLACEHOLDERS:
            path = (*path, _PLACEHOLDERS[name])
        group = _group_inside(field.annotation)
        if group is None:
            yield path, field
        else:
            yield from setting_fields(group, path)


def _group_inside(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_group_inside, get_args(annotation))), None)


def values_in_force(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Walk all values in force. Of prices and the like only what is set; one of several dated prices has its number."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if inner is not None or not isinstance(value, _SPARSE):
                yield from values_in_force(inner, (*path, field.alias or name))
    elif isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from values_in_force(inner, (*path, name))
    elif isinstance(value, tuple) and value and isinstance(value[0], ModelPrices):
        for number, entry in enumerate(value):
            yield from values_in_force(entry, path if len(value) == 1 else (*path, str(number)))
    else:
        yield path, plain(value)


def plain(value: object) -> object:
    """Return a value as JSON knows it; secrets are hidden, and passwords in URLs masked."""
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, str):
        return without_password(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [plain(inner) for inner in value]
    return value
