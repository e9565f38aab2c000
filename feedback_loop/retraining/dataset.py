"""Training rows: matured, labelled predictions from the log, and what was known before the log began."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feedback_loop.clock import EPOCH, Window, format_moment
from feedback_loop.errors import BadInput, NotFound, Refused
from feedback_loop.inference import Scorer, SklearnEngine
from feedback_loop.monitoring import Floats, row_losses, scored_rows
from feedback_loop.schema import PREDICTION_ID, Column, ColumnType, Contract, Role, coerce
from feedback_loop.store import Store
from feedback_loop.store.outcomes import named_predictions
from feedback_loop.store.predictions import predicted_span, read_labelled

TIME = "predicted_at"

OUTCOME = "feedback_loop.outcome"
"""The column with a number for each outcome: rows of a key that is predicted again share one."""


@dataclass(frozen=True)
class TrainingRows:
    """Rows with features by the model's names, the label by its name, `predicted_at` and (of the log) their ids.

    Rows of the log are in the order of their ids, which is that of time to the millisecond: what a fit makes of the
    rows depends on nothing that a race between callers decides. `kinds` are the types that columns must have where
    the champion's pipeline chooses them by type. `left_out` says which rows are not among these, and why.
    """

    table: pa.Table
    champion: Scorer
    kinds: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def times(self) -> npt.NDArray[np.datetime64]:
        """When each row was predicted, as datetime64[us] in UTC."""
        return np.asarray(self.table.column(self.champion.contract.own(TIME)).cast(pa.timestamp("us")).to_numpy())

    @property
    def outcomes(self) -> npt.NDArray[np.int64]:
        """A number for each row's outcome: the same for rows that share one."""
        return np.asarray(self.table.column(OUTCOME).to_numpy())

    @property
    def decided(self) -> npt.NDArray[np.datetime64]:
        """When the first row with the same outcome was predicted: those that share one are of one day."""
        _, place = np.unique(self.outcomes, return_inverse=True)
        first = np.full(place.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, place, self.times.astype(np.int64))
        return first[place].astype("datetime64[us]")

    @property
    def digest(self) -> str:
        """A fingerprint of the rows' content, but for their ids."""
        sink, table = (
            pa.BufferOutputStream(),
            self.table.drop_columns([self.champion.contract.own(PREDICTION_ID), OUTCOME]),
        )
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return hashlib.sha256(sink.getvalue()).hexdigest()[:16]

    def between(self, start: datetime, end: datetime) -> TrainingRows:
        """The rows of `[start, end)`."""
        times = self.table.column(self.champion.contract.own(TIME))
        inside = pc.and_(
            pc.greater_equal(times, pa.scalar(start, times.type)), pc.less(times, pa.scalar(end, times.type))
        )
        return replace(self, table=self.table.filter(inside))

    def without_outcomes_of(self, others: TrainingRows) -> TrainingRows:
        """The rows whose outcome none of the others has."""
        shared = np.isin(self.outcomes, others.outcomes)
        return replace(self, table=self.table.filter(pa.array(~shared)))

    def inputs(self, rows: int | None = None) -> Any:
        """The features (of the first so many rows) as the champion's estimator takes them."""
        assert isinstance(self.champion.engine, SklearnEngine)  # only such models are fitted again
        return self.champion.engine.inputs.of(self.table.slice(0, rows), self.champion.contract)

    def fitted(self, estimator: Any) -> Any:
        """A fresh copy of the estimator, fitted to these rows."""
        from sklearn.base import clone

        inputs, label = self.inputs(), np.array(self.table.column(self.champion.contract.label.name).to_pylist())
        classes = getattr(estimator, "classes_", None)
        if classes is not None and getattr(classes, "dtype", label.dtype).kind in "biuf":
            label = label.astype(classes.dtype)
        return clone(estimator).fit(inputs.astype(dict(self.kinds)) if self.kinds else inputs, label)

    def losses(self, scorer: Scorer, loss: str) -> Floats:
        """One loss per row under this scorer; raises Refused where it does not tell that one."""
        by_name = row_losses(scorer.contract, scored_rows(scorer, self.table))
        if loss not in by_name:
            raise Refused(f"It does not tell its {loss}: it knows {len(scorer.contract.classes)} classes.")
        return by_name[loss]


def training_rows(
    store: Store, champion: Scorer, *, until: datetime, as_of: datetime, history: Path | None
) -> TrainingRows:
    """All labelled rows that answered callers before `until`, as known `as_of`, each call once.

    `history` is a Parquet file of earlier ones, with the features and the label by the model's names and
    `predicted_at`; where it overlaps the log, the log counts. Raises NotFound and BadInput.
    """
    contract = champion.logged
    wanted = {column.stored: column for column in (*contract.features, *contract.key)}
    logged = read_labelled(store, contract, Window(EPOCH, until), as_of=as_of, columns=tuple(wanted.values()))
    labelled = pc.is_valid(logged.column(contract.label.stored))
    logged = logged.filter(pc.and_(labelled, pc.not_equal(logged.column("role"), str(Role.SHADOW))))
    logged, left_out = _since_required(champion, logged)
    names = {column.name: column.stored for column in (*contract.features, contract.label)}
    own = {contract.own(name): logged.column(name) for name in (PREDICTION_ID, TIME)}
    outcomes = _outcomes(store, contract, logged, as_of)
    rows = pa.table({**own, **{name: logged.column(stored) for name, stored in names.items()}, OUTCOME: outcomes})
    if history is not None:
        began = predicted_span(store, contract.model, as_of=as_of)
        earlier, why = _history(contract, history, began[0] if began is not None else until)
        left_out += why
        if earlier is not None:
            earlier = earlier.add_column(0, contract.own(PREDICTION_ID), pa.nulls(earlier.num_rows, pa.string()))
            earlier = earlier.append_column(OUTCOME, pa.array(-1 - np.arange(earlier.num_rows)))
            rows = pa.concat_tables([earlier.cast(rows.schema), rows])
    return TrainingRows(rows, champion, left_out=left_out)


def _since_required(champion: Scorer, logged: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows without those of earlier versions that did not take a feature which is required now."""
    versions, left_out = logged.column("model_version"), []
    for column in champion.logged.features if logged.num_rows else ():
        values = logged.column(column.stored)
        if not column.required or not values.null_count:
            continue
        counts = (
            pa.table({"version": versions, "values": values}).group_by("version").aggregate([("values", "count")])
        )
        without = {
            version
            for version, count in zip(
                *(counts.column(column).to_pylist() for column in ("version", "values_count")), strict=True
            )
            if not count and version != champion.version.version
        }
        gone = pc.is_in(versions, pa.array(sorted(without), pa.string()))
        if rows := pc.sum(gone).as_py() or 0:
            left_out.append(f"{rows:,} rows are from before {column.name!r} was there, and were left out.")
            logged = logged.filter(pc.invert(gone))
            versions = logged.column("model_version")
    return logged, tuple(left_out)


def _outcomes(store: Store, contract: Contract, logged: pa.Table, as_of: datetime) -> npt.NDArray[np.int64]:
    """Which rows have one outcome: those of a key that the same outcome of that key was joined to.

    What absence means is such an outcome too, where a key has only one for ever.
    """
    alone = np.arange(logged.num_rows)
    if not contract.key or not logged.num_rows:
        return alone
    keys = [column.stored for column in contract.key]
    outcome = ["occurred_at", "recorded_at", "revision"]
    frame = logged.select([*keys, *outcome]).to_pandas()
    group = frame.groupby([*keys, *outcome], dropna=False, sort=False).ngroup().to_numpy()
    single = frame[keys].isna().any(axis=1).to_numpy(copy=True)
    if contract.join.horizon is not None:
        single |= np.asarray(frame["revision"].isna())
    counts = np.bincount(group)
    if (counts > 1).any():
        named = named_predictions(store, contract.model, as_of)
        single |= np.asarray(pc.is_in(logged.column(PREDICTION_ID), named))
    return np.where(single, len(counts) + alone, group)


def _history(contract: Contract, path: Path, began: datetime) -> tuple[pa.Table | None, tuple[str, ...]]:
    """The labelled rows of the file from before the log began, and which were left out."""
    if not path.exists():
        raise NotFound("file", str(path), cure="It is named by retraining.history in the configuration.")
    wanted = (Column(contract.own(TIME), ColumnType.DATETIME), *contract.features, contract.label)
    try:
        table = pq.read_table(path)
        lacks = [
            column.name for column in contract.features if column.required and column.name not in table.column_names
        ]
        if lacks:
            lacking = ", ".join(lacks)
            return None, (f"The {table.num_rows:,} rows of the history have no {lacking}, and were left out.",)
        table = coerce(table, wanted)
    except (pa.ArrowInvalid, BadInput) as error:
        raise BadInput.of("history", f"{path}: {error}") from error
    table = table.filter(pc.is_valid(table.column(contract.label.name)))
    times = table.column(contract.own(TIME))
    earlier = table.filter(pc.less(times, pa.scalar(began, times.type)))
    late = table.num_rows - earlier.num_rows
    words = f"{late:,} rows of the history are from after {format_moment(began)}, when the log began: left out."
    return earlier, (words,) if late else ()
