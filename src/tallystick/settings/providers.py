"""Settings of providers: who reads their usage, and prices that replace the catalogue's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Context, Decimal, Inexact
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tallystick.errors import InvalidInput
from tallystick.period import parse_instant
from tallystick.settings.sources import SettingError
from tallystick.settings.values import ClassPath, Currency, Exact, Frozen, Group

__all__ = ["ModelPriceSetting", "ModelPrices", "ProviderName", "ProviderSettings"]

_TOKEN_CLASSES = ("input", "output", "cached_input", "cache_write")

# A price is moved from a thousand tokens to a million exactly, whatever decimal context the application has set.
_EXACT = Context(prec=60, traps=[Inexact])

_PROVIDER_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def _provider_name(value: str) -> str:
    if not _PROVIDER_NAME.fullmatch(value):
        raise ValueError('Write the name of a provider in lower case, such as "openai".')
    return value


def _instant(value: object) -> datetime:
    if not isinstance(value, str | date):
        raise ValueError("Give a date, or an instant with a time zone.")  # noqa: TRY004 - as pydantic wants it
    try:
        return parse_instant(value)
    except InvalidInput as error:
        raise ValueError(error.remedy) from None


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, Mapping) else value


def _in_order(entries: tuple[ModelPrices, ...]) -> tuple[ModelPrices, ...]:
    """Return dated prices from the earliest on; two that hold at one instant are refused."""
    earliest = datetime.min.replace(tzinfo=UTC)
    ordered = tuple(sorted(entries, key=lambda entry: entry.effective_from or earliest))
    for entry, following in pairwise(ordered):
        begins = following.effective_from
        if begins is None or entry.effective_until is None or entry.effective_until > begins:
            remedy = "Another price holds at that time: give effective_until to the one before, up to this instant."
            raise SettingError("effective_from", begins, remedy)
    return ordered


ProviderName = Annotated[str, AfterValidator(_provider_name)]

_Price = Annotated[Exact, Field(ge=0, le=10**9, decimal_places=18)]
_Instant = Annotated[datetime, BeforeValidator(_instant)]


class ModelPrices(Group):
    """The prices of one model, for the time from `effective_from` until just before `effective_until`."""

    input_price_per_1k: _Price | None = Field(default=None, description="Price of 1,000 input tokens")
    output_price_per_1k: _Price | None = Field(default=None, description="Price of 1,000 output tokens")
    cached_input_price_per_1k: _Price | None = Field(
        default=None, description="Price of 1,000 input tokens read from a cache"
    )
    cache_write_price_per_1k: _Price | None = Field(
        default=None, description="Price of 1,000 input tokens written to a cache"
    )
    input_price_per_million: _Price | None = Field(default=None, description="Price of 1,000,000 input tokens")
    output_price_per_million: _Price | None = Field(default=None, description="Price of 1,000,000 output tokens")
    cached_input_price_per_million: _Price | None = Field(
        default=None, description="Price of 1,000,000 input tokens read from a cache"
    )
    cache_write_price_per_million: _Price | None = Field(
        default=None, description="Price of 1,000,000 input tokens written to a cache"
    )
    currency: Currency | None = Field(default=None, description="Currency of these prices; none: `billing.currency`")
    effective_from: _Instant | None = Field(default=None, description="First instant of these prices; none: always")
    effective_until: _Instant | None = Field(
        default=None, description="First instant after these prices; none: without end"
    )

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        for name in _TOKEN_CLASSES:
            per_million = getattr(self, f"{name}_price_per_million")
            if per_million is not None and getattr(self, f"{name}_price_per_1k") is not None:
                raise SettingError(
                    f"{name}_price_per_million", per_million, f"{name}_price_per_1k is given too: keep one."
                )
        if not self.per_million():
            raise ValueError("Give at least one price, such as input_price_per_1k.")
        if self.effective_from and self.effective_until and self.effective_until <= self.effective_from:
            raise SettingError("effective_until", self.effective_until, "Give an instant after effective_from.")
        return self

    def per_million(self) -> Mapping[str, Decimal]:
        """Return the price of 1,000,000 tokens of each class that has one, exactly."""
        prices: dict[str, Decimal] = {}
        for name in _TOKEN_CLASSES:
            per_1k: Decimal | None = getattr(self, f"{name}_price_per_1k")
            per_million: Decimal | None = getattr(self, f"{name}_price_per_million")
            if per_1k is not None:
                per_million = _EXACT.multiply(per_1k, Decimal(1000))
            if per_million is not None:
                prices[name] = per_million
        return MappingProxyType(prices)


class ProviderSettings(Group):
    """One provider: a class of the application's own that reads its usage, and prices that replace the catalogue's."""

    class_path: ClassPath | None = Field(
        default=None,
        alias="class",
        description='Class that reads this provider\'s usage, such as "application.providers:Ours"',
    )
    models: Frozen[
        str, Annotated[tuple[ModelPrices, ...], BeforeValidator(_one_or_more), AfterValidator(_in_order)]
    ] = Field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ModelPriceSetting:
    """The prices set for one model: for 1,000,000 tokens, by token class, from one instant until before another."""

    provider: str
    model: str
    prices: Mapping[str, Decimal]
    currency: str
    effective_from: datetime | None
    effective_until: datetime | None
