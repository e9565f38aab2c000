"""Explored rows beside the rest of those acted on: has the loop changed what it measures?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window
from feedback_loop.monitoring.arrays import Floats, Ints, Mask, floats
from feedback_loop.monitoring.evaluation import labelled_only
from feedback_loop.monitoring.losses import is_positive, primary_loss, row_losses
from feedback_loop.schema import ACTED, Contract, Role, Task
from feedback_loop.store import Store
from feedback_loop.store.predictions import read_labelled


@dataclass(frozen=True)
class Group:
    """Labelled rows that were acted on: their mean outcome (of a class: its rate), loss, and calibration.

    `calibration` is the mean answer minus the mean outcome. Outcome and calibration are None for several classes.
    """

    rows: int
    loss: float
    outcome: float | None
    calibration: float | None


@dataclass(frozen=True)
class Difference:
    """Explored minus the rest, with the standard error between days, and how often chance alone does as much."""

    value: float
    standard_error: float
    p_value: float


@dataclass(frozen=True)
class ExplorationEffect:
    """The two groups of a window, and how they differ in loss and outcome; None where a group or all days lack."""

    window: Window
    loss: str
    explored: Group | None
    rest: Group | None
    days: int
    loss_difference: Difference | None
    outcome_difference: Difference | None


def exploration_effect(store: Store, contract: Contract, window: Window, as_of: datetime) -> ExplorationEffect:
    """Both groups among the champion's rows of a window that were acted on and have an outcome, as known then."""
    rows = read_labelled(store, contract, window, as_of=as_of, role=Role.CHAMPION, columns=contract.outputs)
    return effect_in(contract, rows, window)


def effect_in(contract: Contract, rows: pa.Table, window: Window) -> ExplorationEffect:
    """The same for rows of the join."""
    acted = labelled_only(contract, rows.filter(pc.fill_null(rows.column(ACTED), fill_value=False)))
    marks = pc.fill_null(acted.column(contract.exploration_columns[0].stored), fill_value=False)
    explored: Mask = np.asarray(marks.to_numpy(), dtype=np.bool_)
    loss = primary_loss(contract)
    losses = row_losses(contract, acted)[loss]
    outcomes, answers = _outcomes_and_answers(contract, acted)
    day_us = 86_400_000_000
    days = acted.column("predicted_at").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() // day_us
    return ExplorationEffect(
        window,
        loss,
        _group(losses, outcomes, answers, explored),
        _group(losses, outcomes, answers, ~explored),
        len(np.unique(days)),
        _difference(losses, explored, days),
        _difference(outcomes, explored, days) if outcomes is not None else None,
    )


def _outcomes_and_answers(contract: Contract, rows: pa.Table) -> tuple[Floats | None, Floats | None]:
    """Outcomes as numbers, and what they are compared with; None where there are no such numbers."""
    label = rows.column(contract.label.stored)
    if contract.more_labels or contract.task is Task.MULTICLASS:
        return None, None
    if contract.task is Task.REGRESSION:
        return floats(label), floats(rows.column(contract.outputs[0].stored))
    answers = floats(rows.column(contract.probabilities[0].stored)) if contract.probabilities else None
    return is_positive(contract, label).astype(np.float64), answers


def _group(losses: Floats, outcomes: Floats | None, answers: Floats | None, mask: Mask) -> Group | None:
    if not mask.any():
        return None
    outcome = float(outcomes[mask].mean()) if outcomes is not None else None
    calibration = float(answers[mask].mean()) - outcome if answers is not None and outcome is not None else None
    return Group(int(mask.sum()), float(losses[mask].mean()), outcome, calibration)


def _difference(values: Floats, explored: Mask, days: Ints) -> Difference | None:
    """The difference of two means; rows of a day share their fate, so a day is one unit (linearized, Student's t)."""
    from scipy.special import stdtr

    units, day = np.unique(days, return_inverse=True)
    if len(units) < 2 or explored.all() or not explored.any():
        return None
    means = np.where(explored, values[explored].mean(), values[~explored].mean())
    sizes = np.where(explored, explored.sum(), -(~explored).sum())
    residuals = np.bincount(day, (values - means) / sizes)
    error = float(np.sqrt(len(units) / (len(units) - 1) * (residuals**2).sum()))
    value = float(values[explored].mean() - values[~explored].mean())
    chance = 2 * float(stdtr(len(units) - 1, -abs(value) / error)) if error > 0 else float(value == 0)
    return Difference(value, error, chance)
