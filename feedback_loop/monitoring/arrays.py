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
"""For sums and products that may overflow: they are infinite or NaN then, and are reported as such."""


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
    """Counts of the values that are not null: the most frequent first, ties in the order of the values."""
    counted = pc.value_counts(values.drop_null())
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def mapped(values: pa.ChunkedArray, place_of: Callable[[Any], int]) -> Ints:
    """`place_of` each value, called once for each distinct one; -1 for nulls."""
    encoded = pa.concat_arrays(values.chunks or [pa.array([], values.type)]).dictionary_encode()
    places = np.array([*(place_of(value) for value in encoded.dictionary.to_pylist()), -1], dtype=np.int64)
    indices = encoded.indices.fill_null(len(places) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(places[indices])
