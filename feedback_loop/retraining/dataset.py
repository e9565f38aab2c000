"""Training rows: matured, labelled predictions from the log, and what was known before the log began."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feedback_loop.clock import EPOCH, Window
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.inference import Scorer, feature_frame
from feedback_loop.monitoring import Floats, labelled_only, row_losses, scored_rows
from feedback_loop.schema import Column, ColumnType, Contract, coerce
from feedback_loop.store import Store
from feedback_loop.store.predictions import read_labelled

ID, TIME = "prediction_id", "predicted_at"


@dataclass(frozen=True)
class TrainingRows:
    """Rows with features by the model's names, the label by its name, `predicted_at` and (of the log) their ids.

    Rows of the log are in the order of their ids, which is that of time to the millisecond: what a fit makes of the
    rows depends on nothing that a race between callers decides.
    """

    table: pa.Table
    contract: Contract

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def times(self) -> npt.NDArray[np.datetime64]:
        """When each row was predicted, as datetime64[us] in UTC."""
        return np.asarray(self.table.column(self.contract.own(TIME)).cast(pa.timestamp("us")).to_numpy())

    @property
    def digest(self) -> str:
        """A fingerprint of the rows' content, but for their ids."""
        sink, table = pa.BufferOutputStream(), self.table.drop_columns([self.contract.own(ID)])
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return hashlib.sha256(sink.getvalue()).hexdigest()[:16]

    def between(self, start: datetime, end: datetime) -> TrainingRows:
        """The rows of `[start, end)`."""
        times = self.table.column(self.contract.own(TIME))
        inside = pc.and_(
            pc.greater_equal(times, pa.scalar(start, times.type)), pc.less(times, pa.scalar(end, times.type))
        )
        return TrainingRows(self.table.filter(inside), self.contract)

    def fitted(self, estimator: Any) -> Any:
        """A fresh copy of the estimator, fitted to these rows."""
        from sklearn.base import clone

        label = self.table.column(self.contract.label.name)
        return clone(estimator).fit(feature_frame(self.table, self.contract), np.array(label.to_pylist()))

    def scored(self, scorer: Scorer) -> pa.Table:
        """The rows as the log would hold them (stored names), with the outputs of this scorer."""
        return scored_rows(scorer, self.table)

    def losses(self, scorer: Scorer, loss: str) -> Floats:
        """One loss per row under this scorer."""
        return row_losses(self.contract, self.scored(scorer))[loss]


def training_rows(
    store: Store, contract: Contract, *, until: datetime, as_of: datetime, history: Path | None
) -> TrainingRows:
    """All labelled rows predicted before `until`, as known `as_of`; `history` is a Parquet file of earlier ones.

    The history has the features and the label by the model's names and `predicted_at`. Raises NotFound and BadInput.
    """
    logged = read_labelled(
        store, contract, Window(EPOCH, until), as_of=as_of, columns=(*contract.outputs, *contract.features)
    )
    logged = labelled_only(contract, logged)
    names = {column.name: column.stored for column in (*contract.features, contract.label)}
    own = {contract.own(name): logged.column(name) for name in (ID, TIME)}
    parts = [pa.table({**own, **{name: logged.column(stored) for name, stored in names.items()}})]
    if history is not None:
        known = _history(contract, history)
        known = known.add_column(0, contract.own(ID), pa.nulls(known.num_rows, pa.string()))
        parts.insert(0, known.cast(parts[0].schema))
    return TrainingRows(pa.concat_tables(parts), contract)


def _history(contract: Contract, path: Path) -> pa.Table:
    if not path.exists():
        raise NotFound("file", str(path), cure="It is named by retraining.history in the configuration.")
    wanted = (Column(contract.own(TIME), ColumnType.DATETIME), *contract.features, contract.label)
    try:
        table = coerce(pq.read_table(path), wanted)
    except (pa.ArrowInvalid, BadInput) as error:
        raise BadInput.of("history", f"{path}: {error}") from error
    return table.filter(pc.is_valid(table.column(contract.label.name)))
