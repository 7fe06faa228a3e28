"""How Alembic runs: on the connection that the store hands it."""

from alembic import context

from paperworks.feed.schema import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
