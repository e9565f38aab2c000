"""The rules of others, as monitors beside ours: thresholds, a z-test, NannyML's chunks, ADWIN.

They state no probability of a false alarm over the life of a model (`alpha` and `once_in` are None), and on streams
that never change most of them cry sooner or later: `python -m benchmarks.false_alarms`. Like ours they cry where
losses have grown; like ours, an alarm stays.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from feedback_loop.decisions.monitors.units import LEAST_UNITS, split_units
from feedback_loop.errors import NotFound
from feedback_loop.monitoring import Floats

RuleName = Literal["threshold", "absolute", "z_test", "chunks", "adwin"]
"""`threshold` is relative to the reference's mean loss, `absolute` is above it by so much."""

LEAST_WINDOW = 200
"""Rules that go by windows do not judge one with fewer labels: its mean says too little."""

LEVEL = 0.05
"""Of the z-test, for each window."""

DEVIATIONS = 3.0
"""NannyML's: so many standard deviations of the reference's chunks above their mean."""

CHUNKS = 10
"""NannyML's default, where the reference has too few windows to be its chunks."""

DELTA = 0.002
"""ADWIN's confidence, river's default."""


class Unpromising:
    """Makes no bets, so it can't say how seldom an unchanged model would show as much."""

    e_value: ClassVar[None] = None
    once_in: ClassVar[None] = None


@dataclass(frozen=True)
class WindowRule(Unpromising):
    """Cries where the mean loss of a window is above a limit: `level + margin √(1/n + 1/N)`.

    n are the window's labels, N those of the reference; only the z-test has a margin.
    """

    rule: RuleName
    level: float
    margin: float
    reference: int  # N
    labels: int = 0  # of the stream
    waiting_labels: int = 0  # of a window that has not ended
    waiting_sum: float = 0.0
    alarmed_at: int | None = None  # after how many labels of the stream
    alpha: None = None
    kind: str = "window_rule"

    null = "no window's mean loss is above the limit"

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> WindowRule:
        """Takes losses of one window in; with `ends` they are its last, and the window is judged."""
        del place  # a limit is the same in every place
        labels, seen = self.waiting_labels + len(losses), self.labels + len(losses)
        # One after the other: how labels are grouped into calls must not change the rounding.
        total = float(np.cumsum([self.waiting_sum, *losses])[-1])
        if not ends:
            return replace(self, labels=seen, waiting_labels=labels, waiting_sum=total)
        crossed = bool(labels) and bool(self.crossed(total / labels, labels))
        alarmed_at = seen if crossed and self.alarmed_at is None else self.alarmed_at
        return replace(self, labels=seen, waiting_labels=0, waiting_sum=0.0, alarmed_at=alarmed_at)

    def crossed(self, mean: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether windows with such mean losses and so many labels make it cry."""
        counts = np.maximum(labels, 1)
        limit = self.level + self.margin * np.sqrt(1 / counts + 1 / self.reference)
        return np.asarray((counts >= LEAST_WINDOW) & (np.asarray(mean) > limit))


@dataclass(frozen=True)
class AdwinRule(Unpromising):
    """ADWIN (Bifet and Gavaldà 2007) as river has it, on the single losses: cries where its window's mean has risen.

    Kept is what river itself writes of its window: numbers, no pickle, so that whoever can write to the database can
    change figures and not run code. It is of one minor version of river.
    """

    window: str  # base64
    labels: int = 0  # of the stream
    alarmed_at: int | None = None  # after how many of them
    alpha: None = None
    kind: str = "adwin"

    null = "the mean loss has not changed since ADWIN's window began"

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> AdwinRule:
        """Takes the next losses in, in their order; how they are grouped into calls makes no difference."""
        del place, ends  # ADWIN knows labels only
        seen = self.labels + len(losses)
        if self.alarmed_at is not None:
            return replace(self, labels=seen)
        detector, found = _followed(_restored(self.window), losses)
        return replace(
            self,
            window=_written(detector),
            labels=seen,
            alarmed_at=None if found is None else self.labels + found,
        )


Rule = WindowRule | AdwinRule


def start_rule(rule: RuleName, reference: Floats, windows: npt.NDArray[np.int64], *, threshold: float = 0.10) -> Rule:
    """A rule from the losses of the reference in the order of time, each with its window's number.

    `threshold` is by how much a window's mean loss may exceed the reference's: a share of it, or `absolute`. Raises
    NotFound for `adwin` where river is not installed.
    """
    mean, count = float(reference.mean()), len(reference)
    if rule == "adwin":
        return AdwinRule(_written(_followed(_adwin(), reference, through=True)[0]))
    if rule == "z_test":
        deviation = float(reference.std(ddof=1))
        return WindowRule(rule, mean, float(-special.ndtri(LEVEL)) * deviation, count)
    if rule == "chunks":
        parts = split_units(reference, windows)
        parts = parts if len(parts) >= LEAST_UNITS else np.array_split(reference, CHUNKS)
        means = np.array([part.mean() for part in parts])
        return WindowRule(rule, float(means.mean() + DEVIATIONS * means.std()), 0.0, count)
    return WindowRule(rule, mean * (1 + threshold) if rule == "threshold" else mean + threshold, 0.0, count)


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """Plain values that give the very same rule back."""
    return asdict(rule)


def rule_from_json(plain: dict[str, Any]) -> Rule:
    """The inverse of `rule_to_json`."""
    return AdwinRule(**plain) if plain["kind"] == "adwin" else WindowRule(**plain)


def _followed(detector: Any, losses: Floats, *, through: bool = False) -> tuple[Any, int | None]:
    """The detector after the losses, or (unless it goes `through` them all) after that which has it see a rise.

    It forgets all when it has seen a change, as river's does with the label after.
    """
    for number, loss in enumerate(losses.tolist(), 1):
        before = detector.estimation
        detector.update(loss)
        if detector.drift_detected:
            risen, detector = detector.estimation > before, _adwin()
            if risen and not through:
                return detector, number
    return detector, None


def _adwin() -> Any:
    try:
        from river.drift import ADWIN
    except ImportError as error:
        raise NotFound("package", "river", cure="pip install 'feedback-loop[river]'.") from error
    return ADWIN(delta=DELTA)


def _written(detector: Any) -> str:
    return b64encode(detector.__getstate__()["_helper"].__getstate__()).decode()


def _restored(window: str) -> Any:
    detector = _adwin()
    detector.__getstate__()["_helper"].__setstate__(b64decode(window))
    return detector
