"""A scenario as a TOML file: read, and checked before anything is played."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from tallystick.errors import InvalidInput, NotFound
from tallystick.money import Money
from tallystick.simulation.distributions import read_distribution, read_week
from tallystick.simulation.scenario import CustomerGroup, Happening, Model, Paying, Scenario

__all__ = ["example_file", "example_scenario", "read_scenario"]

_EXAMPLE = files("tallystick.simulation").joinpath("examples/scenario.toml")

_TABLES = ("scenario", "settings", "plans", "coupons", "customers")
_SCENARIO_KEYS = ("name", "start", "months", "timezone", "seed")
_CUSTOMER_KEYS = (
    "name",
    "count",
    "plan",
    "billing_mode",
    "trial_days",
    "coupon",
    "billing",
    "timezone",
    "currency",
    "starts",
    "calls_per_day",
    "model",
    "input_tokens",
    "output_tokens",
    "feature",
    "resources",
    "grows",
    "churns",
    "pays",
    "wallet",
    "tops_up",
    "events",
)
_COUPON_KEYS = (
    "percent_off",
    "amount_off",
    "name",
    "duration",
    "duration_months",
    "max_redemptions",
    "redeem_by",
    "plans",
)
_BILLING_KEYS = (
    "name",
    "email",
    "line1",
    "line2",
    "city",
    "region",
    "postal_code",
    "country",
    "tax_id",
    "tax_rate_percent",
    "tax_name",
    "is_tax_inclusive",
    "is_tax_exempt",
    "locale",
    "due_days",
    "notes",
)
# What customers can do, with what belongs to it; the first ones have to be said.
_DEEDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "change_plan": (("plan",), ("prorate", "at_period_end")),
        "cancel": ((), ("immediately", "prorate")),
        "resume": ((), ()),
        "pause": ((), ("prorate",)),
        "renew": ((), ()),
        "subscribe": (("plan",), ("coupon",)),
        "redeem": (("coupon",), ()),
        "add_credits": (("amount",), ()),
        "use": (("resource", "quantity"), ()),
        "payment_failed": ((), ()),
        "payment_succeeded": ((), ()),
    }
)
_HAPPENING_KEYS = ("at", "after_days", "do", "share")
_FLAGS = ("prorate", "at_period_end", "immediately")
# Nothing leaves the machine, and the database is its own.
_NO_SETTINGS = ("database_url", "auto_migrate", "notifications", "security", "storage")
_MONTHS_MOST = 120
_COUNT_MOST = 10_000
_PATTERN = "{n}"
_LATE = re.compile(r"late:(\d{1,3})d")
_FAILS = re.compile(r"fails:(0?\.\d+|0|1|1\.0+)")
_SPREAD = re.compile(r"spread:(\d{1,3})m")
_PAYS_REMEDY = 'Use "always", "due", "late:10d", "never" or "fails:0.05".'


def example_scenario() -> str:
    """Return the scenario that comes with Tallystick, as TOML."""
    return _EXAMPLE.read_text(encoding="utf-8")


def example_file() -> AbstractContextManager[Path]:
    """Return the file of the scenario that comes with Tallystick, for as long as the context lasts."""
    return as_file(_EXAMPLE)


def read_scenario(file: Path | str, *, seed: int | None = None) -> Scenario:
    """Return the scenario of a file; a `seed` replaces its own.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is not TOML, or something in it cannot be; `field` names file, table and key.
    """
    path = Path(file)
    content = _Table(f"{path.name}: ", "", _content(path))
    content.know(_TABLES)
    head = content.table("scenario", required=True)
    head.know(_SCENARIO_KEYS)
    zone = head.zone("timezone") or "UTC"
    start = head.instant("start", zone, required=True)
    months = head.whole("months", 1, _MONTHS_MOST)
    stated_seed = head.whole("seed", 0, 2**63 - 1, default=7)
    coupons = {code: one.known(_COUPON_KEYS) for code, one in content.table("coupons").tables()}
    plans = content.table("plans", required=True)
    settings = content.table("settings")
    _require_harmless(settings)
    scenario = Scenario(
        name=head.text("name", path.stem),
        start=start,
        months=months,
        zone=zone,
        seed=stated_seed if seed is None else seed,
        settings=settings.values,
        plans=plans.values,
        coupons=coupons,
        groups=(),
        file=path.name,
    )
    groups = tuple(_Customers(scenario, one).read() for one in content.rows("customers"))
    if not groups:
        raise InvalidInput(content.path("customers"), None, "Write at least one table [[customers]].")
    _require_distinct(content, groups)
    return replace(scenario, groups=groups)


def _content(path: Path) -> dict[str, Any]:
    try:
        # A file written on Windows may begin with a byte order mark, which TOML does not know.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        remedy = "Name a TOML file; tallystick simulate --example prints one."
        raise NotFound("file", str(path), remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput("path", str(path), f"The file cannot be read: {reason}.") from None
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except ValueError as error:
        # The parser says in which line and column.
        raise InvalidInput("path", str(path), f"The file is not TOML: {error}.") from None


def _require_harmless(settings: _Table) -> None:
    for name in _NO_SETTINGS:
        if name in settings.values:
            remedy = "A simulation has a database of its own and sends nothing: leave it out."
            raise InvalidInput(settings.path(name), settings.values[name], remedy)
    billing = settings.table("billing")
    if "driver" in billing.values:
        raise InvalidInput(
            billing.path("driver"), billing.values["driver"], "A simulation charges nobody: leave it out."
        )


def _require_distinct(content: _Table, groups: Iterable[CustomerGroup]) -> None:
    seen: dict[str, int] = {}
    for place, group in enumerate(groups, start=1):
        for number in range(1, group.count + 1):
            name = group.customer(number)
            if name in seen:
                where = content.path(f"customers[{place}].name")
                raise InvalidInput(where, name, f"A customer of customers[{seen[name]}] has this name; choose another.")
            seen[name] = place


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the file, which knows where it stands."""

    origin: str
    place: str
    values: Mapping[str, Any]

    def path(self, key: str = "") -> str:
        return f"{self.origin}{'.'.join(part for part in (self.place, key) if part)}"

    def know(self, keys: Iterable[str]) -> None:
        """Refuse a key that is not one of these, and say which was probably meant."""
        known = tuple(keys)
        for key in self.values:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                meant = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
                raise InvalidInput(self.path(), key, f"There is no such key. {meant}")

    def known(self, keys: Iterable[str]) -> Mapping[str, Any]:
        self.know(keys)
        return self.values

    def table(self, key: str, *, required: bool = False) -> _Table:
        inner = self.values.get(key, None if required else {})
        if not isinstance(inner, Mapping):
            raise InvalidInput(self.path(key), inner, f"Write a table: [{'.'.join(filter(None, (self.place, key)))}].")
        return _Table(self.origin, ".".join(part for part in (self.place, key) if part), inner)

    def tables(self) -> Iterator[tuple[str, _Table]]:
        for key in self.values:
            yield key, self.table(key)

    def rows(self, key: str) -> Iterator[_Table]:
        """Yield the tables of a list of them; in places they are counted from 1."""
        inner = self.values.get(key, [])
        if not isinstance(inner, list) or not all(isinstance(one, Mapping) for one in inner):
            raise InvalidInput(self.path(key), inner, f"Write tables: [[{key}]].")
        for number, one in enumerate(inner, start=1):
            yield _Table(self.origin, ".".join(part for part in (self.place, f"{key}[{number}]") if part), one)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise InvalidInput(self.path(key), value, "Write it as text.")
        return value.strip()

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if key in self.values else None

    def one_of(self, key: str, known: Iterable[str], default: str | None = None) -> str:
        value = self.values.get(key, default)
        choices = tuple(known)
        if value not in choices:
            near = get_close_matches(str(value), choices, n=1)
            meant = f"Did you mean {near[0]}?" if near else f"Use one of: {', '.join(choices) or 'there is none yet'}."
            raise InvalidInput(self.path(key), value, meant)
        return str(value)

    def whole(self, key: str, least: int, most: int, *, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidInput(self.path(key), value, f"Give a whole number from {least:,} to {most:,}.")
        return value

    def share(self, key: str, default: float, *, most: float = 1.0) -> float:
        value = self.values.get(key, default)
        if not isinstance(value, int | float | Decimal) or isinstance(value, bool) or not 0 <= value <= most:
            raise InvalidInput(self.path(key), value, f"Give a number from 0 to {most:g}.")
        return float(value)

    def money(self, key: str) -> Money | None:
        value = self.values.get(key)
        if value is None:
            return None
        try:
            amount = Money.parse(value)
        except (InvalidInput, AttributeError, TypeError):
            amount = None
        if amount is None or amount.nanos <= 0:
            raise InvalidInput(self.path(key), value, 'Give an amount above zero as text, such as "50 USD".')
        return amount

    def zone(self, key: str) -> str | None:
        name = self.optional_text(key)
        if name is None or name in available_timezones():
            return name
        near = get_close_matches(name, available_timezones(), n=1)
        meant = f"Did you mean {near[0]}?" if near else 'Name a time zone such as "Europe/Berlin".'
        raise InvalidInput(self.path(key), name, meant)

    def instant(self, key: str, zone: str, *, required: bool = False) -> datetime:
        """Return an instant; a date, and a time without an offset, are of the scenario's zone."""
        value = self.values.get(key)
        stated = value
        if isinstance(stated, str):
            try:
                stated = datetime.fromisoformat(stated)
            except ValueError:
                stated = None
        if isinstance(stated, date) and not isinstance(stated, datetime):
            stated = datetime(stated.year, stated.month, stated.day)  # noqa: DTZ001  # it gets its zone below
        if not isinstance(stated, datetime):
            need = "It is needed. " if required and value is None else ""
            raise InvalidInput(self.path(key), value, f"{need}Give a date such as 2026-01-31, or a time of one.")
        return (stated if stated.tzinfo else stated.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC)


class _Customers:
    """Reads one table of customers."""

    def __init__(self, scenario: Scenario, table: _Table) -> None:
        self._scenario = scenario
        self._table = table

    def read(self) -> CustomerGroup:
        table, scenario = self._table, self._scenario
        table.know(_CUSTOMER_KEYS)
        count = table.whole("count", 1, _COUNT_MOST, default=1)
        starts_at, spread_months = self._starts()
        return CustomerGroup(
            name=self._name(count),
            count=count,
            plan=table.one_of("plan", scenario.plans),
            billing_mode=table.one_of("billing_mode", ("plan", "credits"), "plan"),
            trial_days=table.whole("trial_days", 0, 3_650) if "trial_days" in table.values else None,
            coupon=self._coupon(table),
            billing=table.table("billing").known(_BILLING_KEYS),
            timezone=table.zone("timezone"),
            currency=table.optional_text("currency"),
            starts_at=starts_at,
            spread_months=spread_months,
            calls=read_week(table.path("calls_per_day"), table.values.get("calls_per_day", 0)),
            models=self._models(),
            input_tokens=read_distribution(
                table.path("input_tokens"), table.values.get("input_tokens", "lognormal:800,0.6")
            ),
            output_tokens=read_distribution(
                table.path("output_tokens"), table.values.get("output_tokens", "lognormal:250,0.5")
            ),
            feature=table.text("feature") if "feature" in table.values else "",
            resources={
                name: read_week(table.path(f"resources.{name}"), stated)
                for name, stated in table.table("resources").values.items()
            },
            growth=table.share("grows", 1.0, most=10.0),
            churn=table.share("churns", 0.0),
            pays=self._pays(),
            wallet=table.money("wallet"),
            tops_up=table.money("tops_up"),
            happenings=tuple(self._happening(one) for one in table.rows("events")),
        )

    def _name(self, count: int) -> str:
        default = "customer-{n}" if count > 1 else None
        name = self._table.text("name", default)
        if count > 1 and _PATTERN not in name:
            raise InvalidInput(self._table.path("name"), name, f'Say where their number stands: "{name}-{_PATTERN}".')
        return name

    def _coupon(self, table: _Table) -> str | None:
        return table.one_of("coupon", self._scenario.coupons) if "coupon" in table.values else None

    def _starts(self) -> tuple[datetime | None, int]:
        table, scenario = self._table, self._scenario
        stated = table.values.get("starts", scenario.start)
        if stated == "spread":
            return None, scenario.months
        if isinstance(stated, str) and (match := _SPREAD.fullmatch(stated)):
            months = int(match[1])
            if not 1 <= months <= scenario.months:
                raise InvalidInput(table.path("starts"), stated, f"Spread them over 1 to {scenario.months} months.")
            return None, months
        if "starts" not in table.values:
            return scenario.start, 0
        return self._inside(table, "starts"), 0

    def _inside(self, table: _Table, key: str) -> datetime:
        try:
            instant = table.instant(key, self._scenario.zone)
        except InvalidInput as error:
            extra = ' "spread" and "spread:3m" spread the starts.' if key == "starts" else ""
            raise InvalidInput(error.field, error.value, error.remedy + extra) from None
        if not self._scenario.start <= instant < self._scenario.end:
            last = self._scenario.end - timedelta(microseconds=1)
            remedy = f"The scenario is from {self._scenario.start:%Y-%m-%d} to {last:%Y-%m-%d}."
            raise InvalidInput(table.path(key), str(table.values[key]), remedy)
        return instant

    def _models(self) -> tuple[Model, ...]:
        path = self._table.path("model")
        stated = self._table.values.get("model", "openai/gpt-4o-mini")
        weights = stated if isinstance(stated, Mapping) else {stated: 1}
        models = []
        for name, weight in weights.items():
            provider, _, model = name.partition("/") if isinstance(name, str) else ("", "", "")
            if not provider or not model:
                raise InvalidInput(path, name, 'Name provider and model: "openai/gpt-4o-mini".')
            if not isinstance(weight, int) or isinstance(weight, bool) or weight < 1:
                raise InvalidInput(f"{path}.{name}", weight, "Give its weight beside the others, a whole number.")
            models.append(Model(provider, model, weight))
        if not models:
            raise InvalidInput(path, stated, "Name at least one model.")
        return tuple(models)

    def _pays(self) -> Paying:
        stated = self._table.values.get("pays", "always")
        text = stated if isinstance(stated, str) else ""
        if text in ("always", "due", "never"):
            return Paying(text)
        if match := _LATE.fullmatch(text):
            return Paying("late", days=int(match[1]))
        if match := _FAILS.fullmatch(text):
            return Paying("fails", rate=float(match[1]))
        raise InvalidInput(self._table.path("pays"), stated, _PAYS_REMEDY)

    def _happening(self, table: _Table) -> Happening:
        do = table.one_of("do", _DEEDS)
        needed, possible = _DEEDS[do]
        table.know((*_HAPPENING_KEYS, *needed, *possible))
        if ("at" in table.values) == ("after_days" in table.values):
            raise InvalidInput(table.path("at"), table.values.get("at"), 'Say when: either "at" or "after_days".')
        missing = next((key for key in needed if key not in table.values), None)
        if missing is not None:
            raise InvalidInput(table.path(missing), None, f'"{do}" needs it.')
        return Happening(
            do=do,
            at=self._inside(table, "at") if "at" in table.values else None,
            after_days=table.whole("after_days", 0, 36_500) if "after_days" in table.values else None,
            arguments={name: self._argument(table, name) for name in (*needed, *possible) if name in table.values},
            share=table.share("share", 1.0),
        )

    def _argument(self, table: _Table, name: str) -> object:
        value = table.values[name]
        if name == "plan":
            return table.one_of(name, self._scenario.plans)
        if name == "coupon":
            return self._coupon(table)
        if name == "amount":
            return table.money(name)
        if name == "quantity":
            return table.whole(name, 1, 10**9)
        if name in _FLAGS and not isinstance(value, bool):
            raise InvalidInput(table.path(name), value, "Write true or false.")
        return value if name in _FLAGS else table.text(name)
