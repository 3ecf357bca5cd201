"""The report's part on the customer who pays in advance: the statement, the grants, the earnings, and the feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from tallystick.demo.customers import POSTER
from tallystick.demo.layout import Column, Row, aligned, aligned_rows, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from tallystick.demo.wallet_findings import StatementLine, WalletFindings

__all__ = ["show_feature", "show_wallet"]


def show_wallet(wallet: WalletFindings, *, is_wide: bool) -> Iterable[RenderableType]:
    """Lay out the statement, what burned which grant, and where all of it is now."""
    yield Text.assemble(
        (wallet.billable, "bold"), " pays in advance; its clock was moved by hand, from yesterday morning to midnight"
    )
    yield _statement(wallet, is_wide=is_wide)
    for midnight in wallet.told.midnights:
        yield Text(f"A microsecond before midnight it had {midnight.before}, and at midnight {midnight.after}")
    shared = f" ({wallet.shared_calls} call took of two)" if wallet.shared_calls == 1 else ""
    yield Text(f"Burned in this order: the lower priority first, then the oldest{shared}", style="dim")
    yield _grants(wallet, is_wide=is_wide)
    yield Text("Where it went, by the ledger", style="dim")
    yield _whereabouts(wallet, is_wide=is_wide)


def show_feature(wallet: WalletFindings, *, is_wide: bool) -> Iterable[RenderableType]:
    """Lay out the feature's figures of each day, and how a use too many was refused."""
    days = wallet.told.days
    for day in days[:1]:
        yield Text.assemble(
            (wallet.billable, "bold"),
            f" may make {day.stats.plan_limit} {POSTER}s a day, and was given {day.stats.extra_credits} more, "
            "which are used first",
        )
    rows = [
        Row(
            f"{day.day:%m-%d %H:%M}",
            f"{day.stats.plan_limit}",
            f"{day.stats.extra_credits}",
            f"{day.asked}",
            f"{day.used}",
            f"{day.stats.extra_used}",
            f"{day.stats.plan_used}",
            f"{day.stats.remaining}",
        )
        for day in days
    ]
    columns = (
        Column("UTC"),
        Column("allowed a day", is_number=True),
        Column("extra", is_number=True),
        Column("tried at once", is_number=True),
        Column("made", is_number=True),
        Column("of extra", is_number=True, wide_only=True),
        Column("of the day's", is_number=True, wide_only=True),
        Column("left", is_number=True),
    )
    yield table(columns, rows, is_wide=is_wide)
    for refusal in [refusal for day in days for refusal in day.refusals][:1]:
        yield Text(f"{type(refusal).__name__}: {refusal}", style="red")


def _statement(wallet: WalletFindings, *, is_wide: bool) -> RenderableType:
    changes = aligned([line.change for line in wallet.statement])
    balances = aligned([line.balance for line in wallet.statement])
    rows = [
        Row(
            line.numbers,
            f"{line.occurred_at:%m-%d %H:%M}",
            _what(line),
            line.reason,
            change if line.change.nanos < 0 else f"+{change}",
            balance,
        )
        for line, change, balance in zip(wallet.statement, changes, balances, strict=True)
    ]
    columns = (
        Column("line", is_number=True),
        Column("UTC"),
        Column("what"),
        Column("for"),
        Column("change USD", is_number=True),
        Column("balance USD", is_number=True),
    )
    return table(columns, rows, is_wide=is_wide)


def _what(line: StatementLine) -> str:
    if line.source != "usage":
        return line.source
    return f"{line.count} calls" if line.count > 1 else "call"


def _grants(wallet: WalletFindings, *, is_wide: bool) -> RenderableType:
    uses = wallet.grants
    figures = aligned_rows([(use.amount, use.used, use.refunded, use.expired, use.left) for use in uses])
    rows = [
        Row(
            use.grant.reason,
            use.grant.kind,
            str(use.grant.priority),
            "never" if use.grant.expires_at is None else f"{use.grant.expires_at:%m-%d %H:%M}",
            f"{use.calls:,}",
            *amounts,
        )
        for use, amounts in zip(uses, figures, strict=True)
    ]
    columns = (
        Column("credits"),
        Column("kind"),
        Column("priority", is_number=True, wide_only=True),
        Column("expires", wide_only=True),
        Column("calls", is_number=True),
        Column("added", is_number=True),
        Column("burned", is_number=True),
        Column("refunded", is_number=True),
        Column("expired", is_number=True),
        Column("left", is_number=True),
    )
    return table(columns, rows, is_wide=is_wide)


def _whereabouts(wallet: WalletFindings, *, is_wide: bool) -> RenderableType:
    places = (
        (wallet.revenue, "used of what was paid for: revenue"),
        (wallet.spent, "used of what was given away: no revenue"),
        (wallet.expired, "expired unused"),
        (wallet.balance, "left in the wallet: owed to the customer"),
    )
    added = sum((use.amount for use in wallet.grants), wallet.balance * 0)
    *figures, total = aligned([*(amount for amount, _ in places), added])
    rows = [Row(figure, words) for figure, (_, words) in zip(figures, places, strict=True)]
    columns = (Column("USD", is_number=True), Column(""))
    return table(columns, [*rows, Row(total, "added, in all", style="bold")], is_wide=is_wide)
