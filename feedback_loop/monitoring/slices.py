"""Slices in which a version does worst, with p-values corrected for how many were tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.arrays import Floats, Ints, floats, frequencies, texts
from feedback_loop.monitoring.losses import primary_loss, row_losses
from feedback_loop.schema import ColumnType, Contract
from feedback_loop.store.evaluations import SliceValue

LEAST_LABELLED = 500
"""With fewer labelled rows no slices are searched for."""

LEAST_SUPPORT, LEAST_SHARE = 50, 0.01
"""A slice has so many rows at least, and so large a share of all."""

PARTS, WORDS = 5, 10
"""A column of numbers is cut into fifths; of one of words the most frequent ones are tried."""

PAIRED = 60
"""Pairs are tried of the first so many features."""

MOST_ENTRIES = 6_000_000
"""Rows times pairs of features: with many features fewer rows are looked at."""

SHUFFLES = 199
P_VALUE = 0.05
MOST_REPORTED = 10


@dataclass(frozen=True)
class _Cells:
    """One column cut into cells: the cell of each row (-1: in none), and what each is called."""

    places: Ints
    names: tuple[str, ...]


def find_slices(contract: Contract, labelled: pa.Table) -> tuple[SliceValue, ...]:
    """The slices of labelled rows whose mean loss is higher than that of the rest, worst first; at most ten.

    Tried are each value of a word, each fifth of a number, missing values, and all pairs of these of two features,
    with 50 rows and 1% at least (as SliceLine does: Sagadeeva and Boehm 2021). `p_value` is how often the worst of
    all of them would be as bad if losses were independent of features, by 199 shuffles of the losses (Westfall and
    Young 1993); slices up to .05 are reported. The rows of a reported one are left out then, so that slices that only
    overlap with it are not. For the test, not in the report, losses are cut off at their 99% quantile.
    """
    if labelled.num_rows < LEAST_LABELLED:
        return ()
    metric = primary_loss(contract)
    losses = row_losses(contract, labelled)[metric]
    is_finite = np.isfinite(losses)
    features = [feature for feature in contract.features if feature.type is not ColumnType.DATETIME]
    pairs = min(len(features), PAIRED) * (min(len(features), PAIRED) - 1) // 2
    chosen = np.flatnonzero(is_finite)[: max(MOST_ENTRIES // max(pairs, 1), LEAST_LABELLED)]
    if len(chosen) < LEAST_LABELLED or not features:
        return ()
    rows, losses = labelled.take(pa.array(chosen)), losses[chosen]
    columns = [
        (_numbers if feature.type.is_numeric else _words)(feature.name, rows.column(feature.stored))
        for feature in features
    ]
    least = max(LEAST_SUPPORT, int(np.ceil(LEAST_SHARE * len(losses))))
    names, members = _candidates(columns, least)
    return tuple(_worst(metric, losses, names, members, least)) if names else ()


def _numbers(name: str, column: pa.ChunkedArray) -> _Cells:
    values = floats(column)
    present = values[~np.isnan(values)]
    distinct = np.unique(present)
    if len(distinct) <= WORDS:
        places = np.where(np.isnan(values), len(distinct), np.searchsorted(distinct, values))
        return _Cells(places, (*(f"{name}={value:g}" for value in distinct), f"{name} missing"))
    ends = np.unique(np.quantile(present, np.arange(1, PARTS) / PARTS, method="inverted_cdf"))
    places = np.where(np.isnan(values), len(ends) + 1, np.searchsorted(ends, values))
    ranges = [f"{name} in ({low:g}, {high:g}]" for low, high in pairwise(ends.tolist())]
    return _Cells(places, (f"{name}≤{ends[0]:g}", *ranges, f"{name}>{ends[-1]:g}", f"{name} missing"))


def _words(name: str, column: pa.ChunkedArray) -> _Cells:
    words = texts(column)
    frequent = list(frequencies(words))[:WORDS]
    places = pc.index_in(words, pa.array(frequent, pa.string())).fill_null(-1).to_numpy()
    places = np.where(pc.is_null(words).to_numpy(), len(frequent), places)
    return _Cells(places.astype(np.int64), (*(f"{name}={word}" for word in frequent), f"{name} missing"))


def _candidates(columns: list[_Cells], least: int) -> tuple[list[str], Any]:
    """The slices that have enough rows: what each is called, and a sparse matrix of slices by rows."""
    from scipy import sparse

    names: list[str] = []
    places: list[Ints] = []
    rows: list[Ints] = []
    for cells in (*columns, *_pairs(columns[:PAIRED])):
        inside = np.flatnonzero(cells.places >= 0)
        large = np.flatnonzero(np.bincount(cells.places[inside], minlength=len(cells.names)) >= least)
        place_of = np.full(len(cells.names), -1)
        place_of[large] = np.arange(len(names), len(names) + len(large))
        slices = place_of[cells.places[inside]]
        names += [cells.names[place] for place in large]
        places.append(slices[slices >= 0])
        rows.append(inside[slices >= 0])
    entries = np.concatenate(places), np.concatenate(rows)
    shape = len(names), len(columns[0].places)
    return names, sparse.csr_matrix((np.ones(len(entries[0])), entries), shape=shape)


def _pairs(columns: list[_Cells]) -> Iterator[_Cells]:
    for one, other in combinations(columns, 2):
        both = (one.places >= 0) & (other.places >= 0)
        places = np.where(both, one.places * len(other.names) + other.places, -1)
        yield _Cells(places, tuple(f"{first} & {second}" for first in one.names for second in other.names))


def _worst(metric: str, losses: Floats, names: list[str], members: Any, least: int) -> Iterator[SliceValue]:
    most = float(np.quantile(losses, 0.99))
    tested = np.minimum(losses, most) if most > losses.min() else losses
    if tested.std() == 0:
        return
    random, sizes = np.random.default_rng(0), np.asarray(members.sum(axis=1)).ravel()
    shuffled = np.column_stack([random.permutation(tested) for _ in range(SHUFFLES)])
    by_chance = _z_scores(members @ shuffled, sizes, tested).max(axis=0)
    remaining = np.ones(len(losses))
    for _ in range(MOST_REPORTED):
        now = members @ remaining
        z_scores = _z_scores(members @ (tested * remaining), now, tested)
        z_scores[now < np.maximum(least, sizes / 2)] = -np.inf
        place = int(z_scores.argmax())
        p_value = float(1 + (by_chance >= z_scores[place]).sum()) / (1 + SHUFFLES)
        if p_value > P_VALUE:
            return
        inside = np.zeros(len(losses), dtype=np.bool_)
        inside[members[place].indices] = True
        value, rest = float(losses[inside].mean()), float(losses[~inside].mean()) if not inside.all() else 0.0
        yield SliceValue(names[place], metric, value, rest, int(inside.sum()), p_value, len(names))
        remaining[inside] = 0.0


def _z_scores(sums: Floats, sizes: Floats, losses: Floats) -> Floats:
    """How far each slice's mean is above that of all rows, in standard errors of a draw without replacement."""
    rows, sizes = len(losses), np.maximum(sizes, 1.0)
    errors = losses.std() * np.sqrt(np.maximum(rows - sizes, 0.0) / (sizes * (rows - 1)))
    gaps = (sums.T / sizes - losses.mean()).T
    safe = np.where(errors > 0, errors, np.inf)
    return np.asarray((gaps.T / safe).T, np.float64)
