"""Advice: what the policy of a model should say, by the model's own history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window, parse_duration
from feedback_loop.decisions import Suggestion, baseline_of, suggest, suggest_maturity
from feedback_loop.errors import NotFound
from feedback_loop.loop.context import Context
from feedback_loop.loop.judging import Judging
from feedback_loop.monitoring import Floats, labelled_only, row_losses, uniform
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store.predictions import predicted_span, read_labelled

HISTORY = timedelta(days=90)
"""So much of the log is read, up to its newest prediction: what was longer ago says little of days to come."""


@dataclass(frozen=True)
class Advising:
    """What could be set otherwise; it changes nothing."""

    context: Context
    judging: Judging

    def suggest_policy(self, model: str) -> list[Suggestion]:
        """Maturity, units, cycle, tolerance and reference with reasons, from the log's last 90 days.

        How long outcomes take is seen on all champions' predictions; how windows differ on those of today's version
        that have matured by then, or on its reference while they are fewer than `policy.reference`. Raises NotFound
        where nothing was predicted yet.
        """
        settings, version, now = (
            self.context.settings.model(model),
            self.context.champion(model),
            self.context.final(model, None),
        )
        contract, span = self.context.scorer(version).logged, predicted_span(self.context.store, model, as_of=now)
        if span is None:
            raise NotFound(
                "prediction of", model, cure="Suggestions are made from the log: predict and load outcomes first."
            )
        window = Window(max(span[0], span[1] - HISTORY), span[1] + timedelta(microseconds=1))
        rows = read_labelled(
            self.context.store, contract, window, as_of=now, role=Role.CHAMPION, columns=contract.outputs
        )
        reference = self.judging.baseline(version, settings, as_of=now)
        watched = reference.watched[0]
        maturity = suggest_maturity(*_waits(contract, rows, watched.loss, now))
        wait = max(settings.maturity, parse_duration(str(maturity.value)) if maturity.value else timedelta())
        matured = pc.less(rows.column("predicted_at"), matured_until(now, wait, settings.window))
        own = pc.equal(rows.column("model_version"), version.version)
        known = baseline_of(contract, labelled_only(contract, uniform(rows.filter(pc.and_(matured, own)))), settings)
        enough = len(known.raw(watched)) >= settings.policy.reference
        shown = known if enough or not len(reference.raw(watched)) else reference
        measure = reference if len(reference.raw(watched)) else known
        losses = measure.scaled(watched, shown.raw(watched))
        return [maturity, *suggest(losses, shown.windows_of(watched))]


def _waits(contract: Contract, rows: pa.Table, loss: str, now: datetime) -> tuple[Floats, Floats, Floats]:
    """Of each prediction its age and how long its first outcome took (seconds), and its loss; NaN where none came.

    Of a corrected outcome the log says when the correction came: how long the first one took is not known.
    """
    rows = rows.filter(pc.less_equal(rows.column("predicted_at"), now))
    ages = _seconds(pc.subtract(pa.scalar(now, rows.schema.field("predicted_at").type), rows.column("predicted_at")))
    delays = _seconds(pc.subtract(rows.column("recorded_at"), rows.column("predicted_at")))
    first = pc.fill_null(pc.equal(rows.column("revision"), 1), fill_value=False).to_numpy()
    places = labelled_only(contract, rows.append_column("place", pa.array(np.arange(len(rows)))))
    losses = np.full(len(rows), np.nan)
    losses[places.column("place").to_numpy()] = row_losses(contract, places)[loss]
    return ages, np.where(first, np.maximum(delays, 0.0), np.nan), losses


def _seconds(durations: pa.ChunkedArray) -> Floats:
    return np.asarray(durations.cast(pa.int64()).cast(pa.float64()).to_numpy() / 1e6, dtype=np.float64)
