"""The tables that all models share. Alembic's migrations in `migrations/` make exactly these (a test holds that)."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from feedback_loop.store.types import Json, Moment

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

models = Table(
    "models",
    metadata,
    Column("name", String, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("columns", Json, nullable=False),  # of its predictions: name, type, field
    Column("key", Json, nullable=False),
    Column("label", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
)

profiles = Table(
    "profiles",
    metadata,
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("kind", String, primary_key=True),  # reference | window
    Column("segment", String, primary_key=True),  # empty: all rows
    Column("bucket_start", Moment, primary_key=True),
    Column("bucket_end", Moment, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("profile", Json, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("evaluation_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("window_start", Moment, nullable=False),
    Column("window_end", Moment, nullable=False),
    Column("as_of", Moment, nullable=False),
    Column("matured", Boolean, nullable=False),
    Column("predictions", Integer, nullable=False),
    Column("labelled", Integer, nullable=False),
    UniqueConstraint("model", "version", "window_start", "window_end", "as_of"),
    Index("ix_evaluations_model_as_of", "model", "as_of"),
)

metric_values = Table(
    "metric_values",
    metadata,
    Column("evaluation_id", ForeignKey("evaluations.evaluation_id"), primary_key=True),
    Column("segment", String, primary_key=True),  # empty: all rows
    Column("metric", String, primary_key=True),
    Column("value", Double, nullable=False),
    Column("standard_error", Double),
    Column("rows", Integer, nullable=False),
)

drift_values = Table(
    "drift_values",
    metadata,
    Column("evaluation_id", ForeignKey("evaluations.evaluation_id"), primary_key=True),
    Column("column", String, primary_key=True),
    Column("method", String, primary_key=True),
    Column("value", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("p_value", Double, nullable=False),
    Column("drifted", Boolean, nullable=False),
    Column("rows", Integer, nullable=False),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("verdict_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("decided_at", Moment, nullable=False),
    Column("window_start", Moment, nullable=False),
    Column("window_end", Moment, nullable=False),
    Column("state", String, nullable=False),
    Column("summary", Text, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("monitor", Json, nullable=False),  # the monitor's state after this look: the next look starts from it
    # Two schedulers that look at the same cohort at once can't both be right about the monitor's state.
    UniqueConstraint("model", "version", "window_end"),
)

incidents = Table(
    "incidents",
    metadata,
    Column("incident_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("verdict_id", ForeignKey("verdicts.verdict_id"), nullable=False),
    Column("title", String, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("closed_at", Moment),
    Column("closed_because", String),
)
incidents_open = Index(
    "uq_incidents_open",
    incidents.c.model,
    unique=True,  # a model has one open incident at the most: what comes on top belongs to it
    sqlite_where=incidents.c.closed_at.is_(None),
    postgresql_where=incidents.c.closed_at.is_(None),
)

alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", Integer, primary_key=True),
    Column("incident_id", ForeignKey("incidents.incident_id"), nullable=False),
    Column("route", String, nullable=False),
    Column("title", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String, nullable=False),  # pending | sent | given_up
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Moment, nullable=False),
    Column("sent_at", Moment),
    Column("cause", Text),
    UniqueConstraint("incident_id", "route"),
)

retrainings = Table(
    "retrainings",
    metadata,
    Column("retraining_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("reason", String, nullable=False),  # alarm | refresh | manual
    Column("incident_id", ForeignKey("incidents.incident_id")),
    Column("champion", String, nullable=False),
    Column("candidate", String),
    Column("state", String, nullable=False),  # running | promoted | passed | refused | failed
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("gate", Json),
    Column("cause", Text),
    Index("ix_retrainings_model_started_at", "model", "started_at"),
)

trials = Table(
    "trials",
    metadata,
    Column("retraining_id", ForeignKey("retrainings.retraining_id"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("trained_from", Moment, nullable=False),
    Column("trained_until", Moment, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("loss", Double),
    Column("chosen", Boolean, nullable=False),
    Column("cause", Text),
)

promotions = Table(
    "promotions",
    metadata,
    Column("promotion_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("kind", String, nullable=False),  # first | promotion | rollback
    Column("from_version", String),
    Column("to_version", String, nullable=False),
    Column("state", String, nullable=False),  # intended | done | failed
    Column("reason", Text, nullable=False),
    Column("retraining_id", ForeignKey("retrainings.retraining_id")),
    Column("intended_at", Moment, nullable=False),
    Column("done_at", Moment),
    # The fence: of two that promote from the same champion, one gets the ordinal and the other is refused.
    UniqueConstraint("model", "ordinal"),
)

job_runs = Table(
    "job_runs",
    metadata,
    Column("run_id", Integer, primary_key=True),
    Column("job", String, nullable=False),
    Column("model", String, nullable=False),
    Column("scheduled_at", Moment, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("holder", String, nullable=False),
    Column("state", String, nullable=False),  # running | succeeded | failed | abandoned
    Column("result", Json),
    Column("cause", Text),
    UniqueConstraint("job", "model", "scheduled_at"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("expires_at", Moment, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("name", String, primary_key=True),
    Column("digest", String, nullable=False, unique=True),  # SHA-256 of the key, which is shown once
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
)
