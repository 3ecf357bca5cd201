"""Every error that Tallystick raises: one tree, each with a stable `code` and the data that a program needs.

Asking returns, acting raises: `check` methods answer with a result, `enforce`, `call` and `deduct` raise one of these.
A message says the fact, the numbers and the remedy. `code` never changes between releases; messages may.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from decimal import Decimal

    from tallystick.money import Money

__all__ = [
    "BillingError",
    "CallInProgress",
    "Closed",
    "ConfigurationError",
    "Conflict",
    "CreditsInsufficient",
    "CurrencyMismatch",
    "FeatureLimitExceeded",
    "HoldNotOpen",
    "IdempotencyConflict",
    "InvalidInput",
    "LimitExceeded",
    "NotFound",
    "OutcomeUnknown",
    "PlanNotFound",
    "ProviderError",
    "QuotaExceeded",
    "RateLimited",
    "ResponseGone",
    "SchemaOutOfDate",
    "StorageError",
    "StreamNotFinished",
    "SubscriptionRequired",
    "TallystickError",
    "TenantSuspended",
    "UnknownPrice",
    "UsageMissing",
]


class TallystickError(Exception):
    """The root of the tree. `code` is stable; `data()` is the error as plain values for an API or a log."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def data(self) -> dict[str, object]:
        """Return the error's own fields as plain values, with `code` and `message` first."""
        fields = {name: _plain(value) for name, value in vars(self).items() if name != "message"}
        return {"code": self.code, "message": self.message, **fields}


class InvalidInput(TallystickError):
    """A value that was given cannot be used. `field` names it, `value` repeats it, `remedy` says what would do."""

    code = "invalid_input"

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field}: {_shortened(value)} cannot be used. {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy


class ConfigurationError(InvalidInput):
    """A setting is unknown, of the wrong type, or contradicts another."""

    code = "configuration"


class CurrencyMismatch(TallystickError):
    """Two currencies met without an exchange rate. Nothing is ever converted 1:1 by default."""

    code = "currency_mismatch"

    def __init__(self, message: str, *, source: str, target: str) -> None:
        super().__init__(message)
        self.source = source
        self.target = target


class NotFound(TallystickError):
    """What was asked for by name or id does not exist."""

    code = "not_found"

    def __init__(self, kind: str, reference: str, remedy: str = "") -> None:
        super().__init__(f"No {kind} {reference!r}.{' ' + remedy if remedy else ''}")
        self.kind = kind
        self.reference = reference


class PlanNotFound(NotFound):
    """No plan, or no such version of it."""

    code = "plan_not_found"

    def __init__(self, reference: str, remedy: str = "") -> None:
        super().__init__("plan", reference, remedy)


class Conflict(TallystickError):
    """The request contradicts what is already there, such as a second plan of one slug."""

    code = "conflict"


class IdempotencyConflict(Conflict):
    """An idempotency key was used again with other input. `field` names what differs; nothing was recorded."""

    code = "idempotency_conflict"

    def __init__(self, key: str, field: str, first: object, second: object) -> None:
        # A hold that is settled twice is known by its id.
        subject = "Hold" if key.startswith("hld_") else "Idempotency key"
        super().__init__(
            f"{subject} {key!r} was first used with {field} {_shortened(first)}, now with {_shortened(second)}. "
            "Send the same input again, or use a new key."
        )
        self.key = key
        self.field = field
        self.first = first
        self.second = second


class CallInProgress(Conflict):
    """Another caller holds this idempotency key and has not finished yet. Retry later with the same key."""

    code = "call_in_progress"

    def __init__(self, key: str, hold_id: str) -> None:
        super().__init__(
            f"A call with idempotency key {key!r} is still in progress (hold {hold_id}). Retry later with the same key."
        )
        self.key = key
        self.hold_id = hold_id


class LimitExceeded(TallystickError):
    """A hard limit has no room for the call; it was refused before the provider was asked, and nothing is held.

    Token amounts are integers; for `limit_type` "cost" the amounts are `Money`.
    """

    code = "limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        billable: str,
        limit_type: str,
        limit: int | Decimal | Money,
        used: int | Decimal | Money,
        held: int | Decimal | Money,
        requested: int | Decimal | Money,
        resets_at: datetime | None,
    ) -> None:
        super().__init__(message)
        self.billable = billable
        self.limit_type = limit_type
        self.limit = limit
        self.used = used
        self.held = held
        self.requested = requested
        self.resets_at = resets_at


class FeatureLimitExceeded(LimitExceeded):
    """A consumable feature has too little left: of the plan's allowance and of extra credits together.

    `limit` is the allowance of the reset period, `used` and `held` are taken of it; `extra_credits` are left beside it.
    `limit_type` is "feature", and quantities are integers, or Decimals where they are fractions.
    """

    code = "feature_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        billable: str,
        feature: str,
        limit: int | Decimal,
        used: int | Decimal,
        held: int | Decimal,
        requested: int | Decimal,
        extra_credits: int | Decimal,
        resets_at: datetime | None,
    ) -> None:
        super().__init__(
            message,
            billable=billable,
            limit_type="feature",
            limit=limit,
            used=used,
            held=held,
            requested=requested,
            resets_at=resets_at,
        )
        self.feature = feature
        self.extra_credits = extra_credits


class QuotaExceeded(LimitExceeded):
    """A hard quota has no room. `limit_type` is the resource type; `retry_after_seconds` None: it never has room again.

    Quantities are integers, or Decimals where they are fractions; those of a quota of cost are `Money`.
    """

    code = "quota_exceeded"

    def __init__(
        self,
        message: str,
        *,
        billable: str,
        quota_id: str,
        resource_type: str,
        period: str,
        limit: int | Decimal | Money,
        used: int | Decimal | Money,
        held: int | Decimal | Money,
        requested: int | Decimal | Money,
        resets_at: datetime | None,
        retry_after_seconds: float | None,
    ) -> None:
        super().__init__(
            message,
            billable=billable,
            limit_type=resource_type,
            limit=limit,
            used=used,
            held=held,
            requested=requested,
            resets_at=resets_at,
        )
        self.quota_id = quota_id
        self.resource_type = resource_type
        self.period = period
        self.retry_after_seconds = retry_after_seconds


class RateLimited(TallystickError):
    """Too many in too short a time; `retry_after_seconds` says when there is room again, None: never for so many.

    `limit` for every `per` (second, minute, hour), `remaining` now, and when the whole of it is there again.
    """

    code = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        billable: str,
        resource_type: str,
        per: str,
        limit: int | Decimal,
        remaining: int | Decimal,
        reset_at: datetime,
        retry_after_seconds: float | None,
    ) -> None:
        super().__init__(message)
        self.billable = billable
        self.resource_type = resource_type
        self.per = per
        self.limit = limit
        self.remaining = remaining
        self.reset_at = reset_at
        self.retry_after_seconds = retry_after_seconds


class CreditsInsufficient(TallystickError):
    """A wallet has too little. `balance` is what is available now, `required` what was asked for.

    Both are `Money`; where extra credits of a feature were to be moved, they are quantities.
    """

    code = "credits_insufficient"

    def __init__(
        self, message: str, *, billable: str, balance: Money | int | Decimal, required: Money | int | Decimal
    ) -> None:
        super().__init__(message)
        self.billable = billable
        self.balance = balance
        self.required = required


class ProviderError(TallystickError):
    """A provider answered with something that cannot be metered. A provider's own exceptions pass through unchanged."""

    code = "provider_error"


class UsageMissing(ProviderError):
    """A response carried no usage, and the setting `on_missing_usage` is "error"."""

    code = "usage_missing"


class BillingError(TallystickError):
    """Billing cannot go on as asked."""

    code = "billing_error"


class TenantSuspended(BillingError):
    """The tenant was suspended, or deleted: its calls are refused. What it had in flight is still recorded."""

    code = "tenant_suspended"

    def __init__(self, tenant: str, status: str, reason: str | None) -> None:
        because = f" ({reason})" if reason else ""
        remedy = f"Activate it with ts.tenants.activate({tenant!r})." if status == "suspended" else "It cannot be used."
        super().__init__(f"{tenant} is {status}{because}. {remedy}")
        self.tenant = tenant
        self.status = status
        self.reason = reason


class SubscriptionRequired(BillingError):
    """This billable's subscription is paused, or it has none in force and `require_subscription` is set."""

    code = "subscription_required"

    def __init__(self, billable: str, *, is_suspended: bool = False) -> None:
        if is_suspended:
            message = (
                f"The subscription of {billable} is suspended. Resume it with ts.subscriptions.resume({billable!r})."
            )
        else:
            message = (
                f"{billable} has no subscription in force. "
                f"Create one with ts.subscriptions.create({billable!r}, plan), or turn require_subscription off."
            )
        super().__init__(message)
        self.billable = billable


class UnknownPrice(BillingError):
    """No price is known for a model. A missing price is never taken for zero."""

    code = "unknown_price"

    def __init__(self, provider: str, model: str | None) -> None:
        named = model if model is not None else "<model>"
        super().__init__(
            f"No price is known for {provider}/{named}. Set providers.{provider}.models.{named!r}.input_price_per_1k "
            'and output_price_per_1k, or set on_unknown_price = "record_unpriced" and price the events with reprice.'
        )
        self.provider = provider
        self.model = model


class ResponseGone(Conflict):
    """The call of this idempotency key was made and recorded, and its response is no longer in this process.

    The provider is not called again. A stream is never kept. `usage_event_id` names what was recorded.
    """

    code = "response_gone"

    def __init__(self, key: str, usage_event_id: str) -> None:
        super().__init__(
            f"The call with idempotency key {key!r} was made and recorded as {usage_event_id}; its response is gone. "
            "Use a new key to ask again."
        )
        self.key = key
        self.usage_event_id = usage_event_id


class StreamNotFinished(TallystickError):
    """A stream's usage is known when it has been read to its end or closed; it is still open."""

    code = "stream_not_finished"


class HoldNotOpen(Conflict):
    """A hold that was settled, voided or has expired cannot be voided."""

    code = "hold_not_open"

    def __init__(self, hold_id: str, status: str) -> None:
        super().__init__(f"Hold {hold_id} is {status}, no longer open.")
        self.hold_id = hold_id
        self.status = status


class StorageError(TallystickError):
    """The database refused or was away; nothing of this command was recorded, so it is safe to send it again."""

    code = "storage_error"


class OutcomeUnknown(StorageError):
    """The connection was lost while the commit was on its way: it may or may not have been recorded.

    Send the same command again with the same idempotency key, which records it at most once.
    """

    code = "outcome_unknown"


class SchemaOutOfDate(StorageError):
    """The database's schema is older or newer than this version of Tallystick, and `auto_migrate` is off."""

    code = "schema_out_of_date"


class Closed(TallystickError):
    """This Tallystick was closed. Open a new one."""

    code = "closed"


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
