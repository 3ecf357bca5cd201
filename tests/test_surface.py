"""The public face: exactly the names that are promised, the same in both colours."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import tallystick
from tallystick import AsyncTallystick, Tallystick, errors, events
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
    assert {"usage", "limits", "plans", "subscriptions", "overages", "pricing"} <= set(namespaces(sync))
    for name in namespaces(sync):
        assert public(getattr(asynchronous, name)) - {"sync"} == public(getattr(sync, name)), name


def test_both_colours_take_the_same_parameters(both: tuple[Tallystick, AsyncTallystick]) -> None:
    sync, asynchronous = both
    pairs: list[tuple[Any, Any]] = [(Meter, AsyncMeter), (Hold, AsyncHold), (sync, asynchronous)]
    pairs += [(getattr(sync, name), getattr(asynchronous, name)) for name in namespaces(sync)]
    compared = 0
    for one, other in pairs:
        for name in public(one) & public(other):
            method = getattr(one, name)
            if callable(method) and not inspect.isclass(method) and hasattr(method, "__code__"):
                assert parameters(getattr(other, name)) == parameters(method), f"{type(one).__name__}.{name}"
                compared += 1
    assert parameters(AsyncTallystick.__init__) == parameters(Tallystick.__init__)
    assert compared > 50


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
