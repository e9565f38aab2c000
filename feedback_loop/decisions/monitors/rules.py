"""Thresholds of a window's mean loss, as monitors beside ours.

They state no probability of a false alarm over the life of a model (`alpha` and `once_in` are None), and on streams
that never change they cry sooner or later: `python -m benchmarks.false_alarms`. Like ours they cry where losses have
grown; like ours, an alarm stays.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from feedback_loop.monitoring import Floats

RuleName = Literal["threshold", "absolute"]
"""`threshold` is relative to the reference's mean loss, `absolute` is above it by so much."""

LEAST_WINDOW = 200
"""A window with fewer labels is not judged: its mean says too little."""


class WindowRule(Struct, frozen=True, tag_field="kind", tag="window_rule"):
    """Cries where the mean loss of a window is above a limit."""

    rule: RuleName
    limit: float
    labels: int = 0  # of the stream
    waiting_labels: int = 0  # of a window that has not ended
    waiting_sum: float = 0.0
    alarmed_at: int | None = None  # after how many labels of the stream
    alpha: None = None

    null = "no window's mean loss is above the limit"
    e_value: ClassVar[None] = None
    once_in: ClassVar[None] = None

    def stratum(self, place: int) -> int:
        """Its own for each window: one is taken in after the other."""
        return place

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> WindowRule:
        """Takes losses of one window in; with `ends` they are its last, and the window is judged."""
        del place  # a limit is the same in every place
        labels, seen = self.waiting_labels + len(losses), self.labels + len(losses)
        # One after the other: how labels are grouped into calls must not change the rounding.
        total = float(np.cumsum([self.waiting_sum, *losses])[-1])
        if not ends:
            return replace(self, labels=seen, waiting_labels=labels, waiting_sum=total)
        crossed = labels >= LEAST_WINDOW and total / labels > self.limit
        alarmed_at = seen if crossed and self.alarmed_at is None else self.alarmed_at
        return replace(self, labels=seen, waiting_labels=0, waiting_sum=0.0, alarmed_at=alarmed_at)

    def crossed(self, means: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether windows with such mean losses and so many labels make it cry."""
        return np.asarray((np.asarray(labels) >= LEAST_WINDOW) & (np.asarray(means) > self.limit))


def start_rule(rule: RuleName, reference: Floats, *, threshold: float = 0.10) -> WindowRule:
    """A rule from the losses of the reference.

    `threshold` is by how much a window's mean loss may exceed the reference's: a share of it, or `absolute`.
    """
    mean = float(reference.mean())
    return WindowRule(rule, mean * (1 + threshold) if rule == "threshold" else mean + threshold)
