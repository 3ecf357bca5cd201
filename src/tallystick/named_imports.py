"""Objects of the application's own that a setting names by their module."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tallystick.errors import ConfigurationError

__all__ = ["import_named"]


def import_named(setting: str, path: str) -> Any:
    """Import what a setting names: "package.module:Name", or "package.module.Name".

    Raises:
        ConfigurationError: it cannot be imported.
    """
    module_name, separator, attribute = path.partition(":")
    if not separator:
        module_name, _, attribute = path.rpartition(".")
    try:
        return getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = f'Write "package.module:Name" of what can be imported ({error}).'
        raise ConfigurationError(setting, path, remedy) from error
