"""Is this installation fit to run? Every setting with its source, and the checks that a wrong one would fail later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.clock import SystemClock
from tallystick.encryption import Cipher
from tallystick.errors import ConfigurationError, TallystickError
from tallystick.named_imports import import_named
from tallystick.notify.wording import Wordings
from tallystick.pricing import Catalogue, PriceOverride, Pricing
from tallystick.providers.registry import load_provider
from tallystick.settings import ModelPriceSetting, SettingRow, Settings
from tallystick.upkeep import DatabaseState, look_at_database

if TYPE_CHECKING:
    from tallystick.plans.terms import Plan

__all__ = ["Check", "Validation", "validate"]

OK, WARNING, PROBLEM = "ok", "warning", "problem"

# The currency of the catalogue's prices.
_CATALOGUE_CURRENCY = "USD"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `outcome` is "ok", "warning" or "problem"; the last two say what to do."""

    subject: str
    outcome: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Validation:
    """What was found. `ok`: nothing is a problem; warnings do not change that."""

    settings: tuple[SettingRow, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.outcome != PROBLEM for check in self.checks)


def validate(database: str | None = None, config: str | os.PathLike[str] | None = None) -> Validation:
    """Check the configuration, the database, provider classes, prices and currencies. Nothing is created or changed.

    What is wrong is in the answer; nothing is raised for it.
    """
    try:
        settings = Settings.load(database, config)
    except TallystickError as error:
        return Validation((), (Check("configuration", PROBLEM, error.message),))
    rows = settings.describe()
    given = sum(row.source != "default" for row in rows)
    checks = [Check("configuration", OK, f"{len(rows)} settings, {given} of them given, the others by default")]
    state = _database_state(settings)
    checks += [state] if isinstance(state, Check) else _database_checks(settings, state)
    checks += _provider_checks(settings)
    checks += _notification_checks(settings)
    has_plans = isinstance(state, DatabaseState) and state.is_current
    plans = _plans(database, config) if has_plans else []
    checks += _billing_checks(settings, plans)
    checks += _price_checks(settings)
    checks += _currency_checks(settings, plans)
    return Validation(rows, tuple(checks))


def _database_state(settings: Settings) -> DatabaseState | Check:
    try:
        return look_at_database(settings)
    except TallystickError as error:
        return Check("database", PROBLEM, error.message, "Start it, or correct database_url.")


def _database_checks(settings: Settings, state: DatabaseState) -> Iterator[Check]:
    name = "SQLite" if state.kind == "sqlite" else "PostgreSQL"
    if state.is_current:
        yield Check("database", OK, f"{name}, schema {state.schema}")
    else:
        detail = f"{name} has no schema yet" if state.schema is None else f"{name} is at schema {state.schema}"
        detail += f", this version needs {state.schema_needed}"
        outcome = WARNING if settings.auto_migrate and _is_older(state) else PROBLEM
        remedy = "Run tallystick migrate" if _is_older(state) else "Upgrade tallystick, or name another database"
        yield Check(
            "database", outcome, detail, remedy + (", or leave it to the first use." if outcome == WARNING else ".")
        )
    if not state.is_sqlite_safe:
        yield Check(
            "SQLite library",
            WARNING,
            f"SQLite {state.sqlite_version} can, rarely, corrupt a database that several connections write to",
            "Install pysqlite3, or a Python with SQLite 3.51.3 or newer, or use PostgreSQL.",
        )


def _is_older(state: DatabaseState) -> bool:
    return state.schema is None or state.schema < state.schema_needed


def _plans(database: str | None, config: str | os.PathLike[str] | None) -> list[Plan]:
    from tallystick.app import Tallystick

    try:
        with Tallystick(database, config=config, auto_migrate=False) as ts:
            return ts.plans.list()
    except ConfigurationError:
        # A provider's class that cannot be imported keeps the engine closed; it has a check of its own.
        return []


def _provider_checks(settings: Settings) -> Iterator[Check]:
    for name, provider in settings.providers.items():
        if provider.class_path is None:
            continue
        try:
            load_provider(name, provider.class_path)
        except TallystickError as error:
            yield Check(f"provider {name}", PROBLEM, error.message)
        except Exception as error:  # noqa: BLE001  # importing runs the application's own code, which may raise anything
            yield Check(f"provider {name}", PROBLEM, f"{provider.class_path} cannot be made: {error!r}")
        else:
            yield Check(f"provider {name}", OK, f"{provider.class_path} was imported")
    default = settings.default_provider
    if default is not None and default not in settings.providers and Catalogue().canonical(default) is None:
        yield Check(
            "default_provider",
            WARNING,
            f"{default!r} is neither configured nor in the price catalogue: its calls have no price",
            f"Correct the name, or set providers.{default}.models.<model> prices.",
        )


def _notification_checks(settings: Settings) -> Iterator[Check]:
    """Look at what sends notifications: it would otherwise be missed when the first one goes out."""
    stated = settings.notifications
    named = {f"notifications.channels.{name}.class": one.class_path for name, one in stated.channels.items()}
    for setting, path in {**named, "notifications.address_of": stated.address_of}.items():
        if path is None:
            continue
        try:
            import_named(setting, path)
        except TallystickError as error:
            yield Check("notifications", PROBLEM, error.message)
        except Exception as error:  # noqa: BLE001  # importing runs the application's own code, which may raise anything
            yield Check("notifications", PROBLEM, f"{path} cannot be imported: {error!r}")
        else:
            yield Check("notifications", OK, f"{path} was imported")
    try:
        Wordings(stated.templates, stated.locale)
    except TallystickError as error:
        yield Check("notifications", PROBLEM, error.message)
    if stated.smtp.host is None:
        return
    if find_spec("jinja2") is None:
        yield Check("mail", WARNING, "Jinja2 is missing: mail is text alone", "Install tallystick[mail].")
    elif stated.smtp.security == "none" and stated.smtp.username is not None:
        yield Check(
            "mail", WARNING, "The password goes to the mail server unencrypted", "Set notifications.smtp.security."
        )
    else:
        yield Check("mail", OK, f"{stated.smtp.host}:{stated.smtp.port}, {stated.smtp.security}")


def _billing_checks(settings: Settings, plans: list[Plan]) -> Iterator[Check]:
    """Look at what sends invoices, charges overage and keeps secrets."""
    try:
        if settings.billing.driver != "null":
            import_named("billing.driver", settings.billing.driver)
    except TallystickError as error:
        yield Check("billing.driver", PROBLEM, error.message)
    except Exception as error:  # noqa: BLE001  # importing runs the application's own code, which may raise anything
        yield Check("billing.driver", PROBLEM, f"{settings.billing.driver} cannot be imported: {error!r}")
    logo = settings.invoicing.seller.logo
    if logo is not None and not Path(logo).is_file():
        yield Check("invoicing.seller.logo", PROBLEM, f"There is no file {logo}", "Correct its path.")
    is_sold = any(plan.current.price is not None for plan in plans)
    if is_sold and settings.invoicing.enabled and not settings.invoicing.seller.name:
        detail = "Invoices do not say who sends them"
        yield Check("invoicing.seller", WARNING, detail, "Set invoicing.seller.name, address and tax_id.")
    if settings.security.encryption_keys and find_spec("cryptography") is None:
        yield Check("encryption", PROBLEM, "cryptography is missing", "Install tallystick[encryption].")
    elif not settings.security.encryption_keys:
        yield Check("encryption", OK, "no keys: webhook secrets are kept as they are, payment methods cannot be kept")
    else:
        try:
            Cipher(settings.security.encryption_keys)
        except TallystickError as error:
            yield Check("encryption", PROBLEM, error.message)
        else:
            yield Check("encryption", OK, f"{len(settings.security.encryption_keys)} keys")


def _price_checks(settings: Settings) -> Iterator[Check]:
    entries: dict[str, list[ModelPriceSetting]] = {}
    for entry in settings.price_overrides():
        entries.setdefault(f"{entry.provider}/{entry.model}", []).append(entry)
    for name, prices in entries.items():
        yield _price_check(name, prices)


def _price_check(name: str, prices: list[ModelPriceSetting]) -> Check:
    subject = f"price {name}"
    try:
        overrides = [_override(entry) for entry in prices]
    except TallystickError as error:
        return Check(subject, PROBLEM, error.message)
    for entry in prices:
        for direction in ("input", "output"):
            if direction not in entry.prices:
                detail = f"{direction} tokens have no price: calls that use them are not priced"
                return Check(subject, WARNING, detail, f"Set {direction}_price_per_1k; free is 0.")
    first = prices[0]
    if Pricing(overrides).find(first.provider, first.model, SystemClock().now()) is None:
        return Check(subject, WARNING, "no price is in force today", "Add prices whose dates include today.")
    return Check(subject, OK, _stated(prices[-1]))


def _override(entry: ModelPriceSetting) -> PriceOverride:
    return PriceOverride(
        provider=entry.provider,
        model=entry.model,
        currency=entry.currency,
        effective_from=entry.effective_from,
        effective_until=entry.effective_until,
        **{f"{token_class}_price_per_million": price for token_class, price in entry.prices.items()},
    )


def _stated(entry: ModelPriceSetting) -> str:
    prices = ", ".join(f"{name.replace('_', ' ')} {price.normalize():f}" for name, price in entry.prices.items())
    return f"{prices} {entry.currency} for 1,000,000 tokens"


def _currency_checks(settings: Settings, plans: list[Plan]) -> Iterator[Check]:
    """Compare the currencies that accounts are kept in with those that prices come in."""
    accounts = {settings.billing.currency: "billing.currency"}
    accounts |= {plan.current.currency: f"plan {plan.slug}" for plan in plans if plan.current.currency not in accounts}
    prices = {_CATALOGUE_CURRENCY: "the price catalogue"}
    prices |= {entry.currency: f"the price of {entry.provider}/{entry.model}" for entry in settings.price_overrides()}
    missing = False
    for source, priced in prices.items():
        for target, account in accounts.items():
            key = f"{source}_{target}".lower()
            if source != target and key not in settings.billing.currency_rates:
                missing = True
                yield Check(
                    "currencies",
                    PROBLEM,
                    f"{account} is in {target}, {priced} in {source}, and there is no rate: such use stays unpriced",
                    f"Set billing.currency_rates.{key}.",
                )
    if not missing:
        yield Check("currencies", OK, f"accounts in {', '.join(accounts)}; every price can be converted")
