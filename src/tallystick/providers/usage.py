"""What one call to a provider used, as the provider reported it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Self

from tallystick.errors import InvalidInput
from tallystick.money import Money
from tallystick.providers.classes import disjoint_classes
from tallystick.providers.units import TOKEN_UNITS, UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ProviderUsage"]

_TOTALS = ("input_tokens", "output_tokens")
_TEXTS = ("model", "service_tier", "response_id")
_COSTS = ("input_cost", "output_cost", "total_cost")

# The keywords of `manual`, and the unit each one states.
_MANUAL_UNITS = {
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_5m_tokens": "cache_write_5m_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
}


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """What one call used. Totals are inclusive, as OpenTelemetry defines them; the breakdown lies within them.

    `input_tokens` contains tokens read from and written to a cache, `output_tokens` contains reasoning. `breakdown`
    repeats the provider's own numbers under the unit keys of `providers.units`; they overlap, and may contradict each
    other. `classes` is the same as disjoint classes. `counts` holds what is not a token: searches, seconds, characters.

    `total_cost` (or both `input_cost` and `output_cost`) states what the call cost, and is then taken as it is instead
    of a price. `estimated` marks a usage that nobody reported, such as that of a stream which broke off.

    Raises:
        InvalidInput: for a number of tokens that is not a non-negative int, an unknown unit in the breakdown, and a
            cost that is not Money or below zero.
        CurrencyMismatch: when stated costs are of two currencies.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    breakdown: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int | Decimal] = field(default_factory=dict)
    requests: int = 1
    input_cost: Money | None = None
    output_cost: Money | None = None
    total_cost: Money | None = None
    estimated: bool = False
    model: str | None = None
    service_tier: str | None = None
    response_id: str | None = None

    def __post_init__(self) -> None:
        if type(self.input_tokens) is not int or self.input_tokens < 0:
            raise _not_a_count("input_tokens", self.input_tokens)
        if type(self.output_tokens) is not int or self.output_tokens < 0:
            raise _not_a_count("output_tokens", self.output_tokens)
        for key, tokens in self.breakdown.items():
            if key not in TOKEN_UNITS:
                raise InvalidInput("breakdown", key, "Name a token unit, such as cache_read_tokens.")
            if type(tokens) is not int or tokens < 0:
                raise _not_a_count(key, tokens)
        for name in _COSTS:
            _require_money(name, getattr(self, name))
        if self.total_cost is None and self.input_cost is not None and self.output_cost is not None:
            object.__setattr__(self, "total_cost", self.input_cost + self.output_cost)

    @classmethod
    def manual(
        cls,
        input_tokens: int = 0,
        output_tokens: int = 0,
        total_cost: Money | None = None,
        *,
        cached_input_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_5m_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
        reasoning_tokens: int = 0,
        breakdown: Mapping[str, int] | None = None,
        counts: Mapping[str, int | Decimal] | None = None,
        input_cost: Money | None = None,
        output_cost: Money | None = None,
        model: str | None = None,
        service_tier: str | None = None,
        estimated: bool = False,
    ) -> Self:
        """Return a usage that the caller states. Every class lies within its total: cached tokens count as input too.

        `breakdown` and `counts` take unit keys of `providers.units`, such as "input_audio_tokens" or "web_searches".

        Raises:
            InvalidInput: naming the field, for a number that is not a non-negative int (counts may be `Decimal`), an
                unknown unit, and a class larger than its total.
        """
        _require_count("input_tokens", input_tokens)
        _require_count("output_tokens", output_tokens)
        named = {
            "cached_input_tokens": cached_input_tokens,
            "cache_write_tokens": cache_write_tokens,
            "cache_write_5m_tokens": cache_write_5m_tokens,
            "cache_write_1h_tokens": cache_write_1h_tokens,
            "reasoning_tokens": reasoning_tokens,
        }
        parts = {_MANUAL_UNITS[name]: _require_count(name, tokens) for name, tokens in named.items()}
        for key, tokens in (breakdown or {}).items():
            if key not in TOKEN_UNITS or key in _TOTALS:
                raise InvalidInput("breakdown", key, "Name a token unit, such as input_audio_tokens.")
            parts[key] = _require_count(key, tokens)
        written = parts["cache_write_5m_tokens"] + parts["cache_write_1h_tokens"]
        parts["cache_write_tokens"] = max(parts["cache_write_tokens"], written)
        _require_parts_within(input_tokens, output_tokens, parts)
        usage = cls(
            input_tokens,
            output_tokens,
            {key: tokens for key, tokens in parts.items() if tokens},
            {key: count for key, count in (counts or {}).items() if _require_amount(key, count)},
            input_cost=input_cost,
            output_cost=output_cost,
            total_cost=total_cost,
            model=model,
            service_tier=service_tier,
            estimated=estimated,
        )
        return usage

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def classes(self) -> dict[str, int]:
        """The non-empty disjoint token classes ("input", "cached_input", "reasoning", ...); they sum to the total."""
        return disjoint_classes(self.input_tokens, self.output_tokens, self.breakdown)

    @property
    def cached_input_tokens(self) -> int:
        return self.breakdown.get("cache_read_tokens", 0)

    @property
    def cache_write_tokens(self) -> int:
        return self.breakdown.get("cache_write_tokens", 0)

    @property
    def reasoning_tokens(self) -> int:
        return self.breakdown.get("output_reasoning_tokens", 0)

    def __add__(self, other: ProviderUsage) -> ProviderUsage:
        """Return both together, as one usage of several requests. A model or a tier stays only where both agree.

        Raises:
            InvalidInput: when one states its cost and the other does not: the sum could be neither priced nor stated.
        """
        if not isinstance(other, ProviderUsage):
            return NotImplemented
        if (self.total_cost is None) != (other.total_cost is None):
            raise InvalidInput("total_cost", None, "Add usages that both state their cost, or neither.")
        return ProviderUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            {
                key: self.breakdown.get(key, 0) + other.breakdown.get(key, 0)
                for key in dict.fromkeys((*self.breakdown, *other.breakdown))
            },
            {
                key: self.counts.get(key, 0) + other.counts.get(key, 0)
                for key in dict.fromkeys((*self.counts, *other.counts))
            },
            self.requests + other.requests,
            input_cost=_both(self.input_cost, other.input_cost),
            output_cost=_both(self.output_cost, other.output_cost),
            total_cost=_both(self.total_cost, other.total_cost),
            estimated=self.estimated or other.estimated,
            model=self.model if self.model == other.model else None,
            service_tier=self.service_tier if self.service_tier == other.service_tier else None,
            response_id=self.response_id if self.response_id == other.response_id else None,
        )

    def __radd__(self, other: int) -> ProviderUsage:
        # sum() starts from the number 0.
        return self if type(other) is int and other == 0 else NotImplemented

    def with_cost(self, total_cost: Money) -> ProviderUsage:
        """Return the same usage with a stated cost."""
        return replace(self, input_cost=None, output_cost=None, total_cost=total_cost)

    def to_dict(self) -> dict[str, int | str | bool]:
        """Return flat, compact JSON for the database: zeros and absent values are left out."""
        amounts: dict[str, int | Decimal] = {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            **self.breakdown,
            **self.counts,
        }
        stored: dict[str, int | str | bool] = {
            key: amount if type(amount) is int else str(amount) for key, amount in amounts.items() if amount
        }
        if self.requests != 1:
            stored["requests"] = self.requests
        if self.estimated:
            stored["estimated"] = True
        for name in (*_COSTS, *_TEXTS):
            value = getattr(self, name)
            if value is not None:
                stored[name] = str(value)
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, int | str | bool]) -> Self:
        """Read what `to_dict` wrote. A unit that this version does not know is kept among the counts.

        Raises:
            InvalidInput: for a value that `to_dict` does not write.
        """
        breakdown: dict[str, int] = {}
        counts: dict[str, int | Decimal] = {}
        for key, value in stored.items():
            if key in _FIELDS:
                continue
            if key in TOKEN_UNITS:
                breakdown[key] = _require_count(key, value)
            else:
                counts[key] = _stored_amount(key, value)
        costs = {name: Money.parse(str(stored[name])) for name in _COSTS if name in stored}
        return cls(
            _require_count("input_tokens", stored.get("input_tokens", 0)),
            _require_count("output_tokens", stored.get("output_tokens", 0)),
            breakdown,
            counts,
            _require_count("requests", stored.get("requests", 1)),
            input_cost=costs.get("input_cost"),
            output_cost=costs.get("output_cost"),
            total_cost=costs.get("total_cost"),
            estimated=bool(stored.get("estimated", False)),
            **{name: str(stored[name]) for name in _TEXTS if stored.get(name) is not None},
        )


_FIELDS = frozenset((*_TOTALS, "requests", "estimated", *_TEXTS, *_COSTS))


def _not_a_count(name: str, value: object) -> InvalidInput:
    return InvalidInput(name, value, "Give a whole number, zero or more.")


def _require_count(name: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise _not_a_count(name, value)
    return value


def _require_amount(name: str, value: int | Decimal) -> int | Decimal:
    if name not in UNITS or name in TOKEN_UNITS:
        raise InvalidInput("counts", name, "Name a unit that is not tokens, such as web_searches or audio_seconds.")
    if isinstance(value, Decimal):
        if not value.is_finite() or value < 0:
            raise InvalidInput(name, value, "Give a number, zero or more.")
        return value
    return _require_count(name, value)


def _require_money(name: str, value: Money | None) -> None:
    if value is not None and (not isinstance(value, Money) or value.nanos < 0):
        raise InvalidInput(name, value, 'Give Money, zero or more: Money("0.01", "USD").')


def _require_parts_within(input_tokens: int, output_tokens: int, parts: Mapping[str, int]) -> None:
    totals = {"input": input_tokens, "output": output_tokens}
    names = {key: name for name, key in _MANUAL_UNITS.items()}
    for key, tokens in parts.items():
        direction = TOKEN_UNITS[key].direction or "input"
        if tokens > totals[direction]:
            raise InvalidInput(
                names.get(key, key),
                tokens,
                f"It is part of {direction}_tokens, which is {totals[direction]}; totals include every class.",
            )
    cached = parts["cache_read_tokens"] + parts["cache_write_tokens"]
    if cached > input_tokens:
        raise InvalidInput(
            "cached_input_tokens",
            parts["cache_read_tokens"],
            f"With cache writes it makes {cached}, more than input_tokens, which is {input_tokens} and includes both.",
        )


def _stored_amount(key: str, value: object) -> int | Decimal:
    if type(value) is str:
        try:
            return Decimal(value)
        except InvalidOperation:
            raise InvalidInput(key, value, "Give a number, zero or more.") from None
    return _require_count(key, value)


def _both(left: Money | None, right: Money | None) -> Money | None:
    return left + right if left is not None and right is not None else None
