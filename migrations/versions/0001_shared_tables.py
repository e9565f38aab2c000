"""The tables that all models share, as 0.2.0 has them. A change is made in the declaration and in a next script."""

import sqlalchemy as sa
from alembic import op

from feedback_loop.store.schema import Json, Moment

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes them all; keys and indexes get their names by the convention of `store.schema.metadata`."""
    op.create_table(
        "fl_api_keys",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("scopes", Json, nullable=False),
        sa.Column("models", Json),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("revoked_at", Moment()),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "fl_drift_monitors",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("until", Moment(), nullable=False),
        sa.Column("state", Json, nullable=False),
        sa.PrimaryKeyConstraint("model", "version"),
    )
    op.create_table(
        "fl_erasures",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("columns", sa.String(), nullable=False),
        sa.Column("keyed_by", sa.String(), nullable=False),
        sa.Column("erased_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", "digest"),
    )
    op.create_table(
        "fl_secrets",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "fl_evaluations",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("window_end", Moment(), nullable=False),
        sa.Column("as_of", Moment(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("matured", sa.Boolean(), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("notes", Json, nullable=False),
        sa.Column("details", Json, nullable=False),
        sa.PrimaryKeyConstraint("evaluation_id"),
        sa.UniqueConstraint("model", "version", "window_start", "window_end", "as_of"),
        sa.UniqueConstraint("model", "version", "window_start", "window_end", "revision"),
    )
    op.create_index("ix_fl_evaluations_model_as_of", "fl_evaluations", ["model", "as_of"])

    op.create_table(
        "fl_failed_windows",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("window_end", Moment(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failed_at", Moment(), nullable=False),
        sa.Column("next_attempt_at", Moment(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("model", "window_start", "window_end"),
    )
    op.create_table(
        "fl_fences",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("asked_until", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "fl_findings",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", "kind", "subject"),
    )
    op.create_table(
        "fl_job_runs",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("scheduled_at", Moment(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment()),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("result", Json),
        sa.Column("cause", sa.String()),
        sa.PrimaryKeyConstraint("run_id"),
        sa.UniqueConstraint("job", "model", "scheduled_at"),
    )
    op.create_table(
        "fl_joins",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("watermark", Moment(), nullable=False),
        sa.Column("rule", Json, nullable=False),
        sa.Column("segments", Json, nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "fl_coverage",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("changed_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", "window_start", "version", "role", "segment"),
    )
    op.create_table(
        "fl_leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "fl_load_incidents",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.Column("closed_at", Moment()),
        sa.Column("closed_because", sa.String()),
        sa.PrimaryKeyConstraint("model", "version"),
    )
    op.create_table(
        "fl_model_versions",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version"),
        sa.UniqueConstraint("model", "number", "created_at"),
    )
    op.create_table(
        "fl_models",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("columns", Json, nullable=False),
        sa.Column("key", Json, nullable=False),
        sa.Column("label", Json, nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", "generation"),
    )
    op.create_table(
        "fl_outcome_sources",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("watermark", Json, nullable=False),
        sa.Column("taken_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", "source"),
    )
    op.create_table(
        "fl_payload_accounts",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("logged", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("expired", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "fl_payloads",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("request", sa.LargeBinary()),
        sa.Column("answer", sa.LargeBinary()),
        sa.Column("content_type", sa.String()),
        sa.Column("requested_at", Moment()),
        sa.Column("version", sa.String()),
        sa.Column("received_at", Moment(), nullable=False),
        sa.Column("done_at", Moment()),
        sa.PrimaryKeyConstraint("model", "event"),
    )
    op.create_index("ix_fl_payloads_received_at", "fl_payloads", ["received_at"])

    op.create_table(
        "fl_profiles",
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
            "model", "version", "role", "part", "segment", "bucket_start", "bucket_seconds", "weight"
        ),
    )
    op.create_table(
        "fl_reference_profiles",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("known_since", Moment(), nullable=False),
        sa.Column("layout", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("profile", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version"),
    )
    op.create_table(
        "fl_retentions",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("kept_since", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "fl_spool_accounts",
        sa.Column("spool", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("answered", sa.BigInteger(), nullable=False),
        sa.Column("spooled", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("unsampled", sa.BigInteger(), nullable=False),
        sa.Column("waiting", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("waiting_since", Moment()),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("spool", "model"),
    )
    op.create_table(
        "fl_spool_outcomes",
        sa.Column("spool", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("spool", "model"),
    )
    op.create_table(
        "fl_traffic",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("shadows", Json, nullable=False),
        sa.Column("canary", sa.String()),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("changed_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "fl_verdicts",
        sa.Column("verdict_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("decided_at", Moment(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("window_end", Moment(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("begun", sa.Integer(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("monitor", Json, nullable=False),
        sa.PrimaryKeyConstraint("verdict_id"),
        sa.UniqueConstraint("model", "version", "window_end"),
    )
    op.create_index("ix_fl_verdicts_model_verdict_id", "fl_verdicts", ["model", "verdict_id"])
    op.create_table(
        "fl_incidents",
        sa.Column("incident_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("verdict_id", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.Column("closed_at", Moment()),
        sa.Column("closed_because", sa.String()),
        sa.Column("acknowledged_at", Moment()),
        sa.Column("acknowledged_by", sa.String()),
        sa.Column("silenced_until", Moment()),
        sa.Column("recovery", Json),
        sa.Column("closed_verdict_id", sa.Integer()),
        sa.ForeignKeyConstraint(["verdict_id"], ["fl_verdicts.verdict_id"]),
        sa.PrimaryKeyConstraint("incident_id"),
    )
    op.create_index(
        "uq_fl_incidents_open",
        "fl_incidents",
        ["model"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )

    op.create_table(
        "fl_metric_values",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("standard_error", sa.Double()),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("coverage", sa.Double()),
        sa.Column("least", sa.Double()),
        sa.Column("most", sa.Double()),
        sa.ForeignKeyConstraint(["evaluation_id"], ["fl_evaluations.evaluation_id"]),
        sa.PrimaryKeyConstraint("evaluation_id", "segment", "metric"),
    )
    op.create_table(
        "fl_alerts",
        sa.Column("alert_id", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("incident_id", sa.Integer()),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", Moment(), nullable=False),
        sa.Column("sent_at", Moment()),
        sa.Column("cause", sa.String()),
        sa.Column("fields", Json, nullable=False),
        sa.ForeignKeyConstraint(["incident_id"], ["fl_incidents.incident_id"]),
        sa.PrimaryKeyConstraint("alert_id"),
        sa.UniqueConstraint("subject", "route"),
    )
    op.create_table(
        "fl_diagnoses",
        sa.Column("diagnosis_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("incident_id", sa.Integer()),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("window_end", Moment(), nullable=False),
        sa.Column("as_of", Moment(), nullable=False),
        sa.Column("recommendation", sa.String(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("was_right", sa.Boolean()),
        sa.Column("judged_because", sa.String()),
        sa.ForeignKeyConstraint(["incident_id"], ["fl_incidents.incident_id"]),
        sa.PrimaryKeyConstraint("diagnosis_id"),
    )
    op.create_table(
        "fl_incident_events",
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("incident_id", sa.Integer(), nullable=False),
        sa.Column("at", Moment(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("told", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["incident_id"], ["fl_incidents.incident_id"]),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("ix_fl_incident_events_incident_id", "fl_incident_events", ["incident_id"])

    op.create_table(
        "fl_retrainings",
        sa.Column("retraining_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("incident_id", sa.Integer()),
        sa.Column("champion", sa.String(), nullable=False),
        sa.Column("candidate", sa.String()),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment()),
        sa.Column("gate", Json),
        sa.Column("cause", sa.String()),
        sa.ForeignKeyConstraint(["incident_id"], ["fl_incidents.incident_id"]),
        sa.PrimaryKeyConstraint("retraining_id"),
    )
    op.create_index("ix_fl_retrainings_model_started_at", "fl_retrainings", ["model", "started_at"])

    op.create_table(
        "fl_promotions",
        sa.Column("promotion_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("from_version", sa.String()),
        sa.Column("to_version", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("retraining_id", sa.Integer()),
        sa.Column("intended_at", Moment(), nullable=False),
        sa.Column("done_at", Moment()),
        sa.Column("cause", sa.String()),
        sa.ForeignKeyConstraint(["retraining_id"], ["fl_retrainings.retraining_id"]),
        sa.PrimaryKeyConstraint("promotion_id"),
        sa.UniqueConstraint("model", "ordinal"),
    )
    op.create_table(
        "fl_trials",
        sa.Column("retraining_id", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("trained_from", Moment(), nullable=False),
        sa.Column("trained_until", Moment(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Double()),
        sa.Column("chosen", sa.Boolean(), nullable=False),
        sa.Column("cause", sa.String()),
        sa.ForeignKeyConstraint(["retraining_id"], ["fl_retrainings.retraining_id"]),
        sa.PrimaryKeyConstraint("retraining_id", "ordinal"),
    )
