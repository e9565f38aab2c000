"""Exact sums of floating-point numbers, as whole numbers: limbs of a superaccumulator.

Each number is cut into limbs of 32 bits, which are summed apart (Neal 2015, "Fast exact summation using small and
large superaccumulators", section 3). Nothing is rounded before the end, so neither order nor grouping matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from feedback_loop.monitoring.losses import Floats
from feedback_loop.monitoring.profiles.tally import Ints

LIMBS = 128
"""Slots of one sum; 69 of them suffice for the range of a double."""

_BITS = 32
_LOW = np.uint64((1 << _BITS) - 1)
_OFFSET = 36 * _BITS  # the place of 2⁰: below it is room for the last bit of the least double
MOST_ROWS = 1 << 20
"""So many rows are summed at once: limbs below 2³² then add up exactly in a double, which is what `bincount` has."""


def limbs(values: Floats, groups: Ints, count: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Limbs of the sums by group of finite values: triples of groups, slots and what to add to them."""
    for start in range(0, len(values), MOST_ROWS):
        yield from _limbs(values[start : start + MOST_ROWS], groups[start : start + MOST_ROWS], count)


def _limbs(values: Floats, groups: Ints, count: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    fractions, exponents = np.frexp(values)
    whole = np.abs(np.ldexp(fractions, 53)).astype(np.uint64)
    signs = np.sign(values)
    places, shifts = np.divmod(exponents.astype(np.int64) - 53 + _OFFSET, _BITS)
    up, down = shifts.astype(np.uint64), (_BITS - shifts).astype(np.uint64)
    # The last in two steps, since a shift by all of 64 bits is undefined.
    parts = (whole << up) & _LOW, (whole >> down) & _LOW, (whole >> np.uint64(_BITS)) >> down
    least = int(places.min())
    width = int(places.max()) - least + 1
    if count * width > 4 * len(values) + 65536:  # values of very different sizes in many groups
        for group in np.unique(groups):
            mine = groups == group
            yield from (
                (np.full(len(slots), group), slots, sums)
                for _, slots, sums in _limbs(values[mine], np.zeros(int(mine.sum()), np.int64), 1)
            )
        return
    for above, part in enumerate(parts):
        sums = np.bincount(groups * width + places - least, weights=part.astype(np.float64) * signs)
        filled = np.flatnonzero(sums)
        yield filled // width, filled % width + least + above, sums[filled].astype(np.int64)


def summed(slots: Ints, values: Ints) -> float:
    """The sum that these limbs stand for, rounded once; infinite where it is beyond all doubles."""
    whole = sum(value << (_BITS * slot) for slot, value in zip(slots.tolist(), values.tolist(), strict=True))
    try:
        return float(whole / (1 << _OFFSET))
    except OverflowError:
        return math.inf if whole > 0 else -math.inf
