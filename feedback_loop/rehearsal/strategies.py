"""Ways of keeping a model, side by side on the same labelled rows: what each lost, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from feedback_loop.monitoring import Floats


@dataclass(frozen=True)
class Strategy:
    """One way of keeping a model: its losses (by name) on the same rows as the others', and what it cost."""

    name: str
    losses: Mapping[str, Floats]
    retrainings: int
    promotions: int


def compare(strategies: Sequence[Strategy], loss: str) -> list[dict[str, Any]]:
    """The closing table: mean losses, and by how much the main `loss` is more than the first strategy's."""
    rows: list[dict[str, Any]] = []
    for each in strategies:
        means = {name: float(values.mean()) for name, values in each.losses.items()}
        first = rows[0][loss] if rows else 0.0
        change = means[loss] / first - 1 if first else 0.0
        costs = {"retrainings": each.retrainings, "promotions": each.promotions}
        rows.append({"strategy": each.name, **means, f"{loss}_change": change, **costs})
    return rows


def daily_means(days: Sequence[datetime], losses: Floats) -> dict[datetime, float]:
    """The mean loss of each day, in the order of days."""
    places = {day: place for place, day in enumerate(sorted(set(days)))}
    place = [places[day] for day in days]
    means = np.bincount(place, weights=losses) / np.bincount(place)
    return dict(zip(places, means.tolist(), strict=True))
