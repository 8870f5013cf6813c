"""Runs the scripts on the connection that `connectors.migrate` hands over, or prints them as SQL (`db sql`)."""

from __future__ import annotations

from alembic import context

from connectors.migrate import lock

connection = context.config.attributes.get("connection")
if connection is None:  # offline: --sql
    context.configure(
        dialect_name=context.config.attributes["dialect"], literal_binds=True, transactional_ddl=True, as_sql=True
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    context.configure(connection=connection, transactional_ddl=True, render_as_batch=True)
    with context.begin_transaction():
        lock(connection)  # the version is read after the lock: whoever waited finds nothing left to do
        context.run_migrations()
