"""What notifications say, in the language, the figures and the time zone of whoever reads them.

Texts are data: `texts/<locale>.toml` of the package, and files of the same form in the folder of
`notifications.templates`, which replace and add to them key by key. A message is a list of sentences; one that speaks
of something that is not known of this case is left out.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tallystick.errors import ConfigurationError, InvalidInput
from tallystick.money import Money

__all__ = ["Text", "Voice", "Wordings"]

_BUILT_IN = ("en", "pt-BR")
_FALLBACK = "en"
_PERCENTAGE = "percentage"


@dataclass(frozen=True, slots=True)
class Text:
    """What a notification says. `action` is what its link is called."""

    subject: str
    message: str
    action: str


@dataclass(frozen=True, slots=True)
class Voice:
    """The texts of one language, spoken in one time zone."""

    locale: str
    zone: str
    texts: Mapping[str, Any]

    def knows(self, type_name: str) -> bool:
        """Say whether there is a text for this type."""
        return "subject" in self.texts.get(type_name, {})

    def say(self, type_name: str, values: Mapping[str, object]) -> Text:
        """Return the text of a type about these values.

        Raises:
            InvalidInput: there is no text for this type, or its subject speaks of a value that is missing.
        """
        text = self.texts.get(type_name, {})
        if "subject" not in text:
            raise InvalidInput("type", type_name, "There is no text for it: give subject and message.")
        words = {name: self.word(name, value) for name, value in values.items() if value is not None}
        missing = _names(text["subject"]) - words.keys()
        if missing:
            raise InvalidInput("metadata", sorted(words), f"{type_name} speaks of {', '.join(sorted(missing))} too.")
        sentences = text.get("message", [])
        if isinstance(sentences, str):
            sentences = [sentences]
        told = [sentence.format(**words) for sentence in sentences if _names(sentence) <= words.keys()]
        return Text(text["subject"].format(**words), " ".join(told), text.get("action", ""))

    def action(self, type_name: str) -> str:
        """Return what the link of a type is called; empty where nobody has said."""
        return str(self.texts.get(type_name, {}).get("action", ""))

    def mail(self, part: str, /, **values: object) -> str:
        """Return one of the texts around a mail."""
        text: str = self.texts["mail"][part]
        return text.format(**{key: self.word(key, value) for key, value in values.items()})

    def word(self, name: str, value: object) -> str:
        """Return a value as people read it."""
        if isinstance(value, Money):
            return self._money(value)
        if isinstance(value, datetime):
            return self._instant(value)
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            figure = self._number(Decimal(str(value)))
            return f"{figure}%" if name == _PERCENTAGE else figure
        text = str(value)
        known: str = self.texts.get("names", {}).get(name, {}).get(text, text)
        return known

    def _number(self, number: Decimal) -> str:
        plain = f"{number:,f}"
        if "." in plain:
            plain = plain.rstrip("0").rstrip(".")
        return self._localised(plain)

    def _money(self, money: Money) -> str:
        form = self.texts["format"]
        currency = form.get("currency", {}).get(money.currency, money.currency)
        return str(form["money"]).format(amount=self._localised(f"{money.amount:,f}"), currency=currency)

    def _localised(self, plain: str) -> str:
        form = self.texts["format"]
        return plain.translate(str.maketrans({",": form["group"], ".": form["decimal"]}))

    def _instant(self, at: datetime) -> str:
        local = at.astimezone(ZoneInfo(self.zone))
        parts = {part: getattr(local, part) for part in ("year", "month", "day", "hour", "minute")}
        return str(self.texts["format"]["instant"]).format(**parts, zone=self.zone)


class Wordings:
    """All languages there are. Read once; a mistake in a file of the application's own is a mistake of settings."""

    def __init__(self, folder: str | None, default_locale: str) -> None:
        self._texts = _all_texts(folder)
        self._default = self._nearest(default_locale)
        if self._default is None:
            raise ConfigurationError(
                "notifications.locale", default_locale, f"There are texts in {', '.join(sorted(self._texts))}."
            )

    def voice(self, locale: str | None, zone: str) -> Voice:
        """Return the texts of a language: of this country, else of the language, else of the settings."""
        name = self._nearest(locale) if locale else None
        found = name or self._default or _FALLBACK
        return Voice(found, zone, self._texts[found])

    def _nearest(self, locale: str) -> str | None:
        wanted = locale.replace("_", "-").lower()
        known = {name.lower(): name for name in self._texts}
        language = wanted.partition("-")[0]
        of_language = next((name for low, name in known.items() if low.partition("-")[0] == language), None)
        return known.get(wanted) or known.get(language) or of_language


def _all_texts(folder: str | None) -> dict[str, Mapping[str, Any]]:
    built_in = {locale: _built_in(locale) for locale in _BUILT_IN}
    texts: dict[str, Mapping[str, Any]] = dict(built_in)
    for locale, own in _own_texts(folder):
        # A language that is not built in, and a type that it does not have, speak the fallback's words.
        _require_known_values(locale, own, built_in[_FALLBACK])
        texts[locale] = _merged(built_in.get(locale, built_in[_FALLBACK]), own)
    return texts


@lru_cache
def _built_in(locale: str) -> Mapping[str, Any]:
    return tomllib.loads(files("tallystick.notify").joinpath(f"texts/{locale}.toml").read_text("utf-8"))


def _own_texts(folder: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if folder is None:
        return
    path = Path(folder)
    if not path.is_dir():
        raise ConfigurationError("notifications.templates", folder, "There is no such folder.")
    for file in sorted(path.glob("*.toml")):
        try:
            own = tomllib.loads(file.read_text("utf-8-sig"))
        except ValueError as error:
            raise ConfigurationError("notifications.templates", str(file), f"The file is not TOML: {error}.") from None
        yield file.stem.replace("_", "-"), own


def _require_known_values(locale: str, own: Mapping[str, Any], built_in: Mapping[str, Any]) -> None:
    """Refuse a text that speaks of what its type does not know: it would be missed when it is needed."""
    for name, text in own.items():
        known = built_in.get(name)
        if not isinstance(text, Mapping) or not isinstance(known, Mapping) or "subject" not in known:
            continue
        always = _names(known["subject"])
        ever = always.union(*map(_names, known["message"]))
        sentences = text.get("message", [])
        sentences = [sentences] if isinstance(sentences, str) else sentences
        spoken = (("subject", str(text.get("subject", "")), always), *(("message", one, ever) for one in sentences))
        for part, sentence, values in spoken:
            unknown = sorted(_names(sentence) - values)
            if unknown:
                raise ConfigurationError(
                    f"notifications.templates, {locale}: {name}.{part}",
                    f"{{{unknown[0]}}}",
                    f"Use {', '.join(f'{{{value}}}' for value in sorted(values))}.",
                )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Mapping[str, Any]:
    both = {name: value for name, value in below.items() if name not in above}
    for name, value in above.items():
        lower = below.get(name)
        is_group = isinstance(value, Mapping) and isinstance(lower, Mapping)
        both[name] = _merged(lower, value) if is_group else value  # type: ignore[arg-type]  # a mapping, as is_group says
    return both


def _names(text: str) -> set[str]:
    """Return what a text speaks of."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}
