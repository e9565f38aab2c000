"""Samples of a window's rows, for what needs rows: of bounded size, and the same whenever they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from feedback_loop.clock import Window
from feedback_loop.monitoring.evaluation import labelled_only
from feedback_loop.monitoring.judging import judged
from feedback_loop.monitoring.profile_store import champion_slices
from feedback_loop.monitoring.sampling import draw
from feedback_loop.schema import Contract
from feedback_loop.store import Store

SAMPLE_ROWS = 2_000
SAMPLE_LABELLED = 20_000


@dataclass(frozen=True)
class Sample:
    """Rows of a window in random order; the labelled ones are a sample of their own."""

    rows: pa.Table
    labelled: pa.Table


def sample_window(store: Store, contract: Contract, window: Window, *, version: str, as_of: datetime) -> Sample:
    """At most 2,000 rows of a version's predictions, and 20,000 labelled ones, as known at that moment.

    Every row is read once, a slice of the window at a time. Which ones stay is decided by their ids, in
    proportion to their weights: rows of the sample all count alike.
    """
    rows = labelled = pa.table({})
    for part in champion_slices(store, contract, window, version=version, as_of=as_of):
        rows = draw(pa.concat_tables([rows, part], promote_options="default"), SAMPLE_ROWS)
        outcomes = labelled_only(contract, judged(contract, part))
        labelled = draw(pa.concat_tables([labelled, outcomes], promote_options="default"), SAMPLE_LABELLED)
    return Sample(rows, labelled)
