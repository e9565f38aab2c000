"""An adapter on top of what another way answered: the product's own arithmetic, fed cohort by cohort."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.yardstick.calendars import CADENCES, Answers, Fits
from benchmarks.yardstick.rows import DAY, OUTCOME, Places, Rows
from feedback_loop.adaptation import Adapter, Look, begin, mistrusted, outcomes_of
from feedback_loop.adaptation.cohorts import Share, is_due
from feedback_loop.clock import EPOCH
from feedback_loop.monitoring import Floats
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract
from feedback_loop.store.adapters import AdapterRevision, RevisionKind

REFERENCE = 0.2
"""The newest share of the rows from before the stream (at least `Settings.reference`), from which it is begun."""


def adapted(rows: Rows, raw: Answers) -> Answers:
    """What an adapter on these answers would have answered; a cohort is a UTC day."""
    began = time.process_time()
    feeding = _Feeding(rows, raw)
    values = feeding.play()
    seconds = raw.cpu_seconds + time.process_time() - began
    return replace(raw, name=f"{raw.name} + adapter", values=values, cpu_seconds=seconds, holds=feeding.holds)


class _Feeding:
    """The adapter of one stream, and which cohorts it has been fed."""

    def __init__(self, rows: Rows, raw: Answers) -> None:
        self.rows, self.raw = rows, raw
        self.holds = 0
        self.served, self._finals = rows.no_answers(), list[float]()
        self._history: list[AdapterRevision] = []
        places = rows.earlier
        least = max(rows.settings.reference, int(len(places) * REFERENCE))
        reference = self._features.take(places[-least:])
        self._outcomes = outcomes_of(self._contract, self._features.column(OUTCOME))
        self._adapter: Adapter = begin(self._contract, reference, DAY.item())
        days = rows.time.astype("datetime64[D]")
        self._waiting = [(day, np.flatnonzero((days == day) & rows.played)) for day in np.unique(days[rows.played])]
        self._matured = [*self._waiting]

    def play(self) -> Floats:
        """Goes through all looks; answers are as `Answers` has them."""
        moves = set(self.raw.moves)
        for number in range(len(self.rows.looks)):
            self.feed(number)
            if number in moves:
                self.promoted()
            self.answer(number)
        return self.served

    def feed(self, number: int) -> None:
        """What is due at a look."""
        self._feed(self.rows.looks[number])

    def promoted(self) -> None:
        """A promotion ends a hold."""
        self._note(RevisionKind.PROMOTED)
        self._adapter = self._adapter.release(by_promotion=True)

    def answer(self, number: int) -> None:
        """Answers what is asked from a look up to the next one."""
        self._answer(self.rows.of_looks(number, number + 1))

    def trusted(self, places: Places) -> Places:
        """The rows among these that a retraining may learn from."""
        day = self.rows.time[places].astype("datetime64[D]")
        is_trusted = np.ones(len(places), dtype=bool)
        for span in mistrusted(reversed(self._history)):
            start, end = (np.datetime64(moment.replace(tzinfo=None)) for moment in (span.start, span.end))
            is_trusted &= (day < start) | (day >= end)
        return places[is_trusted]

    def _note(self, kind: RevisionKind, places: Places | None = None) -> None:
        start = end = None
        if places is not None:
            start = self.rows.time[places[0]].astype("datetime64[D]").astype(datetime)
            start = datetime(start.year, start.month, start.day, tzinfo=UTC)
            end = start + timedelta(days=1)
        number, by = len(self._history), self._adapter.held_by
        self._history.append(
            AdapterRevision("stream", number, 1, kind, EPOCH, "", cohort_start=start, cohort_end=end, held_by=by)
        )

    def _feed(self, look: np.datetime64) -> None:
        """Every cohort that is due, in the order of time; one that matures with too few labels is never fed."""
        maturity, kept = np.timedelta64(self.rows.settings.maturity), []
        for day, places in self._waiting:
            known = places[self.rows.known[places] <= look]
            is_matured = day + DAY + maturity <= look
            if day + DAY > look:
                kept.append((day, places))
            elif is_due(Share(len(places), len(known)), self._finals, is_matured=bool(is_matured)):
                self._learn(known)
            elif not is_matured:
                kept.append((day, places))
        self._waiting = kept
        while self._matured and self._matured[0][0] + DAY + maturity <= look:
            _, places = self._matured.pop(0)
            self._finals.append(float((self.rows.known[places] <= look).mean()))

    def _learn(self, places: Places) -> None:
        was_held = bool(self._adapter.held_by)
        features = self._named(places)
        raw, served = (self._one_sided(values[places]) for values in (self.raw.values, self.served))
        self._adapter = self._adapter.after(Look(raw, served, self._outcomes[places], features))
        self.holds += bool(self._adapter.held_by) and not was_held
        self._note(RevisionKind.HELD if self._adapter.held_by else RevisionKind.LEARNED, places)

    def _answer(self, places: Places) -> None:
        raw = self._one_sided(self.raw.values[places])
        answers = self._adapter.coefficients.apply(raw, self._named(places))
        if self.rows.settings.task == "binary":
            answers = np.column_stack([1 - answers, answers])
        self.served[places] = answers

    def _one_sided(self, values: Floats) -> Floats:
        """Answers as the adapter takes them: of two classes that of the positive one."""
        return values[:, 1] if self.rows.settings.task == "binary" else values

    def _named(self, places: Places) -> dict[str, Any]:
        chosen = self._features.take(places)
        return {name: chosen.column(name) for name in self.rows.features}

    @cached_property
    def _features(self) -> pa.Table:
        rows = self.rows
        outcome = rows.outcome.infer_objects()
        table = pa.Table.from_pandas(rows.features.assign(**{OUTCOME: outcome}), preserve_index=False)
        return table.append_column("predicted_at", pa.array(rows.time, pa.timestamp("us"))).combine_chunks()

    @cached_property
    def _contract(self) -> Contract:
        rows = self.rows
        is_number = {name: rows.features[name].dtype.kind in "iuf" for name in rows.features}
        types = {True: ColumnType.DOUBLE, False: ColumnType.STRING}
        label = {"binary": ColumnType.BOOLEAN, "multiclass": ColumnType.STRING, "regression": ColumnType.DOUBLE}
        return make_contract(
            model="stream",
            task=Task(rows.settings.task),
            features=tuple(Column(name, types[number], required=False) for name, number in is_number.items()),
            label=OUTCOME,
            label_type=label[rows.settings.task],
            classes=rows.classes,
            has_probabilities=bool(rows.classes),
        )


def refitted_with_care(fits: Fits, cadence: str) -> Answers:
    """A calendar of fits on all rows but those that the adapter on their answers mistrusts, as the product's are."""
    rows, raw = fits.rows, Answers(f"{cadence}, all but mistrusted", fits.rows.no_answers(), 0, 0, 0.0)
    feeding = _Feeding(rows, raw)
    moves, current = list[int](), fits.first()
    turns = CADENCES[cadence](rows.looks.astype("datetime64[D]"))
    starts = np.flatnonzero(np.diff(turns, prepend=turns[0] - 1))
    began = time.process_time()
    for start, end in zip(starts, [*starts[1:], len(rows.looks)], strict=True):
        for look in range(start, end):
            feeding.feed(look)
            if look == start:
                fitted = fits.fitted(feeding.trusted(rows.before(rows.looks[look]))) if start else None
                if fitted is not None:
                    current = fitted
                    moves.append(int(start))
                    feeding.promoted()
                places = rows.of_looks(int(start), int(end))
                raw.values[places] = rows.answers_of(current, places)
            feeding.answer(look)
    seconds = time.process_time() - began
    name = f"{raw.name} + adapter"
    return Answers(name, feeding.served, len(moves), len(moves), seconds, moves=tuple(moves), holds=feeding.holds)
