"""What a profile counts of each column, independent of the blocks that hold it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from feedback_loop.monitoring.arrays import Floats, Ints
from feedback_loop.monitoring.profiles.layout import NumberLayout, WordLayout


@dataclass(frozen=True)
class NumberColumn:
    """The distribution of a column of numbers: weights in the bins of its layout, and moments about their `centre`.

    `counts[i]` are in `(edges[i-1], edges[i]]`. `below` and `above` are the sums of how far values are beyond the
    outermost edges, `rows_below` and `rows_above` how many are.
    """

    layout: NumberLayout
    counts: Floats
    first: float
    second: float
    below: float
    above: float
    rows_below: float
    rows_above: float
    missing: float
    non_finite: float

    @cached_property
    def edges(self) -> Floats:
        """The greatest value of each bin but the last: all values of the reference, or its quantiles."""
        return np.asarray(self.layout.edges)

    @cached_property
    def rows(self) -> float:
        """The weight of all values that are finite."""
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean of the finite values."""
        return self.layout.centre + self.first / self.rows

    @property
    def norm(self) -> float:
        """The standard deviation (population), at least 0.001: what Evidently norms by."""
        variance = self.second / self.rows - (self.first / self.rows) ** 2
        return max(float(np.sqrt(max(variance, 0.0))), 0.001)

    @property
    def cumulated(self) -> Floats:
        """The distribution function at the edges."""
        return np.cumsum(self.counts[:-1]) / self.rows

    def group_starts(self, groups: int) -> Ints:
        """The first bins of groups of about equal weight, as many as `groups` where bins are fine enough."""
        if not self.rows:
            return np.zeros(1, np.int64)
        # A group ends at the first edge where the cumulated share reaches its quantile, up to the rounding of a row.
        ends = np.searchsorted(self.cumulated, np.arange(1, groups) / groups - 0.004)
        return np.unique(np.append(0, ends + 1))


@dataclass(frozen=True)
class WordColumn:
    """How often each word of the layout came, then rare and new ones.

    `fresh` counts the rows that had no part in choosing the vocabulary: one half of a reference, where it is halved.
    """

    layout: WordLayout
    counts: Floats
    missing: float
    fresh: WordColumn | None = None

    @property
    def judged(self) -> WordColumn:
        """What is compared between windows: fresh rows where the vocabulary is open."""
        return self.fresh if self.fresh is not None and self.layout.is_open else self

    @property
    def frequent(self) -> Floats:
        """The counts of frequent words, of all others together, and of new ones."""
        frequent = min(self.layout.frequent, len(self.layout.words))
        return np.append(self.counts[:frequent], [self.counts[frequent:-1].sum(), self.new])

    @property
    def rows(self) -> float:
        """The weight of all words."""
        return float(self.counts.sum())

    @property
    def new(self) -> float:
        """How many words the reference does not have."""
        return float(self.counts[-1])
