"""An artificial worsening of a loss in a backtest: would a policy have caught it, and when?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from feedback_loop.clock import parse_moment
from feedback_loop.decisions.losses import Cohort
from feedback_loop.errors import BadInput
from feedback_loop.monitoring import Floats

LOSS_OF: Mapping[str, tuple[str, int]] = {
    "accuracy": ("error", -1),
    "error": ("error", 1),
    "brier": ("brier", 1),
    "log_loss": ("log_loss", 1),
    "absolute_error": ("absolute_error", 1),
    "squared_error": ("squared_error", 1),
}
"""The loss that a metric is of, and whether it rises or falls as that does."""

_WRITTEN = re.compile(r"(?P<metric>\w+)=(?P<amount>[+-]?\d*\.?\d+)@(?P<at>.+)")


@dataclass(frozen=True)
class Injection:
    """The mean of a loss is higher by `amount` from the first window that begins at or after `at`."""

    loss: str
    amount: float
    at: datetime

    @classmethod
    def parse(cls, text: str) -> Injection:
        """`error=+0.03@2026-03-11`, or `accuracy=-0.03@…`. Raises BadInput."""
        match = _WRITTEN.fullmatch(text.strip())
        if match is None:
            raise BadInput.of("inject", f"is {text!r}", cure="Write metric=amount@moment: error=+0.03@2026-03-11.")
        if match["metric"] not in LOSS_OF:
            cure = f"One of {', '.join(LOSS_OF)}."
            raise BadInput.of("inject", f"there is nothing to add to {match['metric']!r}", cure=cure)
        loss, sign = LOSS_OF[match["metric"]]
        amount = sign * float(match["amount"])
        if amount <= 0:
            cure = "Losses rise (+0.03), accuracy falls (-0.03)."
            raise BadInput.of("inject", f"{text!r} makes nothing worse", cure=cure)
        return cls(loss, amount, parse_moment(match["at"]))

    def into(self, cohort: Cohort) -> Cohort:
        """The cohort with worse losses; the same cohort always gets the same ones."""
        losses = cohort.losses.by_loss.get(self.loss)
        if losses is None or not len(losses) or cohort.window.start < self.at:
            return cohort
        worse = self._worse(losses, np.random.default_rng(cohort.place))
        return replace(cohort, losses=replace(cohort.losses, by_loss={**cohort.losses.by_loss, self.loss: worse}))

    def _worse(self, losses: Floats, random: np.random.Generator) -> Floats:
        """Random right answers become wrong; other losses grow by one factor, Brier's up to 1."""
        mean = float(losses.mean())
        if self.loss == "error":
            turned = random.random(len(losses)) * (1 - mean) < self.amount
            return np.where(turned, 1.0, losses)
        worse = losses * (1 + self.amount / mean) if mean > 0 else losses + self.amount
        return np.minimum(worse, 1.0) if self.loss == "brier" else worse
