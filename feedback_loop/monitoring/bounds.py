"""What metrics of ranked scores could be of all predictions, whatever the outcomes of the unlabelled are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.losses import Floats

Range = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """By ascending score bin: weights of labelled rows of the class and of the others, and of unlabelled rows."""

    least: Floats
    most: Floats
    hits: Floats
    misses: Floats
    unknown: Floats

    @property
    def middle(self) -> Floats:
        """The middle of each bin."""
        return (self.least + self.most) / 2


def area_range(scores: Scores) -> Range:
    """The least and the greatest ROC AUC."""
    hits, misses, unknown = scores.hits[::-1], scores.misses[::-1], scores.unknown[::-1]
    return 1 - _best_area(Scores(scores.least, scores.most, hits, misses, unknown)), _best_area(scores)


def _best_area(scores: Scores) -> float:
    """The greatest ROC AUC that any outcomes of the unlabelled give (of rows in one bin, half win).

    Of any number of positives among them those with the highest scores are best. So the best is sought over where
    the positives end: within each bin, by the number of its unlabelled rows that are positive, the area is a ratio
    of two quadratic polynomials.
    """
    hits, misses, unknown = scores.hits, scores.misses, scores.unknown
    negatives = misses + unknown  # of a bin below the end
    positives = hits + unknown  # of a bin above it
    above = positives.sum() - np.cumsum(positives)
    misses_above = misses.sum() - np.cumsum(misses)
    below, hits_below = np.cumsum(negatives) - negatives, np.cumsum(hits) - hits
    won_below = np.cumsum(hits * (below + negatives / 2)) - hits * (below + negatives / 2)
    misses_below = np.cumsum(misses) - misses
    won = positives * (misses_below + misses / 2)
    won_above = won.sum() - np.cumsum(won) - (misses_below + misses) * above
    right, left = above + hits_below + hits, misses_above + below + negatives
    top = (
        np.full(len(hits), -0.5),
        below - above + (negatives - hits) / 2,
        won_above + won_below + above * below + hits * below + above * negatives + hits * negatives / 2,
    )
    bottom = (np.full(len(hits), -1.0), left - right, right * left)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = _stationary(top, bottom)
        areas = [
            (top[0] * j**2 + top[1] * j + top[2]) / (bottom[0] * j**2 + bottom[1] * j + bottom[2])
            for j in (np.clip(np.nan_to_num(end), 0.0, unknown) for end in (0 * unknown, unknown, *ends))
        ]
    return float(min(np.fmax.reduce(np.concatenate(areas), initial=0.0), 1.0))


def _stationary(top: tuple[Floats, Floats, Floats], bottom: tuple[Floats, Floats, Floats]) -> list[Floats]:
    """Where the derivative of a ratio of quadratic polynomials is 0."""
    (a, b, c), (d, e, f) = top, bottom
    square, half, rest = a * e - b * d, a * f - c * d, b * f - c * e
    root = np.sqrt(np.maximum(half**2 - square * rest, 0.0))
    return [(-half + root) / square, (-half - root) / square, -rest / (2 * half)]


def precision_range(scores: Scores) -> Range:
    """Bounds of the average precision of a class of which a labelled row is known.

    With x positives in a bin, X down to it, n rows down to it, it is sum(x X / n) / sum(x). Of k positives among the
    unlabelled, X is greatest where they have the highest scores and least where they have the lowest, and so is the
    sum for x of the unlabelled wherever X / n falls with the score; where it does not, the envelope of it that falls
    is counted, so that the bounds are then a little wide. Between bins the greatest is a ratio of linear functions
    of k, so that only their ends are looked at; the least one of a square and a linear function (two unlabelled
    positives in any bins count at least 1 / all rows), which has its least within.
    """
    hits, unknown = scores.hits[::-1], scores.unknown[::-1]
    rows = np.cumsum(hits + scores.misses[::-1] + unknown)
    hits, unknown, rows = (each[rows > 0] for each in (hits, unknown, rows))
    found, added = np.cumsum(hits), np.cumsum(unknown)
    density, falling = hits / rows, np.maximum.accumulate(((found + added) / rows)[::-1])[::-1]
    known = float(density @ found)
    count = np.append(0.0, added)
    reached = np.append(0.0, np.cumsum(density * added))
    ahead = density.sum() - np.append(0.0, np.cumsum(density))
    best = known + reached + count * ahead + np.append(0.0, np.cumsum(unknown * falling))
    most = float((best / (found[-1] + count)).max())

    rising = np.minimum.accumulate(found / rows)[::-1]  # from the lowest score on
    count = np.append(0.0, np.cumsum(unknown[::-1]))
    behind = np.append(0.0, np.cumsum(density[::-1]))
    passed = np.append(0.0, np.cumsum(unknown[::-1] * behind[1:]))
    base = known + passed + np.append(0.0, np.cumsum(unknown[::-1] * rising))
    slope = np.append(behind[1:] + rising, 0.0)
    square = 1 / (2 * rows[-1])
    # Of (square k² + slope k + rest) / (hits + k), k counted from 0.
    rest = base - slope * count
    inner = np.sqrt(np.maximum(found[-1] ** 2 - (slope * found[-1] - rest) / square, 0.0)) - found[-1]
    inside = np.clip(inner, count, np.append(count[1:], count[-1]))
    least = min(float(((square * k**2 + slope * k + rest) / (found[-1] + k)).min()) for k in (count, inside))
    return least, min(most, 1.0)


def lift_range(scores: Scores, top: float) -> Range:
    """The least and the greatest lift of that share of all rows, of a class of which a labelled row is known.

    Which rows are on top is known; so it is a ratio of linear functions of the outcomes, greatest where the positive
    ones end somewhere in the order of scores, and least where they begin there.
    """
    hits, unknown = scores.hits[::-1], scores.unknown[::-1]
    held = hits + scores.misses[::-1] + unknown
    wanted = held.sum() * top
    taken = np.clip(wanted - (np.cumsum(held) - held), 0.0, held)
    share = np.divide(taken, held, out=np.zeros(len(held)), where=held > 0)
    inside, ends = float(share @ hits), []
    for order in (slice(None, None, -1), slice(None)):
        above, count = (np.append(0.0, np.cumsum(each[order])) for each in (share * unknown, unknown))
        ends.append((inside + above) / (hits.sum() + count) / top)
    return float(ends[0].min()), float(ends[1].max())


def mean_range(certain: list[Range], possible: list[Range]) -> Range:
    """Bounds of a mean of the certain ones and of any of the possible ones."""
    least, most = (
        np.cumsum([sum(each[end] for each in certain), *sorted((each[end] for each in possible), reverse=bool(end))])
        / (len(certain) + np.arange(len(possible) + 1))
        for end in (0, 1)
    )
    return float(least.min()), float(most.max())
