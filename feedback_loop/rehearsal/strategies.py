"""Ways of keeping a model, side by side on the same labelled rows: what each lost, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from feedback_loop.clock import floor_moment
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
    for strategy in strategies:
        means = {name: float(values.mean()) for name, values in strategy.losses.items()}
        first = rows[0][loss] if rows else 0.0
        change = means[loss] / first - 1 if first else 0.0
        costs = {"retrainings": strategy.retrainings, "promotions": strategy.promotions}
        rows.append({"strategy": strategy.name, **means, f"{loss}_change": change, **costs})
    return rows


def mean_losses(moments: Sequence[datetime], losses: Floats) -> dict[datetime, float]:
    """The mean loss of each moment, in the order of moments."""
    places = {moment: place for place, moment in enumerate(sorted(set(moments)))}
    place = [places[moment] for moment in moments]
    means = np.bincount(place, weights=losses) / np.bincount(place)
    return dict(zip(places, means.tolist(), strict=True))


def losses_by_turn(
    strategies: Sequence[Strategy], loss: str, predicted_at: Sequence[datetime], turn: timedelta
) -> dict[str, dict[datetime, float]]:
    """The mean loss of each turn, by strategy: one point a turn."""
    turns = [floor_moment(moment, turn) for moment in predicted_at]
    return {strategy.name: mean_losses(turns, strategy.losses[loss]) for strategy in strategies}
