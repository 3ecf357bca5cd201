"""Where settings are read from: arguments, the environment and a file, each value with its origin.

This module knows how values are given and how to say what is wrong with them; what the keys mean is in its neighbours.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_settings import PydanticBaseSettingsSource

from tallystick.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails
    from pydantic_settings import BaseSettings

__all__ = [
    "Given",
    "KeyPath",
    "KnownKeys",
    "Layer",
    "SettingError",
    "configuration_error",
    "dotted",
    "environment_name",
    "from_arguments",
    "from_environment",
    "from_file",
    "origin_of",
    "without_password",
]

KeyPath = tuple[str, ...]

HIDDEN = "***"
"""What stands for a secret."""

_PREFIX = "TALLYSTICK_"
_CONFIG_VARIABLE = "TALLYSTICK_CONFIG"
_DEFAULT_FILE = "tallystick.toml"

# The first says where the file is; the second is where tests and benchmarks find shared data; the third makes the
# command line show tracebacks.
_NOT_SETTINGS = frozenset({_CONFIG_VARIABLE, "TALLYSTICK_SHARED", "TALLYSTICK_DEBUG"})

# Kubernetes puts these into every container beside a service called "tallystick".
_SERVICE_LINK = re.compile(r"TALLYSTICK_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")

_KEY_PART = re.compile(r"\"[^\"]+\"|'[^']+'|[^.\"']+")
_PLAIN_KEY_PART = re.compile(r"[\w<>-]+")

_REMEDIES = {
    "bool_parsing": "Give true or false.",
    "bool_type": "Give true or false.",
    "decimal_max_places": "Give at most {decimal_places} digits after the point.",
    "decimal_parsing": 'Give a plain number with a point, such as "0.15".',
    "decimal_type": 'Give a plain number with a point, such as "0.15".',
    "dict_type": "Give a table of settings.",
    "finite_number": "Give a finite number.",
    "greater_than": "Give a number above {gt}.",
    "greater_than_equal": "Give {ge} or more.",
    "int_from_float": "Give a whole number.",
    "int_parsing": "Give a whole number.",
    "int_type": "Give a whole number.",
    "less_than_equal": "Give {le} or less.",
    "literal_error": "Give {expected}.",
    "mapping_type": "Give a table of settings.",
    "model_type": "Give a table of settings.",
    "string_type": "Give text.",
    "tuple_type": "Give a list.",
}


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, and where."""

    value: object
    origin: str


class SettingError(ValueError):
    """A validator's objection to one key of its group, which pydantic carries to `configuration_error`."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(remedy)
        self.key = key
        self.value = value


class KnownKeys:
    """The paths of all settings. A part in angle brackets, such as <name>, stands for any name.

    `secret` has those of whose values nothing is ever shown.
    """

    def __init__(self, paths: Iterable[KeyPath], secret: Iterable[KeyPath] = ()) -> None:
        self._paths = tuple(paths)
        self.secret = frozenset(secret)

    def __contains__(self, path: KeyPath) -> bool:
        """Return whether this is the path of a setting or of a group of them."""
        return any(_begins_with(known, path) for known in self._paths)

    def is_group(self, path: KeyPath) -> bool:
        """Return whether settings lie below this path."""
        return any(_begins_with(known, path) and len(known) > len(path) for known in self._paths)

    def near(self, path: KeyPath) -> KeyPath | None:
        """Return the setting that was probably meant by an unknown path.

        It is sought beside the first part that is unknown, then among whole paths ("billing_currency"), then by the
        last part alone ("currency").
        """
        end = next(end for end in range(1, len(path) + 1) if path[:end] not in self)
        siblings = {
            known[end - 1] for known in self._paths if len(known) >= end and _begins_with(known, path[: end - 1])
        }
        if similar := get_close_matches(path[end - 1], siblings, n=1, cutoff=0.75):
            meant = (*path[: end - 1], similar[0])
            whole = (*meant, *path[end:])
            return whole if whole in self else meant
        shapes: tuple[Callable[[KeyPath], str], ...] = ("_".join, itemgetter(-1))
        for shape in shapes:
            known_shapes = {shape(known): known for known in self._paths}
            if similar := get_close_matches(shape(path), known_shapes, n=1, cutoff=0.75):
                return known_shapes[similar[0]]
        return None


class Layer(PydanticBaseSettingsSource):
    """All that one source gave, as a source for pydantic-settings, which lays one over the other."""

    def __init__(self, settings_class: type[BaseSettings], given: Mapping[KeyPath, Given]) -> None:
        super().__init__(settings_class)
        self.given = given

    def __call__(self) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        for path, given in self.given.items():
            group = nested
            for part in path[:-1]:
                if not isinstance(group.get(part), dict):
                    group[part] = {}
                group = group[part]
            group[path[-1]] = given.value
        return nested

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Answer the base's question for one field; nobody asks, as `__call__` answers for all at once."""
        return self().get(field_name), field.alias or field_name, False


def from_arguments(settings_class: type[BaseSettings], arguments: Mapping[str, object], known: KnownKeys) -> Layer:
    """Read settings given by a program: nested (`billing={"currency": "EUR"}`) or dotted (`"billing.currency"`)."""
    given: dict[KeyPath, Given] = {}
    for name, value in arguments.items():
        given.update(_leaves(_parts(name), value, "argument", known))
    return Layer(settings_class, given)


def from_environment(settings_class: type[BaseSettings], known: KnownKeys) -> Layer:
    """Read the variables that begin with TALLYSTICK_; an empty one counts as not set, a group is given as JSON."""
    given: dict[KeyPath, Given] = {}
    # A variable for one key is longer than that of its group, and lies over it.
    for name in sorted(os.environ, key=lambda name: (len(name), name)):
        text = os.environ[name]
        if not name.startswith(_PREFIX) or name in _NOT_SETTINGS or _SERVICE_LINK.fullmatch(name) or not text:
            continue
        path = tuple(name.removeprefix(_PREFIX).lower().split("__"))
        value = _decoded(path, text, name) if known.is_group(path) else text
        given.update(_leaves(path, value, f"environment {name}", known))
    return Layer(settings_class, given)


def from_file(settings_class: type[BaseSettings], file: str | os.PathLike[str] | None, known: KnownKeys) -> Layer:
    """Read a TOML file: the given one, that of TALLYSTICK_CONFIG, or `tallystick.toml` where there is one.

    Numbers with a point are read as `Decimal`, through their text.
    """
    name, path = _file_named(file)
    if name == _DEFAULT_FILE and not path.exists():
        return Layer(settings_class, {})
    try:
        # A file written on Windows may begin with a byte order mark, which TOML does not know.
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"), parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError(name, str(path), f"The file cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigurationError(name, str(path), f"The file is not TOML: {error}.") from None
    return Layer(settings_class, dict(_leaves((), content, f"file {path}", known)))


def _file_named(file: str | os.PathLike[str] | None) -> tuple[str, Path]:
    """Return the settings file, and by what it is named."""
    if file is not None:
        return "config", Path(file)
    if variable := os.environ.get(_CONFIG_VARIABLE):
        return _CONFIG_VARIABLE, Path(variable)
    return _DEFAULT_FILE, Path(_DEFAULT_FILE)


def origin_of(path: KeyPath, layers: Sequence[Mapping[KeyPath, Given]]) -> str | None:
    """Return where the value at this path, or above it, or else below it, was given; None if nowhere."""
    for layer in layers:
        for end in range(len(path), 0, -1):
            if path[:end] in layer:
                return layer[path[:end]].origin
    below = (given.origin for layer in layers for known, given in layer.items() if known[: len(path)] == path)
    return next(below, None)


def configuration_error(
    error: ValidationError, layers: Sequence[Mapping[KeyPath, Given]], known: KnownKeys
) -> ConfigurationError:
    """Return what pydantic found first, in words: the setting, its value, the remedy and where it was given."""
    detail = error.errors(include_url=False)[0]
    # Numbers are places in a list of dated prices, and "[key]" marks a name that is wrong itself.
    path = tuple(part for part in detail["loc"] if isinstance(part, str) and part != "[key]")
    value = detail["input"]
    origin = origin_of(path, layers) or "default"
    if detail["type"] == "extra_forbidden":
        return _unknown(path, origin, known)
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, SettingError):
        path, value = (*path, cause.key), cause.value
    value = without_password(value) if isinstance(value, str) else value
    if path in known.secret:
        # Also of the wrong type it may be the secret itself.
        value = HIDDEN
    return ConfigurationError(dotted(path), value, f"{_remedy(detail, cause)} Source: {origin}.")


def dotted(path: KeyPath) -> str:
    """Return a path as it is written, with quotes around a name that has a dot of its own."""
    return ".".join(part if _PLAIN_KEY_PART.fullmatch(part) else f'"{part}"' for part in path)


def environment_name(path: KeyPath) -> str:
    """Return the name of the variable that gives this setting."""
    return _PREFIX + "__".join(path).upper()


def without_password(url: str) -> str:
    """Return a database URL with stars for its passwords; other text stays as it is."""
    # To the last "@": a password that was not percent-encoded may have one, and a slash too.
    url = re.sub(r"(?<=://)([^:/@?#]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]\w*(?:password|secret|token)\w*=)[^&#]*", r"\1***", url, flags=re.IGNORECASE)


def _leaves(path: KeyPath, value: object, origin: str, known: KnownKeys) -> Iterator[tuple[KeyPath, Given]]:
    if path and path not in known:
        raise _unknown(path, origin, known)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves((*path, str(name)), inner, origin, known)
    else:
        yield path, Given(value, origin)


def _unknown(path: KeyPath, origin: str, known: KnownKeys) -> ConfigurationError:
    remedy = "There is no such setting."
    if path[0] == "providers" and path[2:3] == ("models",) and len(path) > 4 and path[4].isdecimal():
        # tomllib has split models.gpt-4.1 into two names.
        remedy += f' A name with a dot is quoted: models."{path[3]}.{path[4]}".'
    elif (meant := known.near(path)) is not None:
        spelled = environment_name(meant) if origin.startswith("environment") else dotted(meant)
        remedy += f" Did you mean {spelled}?"
    return ConfigurationError(dotted(path), path[-1], f"{remedy} Source: {origin}.")


def _remedy(detail: ErrorDetails, cause: object) -> str:
    if isinstance(cause, ValueError):
        return str(cause)
    remedy = _REMEDIES.get(detail["type"])
    return remedy.format(**detail.get("ctx", {})) if remedy else f"{detail['msg']}."


def _decoded(path: KeyPath, text: str, name: str) -> object:
    try:
        return json.loads(text, parse_float=Decimal)
    except ValueError:
        remedy = f"Give the group as JSON, or one setting of it as {name}__<KEY>. Source: environment {name}."
        raise ConfigurationError(dotted(path), without_password(text), remedy) from None


def _parts(name: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _KEY_PART.findall(name)) or (name,)


def _begins_with(known: KeyPath, path: KeyPath) -> bool:
    return len(known) >= len(path) and all(
        part == known_part or known_part.startswith("<") for part, known_part in zip(path, known, strict=False)
    )
