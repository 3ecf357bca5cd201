"""Settings of storage: where the database is, how it is kept, and what keeps its secrets."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from tallystick.settings.values import Group, Lowered, Separated, Whole

__all__ = ["DatabaseUrl", "SecuritySettings", "StorageSettings"]


def _database_url(value: str) -> str:
    # Hosting platforms still hand out the old form of the name.
    url = re.sub(r"^postgres://", "postgresql://", value.strip())
    if not re.match(r"(sqlite|postgresql)(\+\w+)?://", url):
        raise ValueError('Give a URL such as "sqlite:///tallystick.db" or "postgresql://user@host/database".')
    return url


DatabaseUrl = Annotated[str, AfterValidator(_database_url)]


class StorageSettings(Group):
    """How the database is kept."""

    synchronous: Annotated[Literal["full", "normal"], Lowered] = Field(
        default="full",
        description="SQLite: `full` survives a power cut; `normal` is faster and may lose the last commits to one",
    )
    prune_after_days: Whole = Field(
        default=90,
        ge=1,
        le=36_500,
        description="Days that `tallystick cleanup` keeps events, unless it is told otherwise",
    )


class SecuritySettings(Group):
    """What keeps secrets secret."""

    encryption_keys: Annotated[tuple[SecretStr, ...], Separated] = Field(
        default=(),
        description="Keys of secrets at rest: the first encrypts, all decrypt; `tallystick encryption generate-key`",
    )
