"""The words of an invoice's lines, in the language of its customer. They are written once, when it is made."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

__all__ = ["LOCALES", "line_words", "nearest_locale", "resource_name"]

LOCALES = ("en", "pt-BR")
_FALLBACK = "en"


def line_words(locale: str | None, name: str, values: Mapping[str, object]) -> str:
    """Return what a line of that name says: "fee", "usage", "overage_tokens", …"""
    texts = _texts(nearest_locale(locale))
    shown = dict(values)
    if "cycle" in shown:
        shown["cycle"] = texts["cycle"].get(shown["cycle"], shown["cycle"])
    if "resource" in shown:
        shown["resource"] = resource_name(locale, str(shown["resource"]))
    return str(texts[name]).format(**shown)


def resource_name(locale: str | None, resource_type: str) -> str:
    """Return what a resource type is called; one of the operator's own is called as it is."""
    return str(_texts(nearest_locale(locale))["resource"].get(resource_type, resource_type))


def nearest_locale(locale: str | None) -> str:
    """Return the language of ours that is nearest to a locale."""
    wanted = (locale or _FALLBACK).replace("_", "-").lower()
    for known in LOCALES:
        if known.lower() == wanted:
            return known
    language = wanted.partition("-")[0]
    return next((known for known in LOCALES if known.lower().partition("-")[0] == language), _FALLBACK)


@lru_cache(maxsize=8)
def _texts(locale: str) -> Mapping[str, Any]:
    return tomllib.loads(files("tallystick.invoicing").joinpath(f"texts/{locale}.toml").read_text("utf-8"))
