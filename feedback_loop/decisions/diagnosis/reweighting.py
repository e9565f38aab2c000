"""A change of the mean loss, split: what other inputs explain, and what the relation of inputs to outcomes does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feedback_loop.decisions.diagnosis.sides import (
    Effect,
    Ints,
    Matrix,
    Sides,
    encode,
    influence_of_change,
    learn_classes,
    learn_numbers,
    make_folds,
    mean_effect,
    standard_error,
)
from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import floats
from feedback_loop.monitoring.losses import class_places, class_probabilities
from feedback_loop.schema import Task

THIN = 0.95
"""Where a row is so sure to be a current one, the reference has less than a twentieth of as many rows."""


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


def split_change(sides: Sides) -> Split:
    """Splits the change by a residual-on-residual regression of losses on being a current row.

    With π(x) the probability that a row is a current one and m(x) its expected loss, both cross-fitted,
    θ = Σ(D − π)(l − m) / Σ(D − π)² is the change of the loss at the same inputs, weighted by π(1 − π): where both
    sides have rows (Robinson 1988; Chernozhukov et al. 2018, section 4.1). Those weights are bounded, as odds are
    not; they are of the shared distribution of Cai, Namkoong and Yadlowsky (2023). Errors are those of the influence
    functions, summed over windows where each side has eight or more.
    """
    folds, features, now, losses = make_folds(sides), encode(sides), sides.is_now, sides.losses
    chance = np.clip(learn_classes(features, now, folds, sides.seed)[:, 1], 0.001, 0.999)
    known = features.plus(_answers(sides))
    residual, left = now - chance, losses - learn_numbers(known, losses, folds, sides.seed)
    relation = float((residual * left).sum() / (residual**2).sum())
    change, of_change = influence_of_change(sides)
    of_relation = residual * (left - relation * residual) / (residual**2).mean()
    windows, weights = sides.windows, (1 - chance)[now]
    gains = losses - _corrected(sides, known.plus(now.astype(np.float64)), folds)
    return Split(
        change=Effect(change, standard_error(of_change, windows)),
        inputs=Effect(change - relation, standard_error(of_change - of_relation, windows)),
        relation=Effect(relation, standard_error(of_relation, windows)),
        overlap=float(weights.sum() ** 2 / (weights**2).sum() / len(weights)),
        thin=float((chance[now] > THIN).mean()),
        gain_before=mean_effect(gains[~now], windows[~now] if windows is not None else None),
        gain_now=mean_effect(gains[now], windows[now] if windows is not None else None),
    )


def fresh_worth(sides: Sides, feature: str) -> Effect:
    """What a feature is worth to one who learns from current rows alone: the loss without it less that with it."""
    now = sides.is_now
    folds = make_folds(sides)[now]
    with_it, without = (_learned_losses(sides, encode(sides, each).only(now), folds) for each in ("", feature))
    return mean_effect(without - with_it)


def _learned_losses(sides: Sides, matrix: Matrix, folds: Ints) -> Floats:
    """Losses of current rows under cross-fitted trees."""
    contract, label = sides.contract, sides.current.column(sides.contract.label.stored)
    if contract.task is Task.REGRESSION:
        said = learn_numbers(matrix, floats(label), folds, sides.seed, "absolute_error")
        return np.asarray(np.minimum(np.abs(floats(label) - said) / sides.scale, 1.0))
    places = class_places(contract.classes, label)
    hit = places[:, None] == np.unique(places)
    return np.asarray(((learn_classes(matrix, places, folds, sides.seed) - hit) ** 2).sum(axis=1) / 2)


def _answers(sides: Sides) -> Floats:
    """The champion's outputs as numbers."""
    contract = sides.contract
    if contract.probabilities:
        return np.column_stack([floats(sides.rows.column(each.stored)) for each in contract.probabilities])
    answer = sides.rows.column(contract.outputs[0].stored)
    if contract.task is Task.REGRESSION:
        return floats(answer)
    return np.asarray(class_places(contract.classes, answer), dtype=np.float64)


def _corrected(sides: Sides, matrix: Matrix, folds: Ints) -> Floats:
    """Losses once trees have corrected the champion's answers."""
    contract, rows, seed = sides.contract, sides.rows, sides.seed
    label = rows.column(contract.label.stored)
    if contract.task is Task.REGRESSION:
        residual = floats(label) - floats(rows.column(contract.outputs[0].stored))
        moved = learn_numbers(matrix, residual, folds, seed, "absolute_error")
        return np.asarray(np.minimum(np.abs(residual - moved) / sides.scale, 1.0))
    places = class_places(contract.classes, label)
    if not contract.probabilities:
        said = learn_classes(matrix, places, folds, seed).argmax(axis=1)
        return np.asarray(np.unique(places)[said] != places, dtype=np.float64)
    chances = class_probabilities(contract, rows)
    hit = (places[:, None] == np.arange(chances.shape[1])).astype(np.float64)
    if contract.task is Task.BINARY:  # one of the two says all
        moved = learn_numbers(matrix, hit[:, 1] - chances[:, 1], folds, seed)
        return np.asarray((np.clip(chances[:, 1] + moved, 0, 1) - hit[:, 1]) ** 2)
    moves = [learn_numbers(matrix, hit[:, each] - chances[:, each], folds, seed) for each in range(hit.shape[1])]
    better = np.clip(chances + np.column_stack(moves), 1e-9, None)
    squares = ((better / better.sum(axis=1, keepdims=True) - hit) ** 2).sum(axis=1)
    return np.asarray((squares + (places < 0)) / 2)  # a class that it does not know had no chance
