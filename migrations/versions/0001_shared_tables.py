"""The shared tables as of the first version."""

import sqlalchemy as sa
from alembic import op

from feedback_loop.store.types import Json, Moment

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes them all."""
    op.create_table(
        "api_keys",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("revoked_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_table(
        "evaluations",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("window_end", Moment(), nullable=False),
        sa.Column("as_of", Moment(), nullable=False),
        sa.Column("matured", sa.Boolean(), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("evaluation_id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint(
            "model",
            "version",
            "window_start",
            "window_end",
            "as_of",
            name=op.f("uq_evaluations_model_version_window_start_window_end_as_of"),
        ),
    )
    op.create_index("ix_evaluations_model_as_of", "evaluations", ["model", "as_of"], unique=False)
    op.create_table(
        "job_runs",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("scheduled_at", Moment(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("result", Json, nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_job_runs")),
        sa.UniqueConstraint("job", "model", "scheduled_at", name=op.f("uq_job_runs_job_model_scheduled_at")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("columns", Json, nullable=False),
        sa.Column("key", Json, nullable=False),
        sa.Column("label", Json, nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", "generation", name=op.f("pk_models")),
    )
    op.create_table(
        "profiles",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("bucket_start", Moment(), nullable=False),
        sa.Column("bucket_end", Moment(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("profile", Json, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "kind", "segment", "bucket_start", name=op.f("pk_profiles")),
    )
    op.create_table(
        "verdicts",
        sa.Column("verdict_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("decided_at", Moment(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("window_end", Moment(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("monitor", Json, nullable=False),
        sa.PrimaryKeyConstraint("verdict_id", name=op.f("pk_verdicts")),
        sa.UniqueConstraint("model", "version", "window_end", name=op.f("uq_verdicts_model_version_window_end")),
    )
    op.create_table(
        "drift_values",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("column", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=False),
        sa.Column("drifted", sa.Boolean(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.evaluation_id"], name=op.f("fk_drift_values_evaluation_id")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "column", "method", name=op.f("pk_drift_values")),
    )
    op.create_table(
        "incidents",
        sa.Column("incident_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("verdict_id", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.Column("closed_at", Moment(), nullable=True),
        sa.Column("closed_because", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["verdict_id"], ["verdicts.verdict_id"], name=op.f("fk_incidents_verdict_id")),
        sa.PrimaryKeyConstraint("incident_id", name=op.f("pk_incidents")),
    )
    op.create_index(
        "uq_incidents_open",
        "incidents",
        ["model"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "metric_values",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("standard_error", sa.Double(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.evaluation_id"], name=op.f("fk_metric_values_evaluation_id")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "segment", "metric", name=op.f("pk_metric_values")),
    )
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Integer(), nullable=False),
        sa.Column("incident_id", sa.Integer(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", Moment(), nullable=False),
        sa.Column("sent_at", Moment(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.incident_id"], name=op.f("fk_alerts_incident_id")),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("incident_id", "route", name=op.f("uq_alerts_incident_id_route")),
    )
    op.create_table(
        "retrainings",
        sa.Column("retraining_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("incident_id", sa.Integer(), nullable=True),
        sa.Column("champion", sa.String(), nullable=False),
        sa.Column("candidate", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("gate", Json, nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.incident_id"], name=op.f("fk_retrainings_incident_id")),
        sa.PrimaryKeyConstraint("retraining_id", name=op.f("pk_retrainings")),
    )
    op.create_index("ix_retrainings_model_started_at", "retrainings", ["model", "started_at"], unique=False)
    op.create_table(
        "promotions",
        sa.Column("promotion_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("from_version", sa.String(), nullable=True),
        sa.Column("to_version", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("retraining_id", sa.Integer(), nullable=True),
        sa.Column("intended_at", Moment(), nullable=False),
        sa.Column("done_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(
            ["retraining_id"], ["retrainings.retraining_id"], name=op.f("fk_promotions_retraining_id")
        ),
        sa.PrimaryKeyConstraint("promotion_id", name=op.f("pk_promotions")),
        sa.UniqueConstraint("model", "ordinal", name=op.f("uq_promotions_model_ordinal")),
    )
    op.create_table(
        "trials",
        sa.Column("retraining_id", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("trained_from", Moment(), nullable=False),
        sa.Column("trained_until", Moment(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("chosen", sa.Boolean(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["retraining_id"], ["retrainings.retraining_id"], name=op.f("fk_trials_retraining_id")
        ),
        sa.PrimaryKeyConstraint("retraining_id", "ordinal", name=op.f("pk_trials")),
    )
