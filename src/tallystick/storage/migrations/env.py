"""Alembic's entry: runs inside the transaction that `tallystick.storage.schema` has begun."""

from __future__ import annotations

from alembic import context

from tallystick.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
