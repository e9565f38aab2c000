"""An imported history: what was predicted elsewhere, and what became known of it, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.capture import read_outputs
from feedback_loop.capture.importing import read_file
from feedback_loop.clock import Window
from feedback_loop.errors import BadInput
from feedback_loop.inference import ID_COLUMN, input_rows
from feedback_loop.monitoring import LEAST_ROWS
from feedback_loop.schema import (
    PREDICTION_ID,
    Column,
    ColumnType,
    Contract,
    coerce,
    derived_bits,
    own_name,
    prediction_id,
)

if TYPE_CHECKING:
    import pandas as pd

PREDICTED = Column("predicted_at", ColumnType.DATETIME)
RECORDED = Column("recorded_at", ColumnType.DATETIME, required=False)
OCCURRED = Column("occurred_at", ColumnType.DATETIME, required=False)
PREDICTED_TYPE = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class History:
    """`inputs` (features, key, id, `predicted_at`; by the contract's names) in the order of time, the `outputs` that
    were given then (by their names), and `outcomes` in the order in which they became known (`recorded_at`).
    """

    contract: Contract
    inputs: pa.Table
    outputs: pa.Table
    outcomes: pa.Table
    labelled: int  # predictions with an outcome
    notes: tuple[str, ...] = ()

    @property
    def span(self) -> tuple[datetime, datetime]:
        """When the first and the last prediction was made."""
        times = self.inputs.column(self.contract.own(PREDICTED.name))
        return times[0].as_py(), times[-1].as_py()

    def predicted(self, window: Window) -> tuple[pa.Table, pa.Table]:
        """Inputs and outputs of a window."""
        times = self.inputs.column(self.contract.own(PREDICTED.name))
        start, end = (pa.scalar(moment, times.type) for moment in (window.start, window.end))
        inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
        return self.inputs.filter(inside), self.outputs.filter(inside)

    def learned(self, window: Window) -> pa.Table:
        """Outcomes that became known after the window's start, up to its end: what is known when it is over."""
        times = self.outcomes.column(_recorded(self.contract))
        start, end = (pa.scalar(moment, times.type) for moment in (window.start, window.end))
        return self.outcomes.filter(pc.and_(pc.greater(times, start), pc.less_equal(times, end)))


def read_history(
    contract: Contract,
    predictions: Path,
    outcomes: Path,
    maturity: timedelta,
    start: datetime | None = None,
    end: datetime | None = None,
) -> History:
    """Reads both files (Parquet or CSV), the predictions of `[start, end)`; raises NotFound and BadInput.

    An outcome became known at `recorded_at`, or else `occurred_at`; or else, where neither is known, once its
    prediction had matured.
    """
    table, text = _read(predictions)
    with _naming(predictions):
        inputs = input_rows(contract, table, (PREDICTED,), text=text)
        given = read_outputs(contract, table, text=text)
    given = given.rename_columns([column.name for column in contract.outputs])
    time = contract.own(PREDICTED.name)
    _refuse_timeless(inputs, time)
    times = inputs.column(time)
    wanted = pa.array([(not start or moment >= start) and (not end or moment < end) for moment in times.to_pylist()])
    inputs, given = inputs.filter(wanted), given.filter(wanted)
    if not inputs.num_rows:
        raise BadInput.of("predictions", f"{predictions} has none of that time", cure="Give another --from and --to.")
    order = pc.sort_indices(inputs, sort_keys=[(time, "ascending")])
    inputs, given = _with_ids(inputs.take(order), contract), given.take(order)
    known, labelled, notes = _outcomes(contract, inputs, outcomes, maturity)
    if not labelled:
        key = ", ".join(column.name for column in contract.key) or PREDICTION_ID
        raise BadInput.of(
            "outcomes",
            f"none of {outcomes} is of a prediction of {predictions}: they have no {key} in common",
            cure="They find each other by the key, or by prediction_id: see that both files write it alike.",
        )
    if labelled < LEAST_ROWS:  # nothing can be learned of fewer, neither by the loop nor about it
        raise BadInput.of(
            "outcomes",
            f"only {labelled:,} of {inputs.num_rows:,} predictions have one; {LEAST_ROWS} are needed",
            cure="Bring more of both, or a longer time.",
        )
    return History(contract, inputs, given, known, labelled, notes)


def _read(path: Path) -> tuple[pa.Table, bool]:
    chunks, _, text = read_file(path)
    parts = list(chunks)
    if not parts:
        raise BadInput.of("file", f"{path} has no rows")
    return pa.concat_tables(parts, promote_options="permissive"), text


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of rows name the file that they are of."""
    try:
        yield
    except BadInput as error:
        raise BadInput(error.problems, cure=f"Mend {path}: nothing was played.", total=error.total) from error


def _refuse_timeless(inputs: pa.Table, time: str) -> None:
    missing = inputs.column(time).null_count
    if missing:
        raise BadInput.of(time, f"is missing in {missing:,} rows: a history is played by it")


def _with_ids(inputs: pa.Table, contract: Contract) -> pa.Table:
    """Rows without an id get one that is always the same: a rehearsal that is made again is the same."""
    name, times = contract.own(PREDICTION_ID), inputs.column(contract.own(PREDICTED.name)).to_pylist()
    ids = [
        given or prediction_id(moment, derived_bits(f"{contract.model} {row} {moment}"))
        for row, (given, moment) in enumerate(zip(inputs.column(name).to_pylist(), times, strict=True))
    ]
    return inputs.set_column(inputs.column_names.index(name), name, pa.array(ids, pa.string()))


def _outcomes(
    contract: Contract, inputs: pa.Table, path: Path, maturity: timedelta
) -> tuple[pa.Table, int, tuple[str, ...]]:
    """The outcomes of these predictions with the time each became known, how many are labelled, and what is odd."""
    table, text = _read(path)
    taken = {column.name for column in (*contract.key, *contract.labels)}
    identifier, recorded, occurred = (
        replace(column, name=own_name(column.name, taken)) for column in (ID_COLUMN, RECORDED, OCCURRED)
    )
    labels = [replace(label, required=True) for label in contract.labels]
    keys = [replace(column, required=False) for column in contract.key]
    with _naming(path):
        rows = coerce(table, (*keys, *labels, identifier, recorded, occurred), text=text)
    first = _predicted_at(contract, inputs, rows, identifier.name)
    kept = pa.array(first.notna().to_numpy())
    untimed = pc.and_(pc.is_null(rows.column(recorded.name)), pc.is_null(rows.column(occurred.name))).filter(kept)
    notes = []
    if count := pc.sum(untimed).as_py():
        notes.append(f"{count:,} outcomes say no time: each is taken as known once its prediction had matured.")
    if rows.num_rows > pc.sum(kept).as_py():
        notes.append(
            f"{rows.num_rows - pc.sum(kept).as_py():,} outcomes are of no prediction that is played: left out."
        )
    matured = pa.array((first + maturity).astype("datetime64[us, UTC]"), PREDICTED_TYPE)
    known = pc.coalesce(rows.column(recorded.name), rows.column(occurred.name), matured)
    # An outcome of before anything was predicted is known from the first prediction on.
    begin = pa.scalar(inputs.column(contract.own(PREDICTED.name))[0].as_py() + timedelta.resolution, PREDICTED_TYPE)
    known = pc.if_else(pc.less(known, begin), begin, known)
    happened = pc.coalesce(rows.column(occurred.name), known)
    rows = rows.drop_columns([recorded.name, occurred.name])
    rows = rows.append_column(recorded.name, known).append_column(occurred.name, happened).filter(kept)
    labelled = _labelled(contract, inputs, rows, identifier.name)
    return rows.sort_by(recorded.name), labelled, tuple(notes)


def _predicted_at(contract: Contract, inputs: pa.Table, outcomes: pa.Table, identifier: str) -> pd.Series:
    """When the (last) prediction was made that each outcome names, by its id or its key; missing where none was."""
    time, own = contract.own(PREDICTED.name), contract.own(PREDICTION_ID)
    names = [column.name for column in contract.key]
    made, rows = inputs.select([*names, own, time]).to_pandas(), outcomes.select([*names, identifier]).to_pandas()
    first = rows[identifier].map(made.drop_duplicates(own).set_index(own)[time])
    if names:
        by_key = made.dropna(subset=names).groupby(names)[time].max().rename("_made").reset_index()
        first = first.fillna(rows[names].merge(by_key, on=names, how="left")["_made"])
    return first.astype("datetime64[us, UTC]")


def _labelled(contract: Contract, inputs: pa.Table, outcomes: pa.Table, identifier: str) -> int:
    """How many predictions have an outcome."""
    names = [column.name for column in contract.key]
    made = inputs.select([*names, contract.own(PREDICTION_ID)]).to_pandas()
    known = outcomes.select([*names, identifier]).to_pandas()
    has = made[contract.own(PREDICTION_ID)].isin(known[identifier].dropna())
    if names:
        keys = known[names].dropna().drop_duplicates()
        has |= made[names].merge(keys, on=names, how="left", indicator="_both")["_both"].eq("both")
    return int(has.sum())


def _recorded(contract: Contract) -> str:
    return own_name(RECORDED.name, {column.name for column in (*contract.key, *contract.labels)})
