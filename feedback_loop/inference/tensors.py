"""Arrow columns as the tensors that an ONNX model takes: one of all numbers, one of all words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.schema.protocol import Rows

MISSING_WORD = "\ufdd0"
"""What stands for a missing word, since ONNX's strings know no null: a code that Unicode keeps free of characters.

(Not NUL, which no caller's word may hold either: ONNX Runtime takes it for the end, and so for an empty word.)
"""

NUMBERS, WORDS = "numbers", "words"
"""The names of the two inputs."""


@dataclass(frozen=True)
class Layout:
    """Which columns of the contract make up the inputs `numbers` (float64) and `words`, in which order."""

    numbers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    lowered: tuple[str, ...] = ()  # of the words: texts that are taken in lower case

    def feed(self, features: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
        """The inputs for these rows; a missing number is NaN, a missing word `MISSING_WORD`."""
        feed: dict[str, np.ndarray[Any, Any]] = {}
        if self.numbers:
            numbers = np.empty((features.num_rows, len(self.numbers)))
            for place, name in enumerate(self.numbers):
                numbers[:, place] = _numbers(features.column(name))
            feed[NUMBERS] = numbers
        if self.words:
            words = np.empty((features.num_rows, len(self.words)), dtype=object)
            for place, name in enumerate(self.words):
                values = _words(features.column(name))
                words[:, place] = [each.lower() for each in values] if name in self.lowered else values
            feed[WORDS] = words
        return feed

    def feed_rows(self, rows: Rows, single: Sequence[int]) -> dict[str, np.ndarray[Any, Any]]:
        """The same for decoded rows; `single` are the places of numbers that are of single precision."""
        feed: dict[str, np.ndarray[Any, Any]] = {}
        if self.numbers:
            numbers = np.array([rows.columns[name] for name in self.numbers], dtype=np.float64)  # NaN for None
            feed[NUMBERS] = numbers = np.ascontiguousarray(numbers.T)
            if single:
                with np.errstate(over="ignore"):  # becomes infinite, as in Arrow
                    numbers[:, single] = numbers[:, single].astype(np.float32)
        if self.words:
            words = np.empty((rows.count, len(self.words)), dtype=object)
            for place, name in enumerate(self.words):
                values = [each if isinstance(each, str) else MISSING_WORD for each in rows.columns[name]]
                words[:, place] = [each.lower() for each in values] if name in self.lowered else values
            feed[WORDS] = words
        return feed


def _numbers(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    if pa.types.is_boolean(column.type) and column.null_count:
        column = column.cast(pa.int8())  # booleans with nulls would come as objects, numbers come with NaN
    values: np.ndarray[Any, Any] = column.to_numpy()
    return values


def _words(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = column.to_numpy()
    if column.null_count:
        values = np.where(column.is_null().to_numpy(), MISSING_WORD, values)
    return values


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Says that pandas is not there."""
        del path, target
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is left out while Arrow looks for it", name=fullname)


def spare_pandas() -> None:
    """Keeps Arrow from importing pandas (1 s, 60 MiB) at its first `pa.array`, only to see if it is given a frame.

    Arrow looks once in the life of a process and remembers that there is none; a conversion to pandas that is asked
    for imports it all the same. Does nothing where pandas is imported already.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
