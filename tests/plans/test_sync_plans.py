"""Plans as code: a file is compared by value, and carried out as a whole or not at all; what is exported comes back."""

from __future__ import annotations

import json
import re
import string
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from tallystick import FixedClock, Tallystick
from tallystick.errors import InvalidInput, NotFound, StorageError
from tallystick.plans.sync import PlanSync
from tallystick.plans.version_terms import VersionTerms, differences
from tallystick.storage import tables
from tests.acceptance.accounts import count_rows, in_threads
from tests.cli.commands import answer, invoke, succeed
from tests.plans.test_usage_prices import price_tables
from tests.values import money

PLANS = """
[plans.free]
plan_type = "free"
monthly_token_limit = 10_000
overage_behavior = "block"

[plans.pro]
name = "Pro"
plan_type = "professional"
description = "For teams"
label = "2026"
price = "99 USD"
billing_cycle = "monthly"
monthly_token_limit = 1_000_000
monthly_cost_limit = 100.50
overage_price_per_1k_tokens = "0.01"
overage_behavior = "charge"
trial_days = 14

[plans.pro.features]
api-calls = {value = 1000, reset = "daily"}
priority-support = true

[plans.pro.usage_prices.message]
model = "graduated"
included = 100
tiers = [{up_to = 1000, price = "0.01"}, {price = 0.005, flat = 1}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plans.toml"
    path.write_text(PLANS, encoding="utf-8")
    return path


def changed(file: Path, before: str, after: str) -> None:
    content = file.read_text(encoding="utf-8")
    assert before in content
    file.write_text(content.replace(before, after), encoding="utf-8")


def groups(result: PlanSync) -> dict[str, list[str]]:
    """Return which plans are in which group, without those that are empty."""
    named = ("created", "new_versions", "updated", "unchanged", "archived", "not_in_file")
    found = {name: [one.slug for one in getattr(result, name)] for name in named}
    return {name: slugs for name, slugs in found.items() if slugs}


def said(result: PlanSync) -> list[str]:
    """Return every difference."""
    plans = (*result.created, *result.new_versions, *result.updated, *result.archived)
    return [f"{plan.slug} {difference}" for plan in plans for difference in plan.differences]


def test_a_file_creates_its_plans_and_a_second_time_nothing_is_left_to_do(ts: Tallystick, file: Path) -> None:
    first = ts.plans.sync(file)
    assert groups(first) == {"created": ["free", "pro"]}
    assert (first.has_changes, first.published, first.dry_run) == (True, True, False)
    pro = ts.plans.get("pro")
    assert (pro.name, pro.plan_type, pro.description) == ("Pro", "professional", "For teams")
    version = pro.current
    assert (version.label, version.price, version.trial_days) == ("2026", money("99 USD"), 14)
    assert (version.monthly_cost_limit, version.overage_price_per_1k_tokens) == (money("100.50 USD"), Decimal("0.01"))
    assert version.features["api-calls"].reset == "daily"
    assert version.usage_prices["message"].total(1101_000_000) == 11_005_000_000
    rows = (count_rows(ts, tables.plan_versions), count_rows(ts, tables.plan_features))
    for dry_run in (True, False):
        again = ts.plans.sync(str(file), dry_run=dry_run)
        assert (groups(again), again.has_changes) == ({"unchanged": ["free", "pro"]}, False)
    assert (count_rows(ts, tables.plan_versions), count_rows(ts, tables.plan_features)) == rows


def test_other_terms_are_a_new_version_and_other_names_are_not(ts: Tallystick, file: Path) -> None:
    ts.plans.sync(file)
    ts.subscriptions.create("user:1", "pro")
    changed(file, "99 USD", "119 USD")
    changed(file, 'reset = "daily"', 'reset = "weekly"')
    changed(file, 'name = "Pro"', 'name = "Professional"')
    changed(file, 'plan_type = "free"', 'description = "To try it"')
    rehearsed = ts.plans.sync(file, dry_run=True)
    assert ts.plans.get("pro").name == "Pro"
    done = ts.plans.sync(file)
    assert groups(done) == groups(rehearsed) == {"new_versions": ["pro"], "updated": ["free", "pro"]}
    assert said(done) == said(rehearsed)
    assert said(done) == [
        "pro price: 99.00 USD → 119.00 USD",
        "pro features.api-calls: 1,000 daily → 1,000 weekly",
        "free description: – → To try it",
        "free plan_type: free → custom",
        "pro name: Pro → Professional",
    ]
    assert done.new_versions[0].version == 2
    plan = ts.plans.get("pro")
    assert (plan.name, plan.current.version, plan.current.price) == ("Professional", 2, money("119 USD"))
    assert ts.subscriptions.get("user:1").plan.version == 1
    assert groups(ts.plans.sync(file)) == {"unchanged": ["free", "pro"]}


def test_the_same_value_written_otherwise_is_no_change(ts: Tallystick, file: Path) -> None:
    ts.plans.sync(file)
    for before, after in (
        ('"99 USD"', "99.0"),
        ("100.50", '"100.5 usd"'),
        ('price_per_1k_tokens = "0.01"', "price_per_1k_tokens = 0.0100"),
        ("priority-support = true", "priority-support = {value = true}"),
        ("included = 100", 'included = "100.0"'),
        ('label = "2026"\n', ""),
        ("price = 0.005, flat = 1", 'flat = "1.00", price = "0.005 USD"'),
    ):
        changed(file, before, after)
        assert groups(ts.plans.sync(file)) == {"unchanged": ["free", "pro"]}, after
    changed(file, 'name = "Pro"', 'name = "Pro"\nlabel = "2027"')
    assert said(ts.plans.sync(file)) == ["pro label: 2026 → 2027"]
    assert ts.plans.get("pro").current.label == "2027"


def test_drafts_are_made_once_and_published_when_they_may_be(ts: Tallystick, file: Path) -> None:
    ts.plans.sync(file)
    changed(file, "99 USD", "119 USD")
    changed(file, "[plans.free]", "[plans.new]\n[plans.free]")
    drafted = ts.plans.sync(file, publish=False)
    assert (groups(drafted), drafted.published) == (
        {"created": ["new"], "new_versions": ["pro"], "unchanged": ["free"]},
        False,
    )
    assert [one.current.is_published for one in ts.plans.list()] == [True, False, True]
    assert ts.plans.get("pro").current.version == 1
    assert groups(ts.plans.sync(file, publish=False)) == {"unchanged": ["free", "new", "pro"]}
    published = ts.plans.sync(file)
    assert groups(published) == {"new_versions": ["new", "pro"], "unchanged": ["free"]}
    assert [one.version for one in published.new_versions] == [1, 2]
    assert said(published) == ["pro price: 99.00 USD → 119.00 USD"]
    assert [(one.current.version, len(one.versions)) for one in ts.plans.list()] == [(1, 1), (1, 1), (2, 2)]
    assert groups(ts.plans.sync(file)) == {"unchanged": ["free", "new", "pro"]}


def test_a_file_archives_activates_and_leaves_alone(ts: Tallystick, file: Path, clock: FixedClock) -> None:
    ts.plans.create("old", price=5)
    ts.plans.create("workshop", publish=False)
    left = ts.plans.sync(file)
    assert groups(left) == {"created": ["free", "pro"], "not_in_file": ["old"]}
    changed(file, 'plan_type = "free"', 'plan_type = "free"\nactive = false')
    away = ts.plans.sync(file, archive_missing=True)
    assert groups(away) == {"updated": ["free"], "unchanged": ["pro"], "archived": ["old"]}
    assert said(away) == ["free active: yes → no", "old active: yes → no"]
    assert [plan.slug for plan in ts.plans.list(active_only=True)] == ["pro", "workshop"]
    assert ts.plans.get("old").archived_at == clock.now()
    assert groups(ts.plans.sync(file, archive_missing=True)) == {"unchanged": ["free", "pro"]}
    changed(file, "active = false\n", "")
    assert said(ts.plans.sync(file)) == ["free active: no → yes"]
    assert ts.plans.get("free").is_active


@pytest.mark.parametrize(
    ("before", "after", "place", "words"),
    [
        ("[plans.free]", "[plan.free]", ": plan", "Did you mean 'plans'"),
        ("[plans.free]", "[plans.Free]", ": plans.Free.slug", "lower-case"),
        ("[plans.free]", "[plans]\nother = 5\n[plans.free]", ": plans.other", r"\[plans\.other\]"),
        ("trial_days = 14", "trial_day = 14", ": plans.pro.trial_day", "Did you mean 'trial_days'"),
        ("trial_days = 14", 'trial_days = "14"', ": plans.pro.trial_days", "whole number"),
        ("trial_days = 14", "active = 1", ": plans.pro.active", "true or false"),
        ('"99 USD"', '"99 EUR"\ncurrency = "USD"', ": plans.pro.currency", "one currency"),
        ('"99 USD"', "2026-01-01", ": plans.pro.price", "Give Money"),
        ("1000, reset", "1000, rest", ": plans.pro.features.api-calls.rest", "Did you mean 'reset'"),
        ("up_to = 1000", "up_to = 0", ": plans.pro.usage_prices.message.tiers.0.up_to", "more than zero"),
        ("trial_days = 14", "trial_days = ", None, "The file is not TOML: .*line 18"),
        ("trial_days = 14", "trial_days = 14\ntrial_days = 15", None, "The file is not TOML: .*line 19"),
    ],
)
def test_a_mistake_in_a_file_is_named_and_nothing_is_done(
    sqlite_url: str, file: Path, before: str, after: str, place: str | None, words: str
) -> None:
    changed(file, before, after)
    with Tallystick(sqlite_url) as ts:
        for dry_run in (True, False):
            with pytest.raises(InvalidInput, match=words) as refused:
                ts.plans.sync(file, dry_run=dry_run)
            assert refused.value.field == ("path" if place is None else f"{file}{place}")
        assert ts.plans.list() == []


def test_a_file_that_cannot_be_read_is_named(sqlite_url: str, tmp_path: Path) -> None:
    with Tallystick(sqlite_url) as ts:
        with pytest.raises(NotFound, match=r"No file '.*none\.toml'"):
            ts.plans.sync(tmp_path / "none.toml")
        with pytest.raises(InvalidInput, match="cannot be read"):
            ts.plans.sync(tmp_path)
        file = tmp_path / "latin.toml"
        file.write_bytes('[plans.pro]\nname = "Né"\n'.encode("latin-1"))
        with pytest.raises(InvalidInput, match="not UTF-8"):
            ts.plans.sync(file)
        file.write_bytes(b"\xef\xbb\xbf[plans.pro]\r\nname = 'Pro'\r\n")
        assert groups(ts.plans.sync(file)) == {"created": ["pro"]}
        file.write_text("", encoding="utf-8")
        assert groups(ts.plans.sync(file)) == {"not_in_file": ["pro"]}


def test_what_fails_on_the_way_leaves_nothing_behind(ts: Tallystick, file: Path) -> None:
    ts.plans.create("free", price=5)
    before = ts.plans.list()
    # Behind every check the database itself refuses the second plan.
    ts._engine.lane.transact(
        lambda connection: connection.execute(text("CREATE UNIQUE INDEX one_name ON plans (name)"))
    )
    changed(file, 'name = "Pro"', 'name = "free"')
    with pytest.raises(StorageError):
        ts.plans.sync(file)
    assert ts.plans.list() == before
    ts._engine.lane.transact(lambda connection: connection.execute(text("DROP INDEX one_name")))
    assert groups(ts.plans.sync(file)) == {"created": ["pro"], "new_versions": ["free"], "updated": ["free"]}


def test_of_files_that_are_carried_out_at_once_each_finds_what_the_other_did(database_url: str, file: Path) -> None:
    with Tallystick(database_url) as one, Tallystick(database_url) as other:
        outcomes = in_threads(6, lambda index: (one, other)[index % 2].plans.sync(file))
        assert sorted(len(result.created) for result in outcomes) == [0, 0, 0, 0, 0, 2]
        changed(file, "99 USD", "119 USD")
        outcomes = in_threads(6, lambda index: (one, other)[index % 2].plans.sync(file))
        assert sorted(len(result.new_versions) for result in outcomes) == [0, 0, 0, 0, 0, 1]
        assert [version.version for version in one.plans.get("pro").versions] == [1, 2]


# Written and read again ----------------------------------------------------------------------------------------------

texts = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=20).filter(
    lambda one: bool(one.strip()) and one.isprintable()
)
slugs = st.text(string.ascii_lowercase + string.digits + "-_.", min_size=1, max_size=12).filter(
    lambda slug: slug[0] not in "-_."
)
names = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=12).filter(
    lambda name: name not in ("cost", "tokens", "requests")
)
amounts = st.decimals(0, 10**6, places=9)
features = st.one_of(
    st.just(True),
    st.just("unlimited"),
    st.integers(0, 10**12),
    st.fixed_dictionaries(
        {"value": st.decimals(0, 10**6, places=6)},
        optional={
            "reset": st.sampled_from(["hourly", "daily", "weekly", "monthly", "quarterly", "yearly", "never"]),
            "name": texts,
            "display_value": texts,
            "hidden": st.booleans(),
            "sort_order": st.integers(-1000, 1000),
        },
    ),
)
terms = st.fixed_dictionaries(
    {},
    optional={
        "plan_type": st.sampled_from(["free", "starter", "professional", "enterprise", "custom"]),
        "description": st.lists(texts, min_size=1, max_size=3).map("\n".join),
        "label": texts,
        "monthly_token_limit": st.none() | st.integers(0, 10**15),
        "monthly_cost_limit": st.none() | amounts,
        "overage_price_per_1k_tokens": st.none() | st.decimals(0, 10**3, places=15),
        "overage_behavior": st.sampled_from([None, "block", "charge", "allow"]),
        "overage_markup_percent": st.none() | st.decimals(0, 10_000, places=4),
        "trial_days": st.integers(0, 36_500),
        "price": st.none() | amounts,
        "billing_cycle": st.sampled_from(["monthly", "quarterly", "yearly", "lifetime"]),
        "currency": st.sampled_from(["USD", "EUR", "JPY", "BHD"]),
        "features": st.dictionaries(slugs, features, max_size=4),
        "usage_prices": st.dictionaries(names | st.sampled_from(["tokens", "requests"]), price_tables(), max_size=3),
    },
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(slugs, st.tuples(texts, terms), min_size=1, max_size=4))
def test_what_is_exported_syncs_to_no_change(sqlite_template: Path, plans: dict[str, tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"sqlite:///{folder}/{name}.db" for name in ("one", "other")]
        for url in urls:
            Path(url.removeprefix("sqlite:///")).write_bytes(sqlite_template.read_bytes())
        with Tallystick(urls[0]) as ts, Tallystick(urls[1], billing={"currency": "GBP"}) as other:
            for number, (slug, (name, stated)) in enumerate(plans.items()):
                ts.plans.create(slug, name, **stated)
                if number % 2:
                    ts.plans.archive(slug)
            file = Path(folder, "plans.toml")
            file.write_text(ts.plans.export(), encoding="utf-8")
            assert not ts.plans.sync(file, archive_missing=True).has_changes
            # And it makes the same plans elsewhere, whatever the settings say there.
            assert len(other.plans.sync(file).created) == len(plans)
            assert other.plans.export() == ts.plans.export()


def test_an_export_is_what_people_would_write(ts: Tallystick, file: Path) -> None:
    ts.plans.sync(file)
    ts.plans.create("a.b", 'Quote " and \\', currency="EUR", features={"c.d": 1})
    ts.plans.archive("a.b")
    ts.plans.create("workshop", publish=False)
    assert (
        ts.plans.export()
        == """[plans."a.b"]
name = "Quote \\" and \\\\"
plan_type = "custom"
active = false
billing_cycle = "monthly"
currency = "EUR"

[plans."a.b".features]
"c.d" = {value = 1, reset = "monthly"}

[plans.free]
name = "free"
plan_type = "free"
monthly_token_limit = 10_000
overage_behavior = "block"
billing_cycle = "monthly"
currency = "USD"

[plans.pro]
name = "Pro"
plan_type = "professional"
description = "For teams"
label = "2026"
monthly_token_limit = 1_000_000
monthly_cost_limit = "100.50 USD"
overage_price_per_1k_tokens = "0.01"
overage_behavior = "charge"
trial_days = 14
price = "99.00 USD"
billing_cycle = "monthly"
currency = "USD"

[plans.pro.features]
api-calls = {value = 1000, reset = "daily"}
priority-support = true

[plans.pro.usage_prices.message]
model = "graduated"
tiers = [{up_to = "1000", price = "0.01"}, {price = "0.005", flat = "1"}]
included = "100"
"""
    )


def test_differences_of_equal_terms_are_none(ts: Tallystick, file: Path) -> None:
    ts.plans.sync(file)
    terms = [VersionTerms.of(plan.current) for plan in ts.plans.list()]
    assert list(differences(terms[0], terms[0])) == []
    there, back = list(differences(*terms)), list(differences(*reversed(terms)))
    assert [(one.field, one.after, one.before) for one in there] == [(one.field, one.before, one.after) for one in back]
    assert json.loads(json.dumps([one.to_dict() for one in there]))


# On the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_folder")
def test_the_command_shows_what_changes_and_asks_before_it_does(database_url: str, file: Path) -> None:
    here = ("--database", database_url)
    refused = invoke("sync-plans", file, *here)
    assert refused.exit_code == 1
    assert "Carry this out?" in refused.stderr
    assert answer("plans", "list", *here) == {"plans": []}
    shown = succeed("sync-plans", file, "--dry-run", *here)
    assert re.search(r"pro \(new\) +name +– +Pro", shown)
    assert re.search(r"usage_prices\.message +– +graduated to 1,000 0\.01, beyond 0\.005 \+ 1, 100 included", shown)
    assert "2 plans created. A dry run: nothing was changed." in shown
    assert "2 plans created." in succeed("sync-plans", file, "--yes", *here)
    assert "Nothing to change: 2 plans as the file says." in succeed("sync-plans", file, *here)
    changed(file, "99 USD", "119 USD")
    shown = succeed("sync-plans", file, "--no-publish", "--yes", *here)
    assert re.search(r"pro \(version 2, a draft\) +price +99\.00 USD +119\.00 USD", shown)
    assert "1 plan with a new version, 1 plan unchanged." in shown
    shown = succeed("plans", "versions", "pro", *here)
    assert re.search(r"1 +2026 +\d{4}-.* UTC +on sale +–", shown)
    assert re.search(r"2 +2026 +– +draft +price: 99\.00 USD → 119\.00 USD", shown)


@pytest.mark.usefixtures("in_folder")
def test_the_command_answers_with_json(database_url: str, file: Path) -> None:
    here = ("--database", database_url)
    done = answer("sync-plans", file, "--yes", *here)
    assert [one["slug"] for one in done["created"]] == ["free", "pro"]
    assert (done["dry_run"], done["published"], done["unchanged"]) == (False, True, [])
    assert {"field": "trial_days", "before": 0, "after": 14} in done["created"][1]["differences"]
    answer("plans", "archive", "free", *here)
    listed = answer("sync-plans", *here)["plans"]
    assert [(one["slug"], one["plan_type"], one["label"]) for one in listed] == [("pro", "professional", "2026")]
    assert listed[0]["usage_prices"]["message"]["included"] == "100"
    file.write_text("[plans.pro]\nprize = 5\n", encoding="utf-8")
    error = answer("sync-plans", file, "--yes", *here, exit_code=3)["error"]
    assert (error["code"], error["field"]) == ("invalid_input", f"{file}: plans.pro.prize")


@pytest.mark.usefixtures("in_folder")
def test_versions_are_published_and_plans_archived_on_the_command_line(database_url: str, file: Path) -> None:
    here = ("--database", database_url)
    created = answer(
        *("plans", "create", "pro", "--type", "professional", "--label", "first", "--description", "All of it"),
        *("--draft", "--price", 9, *here),
    )
    assert (created["plan_type"], created["label"], created["description"]) == ("professional", "first", "All of it")
    assert created["published_at"] is None
    assert "New subscribers of pro get version 1." in succeed("plans", "publish", "pro", *here)
    file.write_text('[plans.pro]\nprice = "10 USD"\n', encoding="utf-8")
    succeed("sync-plans", file, "--yes", *here)
    assert answer("plans", "publish", "pro", 1, *here)["version"] == 1
    versions = answer("plans", "versions", "pro", *here)["versions"]
    assert [(one["version"], one["is_sold"], len(one["differences"])) for one in versions] == [
        (1, True, 0),
        (2, False, 2),
    ]
    assert "pro is archived" in succeed("plans", "archive", "pro", *here)
    assert "pro, archived" in succeed("plans", "list", *here)
    assert "There are no plans yet." in succeed("plans", "list", "--active-only", *here)
    assert "pro is on sale." in succeed("plans", "activate", "pro", *here)
    exported = succeed("plans", "export", *here)
    assert exported.startswith("[plans.pro]\n")
    assert answer("plans", "export", *here) == {"toml": exported}
    file.write_text(exported, encoding="utf-8")
    assert "Nothing to change" in succeed("sync-plans", file, *here)
