"""The keys that were erased, kept as digests, and the filters that keep rows with them out of the store for good.

Writers apply the filters in the transaction that stores their rows. What is in the store already is removed by
`erasure`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column, ColumnElement, Connection, LargeBinary, String, select

from feedback_loop.clock import EPOCH
from feedback_loop.errors import ConfigError
from feedback_loop.schema import PREDICTION_ID, Contract, canonical, fingerprint, keyed_digest
from feedback_loop.store import fence
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.engine import Store
from feedback_loop.store.records import insert_new, upsert
from feedback_loop.store.schema import Moment, shared_table

erasures = shared_table(
    "erasures",
    None,
    Column("model", String, primary_key=True),
    Column("digest", String, primary_key=True),  # of the erased key: the key itself is gone
    Column("columns", String, nullable=False),  # the columns that the digest is of, as JSON
    # Fingerprint of the configured hash key, which went into the digest beside the store's own secret; empty: none.
    Column("keyed_by", String, nullable=False),
    Column("erased_at", Moment, nullable=False),  # rows predicted by then stay out, wherever they come from
)

own_secrets = shared_table(
    "secrets",
    None,
    Column("name", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),  # random, made once and never changed
)

Key = Mapping[str, object]
"""An erased key, or a part of a composite one: values as the log has them, by the stored names of their columns."""

RowFilter = Callable[[pa.Table], pa.Table]
"""Returns the rows without those that were erased."""


def record_key(store: Store, model: str, key: Key, now: datetime) -> None:
    """Records that a key is erased: from now on no row with it from before `now` is stored, whoever brings it.

    Waits for writers that are at work, so that a removal that follows finds their rows.
    """
    columns = sorted(key)
    values = [canonical([key[name]])[0] for name in columns]
    with store.write() as connection:
        fence.shut(connection, model)
        _record(connection, model, columns, [values], store.secret, now)


def record_predictions(connection: Connection, model: str, ids: Sequence[str], secret: bytes, now: datetime) -> None:
    """Records that predictions are erased, by their ids, in the transaction that removes them."""
    _record(connection, model, [PREDICTION_ID], [[prediction] for prediction in ids], secret, now)


def has_key(rows: pa.Table, key: Key) -> pa.ChunkedArray:
    """A mask of the rows (as the log has them, by stored names) that have that key."""
    mask = pa.chunked_array([pa.array([True] * rows.num_rows, pa.bool_())])
    for name, value in key.items():
        same = pa.array([text == canonical([value])[0] for text in canonical(rows.column(name))], pa.bool_())
        mask = pc.and_(mask, same)
    return mask


def row_filter(store: Store, contract: Contract) -> RowFilter:
    """A filter for rows of spools: of `prediction_schema(contract)`, or of outcomes."""

    def without_erased_rows(rows: pa.Table) -> pa.Table:
        without = without_erased if "predicted_at" in rows.column_names else without_erased_outcomes
        with store.read() as connection:
            return without(connection, store.secret, contract, rows)

    return without_erased_rows


def without_erased(connection: Connection, secret: bytes, contract: Contract, rows: pa.Table) -> pa.Table:
    """The predictions without those made before their key was erased.

    To be called behind the fence, in the transaction that stores them. Raises ConfigError where the digests were made
    with another hash key, so that erased rows can't be recognised.
    """
    erased = _erasures_of(connection, contract.model, secret, erasures.c.columns != json.dumps([PREDICTION_ID]))
    return _without(rows, erased, rows.column("predicted_at")) if erased else rows


def without_erased_outcomes(connection: Connection, secret: bytes, contract: Contract, rows: pa.Table) -> pa.Table:
    """The outcomes without those of erased predictions, and of erased keys unless they occurred after the erasure.

    An outcome without `occurred_at` is judged by `recorded_at`; one without either is left out. Raises ConfigError as
    `without_erased` does.
    """
    erased = _erasures_of(connection, contract.model, secret)
    if not erased:
        return rows
    moments = pc.coalesce(rows.column("occurred_at"), rows.column("recorded_at"), pa.scalar(EPOCH, UTC_MOMENT))
    always = pa.scalar(EPOCH, moments.type)
    return _without(rows, erased, pc.if_else(pc.is_valid(rows.column(PREDICTION_ID)), always, moments))


@dataclass(frozen=True)
class _Erasures:
    """Erasures by the same columns and hash key: when each was made, by digest."""

    columns: tuple[str, ...]
    hash_key: bytes
    erased_at: dict[str, datetime]


def _erasures_of(connection: Connection, model: str, secret: bytes, *where: ColumnElement[bool]) -> list[_Erasures]:
    table = erasures.c
    groups: dict[tuple[str, str], _Erasures] = {}
    own_secret = _own_secret(connection)
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
        hash_key = own_secret + secret if keyed_by else own_secret
        group = groups.setdefault((columns, keyed_by), _Erasures(tuple(json.loads(columns)), hash_key, {}))
        group.erased_at[digest] = erased_at
    return list(groups.values())


def _without(rows: pa.Table, groups: Sequence[_Erasures], moments: pa.ChunkedArray) -> pa.Table:
    """The rows without those whose moment is not after the erasure of their values."""
    stays = [True] * rows.num_rows
    times = moments.to_pylist()
    for group in groups:
        texts = zip(*(canonical(rows.column(name)) for name in group.columns), strict=True)
        for row, values in enumerate(texts):
            erased_at = group.erased_at.get(_digest(group.columns, values, group.hash_key))
            if erased_at is not None and times[row] is not None and times[row] <= erased_at:
                stays[row] = False
    return rows if all(stays) else rows.filter(pa.array(stays, pa.bool_()))


def _digest(columns: Sequence[str], values: Sequence[str | None], hash_key: bytes) -> str:
    return keyed_digest(json.dumps([list(columns), list(values)]), hash_key)


_PURPOSE = "erasures"


def _own_secret(connection: Connection, *, create: bool = False) -> bytes:
    """This database's own secret, without which no digest can be guessed. Empty where nothing was erased yet."""
    table = own_secrets
    if create:
        insert_new(connection, table, {"name": _PURPOSE, "value": secrets.token_bytes(32)})
    secret: bytes | None = connection.execute(
        select(table.c.value).where(table.c.name == _PURPOSE)
    ).scalar_one_or_none()
    return secret or b""


def _record(
    connection: Connection,
    model: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    secret: bytes,
    now: datetime,
) -> None:
    """Records digests of the rows' values; one that was erased before is now erased until `now`."""
    hash_key = _own_secret(connection, create=True) + secret
    common = {"model": model, "columns": json.dumps(columns), "keyed_by": fingerprint(secret), "erased_at": now}
    digests = [common | {"digest": _digest(columns, values, hash_key)} for values in rows]
    upsert(connection, erasures, digests)
