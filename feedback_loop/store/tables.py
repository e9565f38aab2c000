"""The tables that all models share. Alembic's migrations in `migrations/` make exactly these (a test holds that)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem

from feedback_loop.store.types import Json, Moment

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

PREFIX = "fl_"
"""What the names of all our shared tables begin with: the database may be MLflow's or Optuna's as well."""


def shared_table(name: str, *parts: SchemaItem) -> Table:
    """A table that all models share, by the name that code calls it; in the database it has our prefix."""
    return Table(f"{PREFIX}{name}", metadata, *parts)


models = shared_table(
    "models",
    Column("name", String, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("columns", Json, nullable=False),  # of its predictions: name, type, field
    Column("key", Json, nullable=False),
    Column("label", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
)

verdicts = shared_table(
    "verdicts",
    Column("verdict_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("decided_at", Moment, nullable=False),
    Column("window_start", Moment, nullable=False),
    Column("window_end", Moment, nullable=False),
    Column("state", String, nullable=False),
    Column("begun", Integer, nullable=False),  # monitors of the model until then: each has its alpha
    Column("summary", Text, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("monitor", Json, nullable=False),  # the monitor's state after this look: the next look starts from it
    # Two schedulers that look at the same cohort at once can't both be right about the monitor's state.
    UniqueConstraint("model", "version", "window_end"),
    Index(None, "model", "verdict_id"),
)

incidents = shared_table(
    "incidents",
    Column("incident_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("verdict_id", ForeignKey(verdicts.c.verdict_id), nullable=False),
    Column("title", String, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("closed_at", Moment),
    Column("closed_because", String),
    Column("acknowledged_at", Moment),
    Column("acknowledged_by", String),
    Column("silenced_until", Moment),  # until then nothing more is told of it
    Column("recovery", Json),  # the state of the test of recovery, after the cohorts that followed the opening
    Column("closed_verdict_id", Integer),  # the newest when it closed: none before it counts
)
incidents_open = Index(
    "uq_fl_incidents_open",
    incidents.c.model,
    unique=True,  # a model has one open incident at the most: what comes on top belongs to it
    sqlite_where=incidents.c.closed_at.is_(None),
    postgresql_where=incidents.c.closed_at.is_(None),
)

incident_events = shared_table(
    "incident_events",
    Column("event_id", Integer, primary_key=True),
    Column("incident_id", ForeignKey(incidents.c.incident_id), nullable=False),
    Column("at", Moment, nullable=False),
    Column("kind", String, nullable=False),  # acknowledged | silenced | closed
    Column("told", Text, nullable=False),  # by whom, until when, why
    Index(None, "incident_id"),
)

alerts = shared_table(
    "alerts",
    Column("alert_id", Integer, primary_key=True),
    Column("subject", String, nullable=False),  # what it is about: `incident:7`, `spool:…`; told once on each route
    Column("incident_id", ForeignKey(incidents.c.incident_id)),
    Column("route", String, nullable=False),
    Column("title", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String, nullable=False),  # pending | sent | given_up | dropped
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Moment, nullable=False),
    Column("sent_at", Moment),
    Column("cause", Text),
    Column("fields", Json, nullable=False),  # for programs: model, model_version, incident, …
    UniqueConstraint("subject", "route"),
)

retrainings = shared_table(
    "retrainings",
    Column("retraining_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("reason", String, nullable=False),  # alarm | refresh | manual
    Column("incident_id", ForeignKey(incidents.c.incident_id)),
    Column("champion", String, nullable=False),
    Column("candidate", String),
    Column("state", String, nullable=False),  # running | promoted | passed | refused | failed | not_made | abandoned
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("gate", Json),
    Column("cause", Text),
    Index(None, "model", "started_at"),
)

trials = shared_table(
    "trials",
    Column("retraining_id", ForeignKey(retrainings.c.retraining_id), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("trained_from", Moment, nullable=False),
    Column("trained_until", Moment, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("loss", Double),
    Column("chosen", Boolean, nullable=False),
    Column("cause", Text),
)

promotions = shared_table(
    "promotions",
    Column("promotion_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("kind", String, nullable=False),  # first | promotion | rollback
    Column("from_version", String),
    Column("to_version", String, nullable=False),
    Column("state", String, nullable=False),  # intended | waiting | done | failed
    Column("reason", Text, nullable=False),
    Column("retraining_id", ForeignKey(retrainings.c.retraining_id)),
    Column("intended_at", Moment, nullable=False),
    Column("done_at", Moment),
    Column("cause", Text),  # why it failed
    # The fence: of two that promote from the same champion, one gets the ordinal and the other is refused.
    UniqueConstraint("model", "ordinal"),
)

fences = shared_table(
    "fences",
    Column("model", String, primary_key=True),
    # Up to here everything was asked for: what is learned from now on is recorded after it.
    Column("asked_until", Moment, nullable=False),
)

joins = shared_table(
    "joins",
    Column("model", String, primary_key=True),
    Column("watermark", Moment, nullable=False),  # what was recorded until then is in the accounts
    Column("rule", Json, nullable=False),  # what they were made by: join rule, segments, length of a bucket
    Column("segments", Json, nullable=False),  # of each of their columns, the values that are counted by themselves
)

label_accounts = shared_table(
    "label_accounts",
    Column("model", String, primary_key=True),
    Column("bucket_start", Moment, primary_key=True),  # of predicted_at
    Column("version", String, primary_key=True),
    Column("role", String, primary_key=True),
    Column("segment", String, primary_key=True),  # empty: all rows
    Column("predictions", Integer, nullable=False),
    Column("labelled", Integer, nullable=False),
    Column("changed_at", Moment, nullable=False),  # the watermark that last changed what is known of its rows
)

findings = shared_table(
    "findings",
    Column("model", String, primary_key=True),
    Column("kind", String, primary_key=True),  # unmatched (an outcome) | conflict (a prediction)
    Column("subject", String, primary_key=True),  # the outcome's or the prediction's id
    Column("since", Moment, nullable=False),
)

outcome_sources = shared_table(
    "outcome_sources",
    Column("model", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("watermark", Json, nullable=False),
    Column("taken_at", Moment, nullable=False),
)

spool_accounts = shared_table(
    "spool_accounts",
    Column("spool", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("answered", BigInteger, nullable=False),  # rows whose answer left
    Column("spooled", BigInteger, nullable=False),  # rows that were durable before it did
    Column("stored", BigInteger, nullable=False),  # rows of the spool that are in the store
    Column("refused", BigInteger, nullable=False),  # rows that were not answered, since they could not be logged
    Column("dropped", BigInteger, nullable=False),  # rows answered without being logged, as on_full = "drop" wants
    Column("unsampled", BigInteger, nullable=False),  # rows that sampling left out
    Column("waiting", BigInteger, nullable=False),  # rows in the spool that are not in the store yet
    Column("rejected", BigInteger, nullable=False),  # rows that the store refused as data: they are kept in the spool
    Column("waiting_since", Moment),  # when the first of the waiting rows was predicted
    Column("state", String, nullable=False),  # open | ended (all of it is in the store) | damaged
    Column("updated_at", Moment, nullable=False),
)

spool_outcomes = shared_table(
    "spool_outcomes",
    Column("spool", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("seq", BigInteger, nullable=False),  # outcomes of the spool's groups up to this number are stored
)

erasures = shared_table(
    "erasures",
    Column("model", String, primary_key=True),
    Column("digest", String, primary_key=True),  # of the erased key: the key itself is gone
    Column("columns", String, nullable=False),  # which columns it is of, as JSON; or the id of an erased prediction
    # The fingerprint of the hash key that the digest's key is made of, beside the store's own secret; empty: of none.
    Column("keyed_by", String, nullable=False),
    Column("erased_at", Moment, nullable=False),  # rows predicted until then are erased wherever they still come from
)

secrets = shared_table(
    "secrets",
    Column("name", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),  # drawn once: what was made with it is known by it
)

payloads = shared_table(
    "payloads",
    Column("model", String, primary_key=True),
    Column("event", String, primary_key=True),  # what the request and the answer of one call have in common
    Column("request", LargeBinary),  # the bodies, until both are there and logged
    Column("answer", LargeBinary),
    Column("content_type", String),  # of the request
    Column("requested_at", Moment),  # when its sender says that the request was made
    Column("version", String),  # that answered, where the sender said so
    Column("received_at", Moment, nullable=False),
    Column("done_at", Moment),  # kept for a while, so that an event that comes again is known
    Index(None, "received_at"),
)

payload_accounts = shared_table(
    "payload_accounts",
    Column("model", String, primary_key=True),
    Column("logged", BigInteger, nullable=False),  # pairs whose rows are in the log
    Column("refused", BigInteger, nullable=False),  # pairs that do not fit each other
    Column("expired", BigInteger, nullable=False),  # halves whose other half never came
)

retentions = shared_table(
    "retentions",
    Column("model", String, primary_key=True),
    Column("kept_since", Moment, nullable=False),  # predictions from before are gone
)

job_runs = shared_table(
    "job_runs",
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

leases = shared_table(
    "leases",
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("fence", BigInteger, nullable=False),  # counts takings: each run's is above all before it
    Column("expires_at", Moment, nullable=False),  # by the database's own time
)

api_keys = shared_table(
    "api_keys",
    Column("name", String, primary_key=True),
    Column("digest", String, nullable=False, unique=True),  # SHA-256 of the key, which is shown once
    Column("scopes", Json, nullable=False),  # what it may be used for: predict, outcomes, read, admin
    Column("models", Json),  # of which models; null: of all
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
)

traffic = shared_table(
    "traffic",
    Column("model", String, primary_key=True),
    Column("shadows", Json, nullable=False),  # aliases whose versions predict too, their answers only logged
    Column("canary", String),  # the alias whose version answers a share of the callers
    Column("share", Double, nullable=False),  # of the callers, for the canary: 0 … 1
    Column("changed_at", Moment, nullable=False),
)

model_versions = shared_table(
    "model_versions",
    Column("model", String, primary_key=True),
    Column(
        "version", String, primary_key=True
    ),  # as it is called here: its number, `1.2` for the second that bore it
    Column("number", String, nullable=False),  # in MLflow, where a registered model that is made anew counts from 1
    Column("created_at", Moment, nullable=False),  # in MLflow
    UniqueConstraint("model", "number", "created_at"),
)

load_incidents = shared_table(
    "load_incidents",
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("cause", Text, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("closed_at", Moment),
    Column("closed_because", String),
)
