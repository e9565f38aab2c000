"""The numbers of a tally's blocks, and what the slots in each of them count."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from feedback_loop.monitoring.arrays import Floats, Ints


class Block(IntEnum):
    """Blocks of rows and of outcomes. Those of score bins and of columns are one for each class or column."""

    ROWS = 0  # slots: see Rows
    ANSWERS = 1  # predictions by the place of the class that was answered (binary: 1 for the positive one, else 0)
    CONFUSION = 2  # labelled predictions by SIDE * true place + answered place
    LOSSES = 3  # sums: see Loss
    ERRORS = 4  # signed errors of a regression, in float bins
    HASHES = 6  # predictions by a hash of their features
    TARGET = 8  # the label of a regression: counts, and in the next block sums
    LEAVES = 10  # answered predictions of a regression by the leaf of the layout's tree
    SCORES = 100  # + class: probabilities of that class, of all predictions, in score bins
    HITS = 200  # + class: of labelled ones of that class
    MISSES = 300  # + class: of labelled ones of another class
    ANSWERED = 400  # + class: of all predictions that are answered with that class
    OWN = 500  # + own metric: its sums
    NUMBERS = 1000  # + 2 * column: counts, and in the next block sums
    WORDS = 20_000  # + column: counts
    HELD_OUT = 30_000  # + column: counts of the reference's rows that its vocabulary was not chosen by

    def of(self, place: int) -> int:
        """The number of the block of a class, a column or a metric, by its place."""
        return self + (2 * place if self is Block.NUMBERS else place)


class Rows(IntEnum):
    """Slots of `Block.ROWS`."""

    PREDICTED = 0
    LABELLED = 1  # the outcome and the answer are known
    RIGHT = 2
    SCORED = 3  # the outcome and the probabilities (of a regression: both as finite numbers) are known
    INVALID_PROBABILITIES = 4  # predictions with invalid probabilities


OWN_ROWS, OWN_FAILED = 16, 128
"""Slots of `Block.ROWS` beside those, + own metric: labelled rows that count for it, and that it failed for."""


class Loss(IntEnum):
    """Sums in `Block.LOSSES`, over scored rows. `e` is the answer minus the outcome."""

    LOG_LOSS = 0
    LOG_LOSS_SQUARED = 1
    BRIER = 2
    BRIER_SQUARED = 3
    ERROR = 4
    ABSOLUTE = 5
    SQUARED = 6
    FOURTH = 7
    SIGNED_SQUARE = 8  # e |e|
    PERCENTAGE = 9  # |e| / |y|, the least denominator as in scikit-learn
    PERCENTAGE_SQUARED = 10


class Moment(IntEnum):
    """Sums of a column of numbers: of distances from the layout's centre, and of how far outside values are."""

    FIRST = 0
    SECOND = 1
    BELOW = 2
    ABOVE = 3


MISSING, NON_FINITE, BELOW, ABOVE = 65535, 65534, 65533, 65532
"""Slots of a column of numbers beside its bins. Values out of range are in a bin too, the others in none."""

RARE, NEW = 65534, 65533
"""Slots of a column of words beside its vocabulary, and MISSING."""

HASHES = 1024
"""Slots of `Block.HASHES`."""

SIDE = 256
MOST_CLASSES = SIDE - 1
OTHER_CLASS = SIDE - 1
"""The place of all classes beyond the first `MOST_CLASSES`, and of unknown ones."""

_SIGN = 0x8000


def float_bins(values: Floats) -> Ints:
    """Bins of numbers by the top 16 bits of their float32: 128 for each power of two. Ascending with the value."""
    with np.errstate(over="ignore"):
        bits = (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.int64)
    return np.where(bits & _SIGN, _SIGN - 1 - (bits & ~_SIGN), bits | _SIGN)


def float_bin_values(bins: Ints) -> Floats:
    """The middle of each of these bins."""
    bits = np.where(bins & _SIGN, bins & ~_SIGN, (_SIGN - 1 - bins) | _SIGN).astype(np.uint32)
    return ((bits << 16) | 0x8000).view(np.float32).astype(np.float64)


def score_bins(scores: Floats) -> Ints:
    """Bins of probabilities, as fine beside 1 as beside 0: by the top 16 bits of p, above ½ of 1 - p.

    Ascending with the probability. What is below 0 or above 1 counts as that.
    """
    clipped = np.clip(scores, 0.0, 1.0) + 0.0  # -0 is 0
    halves = (np.minimum(clipped, 1.0 - clipped).astype(np.float32).view(np.uint32) >> 16).astype(np.int64)
    return np.where(clipped <= 0.5, halves, 65535 - halves)


def score_bin_edges(bins: Ints) -> tuple[Floats, Floats]:
    """The least and the greatest probability of each of these bins."""
    halves = np.where(bins < _SIGN, bins, 65535 - bins).astype(np.uint32) << 16
    least = halves.view(np.float32).astype(np.float64)
    most = np.where(halves == 0, least + 2.0**-126, (halves | 0xFFFF).view(np.float32).astype(np.float64))
    most = np.minimum(most, 0.5)
    return np.where(bins < _SIGN, least, 1.0 - most), np.where(bins < _SIGN, most, 1.0 - least)
