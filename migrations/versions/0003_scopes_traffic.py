"""What a key may be used for; shadows and canary of each model; versions that a server could not load."""

import sqlalchemy as sa
from alembic import op

from feedback_loop.store.types import Json, Moment

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds them. A key that is there may go on doing what it could do: anything but administer."""
    with op.batch_alter_table("api_keys") as batch:
        batch.add_column(sa.Column("scopes", Json, nullable=False, server_default='["predict", "outcomes", "read"]'))
    with op.batch_alter_table("api_keys") as batch:
        batch.alter_column("scopes", existing_type=Json, server_default=None)
    op.create_table(
        "traffic",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("shadows", Json, nullable=False),
        sa.Column("canary", sa.String()),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("changed_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_traffic")),
    )
    op.create_table(
        "load_incidents",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.Column("closed_at", Moment()),
        sa.Column("closed_because", sa.String()),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_load_incidents")),
    )
