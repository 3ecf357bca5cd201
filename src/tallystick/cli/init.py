"""`tallystick init`: a settings file with everything in it as comments, and the database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.options import AsJson, Config, Database, shown_url, the_same
from tallystick.cli.output import console, print_json
from tallystick.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from tallystick.settings import SettingKey
    from tallystick.upkeep import SchemaChange

__all__ = ["init", "settings_file"]

_FILE = Path("tallystick.toml")

_HEAD = """\
# Settings of Tallystick. Lines that begin with "#" are not in force: they show each setting with its default, or an
# example. Remove the "#" to change it. An environment variable wins over this file: TALLYSTICK_BILLING__CURRENCY=EUR.
# `tallystick validate` says what is in force and where it came from.
"""

# Settings that are not set by default, or that name something of one's own, by example.
_EXAMPLES = {
    "default_provider": '"openai"',
    "credits.overdraft_limit": '"20.00"',
    "credits.minimum_balance": '"5.00"',
    "usage.late_event_days": "90",
    "tenants.erase_after_days": "90",
    "invoicing.past_due_after_days": "14",
    "invoicing.cancel_after_days": "30",
    "invoicing.archive_after_days": "365",
    "invoicing.seller.logo": '"logo.svg"',
    "notifications.base_url": '"https://app.example.com/billing"',
    "notifications.templates": '"templates"',
    "notifications.address_of": '"application.mail:address_of"',
    "notifications.smtp.host": '"smtp.example.com"',
    "notifications.smtp.username": '"billing"',
    "notifications.smtp.password": '"of the mail server"',
    "notifications.smtp.sender": '"Example <billing@example.com>"',
}
_CURRENCY_RATES = """\
# One unit of the first currency is so many of the second. Never inverted, and never taken for 1.
#[billing.currency_rates]
#usd_eur = "0.92"
"""
_RATE_LIMITS = """\
# How many everybody may use who has no rate limit of their own: requests, tokens, or any resource type.
#[rate_limits.requests]
#per_second = 20
#per_minute = 300
"""
_RESOURCE_TYPES = """\
# Resource types of your own, and whether parts of a unit count.
#[usage.resource_types.minute]
#unit = "minute"
#fractions = true
"""
_DEFAULT_QUOTAS = """\
# The quotas that a new tenant gets, by resource type and period.
#[tenants.default_quotas.message]
#daily = 1000
#monthly = 10000
"""
_REASONS = """\
# What a reason of a grant means: its kind (paid or promotional), and what holds where a grant does not say.
#[credits.reasons.referral]
#kind = "promotional"
#priority = 10
#expires_after_days = 90
"""
_PROVIDERS = """\
# Prices of your own, in place of the catalogue's. A name with a dot is quoted: models."gpt-4.1".
#[providers.openai.models."gpt-4o-mini"]
#input_price_per_1k = "0.00015"
#output_price_per_1k = "0.0006"

# A class of your own that reads the usage of a provider's responses.
#[providers.ours]
#class = "application.providers:OurProvider"
"""


def init(
    force: Annotated[bool, typer.Option("--force", help="Overwrite the settings file. The database is never.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write a commented settings file, and create the database.

    The file is ./tallystick.toml, or --config. A --database is written into the file, unless it has a password in
    it. An existing file is not overwritten, and an existing database is kept and migrated.
    """
    file = config or _FILE
    if file.exists() and not force:
        raise Conflict(f"There is a file {file} already. Edit it, or overwrite it with --force.")
    created = _create(file, database)
    if as_json:
        print_json(
            {
                "config": str(file),
                "database": created.database,
                "schema": {"before": created.change.before, "after": created.change.after},
            }
        )
        return
    out = console()
    out.print(f"Wrote {file}: every setting, with its default, as a comment.")
    was = "Created" if created.change.before is None else "Kept"
    out.print(f"{was} the database {created.database}, at schema {created.change.after}.")
    if created.has_password:
        out.print("Its password is not in the file: set TALLYSTICK_DATABASE_URL, or give --database.")
    if config is not None:
        out.print(f"Say where the file is: TALLYSTICK_CONFIG={config}, or --config {config}.")
    out.print(f"Next: tallystick validate{created.again}")


def settings_file(database: str | None) -> str:
    """Return the text of a settings file in which nothing but the database, if one is given, is in force."""
    from tallystick.settings import known_settings

    groups = (_CURRENCY_RATES, _REASONS, _RATE_LIMITS, _RESOURCE_TYPES, _DEFAULT_QUOTAS, _PROVIDERS)
    return "\n".join([_HEAD, *_lines(known_settings(), database), "", *groups])


def _lines(settings: Sequence[SettingKey], database: str | None) -> Iterator[str]:
    table = ""
    for setting in settings:
        if "<" in setting.name:
            continue
        group, _, key = setting.name.rpartition(".")
        if group != table:
            table = group
            yield f"\n[{group}]"
        description = setting.description.replace("`", "")
        yield f"# {description}" if description.endswith("…") else f"# {description}."
        value = _EXAMPLES.get(setting.name) or _toml(setting.default)
        if setting.name == "database_url" and database is not None:
            yield f"database_url = {_toml(database)}"
        else:
            yield f"#{key} = {value}"


def _toml(value: object) -> str:
    # A JSON text, number, boolean or list of texts is the same in TOML.
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Created:
    """What was made: the database as it may be shown, and the options that lead to it again."""

    change: SchemaChange
    database: str
    has_password: bool
    again: str


def _create(file: Path, database: str | None) -> _Created:
    """Write the file and migrate the database. The file is put in place once the database is there."""
    from tallystick.settings import Settings
    from tallystick.upkeep import migrate_database

    draft = file.with_name(f".{file.name}.new")
    try:
        _write(draft, settings_file(None))
        settings = Settings.load(database, draft)
        has_password = shown_url(settings) != settings.database_url
        _write(draft, settings_file(None if has_password else database))
        change = migrate_database(settings)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    config = None if file == _FILE else file
    return _Created(change, shown_url(settings), has_password, the_same(settings, None, config))


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput("config", str(file), f"The file cannot be written: {error.strerror}.") from None
