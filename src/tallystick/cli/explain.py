"""`tallystick explain`: why was this charged?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.figures import amount, count
from tallystick.cli.instants import zone_named
from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.cli.output import console, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["explain"]

_FLAGS = {
    "estimated": "the provider reported no usage; it was estimated",
    "late": "recorded after its hold had run out or was voided",
    "unpriced": "no price was known",
    "no_exchange_rate": "there was no exchange rate for its price",
    "overage": "lay beyond a limit and was charged as overage",
    "past_limit": "lay beyond a limit and was not charged for it",
    "partial": "the stream broke off",
    "shadow": "a limit would have refused it",
    "correction": "corrects the cost or the quantity of an earlier use",
    "backdated": "recorded when its period was over",
    "overdraft": "used more than the wallet had; the rest is owed",
}


def explain(
    usage_event_id: Annotated[str, typer.Argument(metavar="USAGE_EVENT_ID", help="Such as evt_0199c4….")],
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say why one event cost what it did.

    Its tokens, rates, rounding, plan, overage and corrections. tallystick events lists the ids.
    """
    with open_existing(database, config) as ts:
        explanation = ts.usage.explain(usage_event_id)
        zone = ts.settings.period.timezone
    if as_json:
        print_json(explanation.to_dict())
    else:
        _show(console(), explanation, zone)


def _show(out: Console, explanation: Any, zone: str) -> None:
    event = explanation.event
    for name, value in _facts(explanation, zone):
        out.print(f"{name:<12} {value}")
    if explanation.lines:
        out.print()
        out.print(_lines(explanation))
    out.print()
    for sentence in _cost_sentences(explanation):
        out.print(sentence)
    for flag in event.flags:
        out.print(f"Flagged {flag}: {_FLAGS[flag]}." if flag in _FLAGS else f"Flagged {flag}.")


def _facts(explanation: Any, zone: str) -> list[tuple[str, str]]:
    event = explanation.event
    what = "/".join(part for part in (event.provider, event.model) if part)
    facts = [
        ("Event", event.id),
        ("Billable", event.billable),
        ("User", event.user),
        ("Tenant", event.tenant),
        ("Model", what),
        ("Feature", event.feature),
        ("Resource", f"{count(event.quantity)} {event.resource_type}"),
        ("Happened", f"{event.occurred_at.astimezone(zone_named(zone)):%Y-%m-%d %H:%M:%S.%f} {zone}"),
        ("Tokens", _tokens(event) if event.total_tokens else None),
        ("Plan", None if explanation.plan is None else f"{explanation.plan.slug}, version {explanation.plan.version}"),
        ("Key", event.idempotency_key),
        ("Metadata", ", ".join(f"{name}={value}" for name, value in event.metadata.items())),
        ("Corrects", event.corrects_event_id),
    ]
    return [(name, value) for name, value in facts if value]


def _tokens(event: Any) -> str:
    usage = event.usage
    return f"{count(event.total_tokens)}  ({count(usage.input_tokens)} in, {count(usage.output_tokens)} out)"


def _lines(explanation: Any) -> object:
    priced = table("Unit", "Quantity", "Rate", "For every", "Amount", right=("Quantity", "Rate", "For every", "Amount"))
    for line in explanation.lines:
        unit = line.unit.replace("_", " ")
        priced.add_row(unit, count(line.quantity), f"{line.rate:f}", count(line.per), f"{line.amount:f}")
    if len(explanation.lines) > 1:
        priced.add_row("together", "", "", "", f"{explanation.exact:f}", style="bold")
    return priced


def _cost_sentences(explanation: Any) -> list[str]:
    if explanation.cost is None:
        sentences = ["Cost         not known: no price was known. Set it, then run tallystick reprice."]
    else:
        exact = explanation.exact
        was_rounded = exact is not None and explanation.exchange is None and exact != explanation.cost.amount
        rounding = ", rounded once, half-even, to 9 digits" if was_rounded else ""
        sentences = [f"Cost         {amount(explanation.cost)}{rounding}"]
    source = " ".join(
        part for part in (explanation.price_source, explanation.price_version, explanation.price_model) if part
    )
    if source:
        sentences.append(f"Price from   {source}")
    if explanation.exchange:
        sentences.append(f"Exchanged    {explanation.exchange}")
    if explanation.overage is not None:
        over = explanation.overage
        what = f"{count(over.tokens)} tokens beyond the limit" if over.tokens else f"beyond the {over.limit_type} limit"
        rate = f" at {over.price_per_1k_tokens:f} for 1,000" if over.price_per_1k_tokens is not None else ""
        sentences.append(f"Overage      {amount(over.amount)}: {what}{rate} ({over.id})")
    sentences += [f"Charged      {charge}" for charge in explanation.usage_charges]
    sentences += [f"Paid         {share}" for share in explanation.credits]
    for correction in explanation.corrections:
        changed = f"{count(correction.quantity)} {correction.resource_type}"
        if correction.price is not None:
            changed = "no cost" if correction.cost is None else amount(correction.cost)
        sentences.append(
            f"Corrected    {changed}, recorded {correction.recorded_at:%Y-%m-%d %H:%M} UTC ({correction.id})"
        )
    if any(one.price is not None for one in explanation.corrections) and explanation.cost_now is not None:
        sentences.append(f"Cost now     {amount(explanation.cost_now)}")
    return sentences
