"""What an adapter would have answered to the rows of a log: each cohort by what had matured when it began."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.adaptation.adapter import Adapter, Look
from feedback_loop.adaptation.feeding import read_rows
from feedback_loop.adaptation.replay import fed_with
from feedback_loop.clock import Window
from feedback_loop.inference.adapter_encoding import Floats
from feedback_loop.schema import Contract, Task, arrow_type
from feedback_loop.store import Store

ENOUGH_LOOKS = 10
"""A gain over fewer cohorts says nothing."""

SURE = 2.0
"""A gain is one where it is so many standard errors, between cohorts, from none."""


@dataclass(frozen=True, eq=False)
class WhatIf:
    """Answers by id of the prediction, and of each cohort its labelled rows and mean losses, raw and adapted.

    The loss is that of the task: log loss, or the squared error. Cohorts from which nothing could have been learned
    yet count too. `stops` says how often a guard stopped it.
    """

    task: Task
    ids: pa.Array
    answers: Floats
    rows: Floats
    raw: Floats
    adapted: Floats
    stops: int

    @property
    def means(self) -> tuple[float, float]:
        """The mean losses over all rows, raw and adapted: log loss, or the root of the squared error."""
        raw, adapted = (
            float(np.average(losses, weights=self.rows)) if len(losses) else 0.0
            for losses in (self.raw, self.adapted)
        )
        return (raw**0.5, adapted**0.5) if self.task is Task.REGRESSION else (raw, adapted)

    @property
    def is_gain(self) -> bool:
        """Whether it surely would have lost less."""
        if len(self.raw) < ENOUGH_LOOKS:
            return False
        gains = self.raw - self.adapted
        return bool(gains.mean() > SURE * gains.std(ddof=1) / len(gains) ** 0.5)

    @property
    def words(self) -> str:
        """The same for people."""
        name, (raw, adapted) = "RMSE" if self.task is Task.REGRESSION else "log loss", self.means
        gain = f"{name} {raw:.4g} without an adapter, {adapted:.4g} with one"
        fed = f"over {len(self.raw)} cohorts of the log, each learned when it had matured"
        return f"{gain}, {fed}" + (f"; stopped {self.stops} times by its guards" if self.stops else "")

    def in_place(self, contract: Contract, rows: pa.Table) -> pa.Table:
        """Rows of the log with the adapted answers as their outputs, where there are some."""
        places = pc.index_in(rows.column("prediction_id"), value_set=self.ids)
        if not len(self.answers):
            return rows
        return with_answers(contract, rows, self.answers[places.fill_null(0).to_numpy()], places.is_valid())


def with_answers(contract: Contract, rows: pa.Table, adapted: Floats, known: pa.ChunkedArray | pa.Array) -> pa.Table:
    """Rows of the log with adapted answers (as `Coefficients.apply` gives them) as their outputs, where `known`."""
    for output, values in zip(contract.outputs, _outputs(contract, adapted), strict=True):
        place, own = rows.column_names.index(output.stored), rows.column(output.stored)
        array = pa.array(values, arrow_type(output.type))
        rows = rows.set_column(place, output.stored, pc.if_else(known, array, own))
    return rows


def _outputs(contract: Contract, answers: Floats) -> list[list[object]]:
    """Answers as the contract's outputs: the likeliest class, and the probabilities."""
    if contract.task is Task.REGRESSION:
        return [answers.tolist()]
    if contract.task is Task.BINARY:
        no, yes = contract.classes
        if contract.positive == no:
            no, yes = yes, no
        return [[yes if chance >= 0.5 else no for chance in answers.tolist()], answers.tolist()]
    likeliest = answers.argmax(axis=1).tolist()
    return [[contract.classes[place] for place in likeliest], *answers.reshape(-1, len(contract.classes)).T.tolist()]


def what_if(
    store: Store,
    contract: Contract,
    adapter: Adapter,
    windows: Iterable[Window],
    maturity: timedelta,
    as_of: datetime,
) -> WhatIf:
    """Plays an adapter over whole cohorts, oldest first, with the outcomes that are known as of a moment."""
    waiting: deque[tuple[datetime, Look]] = deque()
    ids, answers, losses, stops = [], [], [], 0
    for window in windows:
        while waiting and waiting[0][0] + maturity <= window.start:
            was_held, adapter = bool(adapter.held_by), fed_with(adapter, waiting.popleft()[1])
            stops += bool(adapter.held_by) and not was_held
        identifiers, look = read_rows(store, contract, adapter.basis.encoding, window, as_of)
        if not len(look.raw):
            continue
        adapted = adapter.coefficients.apply(look.raw, look.features)
        look = Look(look.raw, adapted, look.outcomes, look.features)
        waiting.append((window.end, look))
        ids.append(identifiers)
        answers.append(adapted)
        losses.append((len(look.raw), *adapter.losses(look)))
    rows, raw, of_adapted = np.array(losses, dtype=np.float64).reshape(-1, 3).T
    together = np.concatenate(answers) if answers else np.empty(0)
    chunks = pa.chunked_array(ids, pa.string()).combine_chunks()
    return WhatIf(contract.task, chunks, together, rows, raw, of_adapted, stops)
