"""The gate: what a candidate must show on the newest labelled rows before it may answer callers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feedback_loop.monitoring import Floats

LEAST_DAYS = 3
"""Rows of one day share their fate: with fewer days than this nothing can be said about the next."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean of differences of losses row by row, and its standard error between days."""

    mean: float
    standard_error: float
    days: int


def paired_difference(one: Floats, other: Floats, times: npt.NDArray[np.datetime64]) -> PairedDifference:
    """`one - other` of the same rows. Rows of one day are not independent: the error is that of whole days
    (cluster-robust, Cameron and Miller 2015, eq. 11), infinite for fewer than three or losses that are no number.
    """
    difference = one - other
    days, place = np.unique(times.astype("datetime64[D]"), return_inverse=True)
    count = len(days)
    if count < LEAST_DAYS or not np.isfinite(difference).all():
        return PairedDifference(float(difference.mean()) if len(difference) else 0.0, float("inf"), count)
    mean = float(difference.mean())
    sums = np.bincount(place, weights=difference - mean)
    return PairedDifference(mean, float(np.sqrt((sums**2).sum() * count / (count - 1))) / len(difference), count)


@dataclass(frozen=True)
class GateResult:
    """Whether a candidate passed, with the figures; None where there is no number."""

    passed: bool
    loss: str
    candidate: float | None
    champion: float | None
    difference: float  # candidate - champion, below zero is better
    upper: float | None  # of the difference, at the gate's confidence
    margin: float  # what the upper bound must not exceed
    rows: int
    days: int
    summary: str


def non_inferiority(
    loss: str,
    candidate: Floats,
    champion: Floats,
    times: npt.NDArray[np.datetime64],
    *,
    margin: float,
    alpha: float,
) -> GateResult:
    """Is the candidate not worse than the champion by more than a margin (a share of the champion's mean loss)?

    Both losses are of the same rows, which neither was trained on. The bound is one of Student's, with the error
    between days. Passes if it is at most the margin; fails closed on too few days or losses that are no number.
    """
    from scipy import special

    paired = paired_difference(candidate, champion, times)
    rows = len(candidate)
    means = (_mean(candidate), _mean(champion))
    if not np.isfinite(paired.standard_error) or None in means:
        summary = f"{rows:,} rows of {paired.days} days are too few to compare on; {LEAST_DAYS} days are needed."
        if paired.days >= LEAST_DAYS:
            summary = f"{loss} is no number on some of {rows:,} rows: nothing can be compared."
        return GateResult(False, loss, *means, 0.0, None, 0.0, rows, paired.days, summary)
    upper = paired.mean + float(special.stdtrit(paired.days - 1, 1 - alpha)) * paired.standard_error
    worst = margin * float(champion.mean())
    summary = (
        f"{loss} {means[0]:.4f} against the champion's {means[1]:.4f} on {rows:,} rows of {paired.days} days: "
        f"at worst {upper:+.4f}, where {worst:+.4f} is allowed."
    )
    return GateResult(upper <= worst, loss, *means, paired.mean, upper, worst, rows, paired.days, summary)


def _mean(losses: Floats) -> float | None:
    return float(losses.mean()) if len(losses) and np.isfinite(losses).all() else None
