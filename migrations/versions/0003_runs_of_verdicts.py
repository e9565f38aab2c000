"""Where MLflow shows a verdict."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the run; those that were made before are not known."""
    op.add_column("fl_verdicts", sa.Column("run_id", sa.String()))
