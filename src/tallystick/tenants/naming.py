"""Which tenant is meant: by slug, by id, by its billable, or by the tenant itself."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from sqlalchemy import select

from tallystick.errors import InvalidInput, NotFound
from tallystick.identity import tenant_reference
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["checked_slug", "slug_of", "tenant_billable"]

_ID = re.compile(r"ten_[0-9a-f]{32}")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SLUG_LENGTH_MAX = 63


def tenant_billable(engine: Engine, tenant: object) -> str:
    """Return the billable of a tenant: "tenant:acme", from "acme", its id, "tenant:acme", or the tenant itself.

    Raises:
        InvalidInput: it names no tenant. NotFound: there is none of this id.
    """
    if not (isinstance(tenant, str) and _ID.fullmatch(tenant)):
        return tenant_reference(tenant)
    tenants = tables.tenants.c
    query = select(tenants.billable).where(tenants.id == tenant)
    found = engine.read(lambda connection: connection.execute(query).scalar())
    if found is None:
        raise NotFound("tenant", tenant)
    return str(found)


def checked_slug(slug: str) -> str:
    """Return a slug: 1 to 63 small letters and digits, with hyphens between them."""
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
        remedy = f"Use 1 to {_SLUG_LENGTH_MAX} small letters and digits, with hyphens between them."
        raise InvalidInput("slug", slug, remedy)
    return slug


def slug_of(name: str) -> str:
    """Return the slug that a name makes: "São Paulo Ltda." is "sao-paulo-ltda".

    Raises:
        InvalidInput: the name has neither letters nor digits that a slug can have.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_SLUG_LENGTH_MAX].rstrip("-")
    if not slug:
        raise InvalidInput("slug", None, f'The name {name!r} makes none: give one, such as "acme".')
    return slug
