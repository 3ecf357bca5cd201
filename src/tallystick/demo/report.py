"""The demo's report, laid out for a terminal of 100 columns: light or dark, with or without colour, or narrower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from tallystick.demo.clients import PLAIN_HTTP
from tallystick.demo.layout import Column, Row, aligned, indented, table
from tallystick.demo.next_steps import FIRST_LINES
from tallystick.demo.wallet_report import show_feature, show_wallet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, RenderableType

    from tallystick.demo.findings import CustomerUse, Findings
    from tallystick.demo.next_steps import NextCommand

__all__ = ["WIDE_COLUMNS", "show"]

WIDE_COLUMNS = 100
BAR_CELLS = 10
APPROACHING_PERCENTAGE = 80


def show(console: Console, findings: Findings, commands: Sequence[NextCommand]) -> None:
    """Print the report. Lines longer than 100 columns are hard to read, however wide the terminal is."""
    width = min(console.width, WIDE_COLUMNS)
    is_wide = width >= WIDE_COLUMNS
    sections: tuple[tuple[str, Iterable[RenderableType]], ...] = (
        ("What happened", _what_happened(findings)),
        ("Who used what", _customers(findings, is_wide=is_wide, ascii_only=console.options.ascii_only)),
        ("By model", _models(findings, is_wide=is_wide)),
        ("Who was stopped, and why", _stopped(findings)),
        ("A wallet, line by line", show_wallet(findings.wallet, is_wide=is_wide)),
        ("A feature: so many a day, and extra credits", show_feature(findings.wallet, is_wide=is_wide)),
        ("Overage charged, and one charge down to its price", _overages(findings, is_wide=is_wide)),
        ("Do the books agree?", _checks(findings, is_wide=is_wide)),
        ("In your application", [Text(FIRST_LINES.rstrip())]),
    )
    for title, content in sections:
        console.print(Text(title, style="bold"))
        for part in content:
            console.print(indented(part), width=width)
        console.print()
    console.print(Text("Try next", style="bold"))
    for command in commands:
        # Never broken into lines, so that it can be copied.
        console.print(Text(f"  {command}"), soft_wrap=True)
    if not findings.ok:
        failed = "; ".join(f"{check.found} {check.name}" for check in findings.checks if not check.ok)
        console.print(Text(f"\nThe demo failed. This is not as it must be: {failed}.", style="bold red"), width=width)


# -- sections ---------------------------------------------------------------------------------------------------------


def _what_happened(findings: Findings) -> Iterable[RenderableType]:
    seen, traffic = findings.seen, findings.traffic
    yield Text(
        f"{seen.attempted} model calls for {len(findings.customers)} customers in {traffic.seconds:.1f} s, up to "
        f"{traffic.in_flight_peak} in flight at once. {seen.refused} were refused before they reached a provider, "
        f"{len(seen.retries)} was sent again and answered from the record, {len(seen.failures)} failed at the "
        f"provider. The other {findings.recorded} used {findings.quantity('tokens'):,} tokens and "
        f"{findings.quantity('characters'):,} characters, which cost {findings.cost}."
    )
    sdks = [way for way in traffic.ways.values() if way != PLAIN_HTTP]
    plain = ", ".join(provider for provider, way in traffic.ways.items() if way == PLAIN_HTTP)
    through = (
        f"{', '.join(sdks)}, and by plain HTTP ({plain})" if sdks else "plain HTTP, as no SDK of theirs is installed"
    )
    yield Text(f"No key, no internet: the providers are a server on this machine, called through {through}.")


def _customers(findings: Findings, *, is_wide: bool, ascii_only: bool) -> Iterable[RenderableType]:
    amounts = aligned([*(customer.cost for customer in findings.customers), findings.cost])
    rows = [
        Row(
            customer.billable,
            customer.agreement.plan,
            customer.agreement.limit,
            customer.agreement.at_limit,
            f"{customer.calls:,}",
            f"{customer.tokens:,}",
            amount,
            _share(customer),
            _bar(customer, ascii_only=ascii_only),
        )
        for customer, amount in zip(findings.customers, amounts, strict=False)
    ]
    calls = sum(customer.calls for customer in findings.customers)
    total = Row("all", "", "", "", f"{calls:,}", f"{findings.quantity('tokens'):,}", amounts[-1], "", "", style="bold")
    columns = (
        Column("customer"),
        Column("plan", wide_only=True),
        Column("limit"),
        Column("at limit"),
        Column("calls", is_number=True),
        Column("tokens", is_number=True),
        Column("cost USD", is_number=True),
        Column("used", is_number=True),
        Column("", wide_only=True),
    )
    yield table(columns, [*rows, total], is_wide=is_wide)
    for customer in findings.customers:
        if customer.agreement.note is not None:
            yield Text(customer.agreement.note)


def _models(findings: Findings, *, is_wide: bool) -> Iterable[RenderableType]:
    amounts = aligned([model.cost for model in findings.models])
    rows = [
        Row(
            model.provider,
            model.model,
            f"{model.calls:,}",
            f"{model.input_quantity:,}",
            f"{model.output_quantity:,}",
            model.unit,
            f"{model.counted:,}",
            amount,
            style="" if model.counted == model.quantity else "bold red",
        )
        for model, amount in zip(findings.models, amounts, strict=True)
    ]
    columns = (
        Column("provider", wide_only=True),
        Column("model"),
        Column("calls", is_number=True),
        Column("input", is_number=True),
        Column("output", is_number=True),
        Column("unit"),
        Column("provider says", is_number=True),
        Column("cost USD", is_number=True),
    )
    yield table(columns, rows, is_wide=is_wide)


def _stopped(findings: Findings) -> Iterable[RenderableType]:
    for limited in findings.seen.limited:
        refused, spared = len(limited.refusals), limited.attempted - limited.received
        never_made = f"{spared} provider {'call was' if spared == 1 else 'calls were'} never made"
        yield Text.assemble(
            (limited.billable, "bold"),
            f", {limited.what}: {limited.attempted - refused} admitted, {refused} refused, so {never_made}",
        )
        for refusal in limited.refusals[:1]:
            yield indented(Text(f"{type(refusal).__name__}: {refusal}", style="red"))
    for failure in findings.seen.failures:
        yield Text.assemble(
            (failure.billable, "bold"),
            f", {failure.status} from the provider: {failure.error} came through unchanged, the hold was voided",
        )
    heard = sorted(findings.seen.heard_by_name().items())
    yield Text(f"Listeners heard: {', '.join(f'{count} {name}' for name, count in heard)}")


def _overages(findings: Findings, *, is_wide: bool) -> Iterable[RenderableType]:
    amounts = aligned([*(charge.amount for charge in findings.overages), findings.overage])
    rows = [
        Row(
            charge.billable,
            charge.usage_event_id,
            f"{charge.tokens:,}",
            f"x {charge.price_per_1k_tokens} / 1,000",
            amount,
        )
        for charge, amount in zip(findings.overages, amounts, strict=False)
    ]
    tokens = sum(charge.tokens for charge in findings.overages)
    columns = (
        Column("customer"),
        Column("usage event", wide_only=True),
        Column("tokens beyond", is_number=True),
        Column("price"),
        Column("charged USD", is_number=True),
    )
    yield table(columns, [*rows, Row("all", "", f"{tokens:,}", "", amounts[-1], style="bold")], is_wide=is_wide)
    yield from _explained(findings, is_wide=is_wide)


def _explained(findings: Findings, *, is_wide: bool) -> Iterable[RenderableType]:
    """Take one event apart: each kind of token at its rate, their sum, and what of it lies beyond the limit."""
    explanation = findings.explanation
    event, overage, plan = explanation.event, explanation.overage, explanation.plan
    decimals = max((-int(line.amount.as_tuple().exponent) for line in explanation.lines), default=0)
    rows = [
        Row(
            f"{line.quantity:,}",
            f"{line.unit.replace('_', ' ')}  x {line.rate:f} USD / {line.per:,}",
            f"{line.amount:.{decimals}f}",
        )
        for line in explanation.lines
    ]
    source = " ".join(part for part in (explanation.price_source, explanation.price_version) if part)
    total = "none" if explanation.cost is None else f"{explanation.cost.amount:.{decimals}f}"
    rows.append(Row(f"{event.total_tokens:,}", f"price: {source}", total, style="bold"))
    yield Text.assemble((event.id, "bold"), f", a call of {event.billable} to {event.provider} {event.model}:")
    yield indented(table((Column("", is_number=True), Column(""), Column("", is_number=True)), rows, is_wide=is_wide))
    if overage is not None and plan is not None:
        text = (
            f"{overage.tokens:,} of them lie beyond the {plan.monthly_token_limit:,} of plan {plan.slug}: "
            f"x {overage.price_per_1k_tokens} USD / 1,000 = {overage.amount} of overage"
        )
        yield indented(Text(text))


def _checks(findings: Findings, *, is_wide: bool) -> Iterable[RenderableType]:
    rows = [
        Row(
            Text("ok" if check.ok else "NOT OK", style="green" if check.ok else ""),
            check.found,
            check.expected,
            check.name,
            style="" if check.ok else "bold red",
        )
        for check in findings.checks
    ]
    columns = (Column(""), Column("is", is_number=True), Column("must be", is_number=True), Column("", wraps=True))
    yield table(columns, rows, is_wide=is_wide)


def _share(customer: CustomerUse) -> str:
    return "" if customer.percentage is None else f"{customer.percentage:.0f} %"


def _bar(customer: CustomerUse, *, ascii_only: bool) -> Text:
    if customer.percentage is None:
        return Text("")
    full, empty = ("#", ".") if ascii_only else ("█", "░")
    cells = min(BAR_CELLS, int(customer.percentage * BAR_CELLS / 100))
    style = "green" if customer.percentage < APPROACHING_PERCENTAGE else "magenta"
    return Text.assemble((full * cells, style), (empty * (BAR_CELLS - cells), "dim"))
