"""What is told because of the clock: trials and subscriptions that end, credits that expire; and what is removed.

Each is found by its date and told once, by its key: whoever looks first tells it, however many look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, String, and_, case, cast, delete, exists, literal, or_, select

from tallystick.credits.listing import IS_OPEN
from tallystick.credits.values import Grant
from tallystick.events import CreditsExpiring, SubscriptionEndingSoon
from tallystick.job_runs import is_first_of_the_day
from tallystick.notify.composing import (
    Draft,
    credits_expiring,
    subscription_expired,
    subscription_expiring,
    trial_ending,
)
from tallystick.notify.outgoing import Told
from tallystick.period import from_micros
from tallystick.plans.loading import load_terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.plans.terms import Subscription

__all__ = ["remove_old", "tell_what_is_due"]

_DAY = 86_400_000_000
_JOB = "remove_notifications"
_PAGE = 200
# Who looks only once a week still tells that a subscription has ended; older ends are news no more.
_ENDED_DAYS = 7


def tell_what_is_due(engine: Engine) -> int:
    """Tell of everything that ends soon, or has just ended. Returns how many notifications were written here."""
    settings, now = engine.settings.notifications, engine.now()
    days = engine.settings.credits.expiry_warning_days
    told = 0
    if days and (settings.enabled or engine.read(lambda found: engine.outgoing.hears(found, CreditsExpiring))):
        told += _tell_all(engine, lambda connection: _expiring(connection, now, days))
    is_wanted = engine.handlers.wants(SubscriptionEndingSoon) or engine.read(
        lambda connection: engine.outgoing.hears(connection, SubscriptionEndingSoon)
    )
    if settings.enabled or is_wanted:
        subscriptions = tables.subscriptions.c
        trial, ends = subscriptions.trial_ends_at, _ends_at()
        # A trial that ends with its subscription is told as that end.
        goes_on = or_(ends.is_(None), ends > trial)
        for condition, end, draft in (
            (and_(_soon(trial, now, settings.trial_warning_days), goes_on), trial, trial_ending),
            (_soon(ends, now, settings.subscription_warning_days), ends, subscription_expiring),
            (and_(ends <= now, ends > now - _ENDED_DAYS * _DAY), ends, subscription_expired),
        ):
            told += _tell_all(engine, _ending(engine, condition, end, draft, now))
    return told


def remove_old(engine: Engine) -> int:
    """Remove notifications and messages that were kept long enough, once a day. Returns how many rows went."""
    settings, now = engine.settings.notifications, engine.now()
    if not is_first_of_the_day(engine, _JOB):
        return 0
    outbox, notifications = tables.outbox.c, tables.notifications.c
    # What was told once must be known to have been told for as long as its reason can be found.
    warned = max(
        engine.settings.credits.expiry_warning_days, settings.subscription_warning_days, settings.trial_warning_days
    )
    kept_since = now - max(settings.keep_days, warned + _ENDED_DAYS + 1) * _DAY
    sent_since = now - settings.outbox_keep_days * _DAY
    return sum(
        (
            _remove(engine, tables.outbox, and_(outbox.status == "sent", outbox.closed_at < sent_since)),
            _remove(engine, tables.outbox, and_(outbox.status == "dropped", outbox.closed_at < sent_since)),
            _remove(engine, tables.outbox, and_(outbox.status == "dead", outbox.closed_at < kept_since)),
            _remove(engine, tables.notifications, notifications.created_at < kept_since),
        )
    )


def _remove(engine: Engine, table: Any, condition: ColumnElement[bool]) -> int:
    """Remove in portions, so that nobody waits long for the lane."""
    some = select(table.c.id).where(condition).limit(_PAGE)
    removed = 0
    while True:
        ids = engine.read(lambda connection: list(connection.execute(some).scalars()))
        if ids:
            _delete(engine, table, ids)
        removed += len(ids)
        if len(ids) < _PAGE:
            return removed


def _delete(engine: Engine, table: Any, ids: Sequence[str]) -> None:
    gone = delete(table).where(table.c.id.in_(ids))
    engine.lane.transact(lambda connection: connection.execute(gone))


def _tell_all(engine: Engine, find: Callable[[Connection], list[Told]]) -> int:
    """Tell what is found and was not told before, page by page."""
    told = 0
    while True:
        found = engine.read(find)
        if not found:
            return told
        written = sum(one is not None for one in _tell(engine, found))
        told += written
        if not written or len(found) < _PAGE:
            # The rest, if any, is being told by another process.
            return told


def _tell(engine: Engine, found: Sequence[Told]) -> Sequence[object]:
    written = engine.lane.transact(lambda connection: engine.outgoing.tell(connection, found))
    # Credits that expire are announced to handlers by a job of their own, which notes it at the grant.
    told = [one.event for one, row in zip(found, written, strict=True) if row is not None]
    engine.handlers.send([one for one in told if isinstance(one, SubscriptionEndingSoon)])
    return written


def _expiring(connection: Connection, now: int, days: int) -> list[Told]:
    grants = tables.grants
    key = literal("credits_expiring:", String) + grants.c.id
    query = (
        select(grants)
        .where(IS_OPEN, grants.c.expires_at.isnot(None), _soon(grants.c.expires_at, now, days))
        .where(_is_untold(grants.c.billable, key))
        .order_by(grants.c.expires_at, grants.c.id)
        .limit(_PAGE)
    )
    at = from_micros(now)
    told: list[Told] = []
    for row in connection.execute(query):
        grant = Grant.from_row(tuple(row), now)
        event = CreditsExpiring(billable=grant.billable, at=at, grant=grant, expires_at=from_micros(row.expires_at))
        told.append(Told(credits_expiring(grant, at), event))
    return told


def _ending(
    engine: Engine, condition: ColumnElement[bool], end: Any, draft: Callable[..., Draft], now: int
) -> Callable[[Connection], list[Told]]:
    subscriptions = tables.subscriptions
    key = literal(f"{draft.__name__}:", String) + subscriptions.c.id + ":" + cast(end, String)
    query = (
        select(subscriptions.c.id, subscriptions.c.billable)
        .where(condition, subscriptions.c.is_pending.is_(False), _is_untold(subscriptions.c.billable, key))
        .order_by(subscriptions.c.id)
        .limit(_PAGE)
    )

    def find(connection: Connection) -> list[Told]:
        rows = connection.execute(query).all()
        wanted = {row.id for row in rows}
        terms = load_terms(connection, {row.billable for row in rows}, engine.terms_policy)
        found: list[Subscription] = [
            one.seen_at(from_micros(now))
            for account in terms.values()
            for one in account.subscriptions
            if one.id in wanted
        ]
        return [Told(draft(one, from_micros(now)), _event(draft, one, from_micros(now))) for one in found]

    return find


def _event(draft: Callable[..., Draft], subscription: Subscription, at: datetime) -> SubscriptionEndingSoon | None:
    if draft is not subscription_expiring or subscription.ends_at is None:
        return None
    return SubscriptionEndingSoon(
        billable=subscription.billable, at=at, subscription=subscription, ends_at=subscription.ends_at
    )


def _ends_at() -> Any:
    """Return when a subscription ends, in SQL: the earlier of two ends, where there are two."""
    cancels, term = tables.subscriptions.c.cancels_at, tables.subscriptions.c.term_ends_at
    return case((and_(cancels.isnot(None), or_(term.is_(None), cancels <= term)), cancels), else_=term)


def _soon(column: Any, now: int, days: int) -> ColumnElement[bool]:
    return and_(column > now, column <= now + days * _DAY)


def _is_untold(billable: Any, key: Any) -> ColumnElement[bool]:
    notifications = tables.notifications.c
    return ~exists().where(notifications.billable == billable, notifications.key == key)
