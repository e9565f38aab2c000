"""Drift: how far the distribution of a column is from its reference's, in size, direction and beyond chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from feedback_loop.monitoring.distances import (
    NumberShape,
    chi_squared_p_value,
    hellinger,
    jensen_shannon,
    ks_distance,
    ks_p_value,
    mean_shift,
    normed_wasserstein,
    one_sample_chi_squared,
    psi,
    z_p_value,
)
from feedback_loop.monitoring.losses import BEYOND_DOUBLES, Floats
from feedback_loop.monitoring.profiles import (
    MISSING,
    NEW,
    NON_FINITE,
    RARE,
    Block,
    Moment,
    NumberLayout,
    Profile,
    WordLayout,
)
from feedback_loop.store.evaluations import INSUFFICIENT, DriftValue, finite

THRESHOLD = 0.1
"""From this size on a shift counts, for each distance: Evidently's default."""

P_VALUE = 0.05
"""Evidently's default threshold of tests."""

ALPHA = 0.01
"""What decides must also be so that chance alone would show it less often than this, over all columns together."""

LEAST_WINDOWS = 5
"""A reference with fewer windows tells nothing about how far a column strays from one to the next."""

LEAST_ROWS = 100
"""Fewer rows say nothing about a distribution."""

GROUPS = 20
"""Bins of a column of numbers for PSI, Jensen-Shannon and Hellinger: so many quantiles of the reference."""

SMALL_REFERENCE = 1000
FEW_VALUES = 5
"""Evidently's rule: tests up to so many rows of the reference, distances above; numbers of few values are words."""


@dataclass(frozen=True)
class Shares:
    """Weights of the same bins in the reference and in the current rows, and how many rows each speaks for."""

    reference: Floats
    current: Floats
    reference_rows: float
    current_rows: float
    binning: str

    @property
    def as_rows(self) -> tuple[Floats, Floats]:
        """Both as counts of rows of equal weight."""
        return (
            self.reference * (self.reference_rows / self.reference.sum()),
            self.current * (self.current_rows / self.current.sum()),
        )

    @property
    def test_of_words(self) -> str:
        """Evidently's test for as many values as there are: `z` for two, else `chi_squared`."""
        return "z" if np.count_nonzero(self.reference + self.current) <= 2 else "chi_squared"


@BEYOND_DOUBLES
def drift_values(reference: Profile, current: Profile) -> tuple[DriftValue, ...]:
    """The drift of each column by several methods; one with too few rows says how many are missing.

    Numbers: the Wasserstein distance in standard deviations of the reference, the Kolmogorov-Smirnov test, the
    shift of the mean (signed, in the same unit). Words: the chi-squared or z test, and the greatest change of a
    share. Both: PSI, Jensen-Shannon (natural logarithm) and Hellinger distance over the bins that `binning` names.
    Each method's `drifted` is by Evidently's threshold for it, and `is_default` marks the one that Evidently would
    choose. The one that `decides` (Wasserstein, Jensen-Shannon) has drifted only if a test rejects too, at a level
    divided by the number of columns: with many categories and few rows a distance alone is far from 0 without any
    change. Where the reference spans several windows, its threshold is at least the farthest that any of them is
    from it: a day's weather is not a drift.
    """
    layout = reference.layout
    columns: list[tuple[int, NumberLayout | WordLayout]] = [*enumerate(layout.numbers), *enumerate(layout.words)]
    shapes = [(column, _shape(reference, current, place, column)) for place, column in columns]
    tested = [(column, shape) for column, shape in shapes if _missing(shape) == 0]
    values: list[DriftValue] = []
    for column, shape in shapes:
        name, lacking = column.column, _missing(shape)
        if lacking:
            rows = round(shape.shares.current_rows)
            values.append(DriftValue(name, INSUFFICIENT, lacking, LEAST_ROWS, None, drifted=False, rows=rows))
            continue
        found = _numbers(name, shape) if isinstance(shape, _Numbers) else _words(name, shape)
        swings = reference.swings[name].distances if name in reference.swings else ()
        values += _decided(list(found), shape, swings, len(tested))
    return finite(values)


@dataclass(frozen=True)
class _Numbers:
    shares: Shares
    reference: NumberShape
    current: NumberShape


@dataclass(frozen=True)
class _Words:
    shares: Shares
    names: tuple[str, ...]


def _shape(reference: Profile, current: Profile, place: int, column: NumberLayout | WordLayout) -> _Numbers | _Words:
    if isinstance(column, NumberLayout):
        shapes = [number_shape(each, Block.NUMBERS + 2 * place, column) for each in (reference, current)]
        grouped, binning = _grouped(*shapes)
        rows = [
            each.effective(float(shape.counts.sum()))
            for each, shape in zip((reference, current), shapes, strict=True)
        ]
        return _Numbers(Shares(grouped[0], grouped[1], rows[0], rows[1], binning), *shapes)
    counts = [_told_apart(fresh_words(each, place, column)[0], column) for each in (reference, current)]
    rows = [each.effective(float(count.sum())) for each, count in zip((reference, current), counts, strict=True)]
    return _Words(
        Shares(counts[0], counts[1], rows[0], rows[1], "words"), (*column.words[: column.frequent], "(rare)", "(new)")
    )


def _told_apart(counts: Floats, layout: WordLayout) -> Floats:
    """Those of frequent words, of all others, and of new ones."""
    return np.append(
        counts[: min(layout.frequent, len(layout.words))],
        [counts[min(layout.frequent, len(layout.words)) : -1].sum(), counts[-1]],
    )


def number_shape(profile: Profile, block: int, layout: NumberLayout) -> NumberShape:
    """The distribution of a column of numbers."""
    counts = profile.counts(block, len(layout.edges) + 1)
    sums = [profile.sum(block + 1, each) for each in Moment]
    return NumberShape(np.asarray(layout.edges), counts, layout.are_values, layout.centre, *sums)


def word_counts(profile: Profile, block: int, layout: WordLayout) -> Floats:
    """How often each word of the vocabulary came, then rare and new ones."""
    known = profile.counts(block, len(layout.words))
    return np.append(known, [profile.at(block, RARE), profile.at(block, NEW)])


def fresh_words(profile: Profile, place: int, layout: WordLayout, *, chosen: bool = False) -> tuple[Floats, float]:
    """The same, and how many values are missing, of rows whose words are as new to the vocabulary as those that come.

    Of a reference these are the half that had no part in it, where that is of the other half, and where words were
    `chosen` by their number.
    """
    held = Block.HELD + place
    is_held = (layout.is_open or chosen) and len(profile.slots(held)[0]) > 0
    block = held if is_held else Block.WORDS + place
    return word_counts(profile, block, layout), profile.at(block, MISSING)


def absent(profile: Profile, block: int) -> tuple[float, float]:
    """How many values of a column are missing, and how many are no finite numbers."""
    return profile.at(block, MISSING), profile.at(block, NON_FINITE)


def _grouped(reference: NumberShape, current: NumberShape) -> tuple[list[Floats], str]:
    counts = [reference.counts, current.counts]
    if len(reference.edges) <= GROUPS or not reference.rows:
        return counts, "values"
    # The inner ends of the groups: the first edges by which (but for a rounded row) so large a share has come.
    ends = np.searchsorted(reference.cumulated, np.arange(1, GROUPS) / GROUPS - 0.004)
    starts = np.unique(np.append(0, ends + 1))
    return [np.add.reduceat(each, starts) for each in counts], f"{len(starts)} quantiles of the reference"


def _missing(shape: _Numbers | _Words) -> int:
    return max(LEAST_ROWS - int(min(shape.shares.reference_rows, shape.shares.current_rows)), 0)


def _numbers(column: str, shape: _Numbers) -> Iterator[DriftValue]:
    shares = shape.shares
    few = len(shape.reference.edges) <= FEW_VALUES
    if shares.reference_rows <= SMALL_REFERENCE:
        default = shares.test_of_words if few else "ks"
    else:
        default = "jensen_shannon" if few else "wasserstein_normed"
    p_value = ks_p_value(shape.reference, shape.current, shares.reference_rows, shares.current_rows)
    yield _distance(column, "wasserstein_normed", normed_wasserstein(shape.reference, shape.current), shares, default)
    yield _test(column, "ks", ks_distance(shape.reference, shape.current), p_value, shares, default)
    yield _distance(column, "mean_shift", mean_shift(shape.reference, shape.current), shares, default)
    yield from _binned(column, shares, default)
    if few:
        yield from _tests_of_words(column, shares, default)


def _words(column: str, shape: _Words) -> Iterator[DriftValue]:
    shares = shape.shares
    default = shares.test_of_words if shares.reference_rows <= SMALL_REFERENCE else "jensen_shannon"
    yield from _binned(column, shares, default)
    yield from _tests_of_words(column, shares, default)
    change = shares.current / shares.current.sum() - shares.reference / shares.reference.sum()
    place = int(np.abs(change).argmax())
    yield _distance(column, f"share_change[{shape.names[place]}]", float(change[place]), shares, default)


def _binned(column: str, shares: Shares, default: str) -> Iterator[DriftValue]:
    for method, measure in (("psi", psi), ("jensen_shannon", jensen_shannon), ("hellinger", hellinger)):
        yield _distance(column, method, measure(shares.reference, shares.current), shares, default)


def _tests_of_words(column: str, shares: Shares, default: str) -> Iterator[DriftValue]:
    yield _test(column, "chi_squared", *one_sample_chi_squared(*shares.as_rows), shares, default)
    if default == "z":
        yield _test(column, "z", *z_p_value(*shares.as_rows), shares, default)


def _distance(column: str, method: str, value: float, shares: Shares, default: str) -> DriftValue:
    rows = round(shares.current_rows)
    drifted = abs(value) >= THRESHOLD
    return DriftValue(
        column, method, value, THRESHOLD, None, drifted, rows, shares.binning, is_default=method == default
    )


def _test(column: str, method: str, value: float, p_value: float, shares: Shares, default: str) -> DriftValue:
    drifted = p_value <= P_VALUE if method == "ks" else p_value < P_VALUE
    rows = round(shares.current_rows)
    return DriftValue(
        column, method, value, P_VALUE, p_value, drifted, rows, shares.binning, is_default=method == default
    )


def _decided(
    values: list[DriftValue], shape: _Numbers | _Words, swings: Sequence[float], columns: int
) -> list[DriftValue]:
    """The same values, one of which decides by the stricter rule."""
    method, p_value = "jensen_shannon", None
    threshold = max(THRESHOLD, *swings) if len(swings) >= LEAST_WINDOWS else THRESHOLD
    if isinstance(shape, _Numbers):
        method, p_value = "wasserstein_normed", next(each.p_value for each in values if each.method == "ks")
    if p_value is None:
        p_value = chi_squared_p_value(*shape.shares.as_rows)
    place = next(place for place, value in enumerate(values) if value.method == method)
    drifted = values[place].value > threshold and p_value < ALPHA / columns
    decides = replace(values[place], threshold=threshold, p_value=p_value, drifted=drifted, decides=True)
    return [*values[:place], decides, *values[place + 1 :]]
