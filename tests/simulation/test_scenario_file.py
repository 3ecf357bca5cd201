"""What a scenario may say, and how it is told where it is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tallystick.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from tallystick.simulation import example_scenario, read_scenario, simulate
from tallystick.simulation.players import cast
from tests.simulation.scenarios import SHOP, written
from tests.values import money


def test_the_example_can_be_played(tmp_path: Path) -> None:
    scenario = read_scenario(written(tmp_path, example_scenario()))
    assert (scenario.months, scenario.customers, scenario.seed) == (6, 22, 11)
    assert scenario.end == datetime(2026, 7, 1, tzinfo=UTC)


def test_a_scenario_is_read_with_its_defaults(tmp_path: Path) -> None:
    scenario = read_scenario(written(tmp_path))
    pro, free = scenario.groups
    assert (scenario.name, scenario.zone, scenario.seed) == ("A shop", "UTC", 5)
    assert [pro.customer(number) for number in (1, 2)] == ["pro-1", "pro-2"]
    assert (pro.billing_mode, pro.pays.kind, pro.growth, pro.churn) == ("plan", "always", 1.0, 0.0)
    assert [(model.provider, model.name) for model in free.models] == [("openai", "gpt-4o-mini")]
    assert read_scenario(written(tmp_path), seed=9).seed == 9


def test_dates_are_midnights_of_the_scenarios_zone(tmp_path: Path) -> None:
    more = '[[customers]]\nname = "late"\nplan = "pro"\nstarts = "2026-02-10"\n'
    scenario = read_scenario(
        written(tmp_path, SHOP.replace("months = 3", 'months = 3\ntimezone = "America/Sao_Paulo"'), more=more)
    )
    assert scenario.start == datetime(2026, 1, 1, 3, tzinfo=UTC)
    assert scenario.groups[2].starts_at == datetime(2026, 2, 10, 3, tzinfo=UTC)
    assert [month.label for month in scenario.parts()] == ["2026-01", "2026-02", "2026-03"]


def test_starts_are_spread_over_months(tmp_path: Path) -> None:
    more = '[[customers]]\nname = "s-{n}"\ncount = 4\nplan = "pro"\nstarts = "spread:2m"\n'
    players = cast(read_scenario(written(tmp_path, more=more)))
    days = [f"{player.starts_at:%m-%d}" for player in players if player.billable.startswith("tenant:s-")]
    assert days == ["01-01", "01-15", "01-30", "02-14"]


def test_a_share_of_customers_does_the_same_things(tmp_path: Path) -> None:
    more = """
[[customers]]
name = "s-{n}"
count = 40
plan = "pro"
events = [
    {after_days = 5, do = "pause", share = 0.5},
    {after_days = 9, do = "resume", share = 0.5},
    {at = 2026-02-01, do = "cancel", share = 0.1},
]
"""
    scenario = read_scenario(written(tmp_path, more=more))
    players = [one for one in cast(scenario) if "s-" in one.billable]
    assert [one.deeds for one in cast(scenario)] == [one.deeds for one in cast(scenario)]
    did = [tuple(deed.do for deed in player.deeds) for player in players]
    paused, cancelled = [sum(what in one for one in did) for what in ("pause", "cancel")]
    assert 10 < paused < 30
    assert 0 < cancelled < 12
    assert all(("pause" in one) == ("resume" in one) for one in did)


WRONG = [
    ("[scenario]", "[scenary]", "scenario.toml: ", "Did you mean scenario"),
    ("months = 3", "month = 3", "scenario.toml: scenario", "Did you mean months"),
    ("months = 3", "months = 0", "scenario.toml: scenario.months", "from 1 to 120"),
    ("start = 2026-01-01", 'start = "soon"', "scenario.toml: scenario.start", "Give a date such as 2026-01-31"),
    ("start = 2026-01-01", "", "scenario.toml: scenario.start", "It is needed"),
    ("seed = 5", 'timezone = "Europe/Berlim"', "scenario.toml: scenario.timezone", "Did you mean Europe/Berlin"),
    ('plan = "free"', 'plan = "fre"', "scenario.toml: customers[2].plan", "Did you mean free"),
    ('"poisson:3"\n', '"poison:3"\n', "scenario.toml: customers[2].calls_per_day", "poisson:12"),
    ('name = "pro-{n}"', 'name = "pro"', "scenario.toml: customers[1].name", "pro-{n}"),
    ('name = "user:free"', 'name = "pro-1"', "scenario.toml: customers[2].name", "has this name"),
    ('name = "user:free"', 'name = "user:free"\npays = "sometimes"', "scenario.toml: customers[2].pays", "late:10d"),
    ('name = "user:free"', 'name = "user:free"\ncoupon = "HALFF"', "scenario.toml: customers[2].coupon", "HALF"),
    ('name = "user:free"', 'name = "user:free"\nmodel = "gpt-4o"', "scenario.toml: customers[2].model", "openai/"),
    ('name = "user:free"', 'name = "user:free"\nstarts = 2027-01-01', "scenario.toml: customers[2].starts", "03-31"),
    ('name = "user:free"', 'name = "user:free"\nwallet = "5"', "scenario.toml: customers[2].wallet", "50 USD"),
    ('name = "user:free"', 'name = "user:free"\nwallets = "5"', "scenario.toml: customers[2]", "Did you mean wallet"),
    ("percent_off = 50", "percentoff = 50", "scenario.toml: coupons.HALF", "Did you mean percent_off"),
    ("seed = 5", "[settings.notifications]\nenabled = true", "scenario.toml: settings.notifications", "sends nothing"),
    ("seed = 5", '[settings.billing]\ndriver = "x:Y"', "scenario.toml: settings.billing.driver", "charges nobody"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "field", "remedy"), WRONG)
def test_what_cannot_be_is_refused_by_its_place_with_a_remedy(
    tmp_path: Path, right: str, wrong: str, field: str, remedy: str
) -> None:
    assert right in SHOP
    with pytest.raises(InvalidInput) as caught:
        read_scenario(written(tmp_path, SHOP.replace(right, wrong, 1)))
    assert caught.value.field == field
    assert remedy in caught.value.remedy


EVENTS = [
    ('{at = 2026-02-01, do = "chang_plan"}', "customers[3].events[1].do", "Did you mean change_plan"),
    ('{at = 2026-02-01, do = "change_plan"}', "customers[3].events[1].plan", "needs it"),
    ('{do = "cancel"}', "customers[3].events[1].at", '"after_days"'),
    ('{at = 2026-02-01, do = "cancel", immediatly = true}', "customers[3].events[1]", "Did you mean immediately"),
    ('{at = 2026-02-01, do = "cancel", prorate = "yes"}', "customers[3].events[1].prorate", "true or false"),
    ('{at = 2026-02-01, do = "use", resource = "message", quantity = 0}', "customers[3].events[1].quantity", "from 1"),
    ('{at = 2025-02-01, do = "cancel"}', "customers[3].events[1].at", "from 2026-01-01 to 2026-03-31"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "field", "remedy"), EVENTS)
def test_an_event_that_cannot_be_is_refused_by_its_place(tmp_path: Path, event: str, field: str, remedy: str) -> None:
    more = f'[[customers]]\nname = "x"\nplan = "pro"\nevents = [{event}]\n'
    with pytest.raises(InvalidInput) as caught:
        read_scenario(written(tmp_path, more=more))
    assert caught.value.field == f"scenario.toml: {field}"
    assert remedy in caught.value.remedy


def test_a_file_that_is_not_there_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--example"):
        read_scenario(tmp_path / "nothing.toml")
    with pytest.raises(InvalidInput, match=r"not TOML.*line 3"):
        read_scenario(written(tmp_path, "[scenario]\nname = 1\nname = 2\n"))
    with pytest.raises(InvalidInput, match="at least one table"):
        read_scenario(written(tmp_path, SHOP.partition("[[customers]]")[0]))


# What only the engine knows is refused by the place in the file, too.


def play(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in SHOP
    simulate(read_scenario(written(tmp_path, SHOP.replace(right, wrong, 1))))


def test_plans_coupons_settings_and_models_are_refused_by_their_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as plan:
        play(tmp_path, 'price = "10 USD"', 'prize = "10 USD"')
    assert plan.value.field == "scenario.toml: plans.pro.prize"
    with pytest.raises(InvalidInput) as coupon:
        play(tmp_path, "percent_off = 50", "percent_off = 150")
    assert coupon.value.field == "scenario.toml: coupons.HALF.percent_off"
    with pytest.raises(ConfigurationError, match="Did you mean") as setting:
        play(tmp_path, "[coupons.HALF]", "[settings.invoicing]\ndue_day = 3\n[coupons.HALF]")
    assert (setting.value.field, "argument" in setting.value.remedy) == (
        "scenario.toml: settings.invoicing.due_day",
        False,
    )
    with pytest.raises(InvalidInput, match="has no price") as model:
        play(tmp_path, 'name = "user:free"', 'name = "user:free"\nmodel = "openai/gpt-99-secret"')
    assert model.value.field == "scenario.toml: customers[2].model"
    with pytest.raises(InvalidInput) as billing:
        play(tmp_path, 'name = "user:free"', 'name = "user:free"\nbilling = {country = "Utopia"}')
    assert billing.value.field == "scenario.toml: customers[2].billing.country"


def test_a_database_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'used.db'}"
    scenario = read_scenario(written(tmp_path, SHOP.replace("months = 3", "months = 1")))
    simulate(scenario, database=url)
    with pytest.raises(Conflict, match="not empty"):
        simulate(scenario, database=url)


def test_money_in_a_scenario_is_exact(tmp_path: Path) -> None:
    more = '[[customers]]\nname = "user:w"\nplan = "pro"\nbilling_mode = "credits"\nwallet = "0.000000001 USD"\n'
    assert read_scenario(written(tmp_path, more=more)).groups[2].wallet == money("0.000000001 USD")
