"""Exact sums of floating-point numbers, as whole numbers: limbs of a superaccumulator.

Each number is cut into limbs of 32 bits, which are summed apart (Neal 2015, "Fast exact summation using small and
large superaccumulators", section 3). Nothing is rounded before the end, so neither order nor grouping matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from feedback_loop.monitoring.arrays import Floats, Ints

LIMBS = 128
"""Slots of one sum; 69 of them suffice for the range of a double."""

_BITS = 32
_OFFSET = 36 * _BITS  # the place of 2⁰: below it is room for the last bit of the least double
_LAST = _OFFSET - 1075  # and an exponent field to the place of the number's last bit
ROWS_AT_ONCE = 1 << 20
"""So many rows are summed at once: limbs below 2³² then add up exactly in a double, which is what `bincount` has."""

_BLOCK = 8192
"""So many numbers are cut at once: what is made of them stays in the processor's cache."""

_LOW, _FRACTION = np.uint64((1 << _BITS) - 1), np.uint64((1 << 52) - 1)


def limbs(values: Floats, groups: Ints, count: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Limbs of the sums by group of finite values: triples of groups, slots and what to add to them."""
    for start in range(0, len(values), ROWS_AT_ONCE):
        yield from _limbs(values[start : start + ROWS_AT_ONCE], groups[start : start + ROWS_AT_ONCE], count)


def _limbs(values: Floats, groups: Ints, count: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    bits = np.ascontiguousarray(values).view(np.uint64)
    ends = np.maximum((bits >> np.uint64(52)).astype(np.int64) & 0x7FF, 1) + _LAST
    places = ends // _BITS
    least = int(places.min())
    width = int(places.max()) - least + 1
    size = count * width
    if size > 4 * len(values) + 65536:  # values of very different sizes in many groups
        for group in np.unique(groups):
            in_group = groups == group
            yield from (
                (np.full(len(slots), group), slots, sums)
                for _, slots, sums in _limbs(values[in_group], np.zeros(int(in_group.sum()), np.int64), 1)
            )
        return
    sums = np.zeros((3, size))
    step = max(_BLOCK, size)
    for start in range(0, len(values), step):
        block = slice(start, start + step)
        slots = groups[block] * width + places[block] - least
        for above, part in enumerate(_parts(bits[block], ends[block])):
            sums[above] += np.bincount(slots, weights=part, minlength=size)
    for above, row in enumerate(sums):
        filled = np.flatnonzero(row)
        yield filled // width, filled % width + least + above, row[filled].astype(np.int64)


def _parts(bits: npt.NDArray[np.uint64], ends: Ints) -> Iterator[Floats]:
    """What doubles put into three limbs, of which the lowest holds the place where they end; with their signs."""
    whole = bits & _FRACTION
    whole |= ((bits >> np.uint64(52) & np.uint64(0x7FF)) > 0).astype(np.uint64) << np.uint64(52)
    signs = 1.0 - 2.0 * (bits >> np.uint64(63)).astype(np.float64)
    up = (ends % _BITS).astype(np.uint64)
    down = np.uint64(_BITS) - up
    # The last in two steps, since a shift by all of 64 bits is undefined.
    for part in ((whole << up) & _LOW, (whole >> down) & _LOW, (whole >> np.uint64(_BITS)) >> down):
        yield part.astype(np.float64) * signs


def summed(slots: Ints, values: Ints) -> float:
    """The sum that these limbs stand for, rounded once; infinite where it is beyond all doubles."""
    whole = sum(value << (_BITS * slot) for slot, value in zip(slots.tolist(), values.tolist(), strict=True))
    try:
        return float(whole / (1 << _OFFSET))
    except OverflowError:
        return math.inf if whole > 0 else -math.inf
