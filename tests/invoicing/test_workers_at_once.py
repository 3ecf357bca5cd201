"""Several workers bill at once: whatever waits is put on one invoice, whoever comes to it first."""

from __future__ import annotations

import threading
from collections import Counter

from tallystick import FixedClock, Tallystick
from tests.values import money

_WORKERS = 3
_PAYERS = 60


def test_what_two_subscriptions_of_one_payer_share_is_billed_once_by_workers_at_once(
    database_url: str, clock: FixedClock
) -> None:
    def opened() -> Tallystick:
        return Tallystick(database_url, clock=clock, subscriptions={"allow_multiple": True})

    payers = [f"user:{number}" for number in range(_PAYERS)]
    with opened() as ts:
        ts.plans.create("pro", price=money("10 USD"), usage_prices={"message": {"model": "per_unit", "price": "1"}})
        # The subscriptions of one payer are far from each other in the order in which they are billed.
        for payer in (*payers, *reversed(payers)):
            ts.subscriptions.create(payer, "pro")
        for payer in payers:
            ts.invoices.add_item(payer, money("100 USD"), "Set-up")
            ts.usage.log(payer, "message", 3)
    clock.advance(days=31)
    start = threading.Barrier(_WORKERS)
    failures: list[Exception] = []

    def work() -> None:
        with opened() as ts:
            start.wait()
            try:
                ts.run_due_jobs()
            except Exception as error:  # noqa: BLE001  # told by the test
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(_WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with opened() as ts:
        lines = [(one.billable, line) for one in ts.invoices.list(limit=1000) for line in one.line_items]
        billed = Counter((payer, line.kind.value) for payer, line in lines)
        assert {billed[payer, "item"] for payer in payers} == {1}
        # Two subscriptions, each with the fee of the first and of the second month.
        assert {billed[payer, "fee"] for payer in payers} == {4}
        assert sum(line.amount.nanos for _, line in lines if line.kind.value == "usage") == money("180 USD").nanos
        assert [finding for finding in ts.doctor().findings if finding.severity == "drift"] == []
