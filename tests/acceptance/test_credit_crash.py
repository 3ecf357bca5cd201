"""A process that is killed among calls on credits and deductions charges what it answered, once, and keeps nothing."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from tallystick import Tallystick
from tallystick.money import Money
from tallystick.storage import tables
from tests.acceptance.accounts import BILLABLE, assert_healthy
from tests.acceptance.credit_processes import COST, spend_until_killed
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS

# So many that none of them comes to its end before it is killed.
TIMES = 200_000
TTL_SECONDS = 1
ADDED = Money("4000", "USD")


@pytest.mark.parametrize("seed", [1, 2])
def test_killing_processes_that_spend_loses_and_doubles_nothing(database_url: str, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with Tallystick(database_url) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        for amount in ("1", "2", "3"):
            wallet.add_credits(amount, "promotion", priority=10, expires_at="2100-01-01")
        wallet.add_credits("3994")
    journals = [tmp_path / name for name in ("one", "other")]
    processes = [CONTEXT.Process(target=spend_until_killed, args=(database_url, one, TIMES)) for one in journals]
    for process in processes:
        process.start()
    # Not before they have begun, not after they have ended; anywhere in between.
    for process, journal in zip(processes, journals, strict=True):
        _wait_for_answers(journal, chance.randrange(1, 300))
        process.kill()
    for process in processes:
        process.join(JOIN_SECONDS)
    answered = [line for journal in journals for line in _whole_lines(journal)]
    assert not any(line.startswith("done") for line in answered), "one was not killed in the middle"

    with Tallystick(database_url) as ts:
        wallet = ts.wallets.get(BILLABLE)
        assert_healthy(ts)
        lines = tables.credit_transactions.c
        spent = select(lines.id, lines.amount).where(lines.source.in_(["usage", "deduction"]))
        charged = [(row.id, row.amount) for row in ts._engine.read(lambda connection: connection.execute(spent).all())]
        assert len(answered) == len(set(answered))
        assert set(answered) <= {transaction_id for transaction_id, _ in charged}
        assert {amount for _, amount in charged} == {-COST.nanos}
        # Of each process at most the calls that it was killed in are charged and were not answered.
        assert len(charged) - len(answered) <= 2 * 4
        assert wallet.balance == ADDED - COST * len(charged)
        time.sleep(TTL_SECONDS)
        left_behind = ts.doctor().open_holds
        assert wallet.held == COST * 3 * left_behind
        assert ts.run_due_jobs().holds_expired == left_behind
        assert (wallet.held, wallet.available) == (Money(0, "USD"), wallet.balance)
        wallet.deduct_credits(wallet.balance)
        assert_healthy(ts, open_holds=0)


def _wait_for_answers(journal: Path, answers: int) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    while not journal.exists() or journal.read_bytes().count(b"\n") < answers:
        assert time.monotonic() < deadline, "the process gets no answers"
        time.sleep(0.002)


def _whole_lines(journal: Path) -> list[str]:
    return journal.read_text().rpartition("\n")[0].splitlines()
