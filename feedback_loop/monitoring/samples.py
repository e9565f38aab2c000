"""Samples of a window's rows, for what profiles can't say: bounded, and the same whenever they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window
from feedback_loop.monitoring.evaluation import labelled_only
from feedback_loop.monitoring.losses import Floats, floats
from feedback_loop.monitoring.profile_store import SLICE_ROWS
from feedback_loop.schema import PREDICTION_ID, Contract, Role, sample_places
from feedback_loop.store import Store
from feedback_loop.store.predictions import labelled_in, slices

MOST_ROWS = 2_000
MOST_LABELLED = 20_000

WEIGHT = "sample_weight"


@dataclass(frozen=True)
class Sample:
    """Rows of a window in an order that says nothing; the labelled ones are a sample of their own."""

    rows: pa.Table
    labelled: pa.Table


def sample_window(store: Store, contract: Contract, window: Window, *, version: str, as_of: datetime) -> Sample:
    """At most 2,000 rows of a version's predictions, and 20,000 labelled ones, as known at that moment.

    Every row is read once, a slice of the window at a time. Which ones stay is decided by their ids, as often as what
    they stand for: so they all count alike.
    """
    rows: list[pa.Table] = []
    labelled: list[pa.Table] = []
    with store.read() as connection:
        for part in slices(connection, contract.model, window, SLICE_ROWS):
            found = labelled_in(
                connection, contract, part, store.secret, as_of=as_of, version=version, role=Role.CHAMPION
            )
            rows = [_drawn(pa.concat_tables([*rows, found]), MOST_ROWS)]
            labelled = [_drawn(pa.concat_tables([*labelled, labelled_only(contract, found)]), MOST_LABELLED)]
    empty = pa.table({})
    return Sample(rows[0] if rows else empty, labelled[0] if labelled else empty)


def spread(rows: pa.Table, most: int) -> pa.Table:
    """So many of the rows at most, evenly over all of them."""
    if rows.num_rows <= most:
        return rows
    return rows.take(np.linspace(0, rows.num_rows - 1, most).round().astype(np.int64))


def _drawn(rows: pa.Table, most: int) -> pa.Table:
    """The rows that come first: exponential times of their ids, as much sooner as they stand for more.

    Efraimidis and Spirakis (2006): each next row is drawn with a probability in proportion to its weight.
    """
    times = -np.log1p(-_places(rows)) / floats(rows.column(WEIGHT))
    return rows.take(pa.array(np.argsort(times, kind="stable")[:most]))


def _places(rows: pa.Table) -> Floats:
    return sample_places(pc.cast(rows.column(PREDICTION_ID), pa.string()).to_pylist(), b"closer")
