"""What an offer is worth: metrics of our own, for feedback_loop."""

import numpy as np
import pyarrow as pa

from feedback_loop import SumMetric

COST, MARGIN = 2.0, 0.25


def _earned(rows: pa.Table) -> np.ndarray:
    """Of each person: an offer goes to whom the model says will buy, costs 2 and earns a quarter of the basket."""
    offered, bought = (np.asarray(rows.column(name).to_numpy(), dtype=float) for name in ("prediction", "bought"))
    return offered * (bought * MARGIN * rows.column("basket").to_numpy() - COST)


def _money(rows: pa.Table) -> dict[str, np.ndarray]:
    offered = np.asarray(rows.column("prediction").to_numpy(), dtype=float)
    return {"earned": _earned(rows), "spent": offered * COST}


profit = SumMetric(lambda rows: {"earned": _earned(rows)}, least=-COST)
"""Money per person: the mean of one number of each row. Nobody can lose more than the offer costs."""

return_on_offers = SumMetric(_money, lambda sums, _: sums["earned"] / sums["spent"])
"""Money earned for each that was spent: made of two sums."""


def best_tenth(rows: pa.Table) -> float:
    """The share of all buyers that the tenth with the highest probability has: needs all rows at once."""
    chance, bought = rows.column("probability").to_numpy(), np.asarray(rows.column("bought").to_numpy(), dtype=float)
    return float(bought[np.argsort(-chance)[: len(chance) // 10]].sum() / bought.sum())
