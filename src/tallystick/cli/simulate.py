"""`tallystick simulate`: months of a business in seconds, on a database of its own."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.figures import count, counts
from tallystick.cli.options import AsJson
from tallystick.cli.output import console, print_json, table
from tallystick.cli.progress import progress_bar
from tallystick.errors import Conflict, InvalidInput
from tallystick.money import Money, minor_unit, round_half_even

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tallystick.simulation import MonthFigures, Outcome

__all__ = ["simulate"]

_INVOICES_SHOWN = 12
_SKIPPED_SHOWN = 5
_CUSTOMERS_SHOWN = 12
_BAR_WIDTH = 44
# What revenue is made of, with a character and a colour for each.
_PARTS = (("fees", "█", "cyan"), ("usage", "▓", "green"), ("overage", "▒", "yellow"), ("items", "░", "magenta"))
# Of the settings file only what decides what is used and what it costs.
_LEFT_OUT = ("database_url", "auto_migrate", "notifications", "security", "storage")


def simulate(
    scenario: Annotated[
        Path | None,
        typer.Argument(metavar="SCENARIO", help="A TOML file: plans, customers, and what they do; none: the example."),
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a scenario to begin with, and stop.")] = False,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Other chance: the same number gives the same invoices.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the SQLite file, for the other commands to look at.")
    ] = None,
    chart: Annotated[bool, typer.Option("--chart/--no-chart", help="Draw the revenue of each month.")] = True,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="An empty database to play in; otherwise a file that is removed.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings file, such as your own prices, under the scenario's settings."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Play months of customers, calls, upgrades and failed payments in seconds, and see the invoices.

    No provider is called, nothing is sent, and nobody is charged. Exit code 1 where a number is not as it must be.

    To begin with one of your own: tallystick simulate --example > scenario.toml
    """
    from tallystick.simulation import example_file, example_scenario, read_scenario
    from tallystick.simulation import simulate as play

    if example:
        _print_example(example_scenario(), as_json=as_json)
        return 0
    with example_file() as ours:
        wanted = read_scenario(ours if scenario is None else scenario, seed=seed)
    url = _database(database, keep)
    with progress_bar(wanted.name, as_json=as_json) as show:
        outcome = play(wanted, database=url, settings=_settings(config), progress=show)
    if as_json:
        print_json(outcome.to_dict())
    else:
        _show(console(), outcome, chart=chart)
        if keep is not None:
            console().print(f"\nKept in {keep}: tallystick report --database sqlite:///{keep}", soft_wrap=True)
    return 0 if outcome.ok else 1


def _print_example(text: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"scenario": text})
    else:
        typer.echo(text, nl=False)


def _database(database: str | None, keep: Path | None) -> str | None:
    if keep is None:
        return database
    if database is not None:
        raise InvalidInput("keep", str(keep), "Give either --keep or --database.")
    if keep.exists():
        raise Conflict(f"{keep} exists already. Name a new file, or remove it.")
    return f"sqlite:///{keep}"


def _settings(config: Path | None) -> Mapping[str, Any]:
    """Return a settings file's settings, without what reaches out of this machine."""
    if config is None:
        return {}
    try:
        content = tomllib.loads(config.read_text(encoding="utf-8-sig"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise InvalidInput("config", str(config), f"It cannot be read: {error}.") from None
    return {name: value for name, value in content.items() if name not in _LEFT_OUT}


# What is shown --------------------------------------------------------------------------------------------------------


def _show(out: Console, outcome: Outcome, *, chart: bool) -> None:
    scenario = outcome.scenario
    months = counts(scenario.months, "month")
    customers = counts(scenario.customers, "customer")
    out.print(f"{scenario.name}: {months} from {scenario.start:%Y-%m-%d}, {customers}, seed {scenario.seed}")
    for currency in _currencies(outcome):
        if chart:
            out.print()
            for row in _chart(outcome, currency):
                out.print(row)
        out.print()
        out.print(_money_table(outcome, currency))
    out.print()
    out.print(_months_table(outcome))
    out.print()
    out.print(_customers_table(outcome))
    out.print()
    if outcome.invoices:
        out.print(_invoices_table(outcome))
    for line in _closing(outcome):
        out.print(line)
    if outcome.drift:
        out.print(f"{counts(len(outcome.drift), 'number')} out of step:", style="bold red")
        for finding in outcome.drift[:_SKIPPED_SHOWN]:
            out.print(finding)
    else:
        out.print("All numbers agree.", style="green")


def _currencies(outcome: Outcome) -> list[str]:
    return sorted({money.currency for month in outcome.months for money in month.money})


def _of_month(month: MonthFigures, currency: str) -> Any:
    return next((money for money in month.money if money.currency == currency), None)


def _chart(outcome: Outcome, currency: str) -> Iterator[Text]:
    """Yield a bar for each month: what its invoices charge, before discounts and tax."""
    from rich.text import Text

    drawn = [(month, _of_month(month, currency)) for month in outcome.months]
    highest = max((sum(_nanos(money, part) for part, _, _ in _PARTS) for _, money in drawn if money), default=0)
    used = {part for part, _, _ in _PARTS if any(money and _nanos(money, part) for _, money in drawn)}
    legend = Text(f"Charged, {currency}  ")
    for part, character, colour in _PARTS:
        if part in used:
            legend.append(f"{character} {part}  ", style=colour)
    yield legend
    for month, money in drawn:
        line = Text(f"{month.label}  ")
        reached = drawn_so_far = 0
        for part, character, colour in _PARTS:
            # Each part ends where the sum so far does, so that rounding never makes a bar longer than its whole.
            reached += 0 if money is None else _nanos(money, part)
            ends = round_half_even(reached * _BAR_WIDTH, highest) if highest else 0
            line.append(character * (ends - drawn_so_far), style=colour)
            drawn_so_far = ends
        line.append(f"{' ' if drawn_so_far else ''}{_cents(reached, currency)}")
        yield line


def _nanos(money: Any, part: str) -> int:
    # A credit for a change of plan is no negative revenue in a chart.
    return max(int(getattr(money, part).nanos), 0)


def _money_table(outcome: Outcome, currency: str) -> object:
    columns = {
        "Fees": "fees",
        "Usage": "usage",
        "Overage": "overage",
        "Items": "items",
        "Discounts": "discounts",
        "Tax": "tax",
        "Invoiced": "invoiced",
        "Paid": "paid",
    }
    found = [(month.label, _of_month(month, currency)) for month in outcome.months]
    sums = {
        name: sum(getattr(money, name).nanos for _, money in found if money is not None) for name in columns.values()
    }
    kept = {title: name for title, name in columns.items() if sums[name] or name in ("fees", "invoiced", "paid")}
    made = _upright(currency, *kept, right=tuple(kept))
    for label, money in found:
        made.add_row(
            label, *(_cents(0 if money is None else getattr(money, name).nanos, currency) for name in kept.values())
        )
    made.add_section()
    made.add_row("In all", *(_cents(sums[name], currency) for name in kept.values()))
    return made


def _months_table(outcome: Outcome) -> object:
    currency = _only_currency(outcome)
    figures = ("Calls", "Refused", "Model cost", "Payers", "New", "Lost", "Churn", "MRR")
    made = _upright("Month", *figures, right=figures)
    for month in outcome.months:
        before = month.customers - month.gained + month.lost
        made.add_row(
            month.label,
            count(month.calls),
            count(month.refused) if month.refused else "–",
            _sum_text(month.costs, currency),
            count(month.customers),
            count(month.gained),
            count(month.lost),
            f"{month.churn_percent}%" if before else "–",
            _sum_text([one.recurring for one in month.money], currency),
        )
    return made


def _customers_table(outcome: Outcome) -> object:
    figures = ("Calls", "Refused", "Invoiced", "Paid", "Due")
    groups: dict[str, list[Any]] = {}
    is_grouped = len(outcome.customers) > _CUSTOMERS_SHOWN
    for customer in outcome.customers:
        groups.setdefault(customer.group if is_grouped else customer.billable, []).append(customer)
    currency = _only_currency(outcome)
    made = _upright("Customers", "At the end", *figures, right=figures)
    for name, members in groups.items():
        statuses = Counter(member.status for member in members)
        made.add_row(
            name,
            ", ".join(f"{number} {_words(status)}" for status, number in statuses.items())
            if len(members) > 1
            else f"{_words(members[0].status)}, {members[0].plan}",
            count(sum(member.calls for member in members)),
            count(sum(sum(member.refused.values()) for member in members)) if any(m.refused for m in members) else "–",
            *(_sum_text((getattr(one, money) for one in members), currency) for money in ("invoiced", "paid", "due")),
        )
    return made


def _words(status: str) -> str:
    return status.replace("_", " ")


def _invoices_table(outcome: Outcome) -> object:
    made = _upright("Invoice", "Customer", "Issued", "Total", "Status", right=("Total",))
    shown = outcome.invoices[-_INVOICES_SHOWN:]
    if len(outcome.invoices) > len(shown):
        made.title = f"The last {len(shown)} of {len(outcome.invoices):,} invoices; --json has all, with their lines"
        made.title_justify, made.title_style = "left", ""
    for invoice in shown:
        total = f"{_cents(invoice.total.nanos, invoice.currency)} {invoice.currency}"
        made.add_row(invoice.number, invoice.billable, f"{invoice.issued_at:%Y-%m-%d}", total, str(invoice.status))
    return made


def _closing(outcome: Outcome) -> Iterator[str]:
    yield ""
    if outcome.refused:
        reasons = ", ".join(f"{number:,} {code}" for code, number in outcome.refused.items())
        yield f"Refused before the call: {reasons}."
    if outcome.failed_payments:
        yield f"{counts(outcome.failed_payments, 'payment')} failed at first."
    for skipped in outcome.skipped[:_SKIPPED_SHOWN]:
        yield f"Did not happen: {skipped.billable}, {skipped.at:%Y-%m-%d}, {skipped.do}: {skipped.reason}"
    if len(outcome.skipped) > _SKIPPED_SHOWN:
        yield f"… and {len(outcome.skipped) - _SKIPPED_SHOWN:,} more; --json lists all."
    yield f"{counts(outcome.calls, 'call')} and {counts(len(outcome.invoices), 'invoice')} in {outcome.seconds:.1f} s."


def _upright(*columns: str, right: tuple[str, ...]) -> Any:
    """Return a table whose first column is never broken, however narrow the terminal."""
    made = table(*columns, right=right)
    made.columns[0].no_wrap = True
    return made


def _only_currency(outcome: Outcome) -> str | None:
    """Return the currency of all money, where there is one: then it need not be repeated."""
    costs = {cost.currency for month in outcome.months for cost in month.costs if cost.nanos}
    found = costs.union(_currencies(outcome))
    return found.pop() if len(found) == 1 else None


def _sum_text(amounts: Any, currency: str | None) -> str:
    """Return sums of money to the cent, with their currency unless it is this one; a dash for nothing."""
    sums: Counter[str] = Counter()
    for amount in _flat(amounts):
        sums[amount.currency] += amount.nanos
    texts = [
        f"{_cents(nanos, one)}{'' if one == currency else f' {one}'}" for one, nanos in sorted(sums.items()) if nanos
    ]
    return " + ".join(texts) or "–"


def _flat(amounts: Any) -> Iterator[Money]:
    for amount in amounts:
        if isinstance(amount, Money):
            yield amount
        else:
            yield from amount


def _cents(nanos: int, currency: str) -> str:
    """Return an amount to the smallest coin, for the eye; JSON is exact."""
    unit = minor_unit(currency)
    rounded = Money.from_nanos(round_half_even(nanos, unit) * unit, currency)
    return f"{rounded.amount:,f}"
