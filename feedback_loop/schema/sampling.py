"""Which predictions are in a sample: decided by their ids or keys alone, so that a retry is decided alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from feedback_loop.schema.contract import Column
from feedback_loop.schema.hashing import canonical


def in_sample(
    ids: Sequence[str], shares: float | npt.NDArray[np.float64], salt: bytes = b""
) -> npt.NDArray[np.bool_]:
    """Which predictions are in a sample of that share (or each in a sample of its own share)."""
    return np.asarray(sample_places(ids, salt) < shares)


def sample_places(ids: Sequence[str], salt: bytes) -> npt.NDArray[np.float64]:
    """A uniform pseudorandom number in [0, 1) for each id, always the same for one `salt`."""
    digests = b"".join(
        hashlib.blake2b(identifier.encode(), digest_size=8, person=salt).digest() for identifier in ids
    )
    return np.asarray(np.frombuffer(digests, dtype=">u8") / 2.0**64)


def key_texts(key: Sequence[Column], columns: Mapping[str, Any], count: int) -> list[str | None]:
    """One text for each row's key, of those of its columns that there are; None where a part is missing."""
    parts = [canonical(columns[column.name]) for column in key if column.name in columns]
    if not parts:
        return [None] * count
    return [None if None in values else "\0".join(map(str, values)) for values in zip(*parts, strict=True)]
