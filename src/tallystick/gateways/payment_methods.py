"""`ts.payment_methods`: the ways to pay that gateways keep for customers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, select, update

from tallystick.errors import Conflict, InvalidInput, NotFound
from tallystick.gateways.card_number import has_card_number
from tallystick.gateways.payment_method import PaymentMethod
from tallystick.identity import new_id
from tallystick.metering.input import checked_name
from tallystick.metering.usage import subject_reference
from tallystick.period import from_micros
from tallystick.storage import tables
from tallystick.storage.locking import lock_account

if TYPE_CHECKING:
    from tallystick.encryption import Cipher
    from tallystick.engine import Engine

__all__ = ["PaymentMethods", "encrypted_anew", "is_encrypted_otherwise"]

_KIND_LENGTH_MAX = 20
_BRAND_LENGTH_MAX = 50
_HOLDER_LENGTH_MAX = 200
_TOKEN_LENGTH_MAX = 1_000
_YEARS = range(2000, 2200)
_DAYS_MAX = 3650
_IDS_HELP = "See ts.payment_methods.list(billable)."


@dataclass(frozen=True, slots=True)
class _Details:
    """What is known of a payment method besides its token; None: it was not said."""

    kind: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    holder: str | None

    def values(self, cipher: Cipher, method_id: str) -> dict[str, object]:
        """Return the columns of what was said."""
        stated: dict[str, object] = {
            name: value
            for name in ("kind", "brand", "last4", "exp_month", "exp_year")
            if (value := getattr(self, name)) is not None
        }
        if self.holder is not None:
            stated["holder"] = cipher.encrypt(self.holder, _holder_of(method_id))
        return stated


class PaymentMethods:
    """Keeps tokens of gateways, encrypted, with what a customer knows a payment method by.

    A card number is never kept: where something looks like one, it is refused, and the error does not repeat it. The
    token is in no value, no log and no error; `token` alone reads it. `security.encryption_keys` must name a key.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        billable: object,
        gateway: str,
        token: str,
        *,
        kind: str = "card",
        brand: str | None = None,
        last4: str | None = None,
        exp_month: int | None = None,
        exp_year: int | None = None,
        holder: str | None = None,
        make_default: bool = False,
    ) -> PaymentMethod:
        """Add a payment method that a gateway has made, by its token, and return it.

        The first one of a billable, and any where it has no default, becomes its default. A token that is there
        already gives the same method again, with the details that are said now; the others stay.

        Raises:
            InvalidInput: something cannot be used, or looks like a card number.
            ConfigurationError: there is no encryption key, or the extra `encryption` is not installed.
        """
        reference = subject_reference(billable, self._engine)
        named = checked_name("gateway", _without_card_number("gateway", gateway)).lower()
        secret = _checked_token(token)
        details = _checked_details(kind, brand, last4, exp_month, exp_year, holder)
        cipher, now = self._engine.cipher, self._engine.now()
        method_id = new_id("pym")
        row = {
            "id": method_id,
            "billable": reference,
            "gateway": named,
            "token": cipher.encrypt(secret, _token_of(method_id)),
            "token_digest": cipher.digest(_digested(named, secret)),
            **details.values(cipher, method_id),
            "created_at": now,
            "updated_at": now,
        }
        known = cipher.digests(_digested(named, secret))

        def add(connection: Connection) -> Any:
            methods = _locked(connection, reference, now)
            same = next((one for one in methods if one.token_digest in known), None)
            becomes_default = make_default or not any(one.is_default for one in methods)
            if becomes_default:
                _take_default(connection, methods, now)
            if same is None:
                connection.execute(tables.payment_methods.insert().values(**row, is_default=becomes_default))
                return _found(connection, method_id)
            changed: dict[str, object] = {**details.values(cipher, same.id), "updated_at": now}
            if becomes_default:
                changed["is_default"] = True
            _change(connection, same.id, changed)
            return _found(connection, same.id)

        return self._method(self._engine.lane.transact(add))

    def expiring(self, within_days: int = 30) -> list[PaymentMethod]:
        """Return everybody's payment methods that will have expired in so many days, the first to expire first.

        Those that have expired already are among them, as long as they are not removed. A card is valid to the end of
        its month (UTC).

        Raises:
            InvalidInput: the days are no number from 0 to 3650.
        """
        if isinstance(within_days, bool) or not isinstance(within_days, int) or not 0 <= within_days <= _DAYS_MAX:
            raise InvalidInput("within_days", within_days, f"Give 0 to {_DAYS_MAX:,} days.")
        until = from_micros(self._engine.now()) + timedelta(days=within_days)
        methods = tables.payment_methods.c
        query = (
            select(tables.payment_methods)
            .where(
                methods.removed_at.is_(None),
                methods.exp_year * 12 + methods.exp_month < until.year * 12 + until.month,
            )
            .order_by(methods.exp_year, methods.exp_month, methods.id)
        )
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [self._method(row) for row in rows]

    def list(self, billable: object) -> list[PaymentMethod]:
        """Return the payment methods of a billable, the default first, then the oldest; without those removed.

        Raises:
            ConfigurationError: a holder was encrypted with a key that is not there any more.
        """
        methods = tables.payment_methods.c
        query = (
            select(tables.payment_methods)
            .where(methods.billable == subject_reference(billable, self._engine), methods.removed_at.is_(None))
            .order_by(methods.is_default.desc(), methods.created_at, methods.id)
        )
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [self._method(row) for row in rows]

    def get(self, id: str) -> PaymentMethod:  # noqa: A002  # the word of the other namespaces
        """Return a payment method, also one that was removed: `removed_at` says so.

        Raises:
            NotFound: there is none. ConfigurationError: its holder's key is not there any more.
        """
        return self._method(self._engine.read(lambda connection: _found(connection, id)))

    def default(self, billable: object) -> PaymentMethod | None:
        """Return the payment method that a billable is charged by; None where it has none."""
        return next((method for method in self.list(billable) if method.is_default), None)

    def set_default(self, id: str) -> PaymentMethod:  # noqa: A002  # as above
        """Make a payment method the one that its billable is charged by.

        Raises:
            NotFound: there is none. Conflict: it was removed.
        """
        now = self._engine.now()
        billable = self._engine.read(lambda connection: _found(connection, id)).billable

        def change(connection: Connection) -> Any:
            methods = _locked(connection, billable, now)
            chosen = next((one for one in methods if one.id == id), None)
            if chosen is None:
                raise Conflict(f"Payment method {id} was removed. Add it again with its token.")
            if not chosen.is_default:
                _take_default(connection, methods, now)
                _change(connection, id, {"is_default": True, "updated_at": now})
            return _found(connection, id)

        return self._method(self._engine.lane.transact(change))

    def remove(self, id: str) -> PaymentMethod:  # noqa: A002  # as above
        """Remove a payment method: its token and holder are erased here; tell the gateway yourself.

        Where it was the default there is none until one is set, or the next is added: what is charged is never chosen
        silently. Removing twice is harmless.

        Raises:
            NotFound: there is none.
        """
        now = self._engine.now()
        billable = self._engine.read(lambda connection: _found(connection, id)).billable
        erased = {"token": "", "token_digest": "", "holder": None, "is_default": False}

        def remove(connection: Connection) -> Any:
            if any(one.id == id for one in _locked(connection, billable, now)):
                _change(connection, id, {**erased, "updated_at": now, "removed_at": now})
            return _found(connection, id)

        return self._method(self._engine.lane.transact(remove))

    def token(self, id: str) -> str:  # noqa: A002  # as above
        """Return the gateway's token of a payment method, to charge it. Keep it out of logs.

        Raises:
            NotFound: there is none, or it was removed.
            ConfigurationError: its key is not there any more. StorageError: the stored text was changed.
        """
        row = self._engine.read(lambda connection: _found(connection, id))
        if row.removed_at is not None:
            raise NotFound("token of payment method", id, "It was removed.")
        return self._engine.cipher.decrypt(row.token, _token_of(id))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _method(self, row: Any) -> PaymentMethod:
        holder = None if row.holder is None else self._engine.cipher.decrypt(row.holder, _holder_of(row.id))
        return PaymentMethod.from_row(row, holder=holder)


# -- rotating keys ----------------------------------------------------------------------------------------------------


def is_encrypted_otherwise(cipher: Cipher) -> ColumnElement[bool]:
    """Return the condition of rows that the first key has not encrypted, or not digested."""
    methods = tables.payment_methods.c
    by_first = methods.token.startswith(cipher.prefix, autoescape=True)
    by_first &= methods.token_digest.startswith(cipher.digest_prefix, autoescape=True)
    by_first &= methods.holder.is_(None) | methods.holder.startswith(cipher.prefix, autoescape=True)
    return methods.removed_at.is_(None) & ~by_first


def encrypted_anew(cipher: Cipher, row: Any) -> dict[str, object]:
    """Return the columns of a row as the first key encrypts them."""
    token = cipher.decrypt(row.token, _token_of(row.id))
    return {
        "token": cipher.rotate(row.token, _token_of(row.id)),
        # A digest cannot be turned back: it is made again from what it was made of.
        "token_digest": cipher.digest(_digested(row.gateway, token)),
        "holder": None if row.holder is None else cipher.rotate(row.holder, _holder_of(row.id)),
    }


def _token_of(method_id: str) -> str:
    return f"The token of {method_id}"


def _holder_of(method_id: str) -> str:
    return f"The holder of {method_id}"


def _digested(gateway: str, token: str) -> str:
    return f"{gateway}\n{token}"


# -- rows -------------------------------------------------------------------------------------------------------------


def _locked(connection: Connection, billable: str, now: int) -> list[Any]:
    """Return what a billable has, which nobody else changes until this transaction ends."""
    lock_account(connection, billable, now)
    methods = tables.payment_methods
    # In the order in which keys are rotated, which does not lock accounts.
    mine = select(methods).where(methods.c.billable == billable, methods.c.removed_at.is_(None))
    return list(connection.execute(mine.order_by(methods.c.id).with_for_update()).all())


def _found(connection: Connection, method_id: str) -> Any:
    methods = tables.payment_methods
    row = connection.execute(select(methods).where(methods.c.id == method_id)).first()
    if row is None:
        raise NotFound("payment method", method_id, _IDS_HELP)
    return row


def _change(connection: Connection, method_id: str, values: dict[str, object]) -> None:
    methods = tables.payment_methods
    connection.execute(update(methods).where(methods.c.id == method_id).values(**values))


def _take_default(connection: Connection, methods: list[Any], now: int) -> None:
    for one in methods:
        if one.is_default:
            _change(connection, one.id, {"is_default": False, "updated_at": now})


# -- what a caller states ---------------------------------------------------------------------------------------------


def _checked_token(token: object) -> str:
    if not isinstance(token, str) or not token or len(token) > _TOKEN_LENGTH_MAX or not token.isprintable():
        # What was given may be a secret: it is not repeated.
        raise InvalidInput(
            "token", "what was given", f"Give the gateway's token: 1 to {_TOKEN_LENGTH_MAX:,} printable characters."
        )
    if has_card_number(token, is_identifier=True):
        raise _card_number("token")
    return token


def _checked_details(
    kind: str,
    brand: str | None,
    last4: str | None,
    exp_month: int | None,
    exp_year: int | None,
    holder: str | None,
) -> _Details:
    if len(checked_name("kind", _without_card_number("kind", kind))) > _KIND_LENGTH_MAX:
        raise InvalidInput("kind", kind, f"Use at most {_KIND_LENGTH_MAX} characters.")
    if last4 is not None and not (isinstance(last4, str) and len(last4) == 4 and last4.isascii() and last4.isdigit()):
        # Whoever gives more digits than four may have given all of them.
        raise InvalidInput("last4", "what was given", 'Give the last four digits as text, such as "4242".')
    if (exp_month is None) != (exp_year is None):
        raise InvalidInput("exp_month", exp_month, "Give month and year of the expiry, or neither.")
    if exp_month is not None and (type(exp_month) is not int or not 1 <= exp_month <= 12):
        raise InvalidInput("exp_month", exp_month, "Give a month, 1 to 12.")
    if exp_year is not None and (type(exp_year) is not int or exp_year not in _YEARS):
        raise InvalidInput("exp_year", exp_year, "Give a year of four digits, such as 2030.")
    return _Details(
        kind=kind.lower(),
        brand=_checked_text("brand", brand, _BRAND_LENGTH_MAX),
        last4=last4,
        exp_month=exp_month,
        exp_year=exp_year,
        holder=_checked_text("holder", holder, _HOLDER_LENGTH_MAX),
    )


def _checked_text(field: str, text: str | None, length_max: int) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > length_max or not text.isprintable():
        raise InvalidInput(field, "what was given", f"Give a text of at most {length_max} printable characters.")
    return _without_card_number(field, text).strip() or None


def _without_card_number(field: str, text: str) -> str:
    if isinstance(text, str) and has_card_number(text):
        raise _card_number(field)
    return text


def _card_number(field: str) -> InvalidInput:
    return InvalidInput(
        field,
        "what looks like a card number",
        "Card numbers are never stored. Give the number to the gateway's own form, and the token that it returns here.",
    )
