"""Suggestions for a policy, from a model's own log: how long outcomes take, and how its windows differ."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window, parse_duration
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.losses import Baseline, baseline_of
from feedback_loop.decisions.suggest import Suggestion, suggest, suggest_maturity
from feedback_loop.errors import NotFound
from feedback_loop.monitoring import Floats, labelled_only, row_losses, uniform
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store
from feedback_loop.store.predictions import predicted_span, read_labelled

HISTORY = timedelta(days=90)
"""How much of the log is read, up to its newest prediction: older days say little about those to come."""


def suggest_policy(
    store: Store, contract: Contract, version: str, settings: ModelSettings, reference: Baseline, now: datetime
) -> list[Suggestion]:
    """Maturity, units, cycle, tolerance and reference with reasons, from the log's last 90 days.

    How long outcomes take is seen on all champions' predictions. How windows differ is seen on those of this version
    that have matured by then, or on its reference while they are fewer than `policy.reference`. Raises NotFound where
    nothing was predicted yet.
    """
    span = predicted_span(store, contract.model, as_of=now)
    if span is None:
        cure = "Suggestions are made from the log: predict and load outcomes first."
        raise NotFound("prediction of", contract.model, cure=cure)
    window = Window(max(span[0], span[1] - HISTORY), span[1] + timedelta.resolution)
    rows = read_labelled(store, contract, window, as_of=now, role=Role.CHAMPION, columns=contract.outputs)
    watched = reference.watched[0]
    maturity = suggest_maturity(*_delays(contract, rows, watched.loss, now))
    wait = max(settings.maturity, parse_duration(str(maturity.value)) if maturity.value else timedelta())
    matured = pc.less(rows.column("predicted_at"), matured_until(now, wait, settings.window))
    own = rows.filter(pc.and_(matured, pc.equal(rows.column("model_version"), version)))
    logged = baseline_of(contract, labelled_only(contract, uniform(own)), settings)
    has_reference = bool(len(reference.raw(watched)))
    enough = len(logged.raw(watched)) >= settings.policy.reference
    shown = logged if enough or not has_reference else reference
    scale = reference if has_reference else logged
    return [maturity, *suggest(scale.scaled(watched, shown.raw(watched)), shown.windows_of(watched))]


def _delays(contract: Contract, rows: pa.Table, loss: str, now: datetime) -> tuple[Floats, Floats, Floats]:
    """The age of each prediction, how long its first outcome took (both in seconds), and its loss; NaN without one.

    Of a corrected outcome the log only says when the correction came, so the delay of the first one is not known.
    """
    rows = rows.filter(pc.less_equal(rows.column("predicted_at"), now))
    ages = _seconds(pc.subtract(pa.scalar(now, rows.schema.field("predicted_at").type), rows.column("predicted_at")))
    delays = _seconds(pc.subtract(rows.column("recorded_at"), rows.column("predicted_at")))
    first = pc.fill_null(pc.equal(rows.column("revision"), 1), fill_value=False).to_numpy()
    labelled = labelled_only(contract, rows.append_column("place", pa.array(np.arange(len(rows)))))
    losses = np.full(len(rows), np.nan)
    losses[labelled.column("place").to_numpy()] = row_losses(contract, labelled)[loss]
    return ages, np.where(first, np.maximum(delays, 0.0), np.nan), losses


def _seconds(durations: pa.ChunkedArray) -> Floats:
    return np.asarray(durations.cast(pa.int64()).cast(pa.float64()).to_numpy() / 1e6, dtype=np.float64)
