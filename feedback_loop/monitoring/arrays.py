"""Columns of Arrow tables as arrays of NumPy, and what is asked of any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MOST = float(np.finfo(np.float64).max)

BEYOND_DOUBLES = np.errstate(over="ignore", invalid="ignore")
"""For sums and products that may be: they are infinite then, or no number, and are reported as such."""


def floats(values: pa.ChunkedArray) -> Floats:
    """Numbers as doubles (integers beyond 2⁵³ are rounded); what is missing is NaN."""
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Words as text."""
    return values.cast(pa.string())


def column_of(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """A column, or nulls where these rows have none of that name."""
    return rows.column(name) if name in rows.column_names else pa.chunked_array([pa.nulls(rows.num_rows)])


def frequencies(values: pa.ChunkedArray) -> dict[Any, int]:
    """How often each value that is there comes: the most frequent first, then in their own order."""
    counted = pc.value_counts(values.drop_null())
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def mapped(values: pa.ChunkedArray, place_of: Callable[[Any], int]) -> Ints:
    """What each value is mapped to, asked once for each distinct one; missing ones are -1."""
    encoded = pa.concat_arrays(values.chunks or [pa.array([], values.type)]).dictionary_encode()
    places = np.array([*(place_of(value) for value in encoded.dictionary.to_pylist()), -1], dtype=np.int64)
    indices = encoded.indices.fill_null(len(places) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(places[indices])
