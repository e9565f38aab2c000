"""A calendar instead of a loop: on each first of a month, a fit to all that had matured by then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from feedback_loop.clock import Window
from feedback_loop.inference import Scorer, make_scorer
from feedback_loop.loop import FeedbackLoop
from feedback_loop.outcomes import matured_until
from feedback_loop.rehearsal.history import History
from feedback_loop.retraining import TrainingRows, training_rows


def monthly_outputs(own: FeedbackLoop, first: Scorer, history: History) -> tuple[pa.Table, int]:
    """What models of the calendar would have answered for all of the history, in its order, and how many fits.

    Before the first fit, and where there are fewer rows than `retraining.min_rows`, the one before answers.
    """
    settings = own.settings.model(first.contract.model)
    start, last = history.span
    parts, fits, scorer = [], 0, None
    for window in months_between(start, last):
        if window.start > start:
            rows = _known_at(own, first, window.start)
            if len(rows) >= settings.retraining.min_rows:
                scorer, fits = _fitted(own, first, rows), fits + 1
        inputs, outputs = history.predicted(window)
        if scorer is not None and inputs.num_rows:
            outputs = scorer.score(inputs).outputs.select([column.stored for column in scorer.contract.outputs])
            outputs = outputs.rename_columns([column.name for column in scorer.contract.outputs])
        parts.append(outputs)
    return pa.concat_tables(parts, promote_options="default"), fits


def months_between(start: datetime, last: datetime) -> Iterator[Window]:
    """The calendar months that cover both moments."""
    opens = datetime(start.year, start.month, 1, tzinfo=UTC)
    while opens <= last:
        closes = (opens + timedelta(days=32)).replace(day=1)
        yield Window(opens, closes)
        opens = closes


def _known_at(own: FeedbackLoop, first: Scorer, moment: datetime) -> TrainingRows:
    settings = own.settings.model(first.contract.model)
    until = matured_until(moment, settings.maturity, settings.window)
    history = settings.retraining.history
    path = own.settings.path(history) if history else None
    return training_rows(own.store, first, until=until, as_of=moment, history=path)


def _fitted(own: FeedbackLoop, first: Scorer, rows: TrainingRows) -> Scorer:
    estimator = first.loaded.estimator
    rows = rows.with_kinds(estimator)
    loaded = replace(first.loaded, estimator=rows.fitted(estimator))
    return make_scorer(
        loaded, own.settings.model(first.contract.model), own.settings.hash_key, none=first.inputs.none
    )
