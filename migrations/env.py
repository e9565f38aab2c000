"""Alembic's entry: works on the connection that `feedback_loop.store.migrate` hands it, in its transaction."""

from alembic import context

from feedback_loop.store.migrate import CONNECTION, OPTIONS
from feedback_loop.store.schema import metadata

context.configure(
    connection=context.config.attributes[CONNECTION],
    target_metadata=metadata,
    render_as_batch=True,
    **OPTIONS,
)
context.run_migrations()
