"""Splits a change of the mean loss into the part of other inputs and that of another relation to outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from feedback_loop.decisions.diagnosis.comparison import (
    Comparison,
    Effect,
    Ints,
    influence_of_change,
    mean_effect,
    standard_error,
)
from feedback_loop.decisions.diagnosis.learners import feature_frame, learn_classes, learn_numbers, make_folds
from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import floats
from feedback_loop.monitoring.losses import class_places, class_probabilities
from feedback_loop.schema import Contract, Task

if TYPE_CHECKING:
    import pandas as pd

THIN = 0.95
"""Rows with a higher probability to be current ones lie where the reference has next to none."""


@dataclass(frozen=True)
class Split:
    """The change of the mean loss in its two parts, and what a flexible learner would gain on top of the champion.

    `inputs`: the same relation on other rows. `relation`: another relation on the same rows; it is measured where
    both sides have rows, `overlap` is the effective share of current ones there. `thin`: the share of current rows
    where the reference has next to none. Gains are of a learner that sees features and the champion's answers, on
    each side.
    """

    change: Effect
    inputs: Effect
    relation: Effect
    overlap: float
    thin: float
    gain_before: Effect
    gain_now: Effect


def split_change(compared: Comparison) -> Split:
    """Splits the change by a residual-on-residual regression of losses on being a current row.

    With π(x) the probability that a row is a current one and m(x) its expected loss, both cross-fitted,
    θ = Σ(D − π)(l − m) / Σ(D − π)² is the change of the loss at the same inputs, weighted by π(1 − π): where both
    sides have rows (Robinson 1988; Chernozhukov et al. 2018, section 4.1). Those weights are bounded, as odds are
    not; they are of the shared distribution of Cai, Namkoong and Yadlowsky (2023). Errors are those of the influence
    functions, summed over windows where each side has eight or more.
    """
    folds, features, now, losses = make_folds(compared), feature_frame(compared), compared.is_now, compared.losses
    chance = np.clip(learn_classes(features, now, folds, compared.seed)[:, 1], 0.001, 0.999)
    with_answers = _with_answers(compared, features)
    residual = now - chance
    unexpected = losses - learn_numbers(with_answers, losses, folds, compared.seed)
    relation = float((residual * unexpected).sum() / (residual**2).sum())
    change, of_change = influence_of_change(compared)
    of_relation = residual * (unexpected - relation * residual) / (residual**2).mean()
    windows, weights = compared.windows, (1 - chance)[now]
    gains = losses - _learned_losses(compared, compared.rows, with_answers.assign(**{"\0now": now * 1.0}), folds)
    return Split(
        change=Effect(change, standard_error(of_change, windows)),
        inputs=Effect(change - relation, standard_error(of_change - of_relation, windows)),
        relation=Effect(relation, standard_error(of_relation, windows)),
        overlap=float(weights.sum() ** 2 / (weights**2).sum() / len(weights)),
        thin=float((chance[now] > THIN).mean()),
        gain_before=mean_effect(gains[~now], windows[~now] if windows is not None else None),
        gain_now=mean_effect(gains[now], windows[now] if windows is not None else None),
    )


def fresh_worth(compared: Comparison, feature: str) -> Effect:
    """The gain by a feature for a learner on current rows alone: the loss without it less that with it."""
    now = compared.is_now
    folds, frame = make_folds(compared)[now], feature_frame(compared)[now]
    with_it, without = (
        _learned_losses(compared, compared.current, columns, folds, alone=True)
        for columns in (frame, frame.drop(columns=feature))
    )
    return mean_effect(without - with_it)


def _with_answers(compared: Comparison, frame: pd.DataFrame) -> pd.DataFrame:
    """The features, and the champion's answers as numbers."""
    if compared.contract.task is Task.REGRESSION:
        answers = floats(compared.rows.column(compared.contract.outputs[0].stored))[:, None]
    else:
        answers = _chances(compared.contract, compared.rows)
    return frame.assign(**{f"\0answer {place}": answers[:, place] for place in range(answers.shape[1])})


def _chances(contract: Contract, rows: pa.Table) -> Floats:
    """The champion's probability of each class; 1 for the answered class where it gives none."""
    if contract.probabilities:
        return class_probabilities(contract, rows)
    answers = class_places(contract.classes, rows.column(contract.outputs[0].stored))
    return np.asarray(answers[:, None] == np.arange(len(contract.classes)), dtype=np.float64)


def _learned_losses(
    compared: Comparison, rows: pa.Table, frame: pd.DataFrame, folds: Ints, *, alone: bool = False
) -> Floats:
    """The losses of trees that correct the champion's answers, or (`alone`) that do not know them."""
    contract, seed, label = compared.contract, compared.seed, rows.column(compared.contract.label.stored)
    if contract.task is Task.REGRESSION:
        residual = floats(label) if alone else floats(label) - floats(rows.column(contract.outputs[0].stored))
        unexplained = residual - learn_numbers(frame, residual, folds, seed, "absolute_error")
        return np.asarray(np.minimum(np.abs(unexplained) / compared.scale, 1.0))
    places = class_places(contract.classes, label)
    hit = np.asarray(places[:, None] == np.arange(len(contract.classes)), dtype=np.float64)
    chances = np.tile(hit.mean(axis=0), (len(hit), 1)) if alone else _chances(contract, rows)
    learned = [1] if contract.task is Task.BINARY else range(hit.shape[1])  # the other is its complement
    moved = [chances[:, n] + learn_numbers(frame, hit[:, n] - chances[:, n], folds, seed) for n in learned]
    better = np.clip(np.column_stack(moved), 1e-9, 1.0)
    better = np.column_stack([1 - better, better]) if contract.task is Task.BINARY else better
    better /= better.sum(axis=1, keepdims=True)
    if not contract.probabilities:
        return np.asarray(better.argmax(axis=1) != places, dtype=np.float64)
    return np.asarray((((better - hit) ** 2).sum(axis=1) + (places < 0)) / 2)  # an unknown class had no chance
