"""What callers did, freezes, approvals, who promoted on what evidence; what a trial tried, why, and for how long."""

import sqlalchemy as sa
from alembic import op

from feedback_loop.store.model_tables import action_table, model_keys
from feedback_loop.store.schema import Json, Moment

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds what 0.3.0 has beside the tables of 0.2.0."""
    op.create_table(
        "fl_adapter_revisions",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("adapter", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("made_at", Moment(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("cohort_start", Moment()),
        sa.Column("cohort_end", Moment()),
        sa.Column("known_until", Moment()),
        sa.Column("predicted", sa.Integer(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("held_by", Json, nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("details", Json, nullable=False),
        sa.Column("coefficients", sa.LargeBinary()),
        sa.Column("state", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("model", "revision"),
    )
    op.add_column("fl_coverage", sa.Column("eligible", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE fl_coverage SET eligible = predictions")
    op.add_column("fl_joins", sa.Column("outcomes", sa.BigInteger()))
    for model, key in model_keys(op.get_bind()):
        action_table(model, key).create(op.get_bind())

    op.create_table(
        "fl_freezes",
        sa.Column("freeze_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("frozen_by", sa.String(), nullable=False),
        sa.Column("frozen_at", Moment(), nullable=False),
        sa.Column("lifted_by", sa.String()),
        sa.Column("lifted_at", Moment()),
        sa.Column("lifted_because", sa.String()),
        sa.PrimaryKeyConstraint("freeze_id"),
    )
    stands = sa.text("lifted_at IS NULL")
    op.create_index(
        "uq_fl_freezes_standing",
        "fl_freezes",
        ["model"],
        unique=True,
        sqlite_where=stands,
        postgresql_where=stands,
    )

    op.create_table(
        "fl_approvals",
        sa.Column("approval_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("candidate", sa.String(), nullable=False),
        sa.Column("champion", sa.String(), nullable=False),
        sa.Column("retraining_id", sa.Integer()),
        sa.Column("needed", sa.Integer(), nullable=False),
        sa.Column("asked_at", Moment(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("ended_at", Moment()),
        sa.Column("ended_because", sa.String()),
        sa.ForeignKeyConstraint(["retraining_id"], ["fl_retrainings.retraining_id"]),
        sa.PrimaryKeyConstraint("approval_id"),
    )
    waits = sa.text("state IN ('open', 'approved')")
    op.create_index(
        "uq_fl_approvals_open", "fl_approvals", ["model"], unique=True, sqlite_where=waits, postgresql_where=waits
    )
    op.create_table(
        "fl_approval_votes",
        sa.Column("approval_id", sa.Integer(), nullable=False),
        sa.Column("voter", sa.String(), nullable=False),
        sa.Column("approves", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("voted_at", Moment(), nullable=False),
        sa.ForeignKeyConstraint(["approval_id"], ["fl_approvals.approval_id"]),
        sa.PrimaryKeyConstraint("approval_id", "voter"),
    )
    op.add_column("fl_job_runs", sa.Column("cancel_asked_at", Moment()))
    op.add_column("fl_job_runs", sa.Column("cancel_asked_by", sa.String()))
    op.add_column("fl_job_runs", sa.Column("cancel_reason", sa.String()))
    op.add_column("fl_retrainings", sa.Column("gates", Json))
    op.add_column("fl_promotions", sa.Column("made_by", sa.String()))
    op.add_column("fl_promotions", sa.Column("evidence", Json))
    op.add_column("fl_promotions", sa.Column("approval_id", sa.Integer()))
    op.add_column("fl_trials", sa.Column("recipe", sa.String(), nullable=False, server_default="own"))
    op.add_column("fl_trials", sa.Column("why", sa.String(), nullable=False, server_default=""))
    op.add_column("fl_trials", sa.Column("seconds", sa.Double()))
    op.add_column("fl_trials", sa.Column("log", sa.String(), nullable=False, server_default=""))
    op.add_column("fl_trials", sa.Column("peak_bytes", sa.BigInteger()))
    op.add_column("fl_trials", sa.Column("run_id", sa.String(), nullable=False, server_default=""))
    op.create_index("uq_fl_promotions_approval_id", "fl_promotions", ["approval_id"], unique=True)

    op.create_table(
        "fl_rollouts",
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("candidate", sa.String(), nullable=False),
        sa.Column("baseline", sa.String(), nullable=False),
        sa.Column("windows", sa.Integer(), nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.Column("until", Moment(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("retraining_id", sa.Integer()),
        sa.Column("approval_id", sa.Integer()),
        sa.Column("promotion_id", sa.Integer()),
        sa.Column("ended_at", Moment()),
        sa.Column("ended_because", sa.String()),
        sa.ForeignKeyConstraint(["retraining_id"], ["fl_retrainings.retraining_id"]),
        sa.ForeignKeyConstraint(["approval_id"], ["fl_approvals.approval_id"]),
        sa.ForeignKeyConstraint(["promotion_id"], ["fl_promotions.promotion_id"]),
        sa.PrimaryKeyConstraint("rollout_id"),
    )
    op.create_index("ix_fl_rollouts_model", "fl_rollouts", ["model"])
    runs = sa.text("state = 'running'")
    op.create_index(
        "uq_fl_rollouts_running", "fl_rollouts", ["model"], unique=True, sqlite_where=runs, postgresql_where=runs
    )
    _incidents_by_other_causes()
    _alerts_with_their_models()


def _alerts_with_their_models() -> None:
    """Says of which model alerts are: that of their incident, or the one that their subject names."""
    op.add_column("fl_alerts", sa.Column("model", sa.String(), nullable=False, server_default=""))
    op.execute(
        "UPDATE fl_alerts SET model = (SELECT i.model FROM fl_incidents AS i WHERE i.incident_id = "
        "fl_alerts.incident_id) WHERE incident_id IS NOT NULL"
    )
    connection = op.get_bind()
    models = [name for name, _ in model_keys(connection)]
    others = sa.text("SELECT alert_id, subject FROM fl_alerts WHERE incident_id IS NULL")
    for alert_id, subject in connection.execute(others).all():
        named = [model for model in models if f":{model}:" in subject or f":{model} version " in subject]
        if named:
            values = {"model": max(named, key=len), "alert_id": alert_id}
            connection.execute(sa.text("UPDATE fl_alerts SET model = :model WHERE alert_id = :alert_id"), values)


def _incidents_by_other_causes() -> None:
    """An incident needs no verdict any more; one may be open by each cause."""
    op.drop_index("uq_fl_incidents_open", "fl_incidents")
    op.add_column("fl_incidents", sa.Column("cause", sa.String(), nullable=False, server_default="verdict"))
    op.add_column("fl_incidents", sa.Column("evidence", Json))
    if op.get_bind().dialect.name == "sqlite":
        _make_incidents_anew()
    else:
        op.alter_column("fl_incidents", "verdict_id", nullable=True)
    is_open = sa.text("closed_at IS NULL")
    op.create_index(
        "uq_fl_incidents_open",
        "fl_incidents",
        ["model", "cause"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )


def _make_incidents_anew() -> None:
    """SQLite alters no column: the table is copied, dropped and filled again. Its rows are referred to all the while,
    which is checked at the end of the transaction (renaming a copy would leave them counted as missing).
    """
    connection = op.get_bind()
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    connection.exec_driver_sql("CREATE TEMPORARY TABLE fl_incidents_before AS SELECT * FROM fl_incidents")
    op.drop_table("fl_incidents")
    op.create_table(
        "fl_incidents",
        sa.Column("incident_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("verdict_id", sa.Integer()),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.Column("closed_at", Moment()),
        sa.Column("closed_because", sa.String()),
        sa.Column("acknowledged_at", Moment()),
        sa.Column("acknowledged_by", sa.String()),
        sa.Column("silenced_until", Moment()),
        sa.Column("recovery", Json),
        sa.Column("closed_verdict_id", sa.Integer()),
        sa.Column("cause", sa.String(), nullable=False, server_default="verdict"),
        sa.Column("evidence", Json),
        sa.ForeignKeyConstraint(["verdict_id"], ["fl_verdicts.verdict_id"]),
        sa.PrimaryKeyConstraint("incident_id"),
    )
    connection.exec_driver_sql("INSERT INTO fl_incidents SELECT * FROM fl_incidents_before")
    connection.exec_driver_sql("DROP TABLE fl_incidents_before")
