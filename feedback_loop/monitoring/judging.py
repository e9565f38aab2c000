"""Which rows figures are made of where outcomes need an action, and for how many predictions each of them stands.

A row that was acted on with probability p stands for 1/p predictions (Horvitz and Thompson 1952); means are divided
by the sum of the weights (Hájek 1971). So a loss, a rate or a metric is that of all predictions, and not of those
that the model chose. Training does not weigh: it takes rows as they are.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.monitoring.arrays import Floats, Mask, floats
from feedback_loop.monitoring.sampling import WEIGHT, uniform, weights_of
from feedback_loop.schema import ACTED, ACTION_PROPENSITY, PREDICTION_ID, Contract, sample_places

_MOST = "fl_most"

STEPS = 4
"""Weights by propensities that callers report are on a grid of so many steps for each doubling."""


def judged(contract: Contract, rows: pa.Table) -> pa.Table:
    """The rows of the join that can be judged, weighted by what they stand for; all where no action is needed.

    Those that were acted on by a known probability: one that came with the action holds; else by the log's, if the
    answer itself led to the action or the row is explored. Rows that came without actions (of a reference that was
    brought) are as they are.
    """
    if not contract.join.needs_action or ACTED not in rows.column_names:
        return rows
    explored, propensity = (rows.column(column.stored) for column in contract.exploration_columns)
    is_by_design = pc.or_(pc.fill_null(explored, fill_value=False), pc.equal(propensity, 1.0))
    is_known = pc.or_(pc.is_valid(rows.column(ACTION_PROPENSITY)), pc.fill_null(is_by_design, fill_value=False))
    weights = possible_weights(contract, rows)
    counts = pc.and_(pc.fill_null(rows.column(ACTED), fill_value=False), is_known).to_numpy() & (weights > 0)
    own = pa.array(weights, pa.float64())
    return rows.set_column(rows.column_names.index(WEIGHT), WEIGHT, own).filter(pa.array(counts))


def thinned(contract: Contract, rows: pa.Table, most: Floats | None = None) -> pa.Table:
    """The rows that can be judged, thinned until each stands for as many predictions (see `uniform`).

    For as many (`most` of each row) as any of the rows would stand for, acted on or not. By the rows that happened to
    be acted on, a small window without an explored one would count in full, as if all were like those that the model
    chose.
    """
    if not contract.join.needs_action or ACTED not in rows.column_names:
        return uniform(rows)
    if most is None:
        return uniform(judged(contract, rows), float(possible_weights(contract, rows).max(initial=0.0)))
    kept = judged(contract, rows.append_column(_MOST, pa.array(most, pa.float64())))
    return uniform(kept.drop_columns([_MOST]), floats(kept.column(_MOST)))


def possible_weights(contract: Contract, rows: pa.Table) -> Floats:
    """For how many predictions each row of the join stands if it was acted on; 0 where nobody knows."""
    reported = rows.column(ACTION_PROPENSITY)
    chances = floats(pc.coalesce(reported, rows.column(contract.exploration_columns[1].stored)))
    weights = np.divide(weights_of(rows), chances, out=np.zeros(len(chances)), where=chances > 0)
    places = np.flatnonzero(pc.is_valid(reported))
    ids = rows.column(PREDICTION_ID).take(pa.array(places)).to_pylist()
    weights[places] = _on_grid(weights[places], ids)
    return weights


def _on_grid(weights: Floats, ids: list[str]) -> Floats:
    """The weights rounded up or down to a grid, by chance (from the ids), so that each is right in the mean.

    Tallies are kept by weight: any number of different ones would be any number of tallies.
    """
    step = np.floor(np.log2(weights) * STEPS)
    lower, upper = np.exp2(step / STEPS), np.exp2((step + 1) / STEPS)
    is_up: Mask = sample_places(ids, b"rounded weight") < (weights - lower) / (upper - lower)
    return np.asarray(np.where(is_up, upper, lower), dtype=np.float64)
