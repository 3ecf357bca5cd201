"""`ts.rate_limits`: how many of a resource type in a second, minute or hour."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, or_, select, update

from tallystick.errors import InvalidInput, NotFound
from tallystick.identity import new_id
from tallystick.limits.counters import CounterKey
from tallystick.limits.quota import COST, EVERY_USER, RateLimit, applicable, rate_key
from tallystick.limits.scopes import caller_of, scope_of, scope_parts
from tallystick.limits.values import RateLimitStatus, TenantRateLimit
from tallystick.metering.input import checked_name
from tallystick.money import ceil_div
from tallystick.period import from_micros
from tallystick.plans.loading import journal_change, load_terms, rate_limit_from_row
from tallystick.quantity import from_millionths, to_millionths
from tallystick.storage import tables
from tallystick.storage.locking import lock_account

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.settings import Settings

__all__ = ["RateLimits", "rate_limits_of_everybody"]

_PER = ("second", "minute", "hour")
_NANOS_PER_MICRO = 1000


def rate_limits_of_everybody(settings: Settings) -> tuple[RateLimit, ...]:
    """Return the rate limits of the settings, as everybody has them; with an empty billable."""
    found: list[RateLimit] = []
    for name, one in settings.rate_limits.items():
        for per, rate in zip(_PER, (one.per_second, one.per_minute, one.per_hour), strict=True):
            if rate is not None:
                limit = to_millionths(rate)
                burst = limit if one.burst is None else to_millionths(one.burst)
                found.append(RateLimit("", name, "", per, limit, burst))
    return tuple(found)


class RateLimits:
    """Sets rate limits and says what is left of them.

    A rate limit counts a resource type ("message", any name of your own), or of every call "requests" or "tokens".
    Whoever pays for the use is limited: a tenant by its name ("acme"), or any billable ("user:42").
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set(
        self,
        tenant: object,
        resource_type: str,
        limit: int | Decimal | str,
        per: str,
        *,
        burst: int | Decimal | str | None = None,
        user: object = None,
        feature: str | None = None,
        key: str | None = None,
    ) -> TenantRateLimit:
        """Let so many of a resource type be used in each "second", "minute" or "hour", evenly.

        Whoever has paused may use up to `burst` at once, the limit itself where none is given; what was used flows back
        at the limit's rate, and in any stretch of time no more is admitted than the burst and what flows in meanwhile.
        `user`, `feature` or `key` limit that part of the use only, and `user="*"` each user on their own.

        It stands in the place of a limit of the settings (`rate_limits`) for the same resource type and time, and
        several for different times hold together. Setting it again changes it, at once and in every process; what was
        used just before still counts.

        Raises:
            InvalidInput: another time, a limit or burst of zero or less, "cost", more than one part.
        """
        engine = self._engine
        name = _checked_type(resource_type)
        if per not in _PER:
            raise InvalidInput("per", per, f"Use one of {', '.join(_PER)}.")
        rate = to_millionths(limit, field="limit", least=1)
        at_once = rate if burst is None else to_millionths(burst, field="burst", least=1)
        changed = RateLimit(self._reference(tenant), name, scope_of(user, feature, key), per, rate, at_once)
        now = engine.now()
        limits = tables.rate_limits

        def change(connection: Connection) -> Row[Any]:
            lock_account(connection, changed.billable, now)
            before = _in_force(engine, connection, changed)
            same = _same(changed)
            values = {"limit_value": changed.limit, "burst": changed.burst}
            if not connection.execute(update(limits).where(same).values(**values)).rowcount:
                connection.execute(
                    limits.insert().values(
                        id=new_id("rtl"),
                        billable=changed.billable,
                        resource_type=changed.resource_type,
                        scope=changed.scope,
                        per=changed.per,
                        **values,
                        created_at=now,
                    )
                )
            if before is not None and before.limit != changed.limit:
                _keep_what_was_used(connection, before, changed, now)
            journal_change(connection, changed.billable)
            return connection.execute(select(limits).where(same)).one()

        return _view(engine.lane.transact(change))

    def delete(self, rate_limit_id: str) -> None:
        """Take a rate limit away. From now on one of the settings limits in its place, or none.

        Raises:
            NotFound: no such rate limit.
        """
        limits = tables.rate_limits

        def remove(connection: Connection) -> None:
            row = connection.execute(select(limits).where(limits.c.id == rate_limit_id)).first()
            if row is None:
                raise NotFound("rate limit", rate_limit_id)
            removed = rate_limit_from_row(row)
            now = self._engine.now()
            lock_account(connection, removed.billable, now)
            connection.execute(delete(limits).where(limits.c.id == rate_limit_id))
            after = _in_force(self._engine, connection, removed)
            if after is not None:
                _keep_what_was_used(connection, removed, after, now)
            else:
                connection.execute(delete(tables.counters).where(_is_level_of(removed)))
            journal_change(connection, removed.billable)

        self._engine.lane.transact(remove)

    def status(
        self,
        tenant: object,
        resource_type: str | None = None,
        *,
        user: object = None,
        feature: str | None = None,
        key: str | None = None,
    ) -> list[RateLimitStatus]:
        """Return what is left of every rate limit that a use would count against, now.

        Without a `user`, `feature` or `key` these are the limits of all use together.
        """
        reference = self._reference(tenant)
        caller = caller_of(user, feature, key)
        now = self._engine.now()

        def read(connection: Connection) -> list[RateLimitStatus]:
            found: list[RateLimitStatus] = []
            seen = [one for one in self._all_of(connection, reference) if resource_type in (None, one.resource_type)]
            by_limit = {_limit_of(one): one for one in seen}
            for limit, window in applicable(tuple(by_limit), caller):
                one = by_limit[limit]
                standing = limit.standing(_level(connection, limit, rate_key(limit, window)), now)
                reset_at = from_micros(ceil_div(standing.full_at, _NANOS_PER_MICRO))
                found.append(RateLimitStatus(one, from_millionths(standing.remaining), reset_at))
            return found

        return self._engine.read(read)

    def list(self, tenant: object) -> list[TenantRateLimit]:
        """Return the rate limits of a tenant, those of the settings too; these have no id."""
        reference = self._reference(tenant)
        return list(self._engine.read(lambda connection: self._all_of(connection, reference)))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _reference(self, tenant: object) -> str:
        # Reading use reaches what this module serves: imported when it is asked for.
        from tallystick.metering.usage import subject_reference

        return subject_reference(tenant, self._engine)

    def _all_of(self, connection: Connection, billable: str) -> Sequence[TenantRateLimit]:
        limits = tables.rate_limits
        rows = connection.execute(select(limits).where(limits.c.billable == billable)).all()
        ids = {(row.resource_type, row.scope, row.per): row.id for row in rows}
        terms = load_terms(connection, [billable], self._engine.terms_policy)[billable]
        names = {limit.resource_type for limit in (*terms.rate_limits, *terms.policy.rate_limits)}
        return [
            _seen(limit, ids.get((limit.resource_type, limit.scope, limit.per)))
            for name in sorted(names)
            for limit in sorted(terms.rate_limits_of(name), key=lambda one: (one.scope, _PER.index(one.per)))
        ]


def _checked_type(resource_type: str) -> str:
    if resource_type == COST:
        raise InvalidInput("resource_type", resource_type, "Cost has quotas, and no rate limits.")
    return checked_name("resource_type", resource_type)


def _same(limit: RateLimit) -> Any:
    own = tables.rate_limits.c
    return and_(
        own.billable == limit.billable,
        own.resource_type == limit.resource_type,
        own.scope == limit.scope,
        own.per == limit.per,
    )


def _view(row: Row[Any]) -> TenantRateLimit:
    return _seen(rate_limit_from_row(row), row.id)


def _seen(limit: RateLimit, rate_limit_id: str | None) -> TenantRateLimit:
    user, feature, key = scope_parts(limit.scope)
    return TenantRateLimit(
        id=rate_limit_id,
        billable=limit.billable,
        resource_type=limit.resource_type,
        per=limit.per,
        limit=from_millionths(limit.limit),
        burst=from_millionths(limit.burst),
        user=user,
        feature=feature,
        key=key,
    )


def _limit_of(seen: TenantRateLimit) -> RateLimit:
    scope = scope_of(seen.user, seen.feature, seen.key)
    return RateLimit(
        seen.billable, seen.resource_type, scope, seen.per, to_millionths(seen.limit), to_millionths(seen.burst)
    )


def _in_force(engine: Engine, connection: Connection, limit: RateLimit) -> RateLimit | None:
    """Return the limit that is in the place of this one now: its own, or one of the settings."""
    terms = load_terms(connection, [limit.billable], engine.terms_policy)[limit.billable]
    same = [
        one for one in terms.rate_limits_of(limit.resource_type) if (one.scope, one.per) == (limit.scope, limit.per)
    ]
    return same[0] if same else None


def _is_level_of(limit: RateLimit) -> Any:
    counters = tables.counters.c
    key = rate_key(limit, limit.scope)
    is_scope = counters.scope == key.scope
    if limit.scope == EVERY_USER:
        is_scope = or_(is_scope, counters.scope.startswith("user:", autoescape=True))
    return and_(
        counters.period_start == key.period_start,
        counters.period == key.period,
        counters.billable == key.billable,
        counters.meter == key.meter,
        is_scope,
    )


def _keep_what_was_used(connection: Connection, before: RateLimit, after: RateLimit, at: int) -> None:
    """Set the levels of a limit that changes: what has not flowed back yet does so at the new rate."""
    for row in connection.execute(select(tables.counters).where(_is_level_of(before))).all():
        key = CounterKey(row.billable, row.meter, row.scope, row.period, row.period_start)
        debt = before.debt(before.level(row.used, row.held), at)
        used, held = after.stored(after.settled(debt, at))
        connection.execute(update(tables.counters).where(_is(key)).values(used=used, held=held))


def _level(connection: Connection, limit: RateLimit, key: CounterKey) -> int:
    counters = tables.counters.c
    row = connection.execute(select(counters.used, counters.held).where(_is(key))).first()
    return 0 if row is None else limit.level(row.used, row.held)


def _is(key: CounterKey) -> ColumnElement[bool]:
    return and_(*(tables.counters.c[name] == value for name, value in key._asdict().items()))
