"""Runs the migrations on the connection that :mod:`segue.serving.store.schema` hands over, in its transaction."""

from alembic import context

from segue.serving.store.schema import VERSION_TABLE
from segue.serving.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
