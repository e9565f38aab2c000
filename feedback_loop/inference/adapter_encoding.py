"""Features of a model as the numbers that an adapter's heads take: standardised numbers and one-hot categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import add
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]

CLIP = 4.0
"""Standardised numbers are kept within so many standard deviations."""


class Category(msgspec.Struct, frozen=True):
    """A feature of texts: each of its `values` is a column, any other text (and a missing one) is none of them."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Encoding:
    """Numbers, with their means and standard deviations, and then the values of each category: one column each.

    Names are the model's. A feature that rows do not have is 0 in all of its columns.
    """

    numbers: tuple[str, ...]
    means: Floats
    deviations: Floats
    categories: tuple[Category, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it takes."""
        return (*self.numbers, *(category.name for category in self.categories))

    @cached_property
    def width(self) -> int:
        """How many columns there are."""
        return len(self.numbers) + sum(len(category.values) for category in self.categories)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first column of each category."""
        lengths = [len(self.numbers), *(len(category.values) for category in self.categories)]
        return tuple(int(start) for start in np.cumsum(lengths[: len(self.categories)]))

    def standardised(self, features: Mapping[str, Any], rows: int) -> Floats:
        """The numbers of columns by name (Arrow, NumPy or lists), of shape (numbers, rows); a missing one is 0."""
        columns = [plain_numbers(features[name]) if name in features else [None] * rows for name in self.numbers]
        matrix = np.array(columns, dtype=np.float64).reshape(len(columns), rows)
        matrix -= self.means[:, None]
        matrix /= self.deviations[:, None]
        matrix.clip(-CLIP, CLIP, out=matrix)
        if np.isnan(matrix.sum()):
            np.copyto(matrix, 0.0, where=np.isnan(matrix))
        return matrix

    def dense(self, features: Mapping[str, Any], rows: int) -> Floats:
        """All columns, of shape (rows, width)."""
        matrix = np.zeros((rows, self.width))
        matrix[:, : len(self.numbers)] = self.standardised(features, rows).T
        for start, category in zip(self.starts, self.categories, strict=True):
            places, other = np.asarray(_Texts(category).places(features, rows)), len(category.values)
            hits = np.flatnonzero(places < other)
            matrix[hits, start + places[hits]] = 1.0
        return matrix


class Products:
    """What weights (1 + width, outputs) make of (1, features), as `dense` has them. Thread-safe.

    Added up column by column, so that a row's sums are the same to the last bit whichever rows are beside it. The
    one-hot columns are never made, and outputs that take no feature cost nothing.
    """

    def __init__(self, encoding: Encoding, weights: Floats) -> None:
        self._encoding = encoding
        self._all_biases = weights[0]
        self._outputs = np.flatnonzero(weights[1:].any(axis=0))  # that take features
        own, numbers = weights[:, self._outputs], len(encoding.numbers)
        self._biases = own[0][:, None]
        self._of_numbers = np.ascontiguousarray(own[1 : 1 + numbers, :, None])
        self._texts: list[_Texts] = []
        tables = [np.empty((0, own.shape[1]))]
        for start, category in zip(encoding.starts, encoding.categories, strict=True):
            self._texts.append(_Texts(category, first=sum(map(len, tables))))
            tables += [own[1 + start : 1 + start + len(category.values)], np.zeros((1, own.shape[1]))]
        self._table = np.concatenate(tables)
        self._by_output = np.ascontiguousarray(self._table.T)

    def places(self, features: Mapping[str, Any], rows: int) -> list[Any]:
        """Each category's place of each row, for `of`: looked up for many rows at once it costs least."""
        return [text.places(features, rows) for text in self._texts]

    def of(self, features: Mapping[str, Any], rows: int, places: Sequence[Any]) -> Floats:
        """Of shape (outputs, rows); columns as `Encoding.standardised` has them."""
        numbers = self._encoding.standardised(features, rows)
        sums = (self._of_few if rows <= _FEW else self._of_many)(numbers, places)
        if len(sums) == len(self._all_biases):
            return sums
        products = np.repeat(self._all_biases[:, None], rows, axis=1)
        products[self._outputs] = sums
        return products

    def _of_many(self, numbers: Floats, places: Sequence[Any]) -> Floats:
        sums = np.repeat(self._biases, numbers.shape[1], axis=1)
        term = np.empty_like(sums)
        for weights, values in zip(self._of_numbers, numbers, strict=True):
            sums += np.multiply(weights, values, out=term)
        for own in places:  # "clip" takes straight into `term`; no place is beyond the table
            sums += np.take(self._by_output, own, axis=1, out=term, mode="clip")
        return sums

    def _of_few(self, numbers: Floats, places: Sequence[Any]) -> Floats:
        """All terms at once: by the column NumPy's calls would take longest."""
        count, rows = numbers.shape
        terms = np.empty((1 + count + len(places), len(self._biases), rows))
        terms[0] = self._biases
        np.multiply(self._of_numbers, numbers[:, None], out=terms[1 : 1 + count])
        if places:
            terms[1 + count :] = self._table[np.array(places)].swapaxes(1, 2)
        return np.asarray(np.add.accumulate(terms, axis=0)[-1])

    def of_one(self, features: Mapping[str, Any]) -> list[float]:
        """The same of a single row of lists, by plain numbers: NumPy's calls would take longer."""
        biases, outputs, sums, numbers, texts = self._plain
        for name, mean, deviation, weights in numbers:
            value = features[name][0] if name in features else None
            if value is None:
                continue
            standard = (float(value) - mean) / deviation
            if standard > CLIP:
                standard = CLIP
            elif standard < -CLIP:
                standard = -CLIP
            elif standard != standard:  # noqa: PLR0124 (NaN is no number)
                continue
            sums = [total + weight * standard for total, weight in zip(sums, weights)]  # noqa: B905
        for name, of_values in texts:
            of_value = of_values.get(features[name][0]) if name in features else None
            if of_value is not None:
                sums = list(map(add, sums, of_value))
        products = biases.copy()
        for output, total in zip(outputs, sums, strict=True):
            products[output] = total
        return products

    @cached_property
    def _plain(self) -> _PlainProducts:
        encoding, weights = self._encoding, self._of_numbers[:, :, 0].tolist()
        numbers = zip(encoding.numbers, encoding.means.tolist(), encoding.deviations.tolist(), weights, strict=True)
        texts = [
            (category.name, dict(zip(category.values, self._table[text.first :].tolist(), strict=False)))
            for category, text in zip(encoding.categories, self._texts, strict=True)
        ]
        biases = self._biases[:, 0].tolist()
        return self._all_biases.tolist(), self._outputs.tolist(), biases, list(numbers), texts


_PlainProducts = tuple[
    list[float],
    list[int],
    list[float],
    list[tuple[str, float, float, list[float]]],
    list[tuple[str, dict[str, list[float]]]],
]
"""All biases; outputs that take features and their biases; their weights, by number and by value of a text."""


class _Texts:
    """The places of a category's values, from the `first` on, in which any other text follows the last one."""

    def __init__(self, category: Category, first: int = 0) -> None:
        self._name, self._values = category.name, pa.array(category.values, pa.string())
        self.first, self.other = first, first + len(category.values)
        self._place_of = {value: first + place for place, value in enumerate(category.values)}

    def places(self, features: Mapping[str, Any], rows: int) -> Any:
        """Each row's place."""
        if self._name not in features:
            return np.full(rows, self.other)
        texts = features[self._name]
        if isinstance(texts, pa.Array | pa.ChunkedArray):
            places = pc.index_in(texts.cast(pa.string()), value_set=self._values)
            return places.fill_null(len(self._values)).to_numpy() + self.first
        place_of, other = self._place_of, self.other
        return [place_of.get(text, other) for text in texts]


_FEW = 64
"""Up to so many rows, all terms of the sums are made at once."""


def plain_numbers(values: Any) -> Any:
    """Numbers of a column as NumPy takes them, a missing one NaN or None."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values
