"""`tallystick encryption`: the keys of what is kept encrypted."""

from __future__ import annotations

import typer

from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.cli.output import console, print_json

__all__ = ["encryption"]

encryption = typer.Typer(name="encryption", help="Encryption of secrets at rest: generate-key, rotate.")


@encryption.command("generate-key")
def generate_key(database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Print a new key for security.encryption_keys. It is kept nowhere: put it where your secrets are.

    Keep it apart from the database and its backups. Without it, what it has encrypted is lost.
    """
    # Every command takes them; a key is of no database.
    del database, config
    from tallystick.encryption import generate_key

    key = generate_key()
    if as_json:
        print_json({"key": key})
    else:
        typer.echo(key)


@encryption.command("rotate")
def rotate(database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Encrypt everything with the first of security.encryption_keys; then the others are needed no more.

    Also what was kept before there was a key. It may be interrupted and run again.
    """
    with open_existing(database, config) as ts:
        changed = ts.rotate_keys()
    if as_json:
        print_json({"encrypted": changed})
    else:
        records = "record" if changed == 1 else "records"
        console().print(f"{changed} {records} encrypted with the first key. The other keys are needed no more.")
