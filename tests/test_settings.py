"""Settings: what wins over what, what is refused and in which words, and that the documentation tells the same."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tallystick.errors import ConfigurationError
from tallystick.settings import CreditReason, Settings, known_settings

DOCUMENTATION = Path(__file__).parent.parent / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts in an empty folder, so that no file of this machine is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "tallystick.toml").write_text(text, encoding="utf-8")


def refusal(**arguments: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(**arguments)  # type: ignore[arg-type]  # wrong values are the point
    return caught.value


def source_of(settings: Settings, key: str) -> str:
    return next(row.source for row in settings.describe() if row.key == key)


# What wins over what ------------------------------------------------------------------------------------------------


def test_without_any_source_every_setting_has_its_documented_default() -> None:
    settings = Settings.load()
    assert settings.database_url == "sqlite:///tallystick.db"
    assert settings.auto_migrate is True
    assert settings.enforcement == "on"
    assert settings.billing.currency == "USD"
    assert settings.holds.default_tokens == 1000
    assert {row.source for row in settings.describe()} == {"default"}


def test_an_argument_wins_over_the_environment_which_wins_over_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, '[billing]\ncurrency = "BRL"\n')
    assert Settings.load().billing.currency == "BRL"
    monkeypatch.setenv("TALLYSTICK_BILLING__CURRENCY", "EUR")
    assert Settings.load().billing.currency == "EUR"
    assert Settings.load(billing={"currency": "JPY"}).billing.currency == "JPY"


def test_groups_are_merged_key_by_key_across_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, '[billing]\noverage_behavior = "charge"\ncurrency = "BRL"\n')
    monkeypatch.setenv("TALLYSTICK_BILLING__CURRENCY", "EUR")
    settings = Settings.load(billing={"payment_failure_grace_period_days": 3})
    assert settings.billing.overage_behavior == "charge"
    assert settings.billing.currency == "EUR"
    assert settings.billing.payment_failure_grace_period_days == 3


def test_describe_names_the_source_of_each_value(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "[holds]\nttl_seconds = 60\n")
    monkeypatch.setenv("TALLYSTICK_BILLING__CURRENCY", "EUR")
    settings = Settings.load(enforcement="shadow")
    assert source_of(settings, "enforcement") == "argument"
    assert source_of(settings, "billing.currency") == "environment TALLYSTICK_BILLING__CURRENCY"
    assert source_of(settings, "holds.ttl_seconds") == "file tallystick.toml"
    assert source_of(settings, "holds.default_tokens") == "default"


def test_arguments_may_be_nested_or_dotted() -> None:
    nested = Settings.load(billing={"currency": "EUR"})
    dotted = Settings.load(**{"billing.currency": "EUR"})
    assert nested == dotted


def test_a_dotted_argument_quotes_a_model_name_that_has_a_dot() -> None:
    settings = Settings.load(**{'providers.openai.models."gpt-4.1".input_price_per_1k': "0.002"})
    assert [price.model for price in settings.price_overrides()] == ["gpt-4.1"]


def test_the_database_is_the_first_argument() -> None:
    assert Settings.load("sqlite:///x.db").database_url == "sqlite:///x.db"


def test_the_database_is_given_once() -> None:
    assert "keep one" in refusal(database="sqlite:///x.db", database_url="sqlite:///y.db").remedy


def test_the_older_name_of_postgresql_in_a_url_is_understood() -> None:
    assert Settings.load("postgres://u@h/d").database_url == "postgresql://u@h/d"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_DEFAULT_PROVIDER", "")
    assert Settings.load().default_provider is None


def test_a_group_may_come_from_one_variable_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"gpt-4.1": {"input_price_per_1k": 0.1, "output_price_per_1k": "0.3"}}
    monkeypatch.setenv("TALLYSTICK_PROVIDERS", json.dumps({"openai": {"models": models}}))
    (price,) = Settings.load().price_overrides()
    assert price.model == "gpt-4.1"
    assert price.prices == {"input": Decimal(100), "output": Decimal(300)}


def test_a_variable_for_one_key_lies_over_that_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_HOLDS", '{"ttl_seconds": 60, "default_tokens": 5}')
    monkeypatch.setenv("TALLYSTICK_HOLDS__TTL_SECONDS", "30")
    settings = Settings.load()
    assert (settings.holds.ttl_seconds, settings.holds.default_tokens) == (30, 5)


def test_a_list_in_a_variable_is_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_METADATA__REDACT", "SSN, iban,")
    assert Settings.load().metadata.redact == ("ssn", "iban")


def test_variables_that_kubernetes_sets_for_a_service_called_tallystick_are_not_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(f"TALLYSTICK_{name}", "10.0.0.1")
    assert {row.source for row in Settings.load().describe()} == {"default"}


def test_the_file_may_be_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.toml").write_text('enforcement = "off"', encoding="utf-8")
    (folder / "b.toml").write_text('enforcement = "shadow"', encoding="utf-8")
    monkeypatch.setenv("TALLYSTICK_CONFIG", "a.toml")
    assert Settings.load().enforcement == "off"
    assert Settings.load(config=folder / "b.toml").enforcement == "shadow"


def test_a_byte_order_mark_before_the_file_is_passed_over(folder: Path) -> None:
    (folder / "tallystick.toml").write_text('enforcement = "off"', encoding="utf-8-sig")
    assert Settings.load().enforcement == "off"


def test_settings_never_change() -> None:
    settings = Settings.load(billing={"currency_rates": {"usd_eur": "0.85"}})
    with pytest.raises(ValidationError, match="frozen"):
        settings.enforcement = "off"
    with pytest.raises(ValidationError, match="frozen"):
        settings.billing.currency = "EUR"
    with pytest.raises(TypeError):
        settings.billing.currency_rates["usd_eur"] = Decimal(1)  # type: ignore[index]  # it must not be possible


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field", "meant"),
    [
        ({"billing": {"curency": "EUR"}}, "billing.curency", "billing.currency"),
        ({"biling": {"currency": "EUR"}}, "biling", "billing"),
        ({"currency": "EUR"}, "currency", "billing.currency"),
        ({"billing_currency": "EUR"}, "billing_currency", "billing.currency"),
        ({"enforcement": {"mode": "on"}}, "enforcement.mode", "enforcement"),
        ({"providers": {"x": {"model": {"m": {}}}}}, "providers.x.model", "providers.x.models"),
        (
            {"providers": {"x": {"models": {"m": [{"input_price_per_1000": "1"}]}}}},
            "providers.x.models.m.input_price_per_1000",
            "providers.x.models.m.input_price_per_1k",
        ),
    ],
)
def test_an_unknown_argument_is_refused_with_the_key_that_was_probably_meant(
    arguments: dict[str, object], field: str, meant: str
) -> None:
    error = refusal(**arguments)
    assert error.field == field
    assert f"Did you mean {meant}" in error.remedy
    assert "Source: argument." in error.remedy


def test_an_unknown_variable_is_refused_and_the_suggestion_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_BILLING_CURRENCY", "EUR")
    assert (
        "Did you mean TALLYSTICK_BILLING__CURRENCY? Source: environment TALLYSTICK_BILLING_CURRENCY."
        in refusal().message
    )


def test_an_unknown_key_in_the_file_is_refused_by_the_name_of_the_file(folder: Path) -> None:
    write(folder, "[period]\ntime_zone = 'UTC'\n")
    error = refusal()
    assert error.field == "period.time_zone"
    assert "Did you mean period.timezone? Source: file tallystick.toml." in error.remedy


def test_the_value_of_an_unknown_variable_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_DATABSE_URL", "postgresql://u:hunter2@h/d")
    error = refusal()
    assert "hunter2" not in error.message
    assert "TALLYSTICK_DATABASE_URL" in error.message


def test_a_model_name_with_a_dot_that_is_not_quoted_is_explained(folder: Path) -> None:
    write(folder, "[providers.openai.models.gpt-4.1]\ninput_price_per_1k = 0.002\n")
    assert 'models."gpt-4.1"' in refusal().remedy


@pytest.mark.parametrize(
    ("arguments", "field", "remedy"),
    [
        ({"holds": {"ttl_seconds": "soon"}}, "holds.ttl_seconds", "Give a whole number."),
        ({"holds": {"ttl_seconds": 1.5}}, "holds.ttl_seconds", "Give a whole number."),
        ({"holds": {"ttl_seconds": True}}, "holds.ttl_seconds", "Give a number."),
        ({"holds": {"ttl_seconds": 0}}, "holds.ttl_seconds", "Give 1 or more."),
        ({"limits": {"approaching_percentage": 101}}, "limits.approaching_percentage", "Give 100 or less."),
        ({"holds": 600}, "holds", "Give a table of settings."),
        ({"auto_migrate": "perhaps"}, "auto_migrate", "Give true or false."),
        ({"enforcement": "sometimes"}, "enforcement", "Give 'on', 'shadow' or 'off'."),
        ({"default_provider": 5}, "default_provider", "Give text."),
        ({"metadata": {"redact": 5}}, "metadata.redact", "Give a list."),
        ({"billing": {"currency": "euro"}}, "billing.currency", "three letters"),
        ({"billing": {"currency_rates": {"eur": "1"}}}, "billing.currency_rates.eur", "usd_eur"),
        ({"billing": {"currency_rates": {"usd_eur": "0"}}}, "billing.currency_rates.usd_eur", "above 0"),
        ({"billing": {"currency_rates": {"usd_eur": "NaN"}}}, "billing.currency_rates.usd_eur", "finite"),
        ({"billing": {"currency_rates": {"usd_eur": 0.85}}}, "billing.currency_rates.usd_eur", "not exact"),
        ({"period": {"type": "rollin"}}, "period.type", "monthly, weekly, daily, yearly, rolling"),
        ({"period": {"type": "rolling", "alignment": "calendar"}}, "period.alignment", "Leave it out"),
        ({"period": {"timezone": "America/NewYork"}}, "period.timezone", "America/New_York"),
        ({"providers": {"OpenAI": {"class": "a:B"}}}, "providers.OpenAI", "lower case"),
        ({"providers": {"x": {"class": "B"}}}, "providers.x.class", "application.providers:OurProvider"),
        ({"database_url": "billing.db"}, "database_url", "sqlite:///tallystick.db"),
    ],
)
def test_a_wrong_value_is_refused_by_key_value_and_remedy(
    arguments: dict[str, object], field: str, remedy: str
) -> None:
    error = refusal(**arguments)
    assert error.code == "configuration"
    assert error.field == field
    assert remedy in error.remedy
    assert error.remedy.endswith("Source: argument.")
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_wrong_value_names_the_variable_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_HOLDS__TTL_SECONDS", "soon")
    assert refusal().message == (
        "holds.ttl_seconds: 'soon' cannot be used. Give a whole number. "
        "Source: environment TALLYSTICK_HOLDS__TTL_SECONDS."
    )


def test_a_group_in_a_variable_that_is_not_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_BILLING", "currency=EUR")
    error = refusal()
    assert error.field == "billing"
    assert "TALLYSTICK_BILLING__<KEY>" in error.remedy


@pytest.mark.parametrize("content", [b"enforcement = ", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_refused(folder: Path, content: bytes | None) -> None:
    if content is not None:
        (folder / "other.toml").write_bytes(content)
    error = refusal(config="other.toml")
    assert (error.field, error.value) == ("config", "other.toml")


def test_a_missing_file_that_the_environment_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_CONFIG", "absent.toml")
    assert refusal().field == "TALLYSTICK_CONFIG"


# Secrets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://billing:hunter2@db.example/billing",
        "postgresql://billing:hun/ter2@x@db.example/billing",
        "postgresql://db.example/billing?user=billing&password=hunter2",
        "postgresql://db.example/billing?sslPassword=hunter2&sslmode=require",
    ],
)
def test_passwords_of_database_urls_are_shown_nowhere(url: str) -> None:
    settings = Settings.load(url)
    assert settings.database_url == url
    for text in (repr(settings), str(settings), str(settings.describe())):
        assert not re.search("hunter2|ter2@", text)
    refused = refusal(database=url.replace("postgresql", "mysql"))
    assert not re.search("hunter2|ter2@", refused.message + str(refused.value))


def test_a_masked_url_still_tells_user_host_and_database() -> None:
    row = Settings.load("postgresql://billing:hunter2@db.example/prod").describe()[0]
    assert row.value == "postgresql://billing:***@db.example/prod"


# Prices -------------------------------------------------------------------------------------------------------------


def test_a_price_with_a_point_in_the_file_is_read_exactly(folder: Path) -> None:
    write(
        folder, '[providers.openai.models."gpt-4o-mini"]\ninput_price_per_1k = 0.00015\noutput_price_per_1k = 0.0006\n'
    )
    (price,) = Settings.load().price_overrides()
    assert price.prices == {"input": Decimal("0.15"), "output": Decimal("0.6")}
    assert price.currency == "USD"
    assert (price.effective_from, price.effective_until) == (None, None)


@given(st.decimals(min_value=0, max_value=1_000_000, places=12))
def test_a_price_for_a_thousand_and_for_a_million_say_the_same_exactly(per_1k: Decimal) -> None:
    with localcontext(prec=3):
        thousand = Settings.load(providers={"p": {"models": {"m": {"input_price_per_1k": str(per_1k)}}}})
    million = Settings.load(providers={"p": {"models": {"m": {"input_price_per_million": f"{per_1k.scaleb(3):f}"}}}})
    assert thousand.price_overrides() == million.price_overrides()


def test_a_price_given_for_a_thousand_and_for_a_million_is_refused() -> None:
    prices = {"input_price_per_1k": "0.1", "input_price_per_million": "100"}
    error = refusal(providers={"p": {"models": {"m": prices}}})
    assert error.field == "providers.p.models.m.input_price_per_million"
    assert "input_price_per_1k is given too" in error.remedy


def test_one_class_may_be_priced_for_a_thousand_and_another_for_a_million() -> None:
    prices = {"input_price_per_1k": "0.1", "cache_write_price_per_million": "125", "cached_input_price_per_1k": 0}
    (price,) = Settings.load(providers={"p": {"models": {"m": prices}}}).price_overrides()
    assert price.prices == {"input": Decimal(100), "cached_input": Decimal(0), "cache_write": Decimal(125)}


def test_prices_of_a_model_may_be_dated_and_are_returned_in_order(folder: Path) -> None:
    write(
        folder,
        """
        [billing]
        currency = "EUR"
        [[providers.p.models.m]]
        input_price_per_1k = 2
        effective_from = 2026-02-01
        [[providers.p.models.m]]
        input_price_per_1k = 1
        currency = "usd"
        effective_until = 2026-02-01T00:00:00Z
        """,
    )
    settings = Settings.load()
    first, second = settings.price_overrides()
    change = datetime(2026, 2, 1, tzinfo=UTC)
    assert (first.prices["input"], first.currency, first.effective_until) == (Decimal(1000), "USD", change)
    assert (second.prices["input"], second.currency, second.effective_from) == (Decimal(2000), "EUR", change)
    assert source_of(settings, "providers.p.models.m.0.currency") == "file tallystick.toml"


def test_dated_prices_that_hold_at_one_instant_are_refused() -> None:
    entries = [{"input_price_per_1k": 1}, {"input_price_per_1k": 2, "effective_from": "2026-02-01"}]
    error = refusal(providers={"p": {"models": {"m": entries}}})
    assert error.field == "providers.p.models.m.effective_from"
    assert "Another price holds at that time" in error.remedy


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ({}, "Give at least one price"),
        ({"input_price_per_1k": "-1"}, "Give 0 or more."),
        ({"input_price_per_1k": "1e30"}, "Give 1000000000 or less."),
        ({"input_price_per_1k": "0.1234567890123456789"}, "Give at most 18 digits after the point."),
        ({"input_price_per_1k": "free"}, "Give a plain number"),
        ({"input_price_per_1k": 1, "effective_from": "2026-02-01T00:00:00"}, "no time zone"),
        ({"input_price_per_1k": 1, "effective_from": 20260201}, "Give a date"),
        (
            {"input_price_per_1k": 1, "effective_from": "2026-02-01", "effective_until": "2026-02-01"},
            "after effective_from",
        ),
    ],
)
def test_a_price_entry_that_says_nothing_sensible_is_refused(entry: dict[str, object], remedy: str) -> None:
    assert remedy in refusal(providers={"p": {"models": {"m": [entry]}}}).remedy


def test_rolling_periods_are_monthly_periods_aligned_to_the_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_PERIOD__TYPE", "Rolling")
    settings = Settings.load()
    assert (settings.period.type, settings.period.alignment) == ("monthly", "rolling")
    assert source_of(settings, "period.alignment") == "environment TALLYSTICK_PERIOD__TYPE"


# Credits ------------------------------------------------------------------------------------------------------------


def test_credits_have_their_documented_defaults() -> None:
    settings = Settings.load()
    assert settings.billing.credit_overdraft_allowed is False
    assert (settings.credits.overdraft_limit, settings.credits.minimum_balance) == (None, None)
    assert (settings.credits.burn_order, settings.credits.default_priority) == ("oldest_first", 50)
    assert (settings.credits.money_grant_max, settings.credits.feature_grant_max) == (Decimal(1_000_000), 1_000_000)
    assert (settings.credits.expiry_warning_days, settings.credits.report_monthly) == (7, True)


@pytest.mark.parametrize(
    ("text", "slug", "kind", "label"),
    [
        ("top-up", "top-up", "paid", "Top-up"),
        (" Top  up ", "top-up", "paid", "Top-up"),
        ("stripe_payment", "stripe-payment", "paid", "Payment by Stripe"),
        ("Referral bonus", "referral-bonus", "promotional", "Referral bonus"),
        ("admin_grant", "admin-grant", "promotional", "Granted by an administrator"),
    ],
)
@pytest.mark.parametrize("is_money", [True, False])
def test_a_built_in_reason_is_known_in_whatever_form_it_is_written(
    text: str, slug: str, kind: str, label: str, is_money: bool
) -> None:
    assert Settings.load().credits.reason(text, is_money=is_money) == CreditReason(slug, kind, label)


def test_any_other_reason_is_paid_for_a_wallet_and_promotional_for_a_feature() -> None:
    settings = Settings.load()
    paid = settings.credits.reason(" Hackathon prize", is_money=True)
    assert paid == CreditReason("hackathon-prize", "paid", "Hackathon prize")
    assert settings.credits.reason("Hackathon prize", is_money=False).kind == "promotional"


def test_a_reason_is_set_key_by_key_in_every_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        folder,
        """
        [credits.reasons.refund]
        label = "Erstattung"
        [credits.reasons.hackathon]
        kind = "promotional"
        priority = 10
        expires_after_days = 30
        """,
    )
    monkeypatch.setenv("TALLYSTICK_CREDITS__REASONS__TOP_UP__PRIORITY", "70")
    settings = Settings.load(credits={"reasons": {"hackathon": {"priority": 20}}})
    assert settings.credits.reason("refund", is_money=True) == CreditReason("refund", "paid", "Erstattung")
    assert settings.credits.reason("top-up", is_money=True) == CreditReason("top-up", "paid", "Top-up", priority=70)
    assert settings.credits.reason("Hackathon", is_money=True) == CreditReason(
        "hackathon", "promotional", "Hackathon", priority=20, expires_after_days=30
    )
    assert (
        source_of(settings, "credits.reasons.top_up.priority")
        == "environment TALLYSTICK_CREDITS__REASONS__TOP_UP__PRIORITY"
    )
    assert {row.key for row in settings.describe() if row.key.startswith("credits.reasons.")} == {
        "credits.reasons.refund.label",
        "credits.reasons.hackathon.kind",
        "credits.reasons.hackathon.priority",
        "credits.reasons.hackathon.expires_after_days",
        "credits.reasons.top_up.priority",
    }


@pytest.mark.parametrize(
    ("given_credits", "field", "remedy"),
    [
        ({"overdraft_limit": "-1"}, "overdraft_limit", "Give 0 or more."),
        ({"overdraft_limit": 1.5}, "overdraft_limit", "not exact"),
        ({"minimum_balance": "0.0000000001"}, "minimum_balance", "at most 9 digits"),
        ({"money_grant_max": 0}, "money_grant_max", "above 0"),
        ({"feature_grant_max": 0}, "feature_grant_max", "Give 1 or more."),
        ({"default_priority": 101}, "default_priority", "Give 100 or less."),
        ({"default_priority": True}, "default_priority", "Give a number."),
        ({"burn_order": "newest_first"}, "burn_order", "'oldest_first' or 'expiring_first'"),
        ({"expiry_warning_days": -1}, "expiry_warning_days", "Give 0 or more."),
        ({"reasons": {"gift": {"kind": "free"}}}, "reasons.gift.kind", "'paid' or 'promotional'"),
        ({"reasons": {"gift": {"priority": -1}}}, "reasons.gift.priority", "Give 0 or more."),
        ({"reasons": {"gift": {"expires_after_days": 0}}}, "reasons.gift.expires_after_days", "Give 1 or more."),
        ({"reasons": {"gift": {"expires_days": 5}}}, "reasons.gift.expires_days", "expires_after_days"),
        ({"reasons": {"gift": "paid"}}, "reasons.gift", "Give a table of settings."),
        ({"reasons": {"top-up": {"priority": 1}, "top_up": {"priority": 2}}}, "reasons.top_up", "'top-up' too"),
    ],
)
def test_what_cannot_be_set_of_credits_is_refused(given_credits: dict[str, object], field: str, remedy: str) -> None:
    error = refusal(credits=given_credits)
    assert error.field == f"credits.{field}"
    assert remedy in error.remedy


# Documentation ------------------------------------------------------------------------------------------------------


def documented() -> list[tuple[str, str, str]]:
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (.+?) \|$", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE)
    return [(name, default.strip("`"), meaning) for name, default, meaning in rows]


def test_the_table_of_settings_in_the_documentation_is_complete_and_right() -> None:
    known = [
        (setting.name, "none" if setting.default is None else json.dumps(setting.default), setting.description)
        for setting in known_settings()
    ]
    assert documented() == known


def test_the_built_in_reasons_in_the_documentation_are_of_the_kind_it_says() -> None:
    rows = re.findall(r"^\| (paid|promotional) \| (.+) \|$", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert [kind for kind, _ in rows] == ["paid", "promotional"]
    reason = Settings.load().credits.reason
    told = {slug: kind for kind, reasons in rows for slug in re.findall(r"`([^`]+)`", reasons)}
    assert len(told) == 15
    # Neither is the fallback of its unit, so the reason is built in.
    assert told == {slug: reason(slug, is_money=kind == "promotional").kind for slug, kind in told.items()}


def test_the_example_in_the_documentation_is_accepted(folder: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)
    write(folder, example)
    assert len(Settings.load().price_overrides()) == 3


@pytest.mark.parametrize(
    "stated",
    [{"notifications": {"smtp": {"password": 12345678}}}, {"security": {"encryption_keys": [12345678]}}],
)
def test_a_secret_of_the_wrong_type_is_not_shown(stated: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load("sqlite:///:memory:", None, **stated)
    assert "12345678" not in f"{raised.value} {raised.value.data()}"


def test_a_sellers_country_is_two_letters() -> None:
    assert Settings.load(invoicing={"seller": {"country": "br"}}).invoicing.seller.country == "BR"
    with pytest.raises(ConfigurationError, match="ISO 3166-1"):
        Settings.load(invoicing={"seller": {"country": "Brazil"}})
