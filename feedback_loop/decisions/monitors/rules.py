"""Thresholds on a window's mean loss, with the interface of the other monitors.

They bound no probability of a false alarm over the life of a model (`alpha` and `once_in` are None), and on streams
that never change they alarm sooner or later: `python -m benchmarks.false_alarms`. An alarm stays.
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
"""A window with fewer labels is not judged."""


class WindowRule(Struct, frozen=True, tag_field="kind", tag="window_rule"):
    """Alarms where the mean loss of a window is above a limit."""

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
        """Each window is a stratum of its own: windows update the monitor one by one."""
        return place

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> WindowRule:
        """The rule after more losses of one window; with `ends` they are its last, and the window is judged."""
        del place  # a limit is the same in every place
        window_labels, labels = self.waiting_labels + len(losses), self.labels + len(losses)
        # One after the other: how labels are grouped into calls must not change the rounding.
        total = float(np.cumsum([self.waiting_sum, *losses])[-1])
        if not ends:
            return replace(self, labels=labels, waiting_labels=window_labels, waiting_sum=total)
        crossed = window_labels >= LEAST_WINDOW and total / window_labels > self.limit
        alarmed_at = labels if crossed and self.alarmed_at is None else self.alarmed_at
        return replace(self, labels=labels, waiting_labels=0, waiting_sum=0.0, alarmed_at=alarmed_at)

    def crossed(self, means: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether windows with these mean losses and numbers of labels are above the limit."""
        return np.asarray((np.asarray(labels) >= LEAST_WINDOW) & (np.asarray(means) > self.limit))


def start_rule(rule: RuleName, reference: Floats, *, threshold: float = 0.10) -> WindowRule:
    """A rule from the losses of the reference.

    `threshold` is by how much a window's mean loss may exceed the reference's: a share of it, or `absolute`.
    """
    mean = float(reference.mean())
    return WindowRule(rule, mean * (1 + threshold) if rule == "threshold" else mean + threshold)
