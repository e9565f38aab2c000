"""Spools' accounts, the fence, the join's accounts; when a prediction was logged, its weight, an outcome's event."""

import json

import sqlalchemy as sa
from alembic import op

from feedback_loop.clock import EPOCH
from feedback_loop.schema import table_name
from feedback_loop.store.types import SQLITE_MOMENT, Json, Moment

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds them, also to every model's own tables."""
    op.create_table(
        "erasures",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("columns", sa.String(), nullable=False),
        sa.Column("keyed_by", sa.String(), nullable=False),
        sa.Column("erased_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", "digest", name=op.f("pk_erasures")),
    )
    op.create_table(
        "retentions",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("kept_since", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_retentions")),
    )
    op.create_table(
        "fences",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("asked_until", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_fences")),
    )
    op.create_table(
        "findings",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", "kind", "subject", name=op.f("pk_findings")),
    )
    op.create_table(
        "joins",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("watermark", Moment(), nullable=False),
        sa.Column("rule", Json, nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_joins")),
    )
    op.create_table(
        "label_accounts",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("bucket_start", Moment(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("changed_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint(
            "model", "bucket_start", "version", "role", "segment", name=op.f("pk_label_accounts")
        ),
    )
    op.create_table(
        "outcome_sources",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("watermark", Json, nullable=False),
        sa.Column("taken_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model", "source", name=op.f("pk_outcome_sources")),
    )
    op.create_table(
        "payload_accounts",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("logged", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("expired", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_payload_accounts")),
    )
    op.create_table(
        "payloads",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("request", sa.LargeBinary()),
        sa.Column("answer", sa.LargeBinary()),
        sa.Column("content_type", sa.String()),
        sa.Column("requested_at", Moment()),
        sa.Column("version", sa.String()),
        sa.Column("received_at", Moment(), nullable=False),
        sa.Column("done_at", Moment()),
        sa.PrimaryKeyConstraint("model", "event", name=op.f("pk_payloads")),
    )
    op.create_index("ix_payloads_received_at", "payloads", ["received_at"])
    op.create_table(
        "spool_accounts",
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
        sa.PrimaryKeyConstraint("spool", "model", name=op.f("pk_spool_accounts")),
    )
    _widen_alerts()
    with op.batch_alter_table("evaluations") as batch:
        batch.add_column(sa.Column("revision", sa.Integer(), server_default="1", nullable=False))
    connection = op.get_bind()
    for name, generation, key in connection.execute(sa.text("SELECT name, generation, key FROM models")).all():
        _grow_predictions(table_name("predictions", name, generation))
        if generation == 1:
            _grow_outcomes(table_name("outcomes", name), key)


def _widen_alerts() -> None:
    """Alerts are about other things than incidents too."""
    with op.batch_alter_table("alerts") as batch:
        batch.add_column(sa.Column("subject", sa.String(), nullable=False, server_default=""))
    op.execute("UPDATE alerts SET subject = 'incident:' || CAST(incident_id AS VARCHAR)")
    with op.batch_alter_table("alerts") as batch:
        batch.alter_column("subject", existing_type=sa.String(), server_default=None)
        batch.alter_column("incident_id", existing_type=sa.Integer(), nullable=True)
        batch.drop_constraint("uq_alerts_incident_id_route", type_="unique")
        batch.create_unique_constraint("uq_alerts_subject_route", ["subject", "route"])


def _grow_predictions(table: str) -> None:
    """What was logged before counts as logged when it was predicted, and for itself alone."""
    op.add_column(table, sa.Column("logged_at", Moment(), nullable=True))
    op.add_column(table, sa.Column("sample_weight", sa.Double(), nullable=False, server_default="1"))
    predictions = sa.table(table, sa.column("logged_at"), sa.column("predicted_at"))
    op.execute(predictions.update().values(logged_at=predictions.c.predicted_at))
    index = table_name("ix", f"{table}_logged_at")
    op.create_index(index, table, ["logged_at"])


def _grow_outcomes(table: str, key: object) -> None:
    """A key had one event so far."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    default = EPOCH.isoformat() if is_postgresql else EPOCH.strftime(SQLITE_MOMENT)
    op.add_column(table, sa.Column("event_at", Moment(), nullable=False, server_default=default))
    fields = [column["field"] or column["name"] for column in (json.loads(key) if isinstance(key, str) else key)]
    _unique_anew(f"{table}_prediction", table, ["prediction_id", "revision"])
    if fields:
        _unique_anew(f"{table}_key", table, [*fields, "event_at", "revision"])


def _unique_anew(name: str, table: str, columns: list[str]) -> None:
    """The rows that name their prediction in this way, and no others."""
    index, named = table_name("uq", name), sa.column(columns[0]).is_not(None)
    op.drop_index(index, table)
    op.create_index(index, table, columns, unique=True, sqlite_where=named, postgresql_where=named)
