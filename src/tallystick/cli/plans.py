"""`tallystick plans`: what is sold."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallystick.cli.figures import amount, count
from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing, the_same
from tallystick.cli.output import console, print_json, table
from tallystick.errors import InvalidInput
from tallystick.money import Money

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick import Tallystick

__all__ = ["features_in_words", "money", "plan_as_json", "plans", "print_plans"]

plans = typer.Typer(name="plans", help="Plans: list them, create one, and say which version is sold.")

Slug = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's slug.")]


@plans.command("list")
def list_plans(
    active_only: Annotated[bool, typer.Option("--active-only", help="Leave out archived plans.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List every plan with the limits and prices that are sold now."""
    with open_existing(database, config) as ts:
        print_plans(ts, active_only=active_only, as_json=as_json)


def print_plans(ts: Tallystick, *, active_only: bool, as_json: bool) -> None:
    """List plans with the limits and prices that are sold now."""
    found = ts.plans.list(active_only=active_only)
    if as_json:
        print_json({"plans": [_whole_plan_as_json(plan) for plan in found]})
    else:
        _show(console(), found, ts.settings.billing.overage_behavior)


@plans.command("create")
def create_plan(
    slug: Annotated[str, typer.Argument(help="What programs call it, such as pro.")],
    name: Annotated[str | None, typer.Option(help="What people call it; otherwise the slug.")] = None,
    plan_type: Annotated[
        Literal["free", "starter", "professional", "enterprise", "custom"],
        typer.Option("--type", help="What sort of plan it is; it says nothing of its terms."),
    ] = "custom",
    description: Annotated[str | None, typer.Option(help="What people read about it.")] = None,
    label: Annotated[str | None, typer.Option(help="What people call its first version, such as 2026.")] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Do not publish it yet: nobody can subscribe.")] = False,
    monthly_token_limit: Annotated[int | None, typer.Option(min=0, help="Tokens per period; else unlimited.")] = None,
    monthly_cost_limit: Annotated[
        str | None, typer.Option(metavar="MONEY", help='Cost per period, such as "100 USD"; otherwise unlimited.')
    ] = None,
    overage_price: Annotated[
        str | None, typer.Option(metavar="MONEY", help="Price of 1,000 tokens beyond the limit.")
    ] = None,
    overage_behavior: Annotated[
        Literal["block", "charge", "allow"] | None,
        typer.Option(help="Past a limit: refuse, charge, or let pass; otherwise as billing.overage_behavior."),
    ] = None,
    trial_days: Annotated[int, typer.Option(min=0, help="Days of trial of a new subscription.")] = 0,
    price: Annotated[str | None, typer.Option(metavar="MONEY", help='Price per cycle, such as "99 USD".')] = None,
    billing_cycle: Annotated[
        Literal["monthly", "quarterly", "yearly", "lifetime"], typer.Option(help="How often the price is due.")
    ] = "monthly",
    feature: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE",
            help="What the plan has of a feature, once for each: api-calls=1000/daily, exports=50 (monthly), "
            "reports=unlimited, or sso for one that is not counted.",
        ),
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create a plan and publish its first version. An amount without a currency is in billing.currency."""
    with open_any(database, config) as ts:
        currency, default = ts.settings.billing.currency, ts.settings.billing.overage_behavior
        plan = ts.plans.create(
            slug,
            name,
            plan_type=plan_type,
            description=description,
            label=label,
            publish=not draft,
            monthly_token_limit=monthly_token_limit,
            monthly_cost_limit=money(monthly_cost_limit, currency, field="monthly_cost_limit"),
            overage_price_per_1k_tokens=money(overage_price, currency, field="overage_price"),
            overage_behavior=overage_behavior,
            trial_days=trial_days,
            price=money(price, currency, field="price"),
            billing_cycle=billing_cycle,
            features=_features(feature or []),
        )
    if as_json:
        print_json(_whole_plan_as_json(plan))
        return
    out = console()
    _show(out, [plan], default)
    out.print()
    same = the_same(ts.settings, database, config)
    following = f"plans publish {plan.slug}" if draft else f"subscriptions create user:1 {plan.slug}"
    out.print(f"Created. Next: tallystick {following}{same}")


@plans.command("versions")
def list_versions(slug: Slug, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the versions of a plan, and what each changed."""
    with open_existing(database, config) as ts:
        plan = ts.plans.get(slug)
        numbers = [version.version for version in plan.versions]
        changes = {after: ts.plans.diff(slug, before, after) for before, after in pairwise(numbers)}
    if as_json:
        versions = [
            {
                **plan_as_json(version),
                "is_sold": _is_sold(plan, version),
                "differences": [one.to_dict() for one in changes.get(version.version, [])],
            }
            for version in plan.versions
        ]
        print_json({"plan": plan.slug, "versions": versions})
    else:
        _show_versions(console(), plan, changes)


@plans.command("publish")
def publish_plan(
    slug: Slug,
    version: Annotated[int | None, typer.Argument(min=1, help="Which version; otherwise the newest.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Sell a version to new subscribers from now on; an older one again, too. Who has subscribed keeps theirs."""
    with open_existing(database, config) as ts:
        plan = ts.plans.publish(slug, version)
    _print_changed(plan, f"New subscribers of {slug} get version {plan.current.version}.", as_json=as_json)


@plans.command("archive")
def archive_plan(slug: Slug, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Take a plan off sale: nobody new can subscribe. Who has it keeps it."""
    with open_existing(database, config) as ts:
        plan = ts.plans.archive(slug)
    _print_changed(plan, f"{slug} is archived: nobody new can subscribe.", as_json=as_json)


@plans.command("activate")
def activate_plan(slug: Slug, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Put an archived plan on sale again."""
    with open_existing(database, config) as ts:
        plan = ts.plans.activate(slug)
    _print_changed(plan, f"{slug} is on sale.", as_json=as_json)


@plans.command("export")
def export_plans(database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Print all plans as they are sold now as TOML, which tallystick sync-plans reads."""
    with open_existing(database, config) as ts:
        text = ts.plans.export()
    if as_json:
        print_json({"toml": text})
    else:
        typer.echo(text, nl=False)


def money(text: str | None, currency: str, *, field: str) -> Money | None:
    """Read an amount: "100 USD", or "100" in the given currency.

    Raises:
        InvalidInput: it is neither.
    """
    if text is None:
        return None
    try:
        return Money.parse(text) if " " in text.strip() else Money(text.strip(), currency)
    except InvalidInput as error:
        raise InvalidInput(
            field, text, f'Write an amount and a currency, such as "100 {currency}". {error.remedy}'
        ) from None


def plan_as_json(version: Any) -> dict[str, object]:
    """Return a version of a plan as plain values."""
    rate: Decimal | None = version.overage_price_per_1k_tokens
    return {
        "slug": version.slug,
        "name": version.name,
        "version": version.version,
        "label": version.label,
        "currency": version.currency,
        "monthly_token_limit": version.monthly_token_limit,
        "monthly_cost_limit": version.monthly_cost_limit,
        "overage_behavior": None if version.overage_behavior is None else str(version.overage_behavior),
        "overage_price_per_1k_tokens": None if rate is None else {"amount": f"{rate:f}", "currency": version.currency},
        "overage_markup_percent": version.overage_markup_percent,
        "trial_days": version.trial_days,
        "price": version.price,
        "billing_cycle": version.billing_cycle,
        "published_at": version.published_at,
        "features": [
            {
                "slug": feature.slug,
                "name": feature.name,
                "is_consumable": feature.is_consumable,
                "value": feature.value,
                "is_unlimited": feature.is_unlimited,
                "reset": feature.reset,
                "display_value": feature.display_value,
                "is_hidden": feature.is_hidden,
                "sort_order": feature.sort_order,
            }
            for feature in version.features.values()
        ],
        "usage_prices": {name: price.to_dict() for name, price in version.usage_prices.items()},
    }


def _whole_plan_as_json(plan: Any) -> dict[str, object]:
    """Return a plan, with the version that is sold, as plain values."""
    return {
        **plan_as_json(plan.current),
        "plan_type": str(plan.plan_type),
        "description": plan.description,
        "archived_at": plan.archived_at,
    }


def features_in_words(version: Any) -> list[str]:
    """Return what a version of a plan has of each feature, such as "api-calls 1,000 daily"."""
    return [_feature_in_words(feature) for feature in version.features.values()]


def _feature_in_words(feature: Any) -> str:
    said = feature.slug
    if feature.is_consumable:
        reset = "once" if feature.reset == "never" else feature.reset
        said += " unlimited" if feature.is_unlimited else f" {count(feature.value)} {reset}"
    if feature.display_value is not None:
        said += f" ({feature.display_value})"
    return f"{said}, hidden" if feature.is_hidden else said


def _features(given: Sequence[str]) -> dict[str, object]:
    """Read what `--feature` says: a slug, or a slug and a value, or a slug, a value and a reset period."""
    features: dict[str, object] = {}
    for text in given:
        slug, has_value, rest = (part.strip() for part in text.partition("="))
        value, has_reset, reset = (part.strip() for part in rest.partition("/"))
        if slug in features:
            raise InvalidInput("feature", text, "Give each feature once.")
        features[slug] = ({"value": value, "reset": reset} if has_reset else {"value": value}) if has_value else True
    return features


def _show(out: Console, found: list[Any], default_behavior: str) -> None:
    if not found:
        out.print("There are no plans yet. Create one: tallystick plans create pro --monthly-token-limit 1000000")
        return
    with_features = any(plan.current.features for plan in found)
    with_prices = any(plan.current.usage_prices for plan in found)
    columns = ["Plan", "Tokens", "Cost", "Past the limit", "Price"]
    columns += [*(["Features"] if with_features else []), *(["Usage prices"] if with_prices else [])]
    shown = table(*columns, right=("Tokens", "Cost"))
    for plan in found:
        version = plan.current
        shown.add_row(
            _called(plan),
            "unlimited" if version.monthly_token_limit is None else count(version.monthly_token_limit),
            "unlimited" if version.monthly_cost_limit is None else amount(version.monthly_cost_limit),
            _past_limit(version, default_behavior),
            _price(version),
            *(["\n".join(features_in_words(version)) or "–"] if with_features else []),
            *(["\n".join(version.usage_prices) or "–"] if with_prices else []),
        )
    out.print(shown)


def _called(plan: Any) -> str:
    called = plan.slug if plan.current.version == 1 else f"{plan.slug}, version {plan.current.version}"
    if not plan.current.is_published:
        called += ", draft"
    return called if plan.is_active else f"{called}, archived"


def _show_versions(out: Console, plan: Any, changes: dict[int, Any]) -> None:
    shown = table("Version", "Label", "Published", "", "What it changed", right=("Version",))
    for version in plan.versions:
        published = "–" if version.published_at is None else f"{version.published_at:%Y-%m-%d %H:%M} UTC"
        state = "draft" if version.published_at is None else "on sale" if _is_sold(plan, version) else ""
        changed = "\n".join(str(one) for one in changes.get(version.version, []))
        shown.add_row(str(version.version), version.label or "–", published, state, changed or "–")
    out.print(shown)


def _is_sold(plan: Any, version: Any) -> bool:
    return bool(plan.is_active and version.is_published and version.id == plan.current.id)


def _print_changed(plan: Any, said: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_whole_plan_as_json(plan))
    else:
        console().print(said)


def _price(version: Any) -> str:
    price = "–" if version.price is None else f"{amount(version.price)} {version.billing_cycle}"
    return f"{price}, {version.trial_days} days of trial" if version.trial_days else price


def _past_limit(version: Any, default_behavior: str) -> str:
    behavior = str(version.overage_behavior or f"{default_behavior} (by setting)")
    rate = version.overage_price_per_1k_tokens
    markup = version.overage_markup_percent
    if rate is not None:
        return f"{behavior} {rate:f} {version.currency} for 1,000"
    return behavior if not markup else f"{behavior} cost and {markup:f}%"
