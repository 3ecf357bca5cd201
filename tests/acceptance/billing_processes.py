"""What the tests of billing do in processes of their own. Each opens its own engine on the same database."""

from __future__ import annotations

from typing import Any

from tallystick import FixedClock, Money, Tallystick
from tallystick.errors import Conflict, InvalidInput
from tests.acceptance.accounts import in_threads
from tests.acceptance.processes import JOIN_SECONDS


def bill_at_once(index: int, answers: Any, url: str, now: str, settings: dict[str, Any], ready: Any) -> None:
    """Run due jobs in the same moment as others; answer how many invoices were made here."""
    del index
    with Tallystick(url, clock=FixedClock(now), **settings) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        done = ts.run_due_jobs()
    answers.put((done.invoices, done.renewals))


def bill_until_killed(url: str, now: str, settings: dict[str, Any]) -> None:
    """Run due jobs, until nothing is due or somebody ends it."""
    with Tallystick(url, clock=FixedClock(now), **settings) as ts:
        ts.run_due_jobs()


def create_invoices(index: int, answers: Any, url: str, threads: int, times: int, ready: Any) -> None:
    """Make invoices by hand, some with a key that others use too, and some that are refused; answer what happened."""

    def make(number: int) -> list[str]:
        made = []
        for time in range(times):
            billable = f"user:{(index + number + time) % 5}"
            if time % 3 == 0:
                _refused(ts, billable)
            key = f"shared-{time}" if time % 2 else None
            made.append(ts.invoices.create(billable, amount_cents=100 + time, idempotency_key=key).id)
        return made

    with Tallystick(url) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(threads, make)
    answers.put([repr(one) if isinstance(one, BaseException) else one for one in outcomes])


def _refused(ts: Tallystick, billable: str) -> None:
    """Ask for what is refused after a number might have been taken."""
    try:
        ts.invoices.create(billable, line_items=[{"description": "Work", "amount": "1", "quantity": "0.0000001"}])
    except InvalidInput:
        pass
    else:
        raise AssertionError("it was not refused")
    draft = ts.invoices.create(billable, amount_cents=5, draft=True)
    ts.invoices.void(draft.id)
    try:
        ts.invoices.finalize(draft.id)
    except Conflict:
        return
    raise AssertionError("it was not refused")


def work_on_subscriptions(index: int, answers: Any, url: str, now: str, steps: int, ready: Any) -> None:
    """Change plans, record use and run jobs at once with others; answer what went wrong."""

    def work(number: int) -> None:
        for step in range(steps):
            billable = f"user:{(step * 7 + number + index) % 4}"
            what = (step + number + index) % 4
            if what == 0:
                ts.run_due_jobs()
            elif what == 1:
                ts.subscriptions.change_plan(billable, "team" if (step + index) % 2 else "pro")
            elif what == 2:
                ts.usage.record_batch([{"billable": billable, "resource_type": "message", "quantity": 1}] * 5)
            else:
                ts.invoices.preview(billable)

    with Tallystick(url, clock=FixedClock(now)) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(3, work)
    answers.put([repr(one) for one in outcomes if isinstance(one, BaseException)])


def pay_at_once(index: int, answers: Any, url: str, invoice_id: str, ready: Any) -> None:
    """Record one and the same payment from threads; answer what each got."""
    del index
    with Tallystick(url) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(
            4, lambda _: ts.invoices.record_payment(invoice_id, Money("40", "USD"), external_payment_id="pay-1").id
        )
    answers.put([repr(one) if isinstance(one, BaseException) else one for one in outcomes])
