"""`tallystick migrate`: bring the database to this version's schema."""

from __future__ import annotations

from tallystick.cli.options import AsJson, Config, Database
from tallystick.cli.output import console, print_json

__all__ = ["migrate"]


def migrate(database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Create or migrate the database's schema.

    Says its version before and after. It happens in one transaction, or not at all. Any number of processes may run
    it at once; the others wait. With auto_migrate off, it is the one way.
    """
    from tallystick.settings import Settings
    from tallystick.upkeep import migrate_database

    change = migrate_database(Settings.load(database, config))
    if as_json:
        print_json({"before": change.before, "after": change.after, "changed": change.before != change.after})
    elif change.before == change.after:
        console().print(f"The schema is at {change.after} already: nothing to do.")
    elif change.before is None:
        console().print(f"Schema created: there was none, now it is at {change.after}.")
    else:
        console().print(f"Schema migrated: it was at {change.before}, now it is at {change.after}.")
