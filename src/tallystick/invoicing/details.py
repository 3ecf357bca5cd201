"""To whom an invoice is addressed, and how it is taxed: what was said of the billable, of its tenant, of everybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, select, update

from tallystick.invoicing.details_input import checked_details
from tallystick.invoicing.tax_ids import checked_tax_id
from tallystick.invoicing.totals import Tax
from tallystick.invoicing.values import Party
from tallystick.period import from_micros
from tallystick.storage import tables
from tallystick.storage.rows import insert_into, portions

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.plans.terms import Terms

__all__ = [
    "Addressee",
    "BillingDetails",
    "addressees",
    "change_details",
    "details_of",
    "forget_details",
    "seller_of",
]


@dataclass(frozen=True, slots=True)
class BillingDetails:
    """What was said of a billable for its invoices. What is None is that of its tenant, or of the settings."""

    billable: str
    name: str | None = None
    email: str | None = None
    line1: str | None = None
    line2: str | None = None
    city: str | None = None
    region: str | None = None
    postal_code: str | None = None
    country: str | None = None
    tax_id: str | None = None
    tax_rate_percent: Decimal | None = None
    tax_name: str | None = None
    is_tax_inclusive: bool | None = None
    is_tax_exempt: bool = False
    locale: str | None = None
    due_days: int | None = None
    notes: str | None = None
    updated_at: datetime | None = None

    @property
    def address(self) -> tuple[str, ...]:
        """The lines of the address, without the country."""
        town = " ".join(part for part in (self.postal_code, self.city) if part)
        return tuple(line for line in (self.line1, self.line2, town, self.region) if line)

    @classmethod
    def from_row(cls, row: Any) -> BillingDetails:
        """Read a row of `billing_details`."""
        values = dict(row._mapping)
        rate, inclusive = values["tax_rate_percent"], values["is_tax_inclusive"]
        del values["created_at"]
        values["tax_rate_percent"] = None if rate is None else Decimal(rate)
        values["is_tax_inclusive"] = None if inclusive is None else bool(inclusive)
        values["is_tax_exempt"] = bool(values["is_tax_exempt"])
        values["updated_at"] = from_micros(values["updated_at"])
        return cls(**values)

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        names = (
            "billable", "name", "email", "line1", "line2", "city", "region", "postal_code", "country", "tax_id",
            "tax_name", "is_tax_inclusive", "is_tax_exempt", "locale", "due_days", "notes",
        )  # fmt: skip
        rate = self.tax_rate_percent
        return {name: getattr(self, name) for name in names} | {"tax_rate_percent": None if rate is None else str(rate)}


@dataclass(frozen=True, slots=True)
class Addressee:
    """What an invoice needs to know of its customer, with everything that was left open filled in."""

    billable: str
    party: Party
    tax: Tax
    currency: str
    locale: str
    zone: str
    due_days: int
    notes: str | None


def details_of(connection: Connection, billable: str) -> BillingDetails:
    """Read what was said of one billable; nothing, where there is no row."""
    details = tables.billing_details
    row = connection.execute(select(details).where(details.c.billable == billable)).first()
    return BillingDetails(billable) if row is None else BillingDetails.from_row(row)


def change_details(engine: Engine, billable: str, stated: Mapping[str, Any]) -> BillingDetails:
    """Change what was said of a billable for its invoices; those that are issued stay as they are.

    Raises:
        InvalidInput: naming the field.
    """
    columns = checked_details(stated)
    details, now = tables.billing_details, engine.now()

    def change(connection: Connection) -> BillingDetails:
        blank = {"billable": billable, "is_tax_exempt": False, "created_at": now, "updated_at": now}
        connection.execute(insert_into(connection, details).values(**blank).on_conflict_do_nothing())
        own = details.c.billable == billable
        row = connection.execute(select(details).where(own).with_for_update()).one()
        tax_id, country = (columns.get(name, getattr(row, name)) for name in ("tax_id", "country"))
        if tax_id is not None:
            # Either of both may be new, and has to fit the other.
            checked_tax_id(tax_id, country)
        connection.execute(update(details).where(own).values(**columns, updated_at=now))
        return details_of(connection, billable)

    return engine.lane.transact(change)


def forget_details(connection: Connection, billable: str) -> None:
    """Take what was said of a billable out of the database. What its invoices say of it stays: the law wants them."""
    connection.execute(delete(tables.billing_details).where(tables.billing_details.c.billable == billable))


def addressees(engine: Engine, connection: Connection, accounts: Mapping[str, Terms]) -> dict[str, Addressee]:
    """Return whom invoices of billables are addressed to, by their terms."""
    details = tables.billing_details
    stated = {
        row.billable: BillingDetails.from_row(row)
        for some in portions(accounts)
        for row in connection.execute(select(details).where(details.c.billable.in_(some)))
    }
    return {
        billable: _addressee(engine, terms, stated.get(billable, BillingDetails(billable)))
        for billable, terms in accounts.items()
    }


def seller_of(engine: Engine) -> Party:
    """Return who sends invoices."""
    seller = engine.settings.invoicing.seller
    return Party(
        name=seller.name,
        address=tuple(line.strip() for line in seller.address.splitlines() if line.strip()),
        country=seller.country or None,
        email=seller.email or None,
        tax_id=seller.tax_id or None,
        website=seller.website or None,
        footer=seller.footer or None,
    )


def _addressee(engine: Engine, terms: Terms, stated: BillingDetails) -> Addressee:
    settings, tenant = engine.settings, terms.tenant
    tax = settings.invoicing.tax
    rate = tax.rate_percent if stated.tax_rate_percent is None else stated.tax_rate_percent
    party = Party(
        name=stated.name or (tenant.name if tenant is not None else "") or terms.billable,
        address=stated.address,
        country=stated.country,
        email=stated.email or (tenant.billing_email if tenant is not None else None),
        tax_id=stated.tax_id or (tenant.tax_id if tenant is not None else None),
    )
    return Addressee(
        billable=terms.billable,
        party=party,
        tax=Tax(
            Decimal(0) if stated.is_tax_exempt else rate,
            stated.tax_name or tax.name,
            is_inclusive=tax.inclusive if stated.is_tax_inclusive is None else stated.is_tax_inclusive,
        ),
        currency=terms.policy.currency,
        locale=stated.locale or (tenant.locale if tenant is not None else None) or settings.notifications.locale,
        zone=terms.policy.zone,
        due_days=settings.invoicing.due_days if stated.due_days is None else stated.due_days,
        notes=stated.notes or settings.invoicing.notes or None,
    )
