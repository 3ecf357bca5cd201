"""`ts.ledger`: the double-entry ledger behind wallets and extra credits, as auditors read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection

from tallystick.credits.account import FEATURE_PREFIX, CreditKey, amount_of, is_money
from tallystick.credits.commands import RefundCredits, ReverseTransaction
from tallystick.credits.input import checked_reason, wallet_currency
from tallystick.credits.ledger import ACCOUNTS
from tallystick.credits.listing import find_transaction, read_balance, sum_by_account, transaction_entries
from tallystick.credits.transacting import refundable, transact
from tallystick.credits.values import Amount, CreditTransaction, LedgerEntry
from tallystick.errors import InvalidInput, NotFound
from tallystick.identity import billable_reference, new_id

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Ledger"]

_USES = ("usage", "deduction")


class Ledger:
    """Reads postings, and reverses them. Nothing that was posted is ever changed: a reversal is a transaction too."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def entries(self, transaction_id: str) -> list[LedgerEntry]:
        """Return the entries of a transaction, on all accounts that it concerns. In each unit they sum to zero.

        Raises:
            NotFound: no such transaction.
        """
        found = self._engine.read(lambda connection: transaction_entries(connection, transaction_id))
        if not found:
            raise NotFound("transaction", transaction_id)
        return found

    def accounts(self, billable: object, currency: str | None = None) -> dict[str, Amount]:
        """Return what is posted on each ledger account of a wallet, and what calls in flight hold of it (`held`).

        Without `held` they sum to zero, over everybody: what came in is what is there, was used, expired, or was taken
        back. Credits that expired and were not posted yet are still on their account here. `currency` may also be the
        unit of a feature's credits, such as "feature:api-calls"; then amounts are numbers.

        Raises:
            NotFound: there is no such wallet.
        """
        reference = billable_reference(billable, self._engine.billable_resolver)
        is_feature = currency is not None and currency.startswith(FEATURE_PREFIX)
        unit = currency if currency is not None and is_feature else wallet_currency(self._engine, currency)
        key = CreditKey(reference, unit)
        now = self._engine.now()

        def read(connection: Connection) -> dict[str, int]:
            account = read_balance(connection, key, now)
            if account is None:
                raise NotFound("wallet", f"{reference} {unit}", "Make it with ts.wallets.get_or_create(...).")
            return {**dict.fromkeys(ACCOUNTS, 0), **sum_by_account(connection, key), "held": account.held}

        return {name: amount_of(unit, amount) for name, amount in self._engine.read(read).items()}

    def transaction(self, transaction_id: str) -> CreditTransaction:
        """Return a transaction by its id; of a transfer, the line of the account that gave.

        Raises:
            NotFound: no such transaction.
        """
        row = self._engine.read(lambda connection: find_transaction(connection, transaction_id))
        if row is None:
            raise NotFound("transaction", transaction_id)
        return CreditTransaction.from_row(tuple(row))

    def reverse(self, transaction_id: str, reason: str) -> CreditTransaction:
        """Undo a transaction that was a mistake: post the opposite of all that is left of it, on every account.

        Of a grant only what is unused can be taken back; where some of it was used or is held, nothing is reversed. A
        call or a deduction is given back to the grants that it was taken of.

        Raises:
            NotFound: no such transaction.
            Conflict: it is reversed already, or some of its credits were used.
            InvalidInput: it is the use of a feature, or an expiry, which are facts.
        """
        checked = checked_reason(reason)
        original = self.transaction(transaction_id)
        entries = self.entries(transaction_id)
        accounts = tuple(dict.fromkeys(CreditKey(entry.billable, entry.unit) for entry in entries))
        now = self._engine.now()
        if original.source == "expiry":
            raise InvalidInput("transaction_id", transaction_id, "It is an expiry: grant the credits again instead.")
        if original.source not in _USES:
            reversal = ReverseTransaction(transaction_id, accounts, now, new_id("txn"), checked)
            return transact(self._engine, reversal)[0]
        if not all(is_money(key.unit) for key in accounts):
            remedy = "It is the use of a feature, a fact: grant its credits again, and refund its money, instead."
            raise InvalidInput("transaction_id", transaction_id, remedy)
        refunded, whole = refundable(original)
        refund = RefundCredits(accounts[0], refunded, whole, now, new_id("txn"), checked, user_id=original.user)
        return transact(self._engine, refund)[0]
