"""Alembic's environment: runs the migrations on the connection that the store hands in, inside its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
