"""Alembic's entry point: uses the connection and transaction of ``open_database``."""

from alembic import context

from dear_serving.registry.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
