"""Encryption at rest: what is read with which key, what is never shown, and how keys are changed."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import select, update

from tallystick import FixedClock, Tallystick
from tallystick.encryption import Cipher, generate_key
from tallystick.errors import ConfigurationError, StorageError
from tallystick.notify import verify_webhook
from tallystick.notify.notification import Deliveries
from tallystick.storage import tables
from tests.cli.commands import answer, succeed
from tests.notify import receivers
from tests.notify.receivers import Receiver

A, B, C = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
ABOUT = "The token of pym_1"

Opener = Callable[..., Tallystick]


def cipher(*keys: str) -> Cipher:
    return Cipher([SecretStr(key) for key in keys])


def refusal(work: Callable[[], object]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        work()
    return caught.value


@given(st.text())
def test_what_is_encrypted_is_read_again_and_says_nothing(text: str) -> None:
    encrypted = cipher(A).encrypt(text, ABOUT)
    assert cipher(A).decrypt(encrypted, ABOUT) == text
    assert encrypted.startswith(f"enc1.{cipher(A).key_ids[0]}.")
    assert len(text) < 8 or text not in encrypted


def test_the_same_text_is_encrypted_to_another_each_time() -> None:
    assert len({cipher(A).encrypt("tok_1", ABOUT) for _ in range(100)}) == 100


def test_what_an_older_key_encrypted_is_read_and_rotating_encrypts_it_with_the_first() -> None:
    old = cipher(A).encrypt("tok_1", ABOUT)
    both = cipher(B, A)
    assert both.decrypt(old, ABOUT) == "tok_1"
    new = both.rotate(old, ABOUT)
    assert new.startswith(both.prefix)
    assert cipher(B).decrypt(new, ABOUT) == "tok_1"
    assert both.rotate(new, ABOUT) is new


def test_a_text_whose_key_is_gone_says_which_key_it_needs() -> None:
    error = refusal(lambda: cipher(B).decrypt(cipher(A).encrypt("tok_1", ABOUT), ABOUT))
    assert f"{ABOUT} was encrypted with key {cipher(A).key_ids[0]}, which is not among them" in error.message
    assert error.value == cipher(B).key_ids


def test_a_text_of_another_record_or_one_that_was_changed_is_not_read() -> None:
    encrypted = cipher(A).encrypt("tok_1", ABOUT)
    start, _, body = encrypted.rpartition(".")
    sealed = bytearray(base64.urlsafe_b64decode(body))
    sealed[-1] ^= 1
    changed = f"{start}.{base64.urlsafe_b64encode(sealed).decode()}"
    for text, about in (
        (encrypted, "The token of pym_2"),
        (changed, ABOUT),
        (f"{start}.%", ABOUT),
        (f"{start}.", ABOUT),
        ("tok_1", ABOUT),
    ):
        with pytest.raises(StorageError, match="cannot be decrypted"):
            cipher(A).decrypt(text, about)


def test_without_a_key_nothing_is_encrypted_and_the_remedy_is_named() -> None:
    for work in (lambda: cipher().encrypt("tok_1", ABOUT), lambda: cipher().digest("tok_1")):
        assert "tallystick encryption generate-key" in refusal(work).message
    assert not cipher().has_keys


@pytest.mark.parametrize("key", ["", "secret", "x" * 44, A[:-4], f"{A[:20]}é{A[21:]}", "ab cd"])
def test_a_key_that_is_none_is_refused_without_being_repeated(key: str) -> None:
    error = refusal(lambda: cipher(B, key))
    assert "'key 2' cannot be used" in error.message
    assert not key or key not in error.message


def test_a_key_may_be_in_either_alphabet_and_with_space_around_it_but_not_there_twice() -> None:
    plus = base64.b64encode(b"\xfb\xff" * 16).decode()
    web = base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode()
    assert "+" in plus
    assert "-" in web
    assert cipher(plus).key_ids == cipher(f" {web.rstrip('=')}\n").key_ids
    assert "twice" in refusal(lambda: cipher(plus, web)).message


def test_a_new_key_is_one_and_no_other_is_like_it() -> None:
    keys = {generate_key() for _ in range(50)}
    assert len({cipher(key).key_ids for key in keys}) == 50


def test_a_digest_is_found_again_by_every_key_and_is_no_plain_hash() -> None:
    first, second = cipher(A).digest("tok_1"), cipher(B).digest("tok_1")
    assert first != second
    assert cipher(B, A).digests("tok_1") == [second, first]
    assert cipher(A).digest("tok_1") == first != cipher(A).digest("tok_2")


def test_neither_keys_nor_what_follows_from_them_are_shown(sqlite_url: str) -> None:
    with Tallystick(sqlite_url, security={"encryption_keys": [A, B]}) as ts:
        shown = repr(ts.settings) + repr(vars(ts._engine.cipher)) + str(list(ts.settings.describe()))
    assert A not in shown
    assert B not in shown


def test_keys_come_from_the_environment_separated_by_commas(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_SECURITY__ENCRYPTION_KEYS", f"{B}, {A}")
    with Tallystick(sqlite_url) as ts:
        assert ts._engine.cipher.key_ids == cipher(B, A).key_ids


def test_a_wrong_key_keeps_the_engine_closed(sqlite_url: str) -> None:
    assert "base64" in refusal(lambda: Tallystick(sqlite_url, security={"encryption_keys": ["short"]})).message


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    assert "tallystick[encryption]" in refusal(lambda: cipher(A).encrypt("tok_1", ABOUT)).message


# -- what is kept encrypted -------------------------------------------------------------------------------------------


@pytest.fixture
def opened(database_url: str, clock: FixedClock) -> Iterator[Opener]:
    """Opens an engine on a database of each kind, with these keys."""
    with ExitStack() as open_until_the_end:

        def open_engine(*keys: str) -> Tallystick:
            ts = Tallystick(
                database_url,
                clock=clock,
                security={"encryption_keys": keys},
                notifications={"webhook_private_addresses": True, "webhook_timeout_seconds": 2},
            )
            return open_until_the_end.enter_context(ts)

        yield open_engine


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receivers.receiver() as made:
        yield made


def rows(ts: Tallystick, table: Any) -> list[Any]:
    return list(ts._engine.read(lambda connection: connection.execute(select(table).order_by(table.c.id)).all()))


def is_signed_with(hook: Receiver, number: int, secret: str | None, clock: FixedClock) -> bool:
    assert secret is not None
    request = hook.requests[number]
    return verify_webhook(request.body, request.headers, secret, at_seconds=clock.now().timestamp())


def test_secrets_of_webhooks_are_encrypted_where_there_is_a_key_and_sign_as_before(
    opened: Opener, hook: Receiver, clock: FixedClock
) -> None:
    plain = opened()
    before = plain.webhooks.add(hook.url)
    assert rows(plain, tables.webhook_endpoints)[0].secret == before.secret
    ts = opened(A)
    after = ts.webhooks.add(hook.url)
    kept = {row.id: row.secret for row in rows(ts, tables.webhook_endpoints)}
    assert kept[before.id] == before.secret
    assert after.secret is not None
    assert after.secret not in kept[after.id]
    assert kept[after.id].startswith("enc1.")
    for number, one in enumerate((before, after)):
        assert ts.webhooks.test(one.id).is_delivered
        assert is_signed_with(hook, number, one.secret, clock)


def test_a_secret_that_is_replaced_signs_on_beside_the_new_one_both_encrypted(
    opened: Opener, hook: Receiver, clock: FixedClock
) -> None:
    ts = opened(A)
    old = ts.webhooks.add(hook.url)
    new = ts.webhooks.rotate_secret(old.id)
    [row] = rows(ts, tables.webhook_endpoints)
    assert row.secret.startswith("enc1.")
    assert row.previous_secret.startswith("enc1.")
    ts.webhooks.test(old.id)
    assert is_signed_with(hook, 0, old.secret, clock)
    assert is_signed_with(hook, 0, new.secret, clock)
    clock.advance(hours=25)
    ts.webhooks.test(old.id)
    assert not is_signed_with(hook, 1, old.secret, clock)
    assert is_signed_with(hook, 1, new.secret, clock)


def test_a_secret_whose_key_is_gone_puts_messages_off_and_blames_no_endpoint(
    opened: Opener, hook: Receiver, clock: FixedClock
) -> None:
    made = opened(A).webhooks.add(hook.url, "notification.created")
    ts = opened(B)
    ts.notifications.send("user:1", "news", subject="Hello", message="World")
    assert "not among them" in refusal(lambda: ts.webhooks.test(made.id)).message
    assert ts.notifications.deliver() == Deliveries(retried=1)
    assert ts.webhooks.get(made.id).failing_since is None
    clock.advance(minutes=10)
    assert opened(B, A).notifications.deliver() == Deliveries(sent=1)
    assert is_signed_with(hook, 0, made.secret, clock)


def test_rotating_encrypts_everything_with_the_first_key_and_then_the_others_are_not_needed(
    opened: Opener, hook: Receiver, clock: FixedClock
) -> None:
    plain = opened().webhooks.add(hook.url)
    first = opened(A)
    secret = first.webhooks.add(hook.url)
    replaced = first.webhooks.rotate_secret(first.webhooks.add(hook.url).id)
    method = first.payment_methods.add("user:1", "stripe", "pm_1", holder="Ada Lovelace")
    removed = first.payment_methods.add("user:1", "stripe", "pm_2")
    first.payment_methods.remove(removed.id)
    both = opened(B, A)
    assert both.rotate_keys() == 4
    assert both.rotate_keys() == 0
    alone = opened(B)
    assert alone.payment_methods.token(method.id) == "pm_1"
    assert alone.payment_methods.get(method.id) == method
    # The digest was made anew, too: the same token is the same method.
    assert alone.payment_methods.add("user:1", "stripe", "pm_1").id == method.id
    for number, one in enumerate((plain, secret, replaced)):
        assert alone.webhooks.test(one.id).is_delivered
        assert is_signed_with(hook, number, one.secret, clock)


def test_rotating_goes_in_portions_and_leaves_nothing_out(opened: Opener) -> None:
    first = opened(A)
    for number in range(450):
        first.payment_methods.add(f"user:{number % 90}", "stripe", f"pm_{number}")
    both = opened(B, A)
    assert both.rotate_keys() == 450
    alone = opened(B)
    tokens = {
        alone.payment_methods.token(one.id) for user in range(90) for one in alone.payment_methods.list(f"user:{user}")
    }
    assert tokens == {f"pm_{number}" for number in range(450)}


def test_one_record_that_cannot_be_read_keeps_no_other_from_being_rotated(opened: Opener) -> None:
    lost = opened(C).payment_methods.add("user:1", "stripe", "pm_0")
    first = opened(A)
    kept = [first.payment_methods.add("user:1", "stripe", f"pm_{number}") for number in (1, 2)]
    both = opened(B, A)
    assert f"The token of {lost.id}" in refusal(both.rotate_keys).message
    alone = opened(B)
    assert [alone.payment_methods.token(one.id) for one in kept] == ["pm_1", "pm_2"]
    alone.payment_methods.remove(lost.id)
    assert alone.rotate_keys() == 0


def test_a_text_that_was_changed_in_the_database_is_told_apart(opened: Opener) -> None:
    ts = opened(A)
    one, other = (ts.payment_methods.add(f"user:{number}", "stripe", f"pm_{number}") for number in (1, 2))
    methods = tables.payment_methods
    theirs = select(methods.c.token).where(methods.c.id == other.id).scalar_subquery()
    change = update(methods).where(methods.c.id == one.id).values(token=theirs)
    ts._engine.lane.transact(lambda connection: connection.execute(change).rowcount)
    with pytest.raises(StorageError, match="changed or damaged"):
        ts.payment_methods.token(one.id)


def test_without_a_key_there_is_nothing_to_rotate_with(opened: Opener) -> None:
    assert "encryption_keys" in refusal(opened().rotate_keys).message


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_makes_a_key_and_rotates_with_it(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = succeed("encryption", "generate-key").strip()
    assert cipher(answer("encryption", "generate-key")["key"]).key_ids != cipher(key).key_ids
    with Tallystick(database_url, security={"encryption_keys": [A]}) as ts:
        method = ts.payment_methods.add("user:1", "stripe", "pm_1")
    options = ("--database", database_url)
    assert answer("encryption", "rotate", *options, exit_code=3)["error"]["code"] == "configuration"
    monkeypatch.setenv("TALLYSTICK_SECURITY__ENCRYPTION_KEYS", f"{key},{A}")
    assert "1 record encrypted" in succeed("encryption", "rotate", *options)
    assert answer("encryption", "rotate", *options) == {"encrypted": 0}
    with Tallystick(database_url, security={"encryption_keys": [key]}) as ts:
        assert ts.payment_methods.token(method.id) == "pm_1"
