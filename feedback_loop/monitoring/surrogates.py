"""Surrogates: a few thousand made-up rows with the distributions of a profile, for what can only read rows.

Columns are made each by itself: quantiles of its bins, words in proportion to their counts. Those of `drift_columns`
are independent of each other. Those of `labelled_columns` have the right counts of true and answered classes and the
right distribution of each probability among rows of its class and among the others; a regression's errors are
independent of its outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from feedback_loop.monitoring.arrays import BEYOND_DOUBLES, Floats, Ints, Mask
from feedback_loop.monitoring.profiles.blocks import OTHER_CLASS, SIDE, Block, Rows, float_bin_values, score_bin_edges
from feedback_loop.monitoring.profiles.columns import NumberColumn, WordColumn
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.schema import ColumnType, Task

HAIR = 1e-9
"""The distance of scores of one bin on either side of the model's own threshold."""

SURROGATE_ROWS = 5000
"""The most surrogate rows: their quantiles are as fine as anything drawn of them."""

Words = npt.NDArray[np.object_]
WHOLE = (ColumnType.INTEGER, ColumnType.LONG)
FARTHEST = float(np.finfo(np.float64).max) / 4


@BEYOND_DOUBLES
def drift_columns(profile: Profile, reference: Profile) -> dict[str, Floats | Words]:
    """Each column that the profile has, by its stored name; what is missing, or no finite number, is NaN or None.

    Both profiles have the reference's layout. How values lie in the outermost bins follows from the reference's
    moments.
    """
    layout, rows = profile.layout, min(profile.rows(), SURROGATE_ROWS)
    whole = {
        column.stored for column in (*layout.contract.outputs, *layout.contract.features) if column.type in WHOLE
    }
    columns: dict[str, Floats | Words] = {}
    for name, numbers in profile.numbers.items():
        values = _numbers(numbers, reference.numbers[name], rows)
        columns[name] = np.ceil(values) if name in whole else values
    for name, words in profile.words.items():
        columns[name] = _words(words, rows)
    # In any order but the same: sorted columns would all go up together.
    return {
        name: np.random.default_rng(seed).permutation(column) for seed, (name, column) in enumerate(columns.items())
    }


@BEYOND_DOUBLES
def labelled_columns(profile: Profile, reference: Profile) -> dict[str, Floats | Words]:
    """The outcome, the answer and, where all outcomes have them, the probabilities, by their stored names."""
    contract = profile.layout.contract
    label, answer = contract.label.stored, contract.outputs[0].stored
    if contract.task is Task.REGRESSION:
        rows = min(profile.rows(Rows.SCORED), SURROGATE_ROWS)
        truth = np.random.default_rng(0).permutation(_numbers(profile.outcomes, reference.outcomes, rows))
        return {label: truth, answer: truth + _errors(profile, rows)}
    places, counts = profile.slots(Block.CONFUSION)
    sizes = shared(counts, min(profile.rows(Rows.LABELLED), SURROGATE_ROWS))
    truth_places, answer_places = (np.repeat(side, sizes) for side in np.divmod(places, SIDE))
    names = class_names(profile)
    scores = list(_scores(profile, truth_places, answer_places))
    columns = {
        column.stored: scores_of_class
        for column, scores_of_class in zip(contract.probabilities, scores, strict=False)
    }
    if any(np.isnan(score).any() for score in scores):
        columns = {}
    return {label: names[truth_places], answer: names[answer_places], **columns}


def class_names(profile: Profile) -> Words:
    """The name of the class of each place, as text."""
    contract = profile.layout.contract
    labels = [str(label) for label in contract.classes]
    if contract.task is Task.BINARY:
        labels = [*(label for label in labels if label != str(contract.positive)), str(contract.positive)]
    names = np.full(OTHER_CLASS + 1, "(other)", dtype=object)
    names[: min(len(labels), OTHER_CLASS)] = labels[:OTHER_CLASS]
    return names


def shared(counts: Floats, rows: int) -> Ints:
    """So many rows in proportion to the counts, what is left over to the largest remainders (Hamilton's method)."""
    whole = counts.sum()
    if not whole:
        return np.zeros(len(counts), np.int64)
    exact = counts * (rows / whole)
    sizes = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: rows - sizes.sum()]] += 1
    shares: Ints = sizes
    return shares


def _numbers(column: NumberColumn, reference: NumberColumn, rows: int) -> Floats:
    finite, gone = shared(np.array([column.rows, column.missing + column.non_finite]), rows)
    values = np.full(finite, np.clip(column.mean, -FARTHEST, FARTHEST) if finite else 0.0)
    if finite and len(column.edges):
        quantiles = _quantiles(column, int(finite))
        reference_quantiles = _quantiles(replace(reference, rows_below=0.0, rows_above=0.0), SURROGATE_ROWS)
        values = quantiles.bent(*_tails(quantiles, column, reference_quantiles, reference))
    return np.concatenate([values, np.full(gone, np.nan)])


@dataclass(frozen=True)
class _Quantiles:
    """Quantiles, ascending, of equal weight; `parts` says how far through their bin those of the outermost bins are.

    In the outermost bins values crowd towards the inner ones: the part u of them, counted from the inner end, lies at
    u^power of the bin's width.
    """

    values: Floats
    places: tuple[slice, slice]
    parts: tuple[Floats, Floats]
    ends: tuple[tuple[float, float], tuple[float, float]]

    def tails(self, crowding: float, tilt: float) -> tuple[Floats, Floats]:
        """The quantiles in the outermost bins, where the powers of 2 are the crowding plus and minus the tilt."""
        (first, second), (before, last) = self.ends
        low, high = self.parts
        return (
            second - (second - first) * (1 - low) ** 2 ** (crowding + tilt),
            before + (last - before) * high**2 ** (crowding - tilt),
        )

    def bent(self, crowding: float, tilt: float) -> Floats:
        """All quantiles."""
        values = self.values.copy()
        for place, tail in zip(self.places, self.tails(crowding, tilt), strict=True):
            values[place] = tail
        return values


def _quantiles(shape: NumberColumn, count: int) -> _Quantiles:
    """So many quantiles: straight within a bin, and as far out of range as it is in the mean."""
    beyond = shape.rows_below, shape.rows_above
    edges = np.clip(shape.edges, -FARTHEST, FARTHEST)
    far = [
        2 * excess / max(number, 1e-300) for excess, number in zip((shape.below, shape.above), beyond, strict=True)
    ]
    # Pieces: below the range, its least value, the bins, above the range.
    lower = edges[1:] if shape.layout.are_values else edges[:-1]
    left = np.concatenate([[max(edges[0] - far[0], -FARTHEST), edges[0]], lower, edges[-1:]])
    right = np.concatenate([edges[:1], edges[:1], edges[1:], [min(edges[-1] + far[1], FARTHEST)]])
    weights = np.concatenate([[beyond[0], shape.counts[0] - beyond[0]], shape.counts[1:]])
    ends = np.cumsum(weights)
    at = (np.arange(count) + 0.5) / count * ends[-1]
    place = np.searchsorted(ends, at)
    part = 1 - (ends[place] - at) / weights[place]
    outermost = 2, len(weights) - 2
    first, second = (slice(*np.searchsorted(place, (piece, piece + 1))) for piece in outermost)
    if outermost[0] >= outermost[1] or shape.layout.are_values:
        first = second = slice(0, 0)  # one bin has two ends: it stays straight
    values = left[place] + part * (right[place] - left[place])
    low, high = ((float(left[piece]), float(right[piece])) for piece in (min(2, len(left) - 1), len(left) - 2))
    return _Quantiles(values, (first, second), (part[first], part[second]), (low, high))


def _tails(
    quantiles: _Quantiles, shape: NumberColumn, reference_quantiles: _Quantiles, reference: NumberColumn
) -> tuple[float, float]:
    """Crowding and tilt that give the reference its standard deviation and the two means their difference.

    A Wasserstein distance is then right where one distribution is above the other everywhere.
    """
    if not np.isfinite([shape.second, reference.second]).all():  # squares beyond all doubles
        return 0.0, 0.0
    crowding = _falling(
        lambda crowding: float(reference_quantiles.bent(crowding, 0.0).std()) - reference.norm, 0.0, 6.0
    )
    mean = float(reference_quantiles.bent(crowding, 0.0).mean()) + shape.mean - reference.mean
    return crowding, _falling(lambda tilt: mean - float(quantiles.bent(crowding, tilt).mean()), -6.0, 6.0)


def _falling(excess: Callable[[float], float], least: float, most: float) -> float:
    """Where a falling function is 0, or the nearest end."""
    for _ in range(20):
        middle = (least + most) / 2
        least, most = (middle, most) if excess(middle) > 0 else (least, middle)
    return (least + most) / 2


def _words(column: WordColumn, rows: int) -> Words:
    names = np.array([*column.layout.words, "(rare)", "(new)", None], dtype=object)
    return np.repeat(names, shared(np.append(column.counts, column.missing), rows))


def _scores(profile: Profile, truth: Ints, answers: Ints) -> Iterator[Floats]:
    """The probabilities of each class with score bins; the rows answered with the class have its highest ones."""
    binary = profile.layout.contract.task is Task.BINARY
    for number in range(profile.layout.scored_classes):
        place = 1 if binary else number
        probabilities = np.full(len(truth), np.nan)
        parts: tuple[tuple[Mask, Block], ...] = ((truth == place, Block.HITS), (truth != place, Block.MISSES))
        for is_side, block in parts:
            rows = np.flatnonzero(is_side)
            bins, weights = profile.slots(block.of(number))
            if len(rows) and len(bins):
                middle = np.mean(score_bin_edges(bins), axis=0)
                probabilities[rows[np.argsort(answers[rows] == place, kind="stable")]] = _steps(
                    middle, weights, len(rows)
                )
        yield _parted(probabilities, answers == place) if binary else probabilities


def _parted(scores: Floats, answered: Mask) -> Floats:
    """The scores, slightly higher where the class was answered: the threshold may lie within a bin of tied rows."""
    if answered.any() and not answered.all() and scores[~answered].max() > scores[answered].min():
        return scores  # answers are not by a threshold
    parted: Floats = np.minimum(scores + HAIR * answered, 1.0)
    return parted


def _errors(profile: Profile, rows: int) -> Floats:
    bins, weights = profile.slots(Block.ERRORS)
    return np.random.default_rng(1).permutation(_steps(float_bin_values(bins), weights, rows))


def _steps(values: Floats, weights: Floats, count: int) -> Floats:
    """So many quantiles of a distribution of these values."""
    ends = np.cumsum(weights)
    at = (np.arange(count) + 0.5) / count * ends[-1] if count else np.empty(0)
    return values[np.searchsorted(ends, at)]
