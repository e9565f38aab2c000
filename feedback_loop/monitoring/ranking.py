"""Ranking: how well the answers order the rows of one query, as searches and recommenders have them.

A query is the rows of one window that have the same value in the column `query`. It can't be told from sums over
rows: so the few columns that it takes are read from the log, by a scheduled run as well as by an audit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.arrays import Floats, Ints, Mask, floats
from feedback_loop.monitoring.losses import is_positive
from feedback_loop.monitoring.sampling import WEIGHT
from feedback_loop.schema import Column, Contract, Task
from feedback_loop.store.evaluations import MetricValue

TOP = 10
"""`ndcg@10` looks at so many of a query's first rows."""


def query_columns(contract: Contract) -> tuple[Column, ...]:
    """The columns, beside the label, that the metrics of queries take."""
    return contract.column(contract.query), *contract.outputs


def query_metrics(contract: Contract, rows: pa.Table) -> tuple[MetricValue, ...]:
    """`ndcg`, `ndcg@10` and `mrr`, each the mean over queries; none where the contract names no query.

    Relevance is the label, a number from 0 on or the positive class; the rows of a query are ranked by the
    probability, or by the prediction where there is none. A query counts when the relevance of all its rows is known;
    the others are what `least` and `most` are about. `rows` are queries, and so is `coverage` a share of queries.
    """
    is_unknown = contract.task is Task.BINARY and contract.positive is None
    if not contract.query or not rows.num_rows or is_unknown:
        return ()
    rows = rows.filter(pc.is_valid(rows.column(contract.column(contract.query).stored)))
    every = _ranked(contract, rows)
    if not len(every.gain):
        return ()
    is_known = every.of_queries(every.is_known)
    several = np.bincount(every.query) > 1  # one row can't be ordered (scikit-learn refuses it too)
    metrics = []
    for name, top in (("ndcg", None), (f"ndcg@{TOP}", TOP)):
        values = _ndcg(every.of(is_known & several), top)
        metrics += _value(name, values, int((~is_known & several).sum()), (0.0, 1.0))
    rest = every.of(~is_known)
    return *metrics, *_value("mrr", _reciprocal_rank(every.of(is_known)), int((~is_known).sum()), _rank_bounds(rest))


@dataclass(frozen=True)
class _Ranked:
    """Rows by query (numbered from 0) and, in each, by falling score. Unknown values are NaN."""

    query: Ints
    score: Floats
    gain: Floats

    @property
    def is_known(self) -> Mask:
        """Whether it is known where a row stands and what it is worth."""
        return ~np.isnan(self.score) & ~np.isnan(self.gain)

    @property
    def place(self) -> Ints:
        """From 0 on, within the query."""
        first = np.flatnonzero(np.diff(self.query, prepend=-1))
        return np.arange(len(self.query)) - np.repeat(first, np.diff(first, append=len(self.query)))

    @property
    def tie(self) -> Ints:
        """The number of the run of equal scores that a row is in."""
        new = (np.diff(self.query, prepend=-1) != 0) | (np.diff(self.score, prepend=np.nan) != 0)
        return np.cumsum(new) - 1

    def of_queries(self, rows: Mask) -> Mask:
        """The queries all of whose rows are among these."""
        return np.asarray(np.bincount(self.query, ~rows) == 0)

    def of(self, queries: Mask) -> _Ranked:
        """These queries alone, numbered anew."""
        rows = queries[self.query]
        return _Ranked((np.cumsum(queries) - 1)[self.query[rows]], self.score[rows], self.gain[rows])


def _ranked(contract: Contract, rows: pa.Table) -> _Ranked:
    label = rows.column(contract.label.stored)
    output = contract.outputs[-1]  # the probability, where there is one
    if contract.task is Task.REGRESSION or contract.probabilities:
        score = floats(rows.column(output.stored))
    else:
        score = _chosen(contract, rows.column(output.stored))
    gain = floats(label) if contract.task is Task.REGRESSION else _chosen(contract, label)
    gain = np.where(np.isfinite(gain) & (gain >= 0), gain, np.nan)
    if WEIGHT in rows.column_names:  # of a sampled query other rows were not logged
        gain = np.where(floats(rows.column(WEIGHT)) == 1, gain, np.nan)
    named = pa.concat_arrays(
        rows.column(contract.column(contract.query).stored).chunks or [pa.array([], pa.string())]
    )
    query = named.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    score = np.where(np.isfinite(score), score, np.nan)
    order = np.lexsort((-score, query))
    return _Ranked(query[order], score[order], gain[order])


def _chosen(contract: Contract, values: pa.ChunkedArray) -> Floats:
    return np.where(pc.is_valid(values).to_numpy(), is_positive(contract, values), np.nan)


def _ndcg(rows: _Ranked, top: int | None) -> Floats:
    """The NDCG of each query (Järvelin and Kekäläinen 2002), 0 where nothing is relevant; ties share their discounts.

    As scikit-learn's `ndcg_score` (McSherry and Najork 2008 for the ties).
    """
    ideal = np.lexsort((-rows.gain, rows.query))
    discount = 1 / np.log2(rows.place + 2)
    if top is not None:
        discount = np.where(rows.place < top, discount, 0.0)
    shared = np.bincount(rows.tie, discount) / np.bincount(rows.tie)
    reached = np.bincount(rows.query, rows.gain * shared[rows.tie])
    best = np.bincount(rows.query, rows.gain[ideal] * discount)
    return np.divide(reached, best, out=np.zeros(len(best)), where=best > 0)


def _reciprocal_rank(rows: _Ranked) -> Floats:
    """The expected reciprocal rank of each query's first relevant row, over all orders of ties; 0 without one."""
    tie = rows.tie
    relevant, size = np.bincount(tie, rows.gain > 0), np.bincount(tie)
    first = np.flatnonzero(np.diff(tie, prepend=-1))
    some = np.flatnonzero(relevant > 0)
    queries, which = np.unique(rows.query[first[some]], return_index=True)
    reciprocals = np.zeros(int(rows.query.max(initial=-1)) + 1)
    chosen = some[which]
    hits, remaining, rank = relevant[chosen], size[chosen].astype(float), rows.place[first[chosen]] + 1.0
    missed = np.ones(len(chosen))
    while len(chosen):  # the next row of the tie is the first relevant one with probability hits / remaining
        reciprocals[queries] += missed * hits / remaining / rank
        missed = missed * (1 - hits / remaining)
        going = remaining > hits
        queries, chosen, hits, missed = queries[going], chosen[going], hits[going], missed[going]
        remaining, rank = remaining[going] - 1, rank[going] + 1
    return reciprocals


def _rank_bounds(rows: _Ranked) -> tuple[float, float]:
    """Bounds of the mean reciprocal rank over queries with unknown relevances or scores."""
    if not len(rows.query):
        return 0.0, 0.0
    tie = rows.tie
    size = np.bincount(tie)
    first = rows.place[np.flatnonzero(np.diff(tie, prepend=-1))]
    ranked = rows.of_queries(~np.isnan(rows.score))
    least, most = np.zeros(len(ranked)), np.zeros(len(ranked))
    np.maximum.at(least, rows.query, np.where(rows.gain > 0, 1 / (first + size)[tie], 0.0))
    np.maximum.at(most, rows.query, np.where(rows.gain == 0, 0.0, 1 / (first + 1)[tie]))
    return float(np.where(ranked, least, 0.0).mean()), float(np.where(ranked, most, 1.0).mean())


def _value(name: str, values: Floats, unknown: int, bounds: tuple[float, float]) -> list[MetricValue]:
    """The mean over queries, with bounds that include `unknown` others."""
    count = len(values)
    if not count:
        return []
    value, covered = float(values.mean()), count / (count + unknown)
    error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    least, most = (value * covered + bound * (1 - covered) for bound in bounds)
    return [MetricValue(name, value, count, error, coverage=covered, least=least, most=most)]
