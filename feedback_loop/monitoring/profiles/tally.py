"""Tallies: sparse vectors of whole numbers, which is all that a profile is made of.

Whole numbers add up to the same in any order, and what was added can be taken out again: so a profile that was kept
up to date for months equals, to the bit, the one that is made from the rows at once.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from feedback_loop.monitoring.arrays import Ints

SLOTS, TARGET = 16, 32
"""A key is a block's number and, in so many bits, a slot in the block; of several labels, from there on which one."""


@dataclass(frozen=True, eq=False)
class Tally:
    """`values[i]`, never 0, stands at `keys[i]`; the keys ascend. Tallies form a group under addition."""

    keys: Ints
    values: Ints

    @classmethod
    def of(cls, keys: Ints, values: Ints) -> Tally:
        """The sums of the values by key."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        first = np.flatnonzero(np.diff(ordered, prepend=-1))
        sums = np.add.reduceat(values[order], first) if len(first) else values[:0]
        filled = sums != 0
        return cls(ordered[first][filled], sums[filled])

    def __add__(self, other: Tally) -> Tally:
        return total((self, other))

    def __neg__(self) -> Tally:
        return Tally(self.keys, -self.values)

    def __sub__(self, other: Tally) -> Tally:
        return total((self, -other))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tally):
            return NotImplemented
        return np.array_equal(self.keys, other.keys) and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.keys.tobytes(), self.values.tobytes()))

    def block(self, number: int) -> tuple[Ints, Ints]:
        """The slots of a block that hold something, ascending, and what they hold."""
        first, end = np.searchsorted(self.keys, (number << SLOTS, (number + 1) << SLOTS))
        return self.keys[first:end] - (number << SLOTS), self.values[first:end]

    def at(self, number: int, slot: int) -> int:
        """What one slot holds."""
        place = np.searchsorted(self.keys, key := (number << SLOTS) + slot)
        return int(self.values[place]) if place < len(self.keys) and self.keys[place] == key else 0

    def to_bytes(self) -> bytes:
        """A compact form: distances of keys and values, byte by byte of their weight (most are 0), by zlib."""
        gaps = np.diff(self.keys, prepend=0).astype("<u8")
        planes = [
            array.view(np.uint8).reshape(len(array), array.itemsize).T.tobytes()
            for array in (gaps, self.values.astype("<i8"))
        ]
        return struct.pack("<I", len(self.keys)) + zlib.compress(b"".join(planes), 1)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Tally:
        """The inverse of `to_bytes`."""
        (count,) = struct.unpack_from("<I", packed)
        planes = np.frombuffer(zlib.decompress(packed[4:]), dtype=np.uint8)
        gaps, values = (plane.reshape(8, count).T.copy() for plane in (planes[: 8 * count], planes[8 * count :]))
        return cls(np.cumsum(gaps.view("<u8").ravel().astype(np.int64)), values.view("<i8").ravel().astype(np.int64))


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of any number of tallies."""
    parts = list(tallies)
    if not parts:
        return EMPTY
    return Tally.of(np.concatenate([part.keys for part in parts]), np.concatenate([part.values for part in parts]))


EMPTY = Tally(np.empty(0, np.int64), np.empty(0, np.int64))
