"""Profiles by the hour and the day, references; coverage and bounds of metrics; data quality."""

import sqlalchemy as sa
from alembic import op

from feedback_loop.store.types import Moment

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds them. Profiles of before, which the log can give again, go; one method decided for each column."""
    op.drop_table("profiles")
    op.create_table(
        "profiles",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("bucket_start", Moment(), nullable=False),
        sa.Column("bucket_seconds", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("tally", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "model",
            "version",
            "role",
            "part",
            "segment",
            "bucket_start",
            "bucket_seconds",
            "weight",
            name=op.f("pk_profiles"),
        ),
    )
    op.create_table(
        "reference_profiles",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("known_since", Moment(), nullable=False),
        sa.Column("profile", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_reference_profiles")),
    )
    op.create_table(
        "quality_values",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("column", sa.String(), nullable=False),
        sa.Column("check", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("expected", sa.Double(), nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.evaluation_id"], name=op.f("fk_quality_values_evaluation_id")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "column", "check", name=op.f("pk_quality_values")),
    )
    for name in ("coverage", "least", "most"):
        op.add_column("metric_values", sa.Column(name, sa.Double()))
    with op.batch_alter_table("drift_values") as batch:
        batch.alter_column("p_value", existing_type=sa.Double(), nullable=True)
        batch.add_column(sa.Column("binning", sa.String(), nullable=False, server_default=""))
        batch.add_column(sa.Column("decides", sa.Boolean(), nullable=False, server_default=sa.true()))
        batch.add_column(sa.Column("is_default", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("drift_values") as batch:
        batch.alter_column("binning", existing_type=sa.String(), server_default=None)
        batch.alter_column("decides", existing_type=sa.Boolean(), server_default=None)
        batch.alter_column("is_default", existing_type=sa.Boolean(), server_default=None)
