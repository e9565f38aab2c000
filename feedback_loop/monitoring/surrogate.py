"""Surrogates: a few thousand made-up rows with the distributions of a profile, for what can only read rows.

Columns are made each by itself: quantiles of its bins, words in proportion to their counts. Those of `drift_columns`
are independent of each other. Those of `labelled_columns` have the right counts of true and answered classes and the
right distribution of each probability among rows of its class and among the others; a regression's errors are
independent of its outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from feedback_loop.monitoring.distances import NumberShape
from feedback_loop.monitoring.drift import absent, number_shape, word_counts
from feedback_loop.monitoring.losses import Floats, Mask
from feedback_loop.monitoring.profiles import (
    ABOVE,
    BELOW,
    MISSING,
    OTHER_CLASS,
    SIDE,
    Block,
    Ints,
    NumberLayout,
    Profile,
    Rows,
    WordLayout,
    float_bin_values,
    score_bin_edges,
)
from feedback_loop.schema import ColumnType, Task

MOST_ROWS = 5000
"""So many rows are made of more: quantiles of one in five thousand are as fine as what is drawn of them."""

Words = npt.NDArray[np.object_]
WHOLE = (ColumnType.INTEGER, ColumnType.LONG)
FARTHEST = float(np.finfo(np.float64).max) / 4


def drift_columns(profile: Profile) -> dict[str, Floats | Words]:
    """Each column that the profile has, by its stored name; what is missing, or no finite number, is NaN or None."""
    layout, rows = profile.layout, min(profile.rows(), MOST_ROWS)
    whole = {each.stored for each in (*layout.contract.outputs, *layout.contract.features) if each.type in WHOLE}
    found: dict[str, Floats | Words] = {}
    for place, number in enumerate(layout.numbers):
        values = _numbers(profile, Block.NUMBERS + 2 * place, number, rows)
        found[number.column] = np.ceil(values) if number.column in whole else values
    for place, word in enumerate(layout.words):
        found[word.column] = _words(profile, Block.WORDS + place, word, rows)
    # In any order but the same: sorted columns would all go up together.
    return {
        name: np.random.default_rng(seed).permutation(column) for seed, (name, column) in enumerate(found.items())
    }


def labelled_columns(profile: Profile) -> dict[str, Floats | Words]:
    """The outcome, the answer and, where all outcomes have them, the probabilities, by their stored names."""
    contract = profile.layout.contract
    label, answer = contract.label.stored, contract.outputs[0].stored
    if contract.task is Task.REGRESSION:
        rows = min(profile.rows(Rows.SCORED), MOST_ROWS)
        target = profile.layout.target or NumberLayout(label, (), 0.0)
        truth = np.random.default_rng(0).permutation(_numbers(profile, Block.TARGET, target, rows))
        return {label: truth, answer: truth + _errors(profile, rows)}
    places, counts = profile.slots(Block.CONFUSION)
    given = shared(counts, min(profile.rows(Rows.LABELLED), MOST_ROWS))
    truth_places, answer_places = (np.repeat(each, given) for each in np.divmod(places, SIDE))
    names = class_names(profile)
    scores = list(_scores(profile, truth_places, answer_places))
    columns = {column.stored: each for column, each in zip(contract.probabilities, scores, strict=False)}
    if any(np.isnan(each).any() for each in scores):
        columns = {}
    return {label: names[truth_places], answer: names[answer_places], **columns}


def class_names(profile: Profile) -> Words:
    """The name of the class of each place, as text."""
    contract = profile.layout.contract
    known = [str(each) for each in contract.classes]
    if contract.task is Task.BINARY:
        known = [*(each for each in known if each != str(contract.positive)), str(contract.positive)]
    names = np.full(OTHER_CLASS + 1, "(other)", dtype=object)
    names[: min(len(known), OTHER_CLASS)] = known[:OTHER_CLASS]
    return names


def shared(counts: Floats, rows: int) -> Ints:
    """So many rows in proportion to the counts, what is left over to the largest remainders (Hamilton's method)."""
    whole = counts.sum()
    if not whole:
        return np.zeros(len(counts), np.int64)
    exact = counts * (rows / whole)
    given = np.floor(exact).astype(np.int64)
    given[np.argsort(given - exact, kind="stable")[: rows - given.sum()]] += 1
    shares: Ints = given
    return shares


def _numbers(profile: Profile, block: int, layout: NumberLayout, rows: int) -> Floats:
    shape = number_shape(profile, block, layout)
    finite, gone = shared(np.array([shape.rows, sum(absent(profile, block))]), rows)
    beyond = profile.at(block, BELOW), profile.at(block, ABOVE)
    return np.concatenate([_quantiles(shape, beyond, int(finite)), np.full(gone, np.nan)])


def _quantiles(shape: NumberShape, beyond: tuple[float, float], count: int) -> Floats:
    """So many quantiles, each of as much weight: straight within a bin, and as far out of range as it is in the mean.

    In the outermost bins values crowd towards the others, by as much as makes the standard deviation right.
    """
    if not count:
        return np.empty(0)
    if not len(shape.edges):
        return np.full(count, np.clip(shape.mean, -FARTHEST, FARTHEST))
    far = [
        2 * each / number if number else 0.0 for each, number in zip((shape.below, shape.above), beyond, strict=True)
    ]
    first, last = shape.edges[0], shape.edges[-1]
    lower = shape.edges[1:] if shape.are_values else shape.edges[:-1]
    left = np.concatenate([[first - far[0], first], lower, [last]])
    right = np.concatenate([[first, first], shape.edges[1:], [last + far[1]]])
    left, right = (np.clip(each, -FARTHEST, FARTHEST) for each in (left, right))
    weights = np.concatenate([[beyond[0], shape.counts[0] - beyond[0]], shape.counts[1:]])
    ends = np.cumsum(weights)
    at = (np.arange(count) + 0.5) / count * ends[-1]
    place = np.searchsorted(ends, at)
    part = 1 - (ends[place] - at) / weights[place]
    is_low, is_high = place <= LOWEST, place >= len(weights) - LOWEST

    def bent(power: float) -> Floats:
        bends = np.where(is_high, part**power, np.where(is_low, 1 - (1 - part) ** power, part))
        found: Floats = left[place] + bends * (right[place] - left[place])
        return found

    if not np.isfinite(shape.second):  # squares beyond all doubles have no deviation
        return bent(1.0)
    return bent(_solved(lambda power: float(np.std(bent(power))) - shape.norm))


LOWEST = 2
"""The last of the pieces of a distribution that are its low end: out of range, the least value, the bin above it."""


def _solved(excess: Callable[[float], float]) -> float:
    """The power from 1 to 64 at which a falling function is 0, or the nearest of these."""
    least, most = 0.0, 6.0
    if not excess(1.0) > 0:
        return 1.0
    for _ in range(40):
        middle = (least + most) / 2
        least, most = (middle, most) if excess(2**middle) > 0 else (least, middle)
    return float(2**least)


def _words(profile: Profile, block: int, layout: WordLayout, rows: int) -> Words:
    counts = np.append(word_counts(profile, block, layout), profile.at(block, MISSING))
    names = np.array([*layout.words, "(rare)", "(new)", None], dtype=object)
    return np.repeat(names, shared(counts, rows))


def _scores(profile: Profile, truth: Ints, answers: Ints) -> Iterator[Floats]:
    """Of each class with score bins its probability in these rows; those that it was answered in have the highest."""
    binary = profile.layout.contract.task is Task.BINARY
    for number in range(profile.layout.scored_classes):
        place = 1 if binary else number
        found = np.full(len(truth), np.nan)
        parts: tuple[tuple[Mask, int], ...] = ((truth == place, Block.HITS), (truth != place, Block.MISSES))
        for mine, block in parts:
            rows = np.flatnonzero(mine)
            bins, weights = profile.slots(block + number)
            if len(rows) and len(bins):
                middle = np.mean(score_bin_edges(bins), axis=0)
                found[rows[np.argsort(answers[rows] == place, kind="stable")]] = _steps(middle, weights, len(rows))
        yield found


def _errors(profile: Profile, rows: int) -> Floats:
    bins, weights = profile.slots(Block.ERRORS)
    return np.random.default_rng(1).permutation(_steps(float_bin_values(bins), weights, rows))


def _steps(values: Floats, weights: Floats, count: int) -> Floats:
    """So many quantiles of a distribution of these values."""
    ends = np.cumsum(weights)
    at = (np.arange(count) + 0.5) / count * ends[-1] if count else np.empty(0)
    return values[np.searchsorted(ends, at)]
