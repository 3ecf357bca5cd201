"""The public face: exactly the names that are promised, the same in both colours."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

import tallystick
from tallystick import AsyncTallystick, FixedClock, Tallystick, errors, events
from tallystick.aio import AsyncWallet
from tallystick.credits.wallets import Wallet
from tallystick.metering.hold import AsyncHold, Hold
from tallystick.metering.meter import AsyncMeter, Meter


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    """Return the names, kinds and defaults of a method's parameters, without the object itself."""
    found = inspect.signature(inspect.unwrap(method)).parameters.values()
    return [(one.name, one.kind, one.default) for one in found if one.name != "self"]


def test_the_package_exports_exactly_what_it_promises() -> None:
    assert sorted(tallystick.__all__) == [
        "AsyncTallystick",
        "Clock",
        "FixedClock",
        "MeteredResponse",
        "Money",
        "ProviderUsage",
        "SystemClock",
        "Tallystick",
        "TallystickError",
        "__version__",
    ]
    assert all(hasattr(tallystick, name) for name in tallystick.__all__)


@pytest.mark.parametrize("module", [errors, events])
def test_a_module_exports_every_class_that_it_defines(module: Any) -> None:
    defined = {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert defined == set(module.__all__)


def test_every_error_is_of_one_tree_and_has_a_code_of_its_own() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(one, errors.TallystickError) for one in classes)
    codes = [one.code for one in classes]
    assert len(set(codes)) == len(codes)


@pytest.fixture
def both(sqlite_url: str) -> Any:
    asynchronous = AsyncTallystick(sqlite_url)
    yield asynchronous.sync, asynchronous
    asynchronous.sync.close()


def namespaces(ts: Tallystick) -> list[str]:
    return sorted(
        name
        for name in public(ts)
        if type(getattr(ts, name)).__module__.startswith("tallystick.") and name not in ("settings", "clock", "meter")
    )


def test_both_colours_have_the_same_names(both: tuple[Tallystick, AsyncTallystick]) -> None:
    sync, asynchronous = both
    assert public(asynchronous) - {"sync"} == public(sync)
    assert public(Meter) == public(AsyncMeter)
    assert public(Hold) == public(AsyncHold)
    assert public(Wallet) == public(AsyncWallet)
    assert {"usage", "limits", "plans", "subscriptions", "overages", "pricing"} <= set(namespaces(sync))
    assert {"wallets", "features", "credits", "ledger"} <= set(namespaces(sync))
    for name in namespaces(sync):
        # A namespace may have a method `sync` of its own.
        ours, theirs = public(getattr(sync, name)), public(getattr(asynchronous, name))
        assert theirs | {"sync"} == ours | {"sync"}, name


def test_both_colours_take_the_same_parameters(both: tuple[Tallystick, AsyncTallystick]) -> None:
    sync, asynchronous = both
    pairs: list[tuple[Any, Any]] = [(Meter, AsyncMeter), (Hold, AsyncHold), (sync, asynchronous)]
    wallet = sync.wallets.get_or_create("user:1")
    pairs.append((wallet, AsyncWallet(wallet)))
    pairs += [(getattr(sync, name), getattr(asynchronous, name)) for name in namespaces(sync)]
    compared = 0
    for one, other in pairs:
        for name in public(one) & public(other):
            method = getattr(one, name)
            if callable(method) and not inspect.isclass(method) and hasattr(method, "__code__"):
                assert parameters(getattr(other, name)) == parameters(method), f"{type(one).__name__}.{name}"
                compared += 1
    assert parameters(AsyncTallystick.__init__) == parameters(Tallystick.__init__)
    assert compared > 90


def test_every_method_of_a_namespace_is_awaited_and_documented(both: tuple[Tallystick, AsyncTallystick]) -> None:
    sync, asynchronous = both
    for name in namespaces(sync):
        if name == "pricing":
            # It only computes.
            assert asynchronous.pricing is sync.pricing
            continue
        for method in public(getattr(asynchronous, name)) - {"sync"}:
            bound = getattr(getattr(asynchronous, name), method)
            assert inspect.iscoroutinefunction(bound), f"{name}.{method}"
            assert bound.__doc__, f"{name}.{method}"


def test_a_wallet_is_awaited_method_by_method_and_property_by_property(sqlite_url: str, clock: FixedClock) -> None:
    asyncio.run(_use_a_wallet(sqlite_url, clock))


async def _use_a_wallet(sqlite_url: str, clock: FixedClock) -> None:
    async with AsyncTallystick(sqlite_url, clock=clock) as ts:
        wallet = await ts.wallets.get_or_create("user:1")
        assert (wallet.billable, wallet.currency, wallet.id) == ("user:1", "USD", wallet.sync.id)
        plain = {"id", "billable", "currency"}
        for name in public(AsyncWallet) - plain:
            kind = vars(AsyncWallet)[name]
            assert kind.__doc__, name
            assert inspect.iscoroutinefunction(getattr(wallet, name)) or inspect.isawaitable(getattr(wallet, name)), (
                name
            )
        await wallet.add_credits("10", "payment")
        await wallet.deduct_credits("4")
        assert str(await wallet.balance) == str(await wallet.paid) == "6.00 USD"
        other = await ts.wallets.get_or_create("user:2")
        await wallet.transfer(other, "1")
        await ts.wallets.transfer(other, wallet, "0.50")
        assert [str(await one.available) for one in await ts.wallets.list()] == ["5.50 USD", "0.50 USD"]
        assert (await wallet.auto_top_up, await wallet.minimum_balance) == (None, None)
        assert (await ts.wallets.get("user:2")).id == other.id
        assert len(await wallet.transactions()) == 4
        assert (await ts.ledger.accounts("user:1"))["revenue"] == (await wallet.transactions())[2].amount


def test_many_who_await_credits_at_once_get_exactly_what_there_is(database_url: str, clock: FixedClock) -> None:
    async def spend() -> None:
        async with AsyncTallystick(database_url, clock=clock) as ts:
            await ts.plans.create("pro", features={"exports": 5})
            await ts.subscriptions.create("user:1", "pro")
            wallet = await ts.wallets.get_or_create("user:1")
            await asyncio.gather(*(wallet.add_credits("1", "payment") for _ in range(20)))
            deductions = await asyncio.gather(*(wallet.deduct_credits("1") for _ in range(30)), return_exceptions=True)
            assert sum(isinstance(one, errors.CreditsInsufficient) for one in deductions) == 10
            uses = await asyncio.gather(
                *(ts.features.use("user:1", "exports") for _ in range(8)), return_exceptions=True
            )
            assert sum(isinstance(one, errors.FeatureLimitExceeded) for one in uses) == 3
            assert str(await wallet.balance) == "0.00 USD"
            assert (await ts.doctor()).ok

    asyncio.run(spend())


def test_a_caller_that_is_cancelled_leaves_its_deduction_to_be_made_and_told(
    sqlite_url: str, clock: FixedClock
) -> None:
    heard: list[events.CreditsDeducted] = []

    async def leave() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            ts.on(events.CreditsDeducted)(heard.append)
            wallet = await ts.wallets.get_or_create("user:1")
            await wallet.add_credits("10")
            gone = asyncio.ensure_future(wallet.deduct_credits("4"))
            refused = asyncio.ensure_future(wallet.deduct_credits("40"))
            await asyncio.sleep(0)
            for task in (gone, refused):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            for _ in range(200):
                if heard:
                    break
                await asyncio.sleep(0.01)
            assert str(await wallet.balance) == "6.00 USD"

    asyncio.run(leave())
    assert [str(event.amount) for event in heard] == ["4.00 USD"]
