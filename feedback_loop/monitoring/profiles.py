"""Profiles: mergeable statistics of columns, from which drift between any two sets of rows follows.

Numbers are counted in bins whose edges are quantiles of the reference; words by word, up to a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.losses import Floats
from feedback_loop.schema import Column, ColumnType

BINS = 100
WORDS = 1000
"""A column's vocabulary: the most frequent words of the reference; all others are counted as one."""

OTHER = "(other)"


@dataclass(frozen=True)
class NumberProfile:
    """`counts[i]` are the values in `(edges[i-1], edges[i]]`; the last has those above all edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    missing: int = 0
    rows: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean
    least: float | None = None
    most: float | None = None
    kind: str = "numbers"

    @property
    def deviation(self) -> float:
        """The standard deviation (population)."""
        return float(np.sqrt(self.squares / self.rows)) if self.rows else 0.0


@dataclass(frozen=True)
class WordProfile:
    """How often each word of the vocabulary came, and everything else together."""

    counts: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    kind: str = "words"

    @property
    def rows(self) -> int:
        """The values that are not missing."""
        return sum(self.counts.values())


ColumnProfile = NumberProfile | WordProfile


@dataclass(frozen=True)
class Profile:
    """The profiles of columns by their stored names, over the same rows.

    `swings` (of a reference) are the distances of its own windows from the whole of it: how far a column strays
    when nothing has changed.
    """

    rows: int
    columns: dict[str, ColumnProfile]
    swings: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a JSON column."""
        columns = {name: asdict(each) for name, each in self.columns.items()}
        return {"rows": self.rows, "columns": columns, "swings": self.swings}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Profile:
        """The inverse of `to_json`."""
        columns: dict[str, ColumnProfile] = {}
        for name, each in plain["columns"].items():
            if each["kind"] == "words":
                columns[name] = WordProfile(**each)
            else:
                columns[name] = NumberProfile(
                    **{**each, "edges": tuple(each["edges"]), "counts": tuple(each["counts"])}
                )
        return cls(plain["rows"], columns, {name: tuple(each) for name, each in plain["swings"].items()})


def reference_profile(rows: pa.Table, columns: Iterable[Column]) -> Profile:
    """A profile that fixes what others are measured by: the bins' edges and the vocabularies."""
    empty: dict[str, ColumnProfile] = {}
    for column in columns:
        values = rows.column(column.stored)
        empty[column.stored] = _blank_numbers(values) if column.type.is_numeric else _blank_words(values)
    return profile_like(Profile(0, empty), rows)


def profile_like(reference: Profile, rows: pa.Table) -> Profile:
    """The profile of other rows by the bins and vocabularies of a reference."""
    columns: dict[str, ColumnProfile] = {}
    for name, like in reference.columns.items():
        values = rows.column(name)
        columns[name] = (
            _numbers(values, like.edges) if isinstance(like, NumberProfile) else _words(values, like.counts)
        )
    return Profile(rows.num_rows, columns)


def merge(profiles: Sequence[Profile]) -> Profile:
    """The profile of all rows together (of at least one profile; all by the same reference)."""
    first, *others = profiles
    for other in others:
        columns = {name: _merged(each, other.columns[name]) for name, each in first.columns.items()}
        first = Profile(first.rows + other.rows, columns)
    return first


def _blank_numbers(values: pa.ChunkedArray) -> NumberProfile:
    finite = _finite(values)
    levels = np.linspace(0, 1, BINS + 1)
    edges = np.unique(np.quantile(finite, levels, method="inverted_cdf")) if len(finite) else np.empty(0)
    return NumberProfile(tuple(float(edge) for edge in edges), ())


def _blank_words(values: pa.ChunkedArray) -> WordProfile:
    counted = pc.value_counts(_as_words(values).drop_null()).to_pylist()
    frequent = sorted(counted, key=lambda each: (-each["counts"], each["values"]))[:WORDS]
    return WordProfile({each["values"]: 0 for each in frequent})


def _numbers(values: pa.ChunkedArray, edges: tuple[float, ...]) -> NumberProfile:
    finite = _finite(values)
    places = np.searchsorted(np.asarray(edges), finite, side="left")
    counts = np.bincount(places, minlength=len(edges) + 1)
    mean = float(finite.mean()) if len(finite) else 0.0
    return NumberProfile(
        edges=edges,
        counts=tuple(int(count) for count in counts),
        missing=len(values) - len(finite),
        rows=len(finite),
        mean=mean,
        squares=float(((finite - mean) ** 2).sum()),
        least=float(finite.min()) if len(finite) else None,
        most=float(finite.max()) if len(finite) else None,
    )


def _words(values: pa.ChunkedArray, vocabulary: Iterable[str]) -> WordProfile:
    words = _as_words(values)
    counts = dict.fromkeys(vocabulary, 0)
    for each in pc.value_counts(words.drop_null()).to_pylist():
        word = each["values"] if each["values"] in counts else OTHER
        counts[word] = counts.get(word, 0) + each["counts"]
    return WordProfile(counts, missing=words.null_count)


def _merged(one: ColumnProfile, other: ColumnProfile) -> ColumnProfile:
    if isinstance(one, WordProfile) and isinstance(other, WordProfile):
        counts = {
            word: one.counts.get(word, 0) + other.counts.get(word, 0) for word in {**one.counts, **other.counts}
        }
        return WordProfile(counts, one.missing + other.missing)
    assert isinstance(one, NumberProfile) and isinstance(other, NumberProfile)  # by the same reference
    rows = one.rows + other.rows
    if not rows:
        return replace(one, missing=one.missing + other.missing)
    gap = other.mean - one.mean
    return NumberProfile(
        edges=one.edges,
        counts=tuple(a + b for a, b in zip(one.counts, other.counts, strict=True)),
        missing=one.missing + other.missing,
        rows=rows,
        # Chan, Golub and LeVeque (1979): moments of two samples into those of both
        mean=one.mean + gap * other.rows / rows,
        squares=one.squares + other.squares + gap**2 * one.rows * other.rows / rows,
        least=min((v for v in (one.least, other.least) if v is not None), default=None),
        most=max((v for v in (one.most, other.most) if v is not None), default=None),
    )


def _finite(values: pa.ChunkedArray) -> Floats:
    numbers = np.asarray(values.cast(pa.float64()).to_numpy(), dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def _as_words(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(values.type):
        values = pc.strftime(values, format="%Y-%m-%d")
    return values.cast(pa.string())


def is_profiled(column: Column) -> bool:
    """Whether a column's distribution means anything: a point in time has none."""
    return column.type is not ColumnType.DATETIME
