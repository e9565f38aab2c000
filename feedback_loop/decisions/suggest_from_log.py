"""Suggestions for a policy, from a model's own log: how long outcomes take, and how its windows differ."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window, parse_duration
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.losses import Baseline, baseline_of
from feedback_loop.decisions.suggest import Suggestion, suggest, suggest_maturity
from feedback_loop.errors import NotFound
from feedback_loop.monitoring import Floats, judged, labelled_only, row_losses, thinned
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store
from feedback_loop.store.predictions import predicted_span, read_labelled

BACKFILL = "outcomes that were loaded at once count from when they occurred, where that was told"

HISTORY = timedelta(days=90)
"""How much of the log is read, up to its newest prediction."""


def suggest_policy(
    store: Store, contract: Contract, version: str, settings: ModelSettings, reference: Baseline, now: datetime
) -> list[Suggestion]:
    """Maturity, units, cycle, tolerance and reference with reasons, from the log's last 90 days.

    Delays of outcomes are those of all champions' predictions. How windows differ is measured on this version's
    matured predictions, or on its reference while they are fewer than `policy.reference`. Raises NotFound where
    nothing was predicted yet.
    """
    span = predicted_span(store, contract.model, as_of=now)
    if span is None:
        cure = "Suggestions are made from the log: predict and load outcomes first."
        raise NotFound("prediction of", contract.model, cure=cure)
    window = Window(max(span[0], span[1] - HISTORY), span[1] + timedelta.resolution)
    log = read_labelled(store, contract, window, as_of=now, role=Role.CHAMPION, columns=contract.outputs)
    rows = judged(contract, log)
    watched = reference.watched[0]
    backfill = _backfill(rows)
    maturity = suggest_maturity(*_delays(contract, rows, watched.loss, now, backfill))
    if backfill.any():
        maturity = replace(maturity, reason=f"{maturity.reason}; {BACKFILL}")
    wait = max(settings.maturity, parse_duration(str(maturity.value)) if maturity.value else timedelta())
    matured = pc.less(log.column("predicted_at"), matured_until(now, wait, settings.window))
    of_version = log.filter(pc.and_(matured, pc.equal(log.column("model_version"), version)))
    logged = baseline_of(contract, labelled_only(contract, thinned(contract, of_version)), settings)
    has_reference = bool(len(reference.raw(watched)))
    enough = len(logged.raw(watched)) >= settings.policy.reference
    history = logged if enough or not has_reference else reference
    scale = reference if has_reference else logged
    return [maturity, *suggest(scale.scaled(watched, history.raw(watched)), history.windows_of(watched))]


def _backfill(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """The rows whose outcomes were recorded in one load with more than half of all: a history, not its pace."""
    recorded = rows.column("recorded_at")
    loads = pc.value_counts(recorded.drop_null())
    if not len(loads):
        return np.zeros(len(rows), dtype=np.bool_)
    counts = loads.field("counts").to_numpy()
    if 2 * counts.max() <= counts.sum():
        return np.zeros(len(rows), dtype=np.bool_)
    load = loads.field("values")[int(counts.argmax())]
    return np.asarray(pc.fill_null(pc.equal(recorded, load), fill_value=False).to_numpy(), dtype=np.bool_)


def _delays(
    contract: Contract, rows: pa.Table, loss: str, now: datetime, backfill: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """The age of each prediction, how long its first outcome took (both in seconds), and its loss; NaN without one.

    Of a corrected outcome the log only says when the correction came, so the delay of the first one is not known. Of
    a `backfill` it is the time until the outcome occurred, where that was told.
    """
    is_past = pc.less_equal(rows.column("predicted_at"), now)
    rows, backfill = rows.filter(is_past), backfill[is_past.to_numpy()]
    predicted, recorded, occurred = (rows.column(name) for name in ("predicted_at", "recorded_at", "occurred_at"))
    ages = _seconds(pc.subtract(pa.scalar(now, predicted.type), predicted))
    told = pc.if_else(pc.not_equal(occurred, recorded), occurred, pa.scalar(None, recorded.type))
    known = pc.if_else(pa.array(backfill), told, recorded)
    delays = _seconds(pc.subtract(known, predicted))
    first = pc.fill_null(pc.equal(rows.column("revision"), 1), fill_value=False).to_numpy()
    labelled = labelled_only(contract, rows.append_column("place", pa.array(np.arange(len(rows)))))
    losses = np.full(len(rows), np.nan)
    losses[labelled.column("place").to_numpy()] = row_losses(contract, labelled)[loss]
    return ages, np.where(first, np.maximum(delays, 0.0), np.nan), losses


def _seconds(durations: pa.ChunkedArray) -> Floats:
    return np.asarray(durations.cast(pa.int64()).cast(pa.float64()).to_numpy() / 1e6, dtype=np.float64)
