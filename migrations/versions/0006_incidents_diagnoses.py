"""Incidents that are acknowledged and silenced, and diagnoses of what happened."""

import sqlalchemy as sa
from alembic import op

from feedback_loop.store.types import Json, Moment

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns of incidents, and the tables of what was done about them and of diagnoses."""
    op.add_column("incidents", sa.Column("acknowledged_at", Moment(), nullable=True))
    op.add_column("incidents", sa.Column("acknowledged_by", sa.String(), nullable=True))
    op.add_column("incidents", sa.Column("silenced_until", Moment(), nullable=True))
    op.add_column("incidents", sa.Column("recovery", Json, nullable=True))
    op.add_column("incidents", sa.Column("closed_verdict_id", sa.Integer(), nullable=True))
    op.create_table(
        "incident_events",
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("incident_id", sa.Integer(), nullable=False),
        sa.Column("at", Moment(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("told", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.incident_id"], name=op.f("fk_incident_events_incident_id")
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_incident_events")),
    )
    op.create_index("ix_incident_events_incident_id", "incident_events", ["incident_id"])
    op.create_table(
        "diagnoses",
        sa.Column("diagnosis_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("incident_id", sa.Integer(), nullable=True),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("window_end", Moment(), nullable=False),
        sa.Column("as_of", Moment(), nullable=False),
        sa.Column("recommendation", sa.String(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("was_right", sa.Boolean(), nullable=True),
        sa.Column("judged_because", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.incident_id"], name=op.f("fk_diagnoses_incident_id")),
        sa.PrimaryKeyConstraint("diagnosis_id", name=op.f("pk_diagnoses")),
    )
