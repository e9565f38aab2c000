"""Tails of the hypergeometric distribution: how often chance draws so many hits from a pool."""

from __future__ import annotations

import numpy as np

from feedback_loop.monitoring.arrays import Floats, Ints

FARTHEST = 700
"""Counts beyond are less likely than e^-700, which is about the least that a double can be."""


def upper_tails(counts: Ints, pool: Ints, hits: Ints, drawn: int, chances: Floats) -> Floats:
    """P(X > count) + chance * P(X = count) of each row, where X counts the hits among `drawn` of a pool.

    They are drawn without replacement. With chances of 1 it is P(X ≥ count), with uniform ones the randomised
    probability transform. `counts`, `pool`, `hits` and `chances` have one number a row.

    The weights of all counts are products from the mode outwards, of ratios of neighbours: nothing is subtracted, so
    the far tail is as exact as the rest, and each row is the same whatever other rows are asked for. Counts
    that never occur are left out: those farther from the mode than `FARTHEST` allows (Bernstein's inequality).
    """
    hits, misses = hits[:, None], (pool - hits)[:, None]
    least, most = np.maximum(drawn - misses, 0), np.minimum(drawn, hits)
    mode = np.clip((drawn + 1) * (hits + 1) // (pool[:, None] + 2), least, most)
    spread = np.minimum(mode, drawn - mode) + 1
    reach = (FARTHEST + np.sqrt(2 * FARTHEST * spread)).astype(np.int64)
    first, last = max(int((mode - reach).min()), 0), min(int((mode + reach).max()), drawn)
    count = np.arange(first, last, dtype=np.float64)
    more = np.maximum(hits - count, 0) * (drawn - count)  # of count + 1 to count: more / fewer
    fewer = (count + 1) * np.maximum(misses - drawn + count + 1, 0)
    is_up, ones = count >= mode, np.ones((len(counts), 1))
    up = np.cumprod(np.divide(more, fewer, out=np.ones_like(more), where=is_up), axis=1)
    down = np.cumprod(np.divide(fewer, more, out=np.ones_like(more), where=~is_up)[:, ::-1], axis=1)[:, ::-1]
    weights = np.hstack([ones, up]) * np.hstack([down, ones])
    sums = np.cumsum(np.hstack([np.zeros_like(ones), weights[:, ::-1]]), axis=1)[:, ::-1]  # from each count on
    row, place = np.arange(len(counts)), np.clip(counts - first, 0, last - first)
    return np.asarray((sums[row, place + 1] + chances * weights[row, place]) / sums[:, 0])


def upper_tail(count: int, pool: int, hits: int, drawn: int, chance: float = 1.0) -> float:
    """The same of one row; P(X ≥ count) unless a chance is given."""
    return float(upper_tails(np.array([count]), np.array([pool]), np.array([hits]), drawn, np.array([chance]))[0])
