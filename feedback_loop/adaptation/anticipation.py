"""What callers would be answered by a version that does not answer yet: by an adapter that goes on standing on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.adaptation.adapter import Adapter, Look
from feedback_loop.adaptation.birth import outcomes_of
from feedback_loop.adaptation.replay import fed_with
from feedback_loop.adaptation.what_if import with_answers
from feedback_loop.inference.adapter_encoding import Floats
from feedback_loop.monitoring.arrays import floats
from feedback_loop.schema import Contract, Task

Moments = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class Anticipation:
    """An adapter as it stood when rows begin; cohorts of these rows are of this length."""

    adapter: Adapter
    cohort: timedelta

    @property
    def promoted(self) -> Anticipation:
        """The same for a version that would be promoted when the rows begin: that ends what guards hold."""
        is_held = bool({*self.adapter.held_by} - {"hand"})
        return replace(self, adapter=self.adapter.release(by_promotion=True)) if is_held else self

    def served(self, contract: Contract, rows: pa.Table, known: Moments) -> pa.Table:
        """Labelled rows as the log holds them, with a version's own answers: those that its callers would have got.

        `known` says when the outcome of each row was (datetime64[us], UTC). A cohort is answered by what the adapter
        had learned when its first row was predicted, and is learned when all its outcomes are known. A version of
        other classes than the adapter's would begin with another one: its answers stay as they are.
        """
        if self.adapter.coefficients.why_unfit(contract) or not rows.num_rows:
            return rows
        raw, outcomes = _raw(contract, rows), outcomes_of(contract, rows.column(contract.label.stored))
        is_answered = ~np.isnan(raw).reshape(len(raw), -1).any(axis=1)
        is_whole = is_answered & ~np.isnan(outcomes)
        features = {column.name: rows.column(column.stored) for column in contract.features if not column.hashed}
        adapter, served, waiting = self.adapter, raw.copy(), list[tuple[np.datetime64, Look]]()
        for start, places in self._cohorts(rows.column(contract.own("predicted_at"))):
            for each in [look for moment, look in waiting if moment <= start]:
                adapter = fed_with(adapter, each)
            waiting = [(moment, look) for moment, look in waiting if moment > start]
            its = {name: values.take(pa.array(places)) for name, values in features.items()}
            served[places] = adapter.coefficients.apply(raw[places], its)
            whole = np.flatnonzero(is_whole[places])
            if len(whole):
                learned = places[whole]
                its = {name: values.take(pa.array(whole)) for name, values in its.items()}
                look = Look(raw[learned], served[learned], outcomes[learned], its)
                waiting.append((known[learned].max(), look))
        return with_answers(contract, rows, served, pa.array(is_answered))

    def _cohorts(self, times: pa.ChunkedArray) -> Iterator[tuple[np.datetime64, npt.NDArray[np.int64]]]:
        """When each cohort's first row was predicted, and the places of its rows; the oldest first."""
        moments = np.asarray(times.cast(pa.timestamp("us")).to_numpy())
        numbers = moments.astype(np.int64) // (self.cohort // timedelta(microseconds=1))
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            yield moments[places].min(), places


def _raw(contract: Contract, rows: pa.Table) -> Floats:
    """Answers as an adapter takes them: a number, the chance of the positive class, or those of all classes."""
    chances = contract.outputs if contract.task is Task.REGRESSION else contract.outputs[1:]
    matrix = [floats(rows.column(column.stored)) for column in chances]
    return np.column_stack(matrix) if contract.task is Task.MULTICLASS else matrix[0]
