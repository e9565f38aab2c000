"""What a profile counts of each column: nobody outside of profiles knows in which blocks that stands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from feedback_loop.monitoring.arrays import Floats
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


@dataclass(frozen=True)
class WordColumn:
    """How often each word of the layout came, then rare and new ones.

    `fresh` is the same of rows whose words are as new to the vocabulary as those that come: of a reference the half
    that had no part in choosing it, where there is such a half.
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
