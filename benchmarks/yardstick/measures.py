"""What answers are worth: mean losses, the worst 30 days, and the difference from another way with its error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.yardstick.calendars import Answers
from benchmarks.yardstick.rows import DAY, Rows
from feedback_loop.monitoring import Floats
from feedback_loop.retraining.gate import paired_difference

CLIP = float(np.finfo(np.float64).eps)
"""As scikit-learn clips probabilities, and the product."""

SPAN = 30
"""In days: the worst of so many in a row are looked for."""


@dataclass(frozen=True)
class Judged:
    """The losses of one way of keeping the model on the judged rows: of classes log loss and Brier, else squares."""

    answers: Answers
    rows: Rows

    @property
    def metric(self) -> str:
        """What is compared."""
        return "RMSE" if self.rows.settings.task == "regression" else "log loss"

    @property
    def losses(self) -> Floats:
        """The main loss row by row; the mean's root is the RMSE of regression."""
        chosen = self._chosen()
        return chosen**2 if self.metric == "RMSE" else -np.log(np.clip(chosen, CLIP, 1.0))

    @property
    def brier(self) -> float | None:
        """The mean Brier score; halved over all classes, so that it is the usual one of two."""
        if self.metric == "RMSE":
            return None
        values = self.answers.values[self.rows.judged]
        hit = np.zeros_like(values)
        hit[np.arange(len(values)), self.rows.true_places] = 1.0
        return float(((values - hit) ** 2).sum(axis=1).mean()) / 2

    @property
    def value(self) -> float:
        """The mean log loss, or the RMSE."""
        return self.figure(self.losses.mean())

    def figure(self, mean: float) -> float:
        """A mean loss as the metric shows it."""
        return float(np.sqrt(mean) if self.metric == "RMSE" else mean)

    def within(self, start: np.datetime64, days: int) -> float:
        """The metric of so many days from a moment on."""
        time = self.rows.time[self.rows.judged]
        inside = (time >= start) & (time < start + days * DAY)
        return self.figure(self.losses[inside].mean())

    def worst(self, days: int = SPAN) -> float:
        """The metric of the worst days in a row; of all, where the stream is shorter."""
        day = self.rows.time[self.rows.judged].astype("datetime64[D]")
        place = (day - day.min()).astype(np.int64)
        sums, counts = np.bincount(place, weights=self.losses), np.bincount(place)
        length = min(days, len(sums))
        total, count = (np.convolve(values, np.ones(length), "valid") for values in (sums, counts))
        return self.figure((total / np.maximum(count, 1)).max())

    def against(self, other: Judged) -> tuple[float, float]:
        """How much greater the metric is than the other's, and the standard error of that between days.

        Of RMSE by the difference of squares: a - b = (a² - b²) / (a + b).
        """
        paired = paired_difference(self.losses, other.losses, self.rows.time[self.rows.judged])
        scale = self.value + other.value if self.metric == "RMSE" else 1.0
        return paired.mean / scale, paired.standard_error / scale

    def _chosen(self) -> Floats:
        """The probability of the true class, or by how much the answer is off."""
        values, judged = self.answers.values[self.rows.judged], self.rows.judged
        if self.metric == "RMSE":
            return np.asarray(values - self.rows.truth.iloc[judged].to_numpy(dtype=np.float64))
        return np.asarray(values[np.arange(len(judged)), self.rows.true_places])


def best(judged: Sequence[Judged]) -> Judged:
    """The one with the least loss, in hindsight."""
    return min(judged, key=lambda one: one.value)


def figures(judged: Judged, baseline: Judged) -> Iterator[tuple[str, float, str]]:
    """The columns of the table: name, value, unit."""
    answers, unit = judged.answers, "" if judged.metric == "RMSE" else "nats"
    yield judged.metric, judged.value, unit
    if judged.brier is not None:
        yield "Brier", judged.brier, ""
    yield f"worst {SPAN} days", judged.worst(), unit
    yield "fits", answers.fits, "count"
    yield "promotions", answers.promotions, "count"
    yield f"CPU of {answers.cpu_of}", answers.cpu_seconds, "s"
    if answers.all_cpu_seconds is not None:
        yield "CPU of all", answers.all_cpu_seconds, "s"
    if answers.holds is not None:
        yield "holds", answers.holds, "count"
    if judged is not baseline:
        difference, error = judged.against(baseline)
        yield "difference", difference, unit
        yield "its error", error, unit
