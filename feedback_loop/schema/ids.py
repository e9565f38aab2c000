"""Identifiers: prediction ids are UUIDv7 (RFC 9562, section 5.7), so they sort by time."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NewType
from uuid import UUID

import numpy as np
import pyarrow as pa

from feedback_loop.clock import EPOCH, as_utc
from feedback_loop.errors import BadInput

PredictionId = NewType("PredictionId", str)
"""A UUIDv7 in its usual 36 characters, in lower case."""

RandomBits = Callable[[int], int]
"""Gives so many random bits: `secrets.randbits`, or a seeded generator's `getrandbits`."""

_RANDOM = 74
_DIGITS = 19  # hexadecimal, of which two bits are not used
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
PREDICTION_ID = "prediction_id"
"""The column with the ids."""

EARLIEST = datetime(2000, 1, 1, tzinfo=EPOCH.tzinfo)
"""No prediction is from before."""

SLACK = timedelta(days=1)
"""So far may a caller's clock be ahead of ours."""


def prediction_id(moment: datetime, bits: RandomBits = secrets.randbits) -> PredictionId:
    """A new id of that moment (to the millisecond)."""
    milliseconds = (as_utc(moment) - EPOCH) // timedelta(milliseconds=1)
    random = bits(_RANDOM)
    value = milliseconds << 80 | 0x7 << 76 | (random >> 62) << 64 | 0x2 << 62 | random & (1 << 62) - 1
    return PredictionId(str(UUID(int=value)))


def prediction_ids(moment: datetime, count: int, bits: RandomBits = secrets.randbits) -> list[PredictionId]:
    """So many new ids of one moment, for a tenth of what they cost one by one."""
    if not count:
        return []
    milliseconds = (as_utc(moment) - EPOCH) // timedelta(milliseconds=1)
    begins = f"{milliseconds:012x}"
    begins = f"{begins[:8]}-{begins[8:]}-7"
    digits = f"{bits(count * _DIGITS * 4):0{count * _DIGITS}x}"
    ids = []
    for at in range(0, count * _DIGITS, _DIGITS):
        tail = digits[at : at + _DIGITS]
        ids.append(PredictionId(f"{begins}{tail[:3]}-{_VARIANT[tail[3]]}{tail[4:7]}-{tail[7:]}"))
    return ids


def numbered_ids(moment: datetime, seed: str, first: int, count: int) -> pa.StringArray:
    """The ids of rows `first`, `first` + 1, … of one moment: the same whenever they are made for a seed.

    A counter of 32 bits and 42 bits of the seed's digest (RFC 9562, section 6.2, method 1). They sort as the rows do,
    so that a database appends them to its index instead of scattering them over it.
    """
    if first + count > _MOST_NUMBERED:
        raise BadInput.of("rows", f"are over {_MOST_NUMBERED:,} in one file", cure="Cut it into several.")
    milliseconds = (as_utc(moment) - EPOCH) // timedelta(milliseconds=1)
    rows = np.arange(first, first + count, dtype=np.uint64)
    high = milliseconds << 16 | 0x7 << 12 | rows >> 20
    low = 0x2 << 62 | (rows & 0xFFFFF) << 42 | derived_bits(seed)(42)
    letters = np.full((count, _LETTERS), ord("-"), np.uint8)
    letters[:, _DIGIT_PLACES] = np.hstack([_hex_digits(high), _hex_digits(low)])
    offsets = np.arange(count + 1, dtype=np.int32) * _LETTERS
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters))


def _hex_digits(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The 16 hexadecimal digits of numbers of 64 bits, as letters."""
    nibbles = numbers.astype(">u8").view(np.uint8).reshape(-1, 8, 1) >> np.array([4, 0], np.uint8) & 0xF
    digits: np.ndarray[Any, Any] = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles.reshape(-1, 16)]
    return digits


_LETTERS = 36
_DIGIT_PLACES = [place for place in range(_LETTERS) if place not in (8, 13, 18, 23)]
"""Where the letters of an id are digits: elsewhere there are hyphens."""

_MOST_NUMBERED = 2**32


def derived_bits(seed: str) -> RandomBits:
    """Bits that are always the same for a seed: what is brought twice gets the same id twice."""
    digest = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=16).digest())
    return lambda bits: digest >> 128 - bits


def moment_of(identifier: str) -> datetime:
    """The moment inside a prediction id."""
    return EPOCH + timedelta(milliseconds=UUID(identifier).int >> 80)


def check_prediction_id(text: object, now: datetime, *, row: int = -1) -> PredictionId:
    """A caller's own id, if it is a UUIDv7 from 2000 to a day after `now`; raises BadInput else.

    Time is inside the id, and PostgreSQL's partitions are cut by it: a random UUIDv4 would scatter rows over all.
    """
    try:
        value = UUID(str(text))
    except ValueError:
        raise BadInput.of("prediction_id", f"{text!r} is not a UUID", row=row, cure=_CURE) from None
    if value.version != 7 or value.int >> 80 < (EARLIEST - EPOCH) // timedelta(milliseconds=1):
        raise BadInput.of("prediction_id", f"{text!r} is not a UUIDv7", row=row, cure=_CURE)
    if value.int >> 80 > (as_utc(now) + SLACK - EPOCH) // timedelta(milliseconds=1):
        raise BadInput.of("prediction_id", f"{text!r} is from the future", row=row, cure=_CURE)
    return PredictionId(str(value))


_CURE = "Give a UUIDv7 of the prediction's time, or none: then one is made."
