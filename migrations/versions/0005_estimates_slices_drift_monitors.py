"""Estimates without outcomes, slices that were found, monitors of drift."""

import sqlalchemy as sa
from alembic import op

from feedback_loop.store.types import Json, Moment

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds their tables."""
    op.create_table(
        "drift_monitors",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("until", Moment(), nullable=False),
        sa.Column("state", Json, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_drift_monitors")),
    )
    op.create_table(
        "estimate_values",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("standard_error", sa.Double(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("calibrated_on", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.evaluation_id"], name=op.f("fk_estimate_values_evaluation_id")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "metric", "segment", name=op.f("pk_estimate_values")),
    )
    op.create_table(
        "slice_values",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("rest", sa.Double(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=False),
        sa.Column("tried", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.evaluation_id"], name=op.f("fk_slice_values_evaluation_id")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "segment", "metric", name=op.f("pk_slice_values")),
    )
