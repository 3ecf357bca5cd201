"""`ts.tenants`: the operator's customer organisations, from their first day to their erasure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, func, or_, select, tuple_, update

from tallystick.credits.wallets import Wallets
from tallystick.errors import Conflict, InvalidInput, NotFound
from tallystick.identity import billable_reference, new_id, user_reference
from tallystick.limits.quotas import Quotas
from tallystick.metering.erasure import Erasure
from tallystick.metering.statistics import UsageFilter, statistics
from tallystick.period import calendar_period, from_micros
from tallystick.plans.loading import journal_change, tenant_from_row
from tallystick.plans.plans import Plans
from tallystick.plans.subscriptions import Subscriptions
from tallystick.plans.terms import Subscription
from tallystick.storage import tables
from tallystick.storage.locking import lock_account
from tallystick.tenants.attaching import add_members, attach, missing_quotas, set_quotas
from tallystick.tenants.erasing import erase_tenant
from tallystick.tenants.input import UNCHANGED, Unchanged, checked_columns
from tallystick.tenants.naming import checked_slug, slug_of, tenant_billable
from tallystick.tenants.shadow import shadow_report
from tallystick.tenants.tenant import Tenant, TenantStatus
from tallystick.tenants.values import Attachment, ShadowReport, TenantMember, TenantPage, TenantStats, WalletBalance

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Tenants"]

_PAGE_MAX = 1000

Text = str | Unchanged | None


class Tenants:
    """Keeps tenants. One is named by its slug ("acme"), its id, its billable ("tenant:acme"), or the tenant itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- keeping ------------------------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        slug: str | None = None,
        billing_email: str | None = None,
        plan: str | None = None,
        metadata: Mapping[str, object] | None = None,
        *,
        timezone: str | None = None,
        currency: str | None = None,
        locale: str | None = None,
        tax_id: str | None = None,
    ) -> Tenant:
        """Create a tenant. It pays as the billable "tenant:<slug>"; without a slug its name makes one.

        With a `plan` it is subscribed to it, from now on, and it gets the quotas of `tenants.default_quotas`. Its days
        and months are those of its `timezone`, and its costs in its `currency`; without, those of the settings.

        Raises:
            Conflict: there is a tenant of this slug, or there was one.
            PlanNotFound: no such plan. InvalidInput: naming the field; also a time zone or a currency of its own where
                "tenant:<slug>" has been used in those of the settings already.
        """
        engine = self._engine
        columns = checked_columns(
            engine,
            {
                "name": name,
                "billing_email": billing_email,
                "metadata": metadata,
                "timezone": timezone,
                "currency": currency,
                "locale": locale,
                "tax_id": tax_id,
            },
        )
        slug = slug_of(columns["name"]) if slug is None else checked_slug(slug)
        billable = f"tenant:{slug}"
        if plan is not None:
            Plans(engine).get(plan)
        now = engine.now()

        def insert(connection: Connection) -> None:
            lock_account(connection, billable, now)
            tenants = tables.tenants
            there = connection.execute(select(tenants.c.status).where(tenants.c.billable == billable)).scalar()
            if there is not None:
                remedy = " Take it back with ts.tenants.activate, or choose another." if there == "deleted" else ""
                raise Conflict(f"There is a tenant {slug!r} ({there}).{remedy}")
            self._require_unused(connection, billable, None, columns)
            connection.execute(
                tenants.insert().values(
                    id=new_id("ten"),
                    slug=slug,
                    billable=billable,
                    status=TenantStatus.ACTIVE,
                    created_at=now,
                    updated_at=now,
                    **columns,
                )
            )
            journal_change(connection, billable)

        engine.lane.transact(insert)
        if plan is not None:
            Subscriptions(engine).create(billable, plan)
        set_quotas(engine, billable, missing_quotas(engine, billable))
        return self.get(billable)

    def get(self, tenant: object) -> Tenant:
        """Return a tenant, also one that is suspended or deleted.

        Raises:
            NotFound: there is none.
        """
        reference = tenant_billable(self._engine, tenant)
        return self._engine.read(lambda connection: self._read(connection, reference))

    def update(
        self,
        tenant: object,
        *,
        name: str | Unchanged = UNCHANGED,
        billing_email: Text = UNCHANGED,
        metadata: Mapping[str, object] | Unchanged | None = UNCHANGED,
        timezone: Text = UNCHANGED,
        currency: Text = UNCHANGED,
        locale: Text = UNCHANGED,
        tax_id: Text = UNCHANGED,
        enforcement: Text = UNCHANGED,
    ) -> Tenant:
        """Change what is given; None takes a value away, so that the settings hold again. Metadata is replaced whole.

        `enforcement` tries limits out on one tenant: "shadow" decides and records, and never refuses (see
        `shadow_report`); "off" does not ask. It holds at once, in every process.

        Raises:
            NotFound: no such tenant. Conflict: it was erased.
            InvalidInput: naming the field; also a time zone or a currency where it has been used in another: what was
                used is summed up by its days, and its limits are amounts of its currency.
        """
        stated = {
            "name": name,
            "billing_email": billing_email,
            "metadata": metadata,
            "timezone": timezone,
            "currency": currency,
            "locale": locale,
            "tax_id": tax_id,
            "enforcement": enforcement,
        }
        return self._change(tenant, checked_columns(self._engine, stated))

    # -- their life ---------------------------------------------------------------------------------------------------

    def suspend(self, tenant: object, reason: str | None = None) -> Tenant:
        """Refuse every call and consumption of a tenant from now on, in every process, with `TenantSuspended`.

        What is in flight is recorded when it ends, and so is what is logged: it happened. Suspending twice keeps the
        newer reason.

        Raises:
            NotFound: no such tenant. Conflict: it is deleted.
        """
        return self._to(tenant, TenantStatus.SUSPENDED, reason, {TenantStatus.ACTIVE, TenantStatus.SUSPENDED})

    def activate(self, tenant: object) -> Tenant:
        """End a suspension, or take a deletion back that was not followed by the erasure.

        Raises:
            NotFound: no such tenant. Conflict: it was erased.
        """
        return self._to(tenant, TenantStatus.ACTIVE, None, set(TenantStatus))

    def delete(self, tenant: object, reason: str | None = None) -> Tenant:
        """Delete a tenant softly: everything of it is refused, and nothing is lost yet.

        `activate` takes it back. After `tenants.erase_after_days` a due job erases it (see `erase`). Its slug stays
        taken. Deleting twice keeps the first time.

        Raises:
            NotFound: no such tenant.
        """
        return self._to(tenant, TenantStatus.DELETED, reason, set(TenantStatus))

    def erase(self, tenant: object) -> Erasure:
        """Erase a deleted tenant for good: its usage, its members, quotas, notifications, and what is known of it.

        What was charged stays (overages, wallets, the ledger), and so does its slug.

        Raises:
            NotFound: no such tenant. Conflict: it is not deleted.
        """
        found = self.get(tenant)
        if found.status is not TenantStatus.DELETED:
            raise Conflict(f"{found.slug} is {found.status}. Delete it first: ts.tenants.delete({found.slug!r}).")
        return erase_tenant(self._engine, found.billable)

    # -- asking -------------------------------------------------------------------------------------------------------

    def stats(
        self, tenant: object, start: str | datetime | None = None, end: str | datetime | None = None
    ) -> TenantStats:
        """Return how a tenant stands: use in `[start, end)`, otherwise this month; quotas, wallets, members.

        Raises:
            NotFound: no such tenant.
        """
        engine = self._engine
        found = self.get(tenant)
        month = self._month(found)
        usage = UsageFilter(
            found.billable,
            None,
            month[0] if start is None else engine.instant(start, field="start"),
            month[1] if end is None else engine.instant(end, field="end"),
        )
        if usage.end < usage.start:
            raise InvalidInput("end", end, f"It must not lie before start ({from_micros(usage.start).isoformat()}).")
        subscription = self._subscription(found)
        grace = engine.settings.billing.payment_failure_grace_period_days
        return TenantStats(
            tenant=found,
            usage=statistics(engine, usage),
            quotas=tuple(Quotas(engine).status(found.billable)),
            wallets=tuple(
                WalletBalance(wallet.currency, wallet.balance, wallet.available)
                for wallet in Wallets(engine).list(found.billable)
            ),
            members=self._member_count(found.billable),
            subscription=subscription,
            subscription_status=None
            if subscription is None
            else subscription.status(engine.clock.now(), grace_period_days=grace),
        )

    def shadow_report(
        self, tenant: object, start: str | datetime | None = None, end: str | datetime | None = None
    ) -> ShadowReport:
        """Say what would have been refused of a tenant in `[start, end)` while its limits were only tried out.

        `tenant` may be any billable: with the setting `enforcement = "shadow"` refusals of everybody are noted.
        """
        engine = self._engine
        return shadow_report(
            engine,
            self._subject(tenant),
            None if start is None else engine.instant(start, field="start"),
            None if end is None else engine.instant(end, field="end"),
        )

    # -- members ------------------------------------------------------------------------------------------------------

    def add_user(self, tenant: object, user: object) -> TenantMember:
        """Make a user a member of a tenant; who is one stays one. A user may belong to several.

        Raises:
            NotFound: no such tenant.
        """
        found, reference = self.get(tenant), user_reference(user)
        add_members(self._engine, found.billable, [reference])
        return next(member for member in self.users(found) if member.user == reference)

    def remove_user(self, tenant: object, user: object) -> bool:
        """End a user's membership. Returns whether there was one. What the user did for the tenant stays recorded.

        Raises:
            NotFound: no such tenant.
        """
        found, reference = self.get(tenant), user_reference(user)
        members = tables.tenant_members
        own = (members.c.tenant == found.billable) & (members.c.user_id == reference)
        count: int = self._engine.lane.transact(
            lambda connection: connection.execute(delete(members).where(own)).rowcount
        )
        return count > 0

    def users(self, tenant: object) -> list[TenantMember]:
        """Return the members of a tenant, by when they became members.

        Raises:
            NotFound: no such tenant.
        """
        found = self.get(tenant)
        members = tables.tenant_members.c
        query = select(members.user_id, members.created_at).where(members.tenant == found.billable)
        query = query.order_by(members.created_at, members.user_id)
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [TenantMember(found.billable, row.user_id, from_micros(row.created_at)) for row in rows]

    def attach(
        self,
        tenant: object,
        *,
        users: Iterable[object] = (),
        billables: Iterable[object] = (),
        everything: bool = False,
        quotas: bool = True,
        apply: bool = False,
    ) -> Attachment:
        """Give a tenant what was there before it. Without `apply` it only says what would be attached.

        Users become members. The tenant's name is written on the use that they and `billables` have had, where it has
        none (`usage.events(tenant=…)` finds it then); who paid for it stays. `everything` takes all use that has no
        tenant. The `tenants.default_quotas` that the tenant lacks are set; with `quotas=False` none are.

        Doing it again attaches what has come since.

        Raises:
            NotFound: no such tenant.
        """
        engine = self._engine
        found = self.get(tenant)
        return attach(
            engine,
            found.billable,
            users=[user_reference(user) for user in users],
            billables=[billable_reference(one, engine.billable_resolver) for one in billables],
            everything=everything,
            quotas=quotas,
            apply=apply,
        )

    # -- finding ------------------------------------------------------------------------------------------------------

    def list(
        self,
        search: str | None = None,
        status: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        user: object = None,
    ) -> TenantPage:
        """Return a page of tenants, the newest first; those that are deleted only where `status` asks for them.

        `search` looks into name, slug and billing address, in any case; `user` asks for those that somebody belongs to.
        `next_cursor` of one page is the `cursor` of the next.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _PAGE_MAX:
            raise InvalidInput("limit", limit, f"Give 1 to {_PAGE_MAX}.")
        tenants = tables.tenants
        query = select(tenants).order_by(tenants.c.created_at.desc(), tenants.c.id.desc()).limit(limit + 1)
        if status is None:
            query = query.where(tenants.c.status != TenantStatus.DELETED)
        elif status in tuple(TenantStatus):
            query = query.where(tenants.c.status == status)
        else:
            raise InvalidInput("status", status, f"Use one of {', '.join(TenantStatus)}.")
        if search:
            looked_at = (tenants.c.name, tenants.c.slug, tenants.c.billing_email)
            query = query.where(or_(*(column.icontains(search, autoescape=True) for column in looked_at)))
        if user is not None:
            members = tables.tenant_members.c
            own = select(members.tenant).where(members.user_id == user_reference(user))
            query = query.where(tenants.c.billable.in_(own))
        if cursor is not None:
            query = query.where(tuple_(tenants.c.created_at, tenants.c.id) < tuple_(*_position(cursor)))
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        found = tuple(tenant_from_row(row) for row in rows[:limit])
        last = rows[limit - 1] if len(rows) > limit else None
        return TenantPage(found, None if last is None else _cursor(last.created_at, last.id))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _subject(self, tenant: object) -> str:
        if isinstance(tenant, str) and ":" not in tenant:
            return tenant_billable(self._engine, tenant)
        return billable_reference(tenant, self._engine.billable_resolver)

    def _read(self, connection: Connection, billable: str) -> Tenant:
        tenants = tables.tenants
        row = connection.execute(select(tenants).where(tenants.c.billable == billable)).first()
        if row is None:
            slug = billable.partition(":")[2]
            raise NotFound("tenant", slug, f"Create it with ts.tenants.create(name, slug={slug!r}).")
        return tenant_from_row(row)

    def _change(self, tenant: object, columns: dict[str, Any]) -> Tenant:
        engine = self._engine
        billable = tenant_billable(engine, tenant)
        now = engine.now()

        def change(connection: Connection) -> Tenant:
            lock_account(connection, billable, now)
            current = self._read(connection, billable)
            self._require_not_erased(connection, current)
            self._require_unused(connection, billable, current, columns)
            self._save(connection, billable, {**columns, "updated_at": now})
            return self._read(connection, billable)

        return engine.lane.transact(change)

    def _to(self, tenant: object, status: TenantStatus, reason: str | None, allowed: set[TenantStatus]) -> Tenant:
        """Move a tenant to a status. Of a repetition only the reason counts, where it gives one."""
        engine = self._engine
        billable = tenant_billable(engine, tenant)
        now = engine.now()
        if reason is not None and (not isinstance(reason, str) or not reason.strip()):
            raise InvalidInput("reason", reason, "Say why in words, or leave it out.")

        def move(connection: Connection) -> Tenant:
            lock_account(connection, billable, now)
            current = self._read(connection, billable)
            self._require_not_erased(connection, current)
            if current.status not in allowed:
                remedy = f"Take that back first: ts.tenants.activate({current.slug!r})."
                raise Conflict(f"{current.slug} is {current.status}. {remedy}")
            if current.status is status and reason is None:
                return current
            values: dict[str, Any] = {"status": status, "status_reason": reason, "updated_at": now}
            if current.status is not status:
                values["deleted_at"] = now if status is TenantStatus.DELETED else None
            self._save(connection, billable, values)
            return self._read(connection, billable)

        return engine.lane.transact(move)

    def _save(self, connection: Connection, billable: str, values: Mapping[str, Any]) -> None:
        tenants = tables.tenants
        connection.execute(update(tenants).where(tenants.c.billable == billable).values(**values))
        journal_change(connection, billable)

    def _require_not_erased(self, connection: Connection, tenant: Tenant) -> None:
        tenants = tables.tenants.c
        erased_at = connection.execute(select(tenants.erased_at).where(tenants.id == tenant.id)).scalar()
        if erased_at is not None:
            raise Conflict(f"{tenant.slug} was erased at {from_micros(erased_at):%Y-%m-%d %H:%M} UTC.")

    def _require_unused(
        self, connection: Connection, billable: str, current: Tenant | None, columns: Mapping[str, Any]
    ) -> None:
        """Refuse another time zone or currency where use was recorded in the one before. The account is locked."""
        settings = self._engine.settings
        for field, general in (("timezone", settings.period.timezone), ("currency", settings.billing.currency)):
            before = (getattr(current, field) if current is not None else None) or general
            if field in columns and (columns[field] or general) != before and _has_use(connection, billable):
                raise InvalidInput(
                    field,
                    columns[field],
                    f"{billable} has been used in {before}, and its use was summed up so: it cannot change any more.",
                )

    def _month(self, tenant: Tenant) -> tuple[int, int]:
        zone = tenant.timezone or self._engine.settings.period.timezone
        return calendar_period("monthly", self._engine.clock.now(), zone).bounds_micros

    def _subscription(self, tenant: Tenant) -> Subscription | None:
        try:
            return Subscriptions(self._engine).get(tenant.billable)
        except NotFound:
            return None

    def _member_count(self, billable: str) -> int:
        members = tables.tenant_members.c
        query = select(func.count()).where(members.tenant == billable)
        return self._engine.read(lambda connection: connection.execute(query).scalar_one())


def _has_use(connection: Connection, billable: str) -> bool:
    """Say whether anything was summed up by an account's hours and days, or is about to be."""
    holds, quotas = tables.holds.c, tables.quotas.c
    in_flight = select(holds.id).where(holds.billable == billable, holds.status == "open")
    of_cost = select(quotas.id).where(quotas.billable == billable, quotas.resource_type == "cost")
    used = [
        select(one.c.billable).where(one.c.billable == billable) for one in (tables.usage_events, tables.usage_daily)
    ]
    return any(connection.execute(query.limit(1)).first() is not None for query in (*used, in_flight, of_cost))


def _cursor(created_at: int, tenant_id: str) -> str:
    return base64.urlsafe_b64encode(f"{created_at} {tenant_id}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[int, str]:
    try:
        created_at, tenant_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        return int(created_at), tenant_id
    except (ValueError, binascii.Error):
        raise InvalidInput("cursor", cursor, "Give the next_cursor of the page before.") from None
