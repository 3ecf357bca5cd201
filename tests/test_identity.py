"""Who pays is "type:id", however it is given; an id of a record is unique and ordered by time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import InvalidInput
from tallystick.identity import ID_PREFIXES, billable_reference, new_id, tenant_reference, user_reference

NUMBER = UUID("0198c5d6-1f2a-7bcd-8e9f-0123456789ab")


@dataclass
class User:
    id: int | None


class Membership:
    """As an object of Django: the key is `pk`, whatever its column is called."""

    def __init__(self, pk: object) -> None:
        self.pk = pk


@dataclass(frozen=True)
class Seat:
    billable_type: str
    billable_id: str | int | None
    id: int = 7


class Known(StrEnum):
    FOUNDER = "user:founder"


class Payer(str, Enum):  # noqa: UP042 (many applications still write their enumerations so)
    TEAM = "team"


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        ("user:42", "user:42"),
        ("Team.EU-1_b:a:b/c@d", "Team.EU-1_b:a:b/c@d"),
        (("user", 42), "user:42"),
        (("tenant", "acme"), "tenant:acme"),
        (("key", NUMBER), f"key:{NUMBER}"),
        (User(42), "user:42"),
        (Membership(9), "membership:9"),
        (Membership(NUMBER), f"membership:{NUMBER}"),
        (Seat("team", "eu"), "team:eu"),
        (Known.FOUNDER, "user:founder"),
        ((Payer.TEAM, Payer.TEAM), "team:team"),
    ],
)
def test_a_billable_is_named_in_every_accepted_form(value: object, reference: str) -> None:
    assert billable_reference(value) == reference
    assert type(billable_reference(value)) is str


def test_a_plain_string_stays_plain_after_an_equal_one_of_a_subclass() -> None:
    class Label(str):
        __slots__ = ()

    assert type(billable_reference(Label("user:subclass-first"))) is str
    assert type(billable_reference("user:subclass-first")) is str


def test_an_id_comes_before_a_pk_unless_it_is_none() -> None:
    class Row:
        def __init__(self, identifier: int | None) -> None:
            self.id, self.pk = identifier, 5

    assert billable_reference(Row(4)) == "row:4"
    assert billable_reference(Row(None)) == "row:5"


@pytest.mark.parametrize("value", [User(None), Membership(None), Seat("team", None), ("user", None)])
def test_an_object_that_was_not_saved_is_refused_with_the_remedy(value: object) -> None:
    with pytest.raises(InvalidInput, match="save it first"):
        billable_reference(value)


def test_a_string_without_a_type_is_refused_with_the_way_to_write_it() -> None:
    with pytest.raises(InvalidInput, match='"user:42"'):
        billable_reference("42")


@pytest.mark.parametrize(
    "value",
    [
        ":42",
        "user:",
        "us er:42",
        "üser:42",
        "user:4 2",
        "user:4\n2",
        "user:4\x002",
        "user:4\u200b2",
        "user:\ud800",
        f"user:{'x' * 196}",
        ("user",),
        ("user", 42, 1),
        ("user", True),
        ("user", 42.0),
        ("user", b"42"),
        (None, 42),
        User,
        Membership,
        Seat,
        42,
        None,
        3.5,
        object(),
        {"id": 42},
    ],
)
def test_what_names_no_billable_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        billable_reference(value)


def test_a_reference_of_the_greatest_length_is_accepted() -> None:
    longest = f"user:{'x' * 195}"
    assert len(billable_reference(longest)) == 200


def test_a_refused_string_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput):
            billable_reference("seen before")


def test_the_applications_resolver_is_asked_first_for_objects_only() -> None:
    asked: list[object] = []

    def resolver(value: object) -> str | tuple[str, object] | None:
        asked.append(value)
        return ("account", value.pk) if isinstance(value, Membership) else None

    member, user = Membership(9), User(42)
    assert billable_reference(member, resolver) == "account:9"
    assert billable_reference(user, resolver) == "user:42"
    assert billable_reference("user:1", resolver) == "user:1"
    assert billable_reference(("user", 1), resolver) == "user:1"
    assert asked == [member, user]


def test_what_a_resolver_answers_is_checked_too() -> None:
    with pytest.raises(InvalidInput):
        billable_reference(User(42), lambda _: "no type")


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        ("acme", "tenant:acme"),
        ("tenant:acme", "tenant:acme"),
        (7, "tenant:7"),
        (NUMBER, f"tenant:{NUMBER}"),
        (("tenant", "acme"), "tenant:acme"),
        (User(7), "tenant:7"),
        (Membership("acme"), "tenant:acme"),
        (Seat("tenant", "acme"), "tenant:acme"),
    ],
)
def test_a_tenant_is_named_by_slug_id_reference_or_object(value: object, reference: str) -> None:
    assert tenant_reference(value) == reference


@pytest.mark.parametrize(
    "value", ["user:42", ("user", 42), Seat("team", "eu"), "", "tenant:", "a b", None, True, 1.5, User(None), User]
)
def test_what_is_no_tenant_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        tenant_reference(value)


def test_a_user_is_named_by_id_reference_or_object() -> None:
    assert {user_reference(value) for value in (42, "42", "user:42", ("user", 42), User(42), Membership(42))} == {
        "user:42"
    }
    with pytest.raises(InvalidInput):
        user_reference("tenant:acme")


identifiers = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=100)
types = st.from_regex(r"[A-Za-z0-9_.-]{1,50}", fullmatch=True)


@given(types, identifiers)
def test_a_reference_returns_unchanged_through_each_form(billable_type: str, identifier: str) -> None:
    reference = f"{billable_type}:{identifier}"
    assert billable_reference(reference) == reference
    assert billable_reference((billable_type, identifier)) == reference
    assert billable_reference(Seat(billable_type, identifier)) == reference


@pytest.mark.parametrize("prefix", ID_PREFIXES)
def test_an_id_is_its_prefix_and_a_version_7_uuid(prefix: str) -> None:
    name, _, digits = new_id(prefix).partition("_")
    assert name == prefix
    assert len(digits) == 32
    assert UUID(digits).version == 7


def test_ids_are_unique_and_ordered_by_the_time_of_their_making() -> None:
    made = [new_id("evt") for _ in range(5_000)]
    assert made == sorted(set(made))


def test_an_id_prefix_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(InvalidInput, match="ID_PREFIXES"):
        new_id("event")


def test_id_prefixes_are_three_letters() -> None:
    assert all(len(prefix) == 3 and prefix.isalpha() and prefix.islower() for prefix in ID_PREFIXES)
