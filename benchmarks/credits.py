"""The case of credits: wallets with a long past and with many grants beside an ordinary one, and calls they pay."""

from __future__ import annotations

from benchmarks.comparison import Comparison, Race
from benchmarks.databases import Database
from benchmarks.floors import DeductionWriter
from benchmarks.history import write_wallet_history
from benchmarks.lane import Ours, require_health
from benchmarks.rounds import Contestant
from benchmarks.work import Deductions, Pairs, Readings, Work, add_grant
from benchmarks.workload import BILLABLES, HOT
from tallystick import Money, Tallystick

__all__ = ["BY_WALLET", "DEDUCTIONS", "credits"]

_TASKS = 64
_GRANTS = 1000
# Small enough that some are used up in the rounds: a thousand deductions.
_SMALL_GRANT = Money(10, "USD")
_CALL_COST = Money("0.001", "USD")
# The targets.
_RAW = 0.5
_PAST = 0.9
_MANY_GRANTS = 0.7

DEDUCTIONS, READINGS = Deductions(), Readings()
BY_PLAN, BY_WALLET = Pairs(_CALL_COST), Pairs(_CALL_COST, mode="credits")


def credits(race: Race) -> list[Comparison]:
    """Deductions from one wallet and readings of it, and metered calls that wallets pay for."""
    return [*_deductions(race), *_calls(race)]


def _deductions(race: Race) -> list[Comparison]:
    """One wallet: its deductions beside a raw driver's; with a long past, and with many grants, beside without."""
    entries = race.turns.pace.history
    ordinary = _wallet(race, "ordinary")
    past, grants = _wallet(race, "past", entries=entries), _wallet(race, "grants", grants=_GRANTS)
    ours = {"ordinary": ordinary, "past": past, "grants": grants}
    floor = race.fresh("floor")
    with Tallystick(floor.url) as ts:
        add_grant(ts, HOT[0])
    with_past, with_grants = f"{entries:,} past entries", f"{_GRANTS:,} open grants"
    lines = []
    for who, work, callers in (
        ("1 caller deducts", DEDUCTIONS, 1),
        (f"{_TASKS} async callers deduct", DEDUCTIONS, _TASKS),
        ("1 caller reads", READINGS, 1),
    ):
        contestants = {name: _contestant(one, work, callers) for name, one in ours.items()}
        has_floor = work is DEDUCTIONS and callers == 1
        if has_floor:
            contestants["floor"] = race.raw(race.closing(DeductionWriter(floor, HOT[0])))
        found, unit = race.run(contestants), f"{work.name}/s"
        if has_floor:
            beside = "raw, one commit each"
            # The floor on PostgreSQL needs one round trip and no lock: beside that there is no target, as for a pair.
            aim = _RAW if race.databases.kind == "sqlite" else None
            lines.append(race.rates(who, found["ordinary"], found["floor"], beside=beside, unit=unit, target=aim))
        for name, of_what, target in (("past", with_past, _PAST), ("grants", with_grants, _MANY_GRANTS)):
            full, beside = f"{who}, {of_what}", "ours, one grant"
            lines.append(race.rates(full, found[name], found["ordinary"], beside=beside, unit=unit, target=target))
    _examine(race, ordinary.database, past.database, grants.database, floor)
    return lines


def _wallet(race: Race, name: str, *, entries: int = 0, grants: int = 1) -> Ours:
    database = race.fresh(name)
    if entries:
        write_wallet_history(database, HOT[0], entries)
    ours = race.closing(Ours(database))
    wallet = ours.sync.wallets.get_or_create(HOT[0])
    for _ in range(grants - 1):
        wallet.add_credits(_SMALL_GRANT)
    ours.warm_up(HOT, DEDUCTIONS)
    return ours


def _calls(race: Race) -> list[Comparison]:
    """Metered calls that cost something: paid by their wallets, beside counted towards their plans.

    A wallet's call writes more: its pin, its charge with a statement line and entries. So it has no target.
    """
    by_plan = race.ours(BILLABLES, name="by_plan", work=BY_PLAN)
    by_wallet = race.ours(BILLABLES, name="by_wallet", work=BY_WALLET)
    lines = []
    for who, callers in (("1 caller", 1), (f"{_TASKS} async callers", _TASKS)):
        plan, wallet = _contestant(by_plan, BY_PLAN, callers), _contestant(by_wallet, BY_WALLET, callers)
        found = race.run({"plan": plan, "wallet": wallet})
        name, beside = f"{who}, paid by wallets", "ours, paid by plans"
        lines.append(race.rates(name, found["wallet"], found["plan"], beside=beside))
    _examine(race, by_plan.database, by_wallet.database)
    return lines


def _contestant(ours: Ours, work: Work, callers: int) -> Contestant:
    return ours.one_caller(work.billables, work) if callers == 1 else ours.tasks(work.billables, callers, work)


def _examine(race: Race, *databases: Database) -> None:
    if race.turns.pace.is_examined:
        for database in databases:
            require_health(database)
