"""Erasure: a person's rows removed for good. What remains is a digest, by which rows that come later are known."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column, ColumnElement, Connection, LargeBinary, String, Table, and_, func, or_, select

from feedback_loop.clock import EPOCH
from feedback_loop.errors import ConfigError, NotFound
from feedback_loop.schema import PREDICTION_ID, Contract, canonical, fingerprint, keyed_digest
from feedback_loop.store import fence
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.engine import Store
from feedback_loop.store.model_tables import ModelTables, find_tables
from feedback_loop.store.records import insert_unless
from feedback_loop.store.schema import Moment, shared_table

erasures = shared_table(
    "erasures",
    None,
    Column("model", String, primary_key=True),
    Column("digest", String, primary_key=True),  # of the erased key: the key itself is gone
    Column("columns", String, nullable=False),  # which columns it is of, as JSON; or the id of an erased prediction
    # The fingerprint of the hash key that the digest's key is made of, beside the store's own secret; empty: of none.
    Column("keyed_by", String, nullable=False),
    Column("erased_at", Moment, nullable=False),  # rows predicted until then are erased wherever they still come from
)

own_secrets = shared_table(
    "secrets",
    None,
    Column("name", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),  # drawn once: what was made with it is known by it
)

Key = Mapping[str, object]
"""The erased key, or a part of it: values (as the log has them) by the stored names of their columns."""

RowFilter = Callable[[pa.Table], pa.Table]
"""Gives rows of predictions without those that were erased."""


@dataclass(frozen=True)
class Erased:
    """How many rows were removed from the tables (or would be)."""

    predictions: int = 0
    outcomes: int = 0
    findings: int = 0


def find_predictions(store: Store, model: str, key: Key) -> dict[str, datetime]:
    """The ids of the predictions with that key, and when they were made."""
    found: dict[str, datetime] = {}
    with store.read() as connection:
        for table in _prediction_tables(connection, model):
            rows = connection.execute(select(table.c.prediction_id, table.c.predicted_at).where(has_in(table, key)))
            found |= {row[0]: row[1] for row in rows}
    return found


def remember(store: Store, model: str, key: Key, now: datetime) -> None:
    """Records that a key is erased: from now on no row of it from before is stored, whoever brings it.

    Writers that are at work are waited for: what they store is there to be removed.
    """
    names = sorted(key)
    values = [canonical([key[name]])[0] for name in names]
    with store.write() as connection:
        fence.shut(connection, model)
        _remember(connection, model, names, [values], store.secret, now)


def remember_ids(connection: Connection, model: str, ids: Sequence[str], secret: bytes, now: datetime) -> None:
    """The same of predictions by their ids, in the transaction that removes them."""
    _remember(connection, model, [PREDICTION_ID], [[each] for each in ids], secret, now)


def count(store: Store, model: str, key: Key) -> Erased:
    """What `remove` would remove from the tables, but for findings."""
    with store.read() as connection:
        try:
            found = find_tables(connection, model)
        except NotFound:
            return Erased()
        tables_ = [generation.table for generation in found.generations]
        rows = [
            connection.execute(select(func.count()).where(where)).scalar_one()
            for where in (*(has_in(table, key) for table in tables_), outcomes_of(found, key))
        ]
    return Erased(sum(rows[:-1]), rows[-1])


def has_key(rows: pa.Table, key: Key) -> pa.ChunkedArray:
    """Which rows (by stored names, as the log has them) have that key."""
    mask = pa.chunked_array([pa.array([True] * rows.num_rows, pa.bool_())])
    for name, value in key.items():
        same = pa.array([text == canonical([value])[0] for text in canonical(rows.column(name))], pa.bool_())
        mask = pc.and_(mask, same)
    return mask


def row_filter(store: Store, contract: Contract) -> RowFilter:
    """Takes rows that were erased out of others, of `prediction_schema(contract)` or of outcomes: for spools."""

    def kept(rows: pa.Table) -> pa.Table:
        without = without_erased if "predicted_at" in rows.column_names else without_erased_outcomes
        with store.read() as connection:
            return without(connection, store.secret, contract, rows)

    return kept


def without_erased(connection: Connection, secret: bytes, contract: Contract, rows: pa.Table) -> pa.Table:
    """Rows of predictions without those made before their key was erased.

    In the transaction that stores them, behind the fence. Raises ConfigError where erasures can't be recognised.
    """
    erased = _known(connection, contract.model, secret, erasures.c.columns != _names([PREDICTION_ID]))
    return _without(rows, erased, rows.column("predicted_at")) if erased else rows


def without_erased_outcomes(connection: Connection, secret: bytes, contract: Contract, rows: pa.Table) -> pa.Table:
    """The same for outcomes: of an erased prediction, and of an erased key unless they occurred after that.

    Where it is not said when they occurred, when they were recorded counts. A row without any moment may be one that
    was erased: it is left out too.
    """
    erased = _known(connection, contract.model, secret)
    if not erased:
        return rows
    moments = pc.coalesce(rows.column("occurred_at"), rows.column("recorded_at"), pa.scalar(EPOCH, UTC_MOMENT))
    always = pa.scalar(EPOCH, moments.type)
    return _without(rows, erased, pc.if_else(pc.is_valid(rows.column(PREDICTION_ID)), always, moments))


@dataclass(frozen=True)
class _Erasures:
    """What was erased by the same columns with the same key: when, by digest."""

    columns: tuple[str, ...]
    secret: bytes
    digests: dict[str, datetime]


def _known(connection: Connection, model: str, secret: bytes, *where: ColumnElement[bool]) -> list[_Erasures]:
    table = erasures.c
    found: dict[tuple[str, str], _Erasures] = {}
    own = _own_secret(connection)
    statement = select(table.columns, table.keyed_by, table.digest, table.erased_at).where(
        table.model == model, *where
    )
    for columns, keyed_by, digest, erased_at in connection.execute(statement):
        if keyed_by not in ("", fingerprint(secret)):
            raise ConfigError(
                f"Rows of {model} were erased under another capture.hash_key: they could come back unseen.",
                cure="Set FEEDBACK_LOOP_CAPTURE__HASH_KEY as it was, the same on every host.",
                key="capture.hash_key",
            )
        key = own + secret if keyed_by else own
        each = found.setdefault((columns, keyed_by), _Erasures(tuple(json.loads(columns)), key, {}))
        each.digests[digest] = erased_at
    return list(found.values())


def _without(rows: pa.Table, erasures: Sequence[_Erasures], moments: pa.ChunkedArray) -> pa.Table:
    gone = [False] * rows.num_rows
    times = moments.to_pylist()
    for each in erasures:
        texts = zip(*(canonical(rows.column(name)) for name in each.columns), strict=True)
        for row, values in enumerate(texts):
            erased_at = each.digests.get(_digest(each.columns, values, each.secret))
            if erased_at is not None and times[row] is not None and times[row] <= erased_at:
                gone[row] = True
    return rows.filter(pa.array([not each for each in gone], pa.bool_())) if any(gone) else rows


def _digest(columns: Sequence[str], values: Sequence[str | None], key: bytes) -> str:
    return keyed_digest(json.dumps([list(columns), list(values)]), key)


def _own_secret(connection: Connection, *, makes: bool = False) -> bytes:
    """The secret of this database that keys its digests: without it none is guessed. Empty: nothing was erased."""
    table = own_secrets
    if makes:
        drawn = {"name": _PURPOSE, "value": secrets.token_bytes(32)}
        connection.execute(insert_unless(connection, table).values(**drawn).on_conflict_do_nothing())
    found: bytes | None = connection.execute(
        select(table.c.value).where(table.c.name == _PURPOSE)
    ).scalar_one_or_none()
    return found or b""


_PURPOSE = "erasures"


def _names(columns: Sequence[str]) -> str:
    return json.dumps(columns)


def _remember(
    connection: Connection,
    model: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    secret: bytes,
    now: datetime,
) -> None:
    """Keeps digests of rows' values, once each: what was erased before is erased until now."""
    table, key = erasures, _own_secret(connection, makes=True) + secret
    head = {"model": model, "columns": _names(columns), "keyed_by": fingerprint(secret), "erased_at": now}
    insert = insert_unless(connection, table)
    anew = insert.on_conflict_do_update(
        index_elements=table.primary_key, set_={"erased_at": insert.excluded.erased_at}
    )
    for values in rows:
        connection.execute(anew, {**head, "digest": _digest(columns, values, key)})


def _prediction_tables(connection: Connection, model: str) -> list[Table]:
    try:
        return [generation.table for generation in find_tables(connection, model).generations]
    except NotFound:
        return []


def has_in(table: Table, key: Key) -> ColumnElement[bool]:
    """Whether a row of a table has that key."""
    return and_(*(table.c[name] == value for name, value in key.items()))


def outcomes_of(found: ModelTables, key: Key) -> ColumnElement[bool]:
    """Outcomes with that key, and those that name a prediction with it."""
    outcome = found.outcomes
    named = (
        outcome.c.prediction_id.in_(select(each.table.c.prediction_id).where(has_in(each.table, key)))
        for each in found.generations
    )
    return or_(has_in(outcome, key), *named)
