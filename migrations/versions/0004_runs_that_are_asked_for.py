"""What people ask for on a page outlives the process that they asked."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds what was asked for; of runs before nobody knows."""
    op.add_column("fl_job_runs", sa.Column("asked", sa.JSON().with_variant(JSONB(), "postgresql")))
