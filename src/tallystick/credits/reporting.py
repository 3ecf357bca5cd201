"""Credit reports, from sums that the database makes: what is read grows with units, reasons and hours, not with lines.

A range is an index range of the statement lines (`occurred_at`). All of a report is read in one snapshot, so its parts
agree with each other. What has expired and is not booked yet is taken for booked, at the instant of its expiry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, Connection, Select, Subquery, and_, func, literal, or_, select, union_all

from tallystick.credits.account import amount_of, is_money
from tallystick.credits.credit_report import (
    CreditGroup,
    CreditPoint,
    CreditRecipient,
    CreditReport,
    CreditTotals,
    Forecast,
    GrantTotals,
    KindTotals,
    UnitReport,
    UseShare,
)
from tallystick.credits.forecasting import DAY_MICROS, USES, unit_forecasts
from tallystick.credits.lapsed import lapsed_grants
from tallystick.credits.ledger import BALANCE_ACCOUNTS
from tallystick.credits.listing import IS_OPEN
from tallystick.errors import InvalidInput
from tallystick.period import MAX_MICROS, MIN_MICROS, Period, PeriodKind, PeriodRule, from_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["CreditReport", "ReportRange", "credit_report"]

# Every zone's full hours lie on a quarter of an hour of UTC, so sums by quarter can be put into any zone's hours.
_QUARTER_HOUR_MICROS = 15 * 60 * 1_000_000
_DAYS_BY_DAY_MAX = 62
_DAYS_BY_WEEK_MAX = 400
_PERIODS_MAX = 2_400
_GROUPS_MAX = 100
_RECIPIENTS_MAX = 10

_INTERVALS = {"day": PeriodKind.DAILY, "week": PeriodKind.WEEKLY, "month": PeriodKind.MONTHLY}
_KINDS = ("paid", "promotional")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_KIND_OF_ACCOUNT = {"received": "paid", "revenue": "paid", "granted": "promotional", "spent": "promotional"}

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class ReportRange:
    """The range of a report (µs, half-open), and its unit; None is every unit."""

    start: int
    end: int
    unit: str | None


def credit_report(engine: Engine, wanted: ReportRange) -> CreditReport:
    """Make the report on a range."""
    at = engine.now()
    lapsed = lapsed_grants(at, expiring_first=engine.credit_policy.expiring_first)
    read = engine.read_snapshot(lambda connection: _read(connection, wanted, lapsed, at))
    zone = engine.settings.period.timezone
    interval, periods = _periods(read, wanted, zone)
    return CreditReport(
        start=from_micros(wanted.start) if wanted.start > MIN_MICROS else None,
        end=from_micros(wanted.end) if wanted.end < MAX_MICROS else None,
        as_of=from_micros(at),
        timezone=zone,
        interval=interval,
        units=tuple(_unit_report(read, unit, periods, ZoneInfo(zone)) for unit in read.units),
    )


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """What moved in a quarter of an hour, by one source. Amounts are signed."""

    source: str
    quarter: int
    count: int
    amount: int


@dataclass(frozen=True, slots=True)
class _Lost:
    """Grants of one kind, reason and feature that expired: how many, what they were, what they had left."""

    kind: str
    reason: str
    feature: str
    count: int
    amount: int
    lost: int


@dataclass(frozen=True, slots=True)
class _Read:
    """The sums of a report, by unit, in the units' integers."""

    units: tuple[str, ...]
    lines: Mapping[str, list[_Line]]
    lost: Mapping[str, list[_Lost]]
    by_account: Mapping[str, list[tuple[str, str, int]]]  # source, ledger account, amount
    by_feature: Mapping[str, list[tuple[str, str, int, int]]]  # source, feature, count, amount
    granted: Mapping[str, list[tuple[str, int, int]]]  # reason, count, amount
    used: Mapping[str, list[tuple[str, int]]]  # reason of the grant, amount
    recipients: Mapping[str, list[tuple[str, int, int]]]  # billable, count, amount
    active: Mapping[str, list[tuple[str, int, int, int]]]  # kind, count, amount, remaining
    balance: Mapping[str, int]  # as it is when the report is made
    after: Mapping[str, int]  # what moved after the range
    forecasts: Mapping[str, Forecast]


def _read(connection: Connection, wanted: ReportRange, lapsed: Subquery, at: int) -> _Read:
    def rows(query: Select[Any], make: Callable[..., Any]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = defaultdict(list)
        for unit, *values in connection.execute(query):
            # PostgreSQL sums BIGINT to NUMERIC, which the driver gives as Decimal; they are whole numbers all the same.
            found[unit].append(make(*(value if isinstance(value, str) else int(value or 0) for value in values)))
        return found

    def plain(*values: Any) -> tuple[Any, ...]:
        return values

    def sums(query: Select[Any]) -> dict[str, int]:
        return {unit: int(amount) for unit, amount in connection.execute(query)}

    posted = sums(_balances(wanted.unit))
    units = {*posted, *([] if wanted.unit is None else [wanted.unit])}
    unbooked = sums(select(lapsed.c.unit, func.sum(lapsed.c.lost)).group_by(lapsed.c.unit))
    later = ReportRange(wanted.end, MAX_MICROS, wanted.unit)
    return _Read(
        units=tuple(sorted(units, key=lambda unit: (not is_money(unit), unit))),
        lines=rows(_by_quarter(_movements(wanted, lapsed)), _Line),
        lost=rows(_lost(wanted, lapsed), _Lost),
        by_account=rows(_by_account(wanted), plain),
        by_feature=rows(_by_feature(wanted), plain),
        granted=rows(_granted_by_reason(wanted), plain),
        used=rows(_used_by_reason(wanted), plain),
        recipients=rows(_recipients(wanted), plain),
        active=rows(_active(wanted.unit, at), plain),
        balance={unit: amount - unbooked.get(unit, 0) for unit, amount in posted.items()},
        after=sums(_sum_of(_movements(later, lapsed))) if wanted.end < MAX_MICROS else {},
        forecasts=unit_forecasts(connection, units, at),
    )


def _lines(query: Select[Any], wanted: ReportRange, *sources: str) -> Select[Any]:
    """Restrict a query of statement lines to a range, and to sources."""
    lines = tables.credit_transactions.c
    query = query.where(lines.occurred_at >= wanted.start, lines.occurred_at < wanted.end)
    if wanted.unit is not None:
        query = query.where(lines.unit == wanted.unit)
    return query.where(lines.source.in_(sources)) if sources else query


def _lapsed(query: Select[Any], wanted: ReportRange, lapsed: Subquery) -> Select[Any]:
    """Restrict a query of what has expired and is not booked to a range."""
    query = query.where(lapsed.c.expires_at >= wanted.start, lapsed.c.expires_at < wanted.end)
    return query if wanted.unit is None else query.where(lapsed.c.unit == wanted.unit)


def _movements(wanted: ReportRange, lapsed: Subquery) -> Subquery:
    """Select all that moved balances in a range: the statement lines, and what has lapsed, in the same form."""
    lines = tables.credit_transactions.c
    booked = select(lines.unit, lines.source, lines.amount, lines.occurred_at).where(lines.amount != 0)
    unbooked = select(lapsed.c.unit, literal("expiry"), -lapsed.c.lost, lapsed.c.expires_at)
    return union_all(_lines(booked, wanted), _lapsed(unbooked, wanted, lapsed)).subquery("movements")


def _sum_of(movements: Subquery) -> Select[Any]:
    return select(movements.c.unit, func.sum(movements.c.amount)).group_by(movements.c.unit)


def _by_quarter(movements: Subquery) -> Select[Any]:
    columns = movements.c
    quarter = columns.occurred_at - columns.occurred_at % literal(_QUARTER_HOUR_MICROS, BigInteger)
    grouped = (columns.unit, columns.source, quarter)
    return select(*grouped, func.count(), func.sum(columns.amount)).group_by(*grouped)


def _balances(unit: str | None) -> Select[Any]:
    accounts = tables.credit_accounts.c
    balance = func.sum(accounts.paid + accounts.promotional + accounts.overdraft)
    query = select(accounts.unit, balance).group_by(accounts.unit)
    return query if unit is None else query.where(accounts.unit == unit)


def _by_account(wanted: ReportRange) -> Select[Any]:
    lines, entries = tables.credit_transactions.c, tables.ledger_entries.c
    grouped = (lines.unit, lines.source, entries.account)
    query = select(*grouped, func.sum(entries.amount)).select_from(_with_entries()).group_by(*grouped)
    return _lines(query, wanted, "grant", "refund", *USES).where(entries.account.in_(_KIND_OF_ACCOUNT))


def _used_by_reason(wanted: ReportRange) -> Select[Any]:
    lines, entries, grants = tables.credit_transactions.c, tables.ledger_entries.c, tables.grants
    joined = _with_entries().join(grants, grants.c.id == entries.grant_id)
    grouped = (lines.unit, grants.c.reason)
    query = select(*grouped, -func.sum(entries.amount)).select_from(joined).group_by(*grouped)
    return _lines(query, wanted, *USES).where(entries.account.in_(BALANCE_ACCOUNTS))


def _with_entries() -> Any:
    lines, entries = tables.credit_transactions, tables.ledger_entries
    same_line = and_(
        entries.c.transaction_id == lines.c.id,
        entries.c.billable == lines.c.billable,
        entries.c.unit == lines.c.unit,
    )
    return lines.join(entries, same_line)


def _by_feature(wanted: ReportRange) -> Select[Any]:
    lines = tables.credit_transactions.c
    grouped = (lines.unit, lines.source, func.coalesce(lines.feature, ""))
    query = select(*grouped, func.count(), func.sum(lines.amount)).group_by(*grouped)
    return _lines(query, wanted, "grant", *USES)


def _granted_by_reason(wanted: ReportRange) -> Select[Any]:
    lines = tables.credit_transactions.c
    grouped = (lines.unit, lines.reason)
    return _lines(select(*grouped, func.count(), func.sum(lines.amount)).group_by(*grouped), wanted, "grant")


def _recipients(wanted: ReportRange) -> Select[Any]:
    """Select the largest recipients of each unit, the largest first."""
    lines = tables.credit_transactions.c
    granted = func.sum(lines.amount)
    place = func.row_number().over(partition_by=lines.unit, order_by=(granted.desc(), lines.billable))
    grouped = (lines.unit, lines.billable)
    query = select(*grouped, func.count().label("number"), granted.label("amount"), place.label("place"))
    ranked = _lines(query.group_by(*grouped), wanted, "grant").subquery("ranked").c
    first = select(ranked.unit, ranked.billable, ranked.number, ranked.amount).where(ranked.place <= _RECIPIENTS_MAX)
    return first.order_by(ranked.unit, ranked.place)


def _active(unit: str | None, at: int) -> Select[Any]:
    grants = tables.grants.c
    grouped = (grants.unit, grants.kind)
    query = select(*grouped, func.count(), func.sum(grants.amount), func.sum(grants.remaining)).group_by(*grouped)
    query = query.where(IS_OPEN, or_(grants.expires_at.is_(None), grants.expires_at > at))
    return query if unit is None else query.where(grants.unit == unit)


def _lost(wanted: ReportRange, lapsed: Subquery) -> Select[Any]:
    """Select what expired in the range, booked or not, by the kind, reason and feature of its grants."""
    lines, grants = tables.credit_transactions.c, tables.grants.c
    booked = _lines(select(lines.grant_id, (-lines.amount).label("lost")), wanted, "expiry").where(lines.amount != 0)
    unbooked = _lapsed(select(lapsed.c.id, lapsed.c.lost), wanted, lapsed)
    each = union_all(booked, unbooked).subquery("each").c
    # A grant may have expired in two parts: what a call in flight had pinned comes after the rest.
    by_grant = select(each.grant_id, func.sum(each.lost).label("lost")).group_by(each.grant_id).subquery("by_grant").c
    grouped = (grants.unit, grants.kind, grants.reason, func.coalesce(grants.feature, ""))
    query = select(*grouped, func.count(), func.sum(grants.amount), func.sum(by_grant.lost)).group_by(*grouped)
    query = query.where(grants.id == by_grant.grant_id)
    return query if wanted.unit is None else query.where(grants.unit == wanted.unit)


# -- periods ----------------------------------------------------------------------------------------------------------


def _periods(read: _Read, wanted: ReportRange, zone: str) -> tuple[str, list[Period]]:
    """Cut the range into days, weeks or months; where a bound is open, from the first movement to the last."""
    quarters = [line.quarter for lines in read.lines.values() for line in lines]
    start = wanted.start if wanted.start > MIN_MICROS else min(quarters, default=None)
    end = wanted.end if wanted.end < MAX_MICROS else max(quarters, default=-1) + 1
    if start is None or start >= end:
        return "month", []
    days = (end - start) / DAY_MICROS
    interval = "day" if days <= _DAYS_BY_DAY_MAX else "week" if days <= _DAYS_BY_WEEK_MAX else "month"
    rule = PeriodRule(_INTERVALS[interval], zone)
    periods = [rule.at(from_micros(start))]
    while periods[-1].bounds_micros[1] < end:
        if len(periods) == _PERIODS_MAX:
            raise InvalidInput("start", from_micros(start), f"The range has more than {_PERIODS_MAX:,} months.")
        periods.append(rule.next(periods[-1]))
    return interval, periods


# -- one unit ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    amount: int = 0
    count: int = 0

    def add(self, amount: int, count: int) -> None:
        self.amount += amount
        self.count += count


_BySource = dict[str, _Sum]


def _unit_report(read: _Read, unit: str, periods: Sequence[Period], zone: ZoneInfo) -> UnitReport:
    lines, lost, active = read.lines.get(unit, []), read.lost.get(unit, []), read.active.get(unit, [])
    by_hour, by_weekday = _patterns(unit, lines, zone)
    return UnitReport(
        unit=unit,
        totals=_totals(unit, lines, closing=read.balance.get(unit, 0) - read.after.get(unit, 0)),
        active=_grant_totals(unit, ((count, amount, left) for _, count, amount, left in active)),
        expired=_grant_totals(unit, ((one.count, one.amount, one.lost) for one in lost)),
        by_kind=_kinds(read, unit),
        by_reason=_reasons(read, unit),
        by_feature=_features(read, unit),
        recipients=tuple(
            CreditRecipient(billable, amount_of(unit, amount), count)
            for billable, count, amount in read.recipients.get(unit, [])
        ),
        periods=_points(unit, lines, periods),
        by_hour=by_hour,
        by_weekday=by_weekday,
        forecast=read.forecasts[unit],
    )


def _gathered(lines: Iterable[tuple[Key, _Line]]) -> dict[Key, _BySource]:
    found: dict[Key, _BySource] = defaultdict(lambda: defaultdict(_Sum))
    for key, line in lines:
        found[key][line.source].add(line.amount, line.count)
    return found


def _of(sums: _BySource, *sources: str) -> _Sum:
    found = _Sum()
    for source in sources:
        if source in sums:
            found.add(sums[source].amount, sums[source].count)
    return found


def _totals(unit: str, lines: Sequence[_Line], *, closing: int) -> CreditTotals:
    sums = _gathered((None, line) for line in lines).get(None, {})
    granted, used = _of(sums, "grant"), _of(sums, *USES)
    return CreditTotals(
        opening=amount_of(unit, closing - sum(line.amount for line in lines)),
        granted=amount_of(unit, granted.amount),
        granted_count=granted.count,
        used=amount_of(unit, -used.amount),
        used_count=used.count,
        expired=amount_of(unit, -_of(sums, "expiry").amount),
        refunded=amount_of(unit, _of(sums, "refund").amount),
        revoked=amount_of(unit, -_of(sums, "revocation").amount),
        other=amount_of(unit, _of(sums, "transfer", "exchange", "reversal").amount),
        closing=amount_of(unit, closing),
    )


def _grant_totals(unit: str, rows: Iterable[tuple[int, int, int]]) -> GrantTotals:
    count, amount, remaining = (sum(column) for column in zip((0, 0, 0), *rows, strict=True))
    return GrantTotals(count, amount_of(unit, amount), amount_of(unit, remaining))


def _kinds(read: _Read, unit: str) -> tuple[KindTotals, ...]:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for source, account, amount in read.by_account.get(unit, []):
        sums[_KIND_OF_ACCOUNT[account], "used" if source in USES else source] += amount
    for one in read.lost.get(unit, []):
        sums[one.kind, "expired"] += one.lost
    for kind, _, _, remaining in read.active.get(unit, []):
        sums[kind, "remaining"] += remaining
    return tuple(
        KindTotals(
            kind=kind,
            # Where credits come from is below zero in the ledger, and so is what a refund takes back of the use.
            granted=amount_of(unit, -sums[kind, "grant"]),
            used=amount_of(unit, sums[kind, "used"]),
            expired=amount_of(unit, sums[kind, "expired"]),
            refunded=amount_of(unit, -sums[kind, "refund"]),
            remaining=amount_of(unit, sums[kind, "remaining"]),
        )
        for kind in _KINDS
    )


@dataclass(slots=True)
class _Group:
    granted: int = 0
    granted_count: int = 0
    used: int = 0
    expired: int = 0

    def add(self, other: _Group) -> None:
        self.granted += other.granted
        self.granted_count += other.granted_count
        self.used += other.used
        self.expired += other.expired


def _reasons(read: _Read, unit: str) -> tuple[CreditGroup, ...]:
    groups: dict[str, _Group] = defaultdict(_Group)
    for reason, count, amount in read.granted.get(unit, []):
        groups[reason].add(_Group(granted=amount, granted_count=count))
    for reason, amount in read.used.get(unit, []):
        groups[reason].used += amount
    for one in read.lost.get(unit, []):
        groups[one.reason].expired += one.lost
    return _largest(unit, groups)


def _features(read: _Read, unit: str) -> tuple[CreditGroup, ...]:
    groups: dict[str, _Group] = defaultdict(_Group)
    for source, feature, count, amount in read.by_feature.get(unit, []):
        if source == "grant":
            groups[feature].add(_Group(granted=amount, granted_count=count))
        else:
            groups[feature].used -= amount
    for one in read.lost.get(unit, []):
        groups[one.feature].expired += one.lost
    return _largest(unit, groups)


def _largest(unit: str, groups: Mapping[str, _Group]) -> tuple[CreditGroup, ...]:
    """Return the groups in order of size; what is too small for a place of its own is added up at the end."""
    ordered: list[tuple[str | None, _Group]] = sorted(
        groups.items(), key=lambda item: (-item[1].granted - item[1].used - item[1].expired, item[0])
    )
    if len(ordered) > _GROUPS_MAX:
        others = _Group()
        for _, group in ordered[_GROUPS_MAX:]:
            others.add(group)
        ordered = [*ordered[:_GROUPS_MAX], (None, others)]
    return tuple(
        CreditGroup(
            name=name,
            granted=amount_of(unit, group.granted),
            granted_count=group.granted_count,
            used=amount_of(unit, group.used),
            expired=amount_of(unit, group.expired),
        )
        for name, group in ordered
    )


def _points(unit: str, lines: Sequence[_Line], periods: Sequence[Period]) -> tuple[CreditPoint, ...]:
    if not periods or periods[0].rule is None:
        return ()
    rule = periods[0].rule
    in_order = sorted(lines, key=lambda line: line.quarter)
    by_start = _gathered((rule.bounds_micros(line.quarter)[0], line) for line in in_order)
    points = []
    for period in periods:
        start, end = period.bounds_micros
        sums = by_start.get(start, {})
        granted, used = _of(sums, "grant"), _of(sums, *USES)
        points.append(
            CreditPoint(
                start=from_micros(start),
                end=from_micros(end),
                label=period.label,
                granted=amount_of(unit, granted.amount),
                granted_count=granted.count,
                used=amount_of(unit, -used.amount),
                used_count=used.count,
                expired=amount_of(unit, -_of(sums, "expiry").amount),
                refunded=amount_of(unit, _of(sums, "refund").amount),
            )
        )
    return tuple(points)


def _patterns(unit: str, lines: Sequence[_Line], zone: ZoneInfo) -> tuple[tuple[UseShare, ...], tuple[UseShare, ...]]:
    """Return what was used by hour of the day and by day of the week, as the clocks of the zone show them."""
    hours, weekdays = ([_Sum() for _ in range(number)] for number in (24, 7))
    for line in lines:
        if line.source in USES:
            local = from_micros(line.quarter).astimezone(zone)
            hours[local.hour].add(-line.amount, line.count)
            weekdays[local.weekday()].add(-line.amount, line.count)
    return _shares(unit, [f"{hour:02}:00" for hour in range(24)], hours), _shares(unit, _WEEKDAYS, weekdays)


def _shares(unit: str, labels: Sequence[str], sums: Sequence[_Sum]) -> tuple[UseShare, ...]:
    return tuple(
        UseShare(position, label, amount_of(unit, one.amount), one.count)
        for position, (label, one) in enumerate(zip(labels, sums, strict=True))
    )
