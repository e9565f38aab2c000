"""What differs between tasks: what heads take and aim at, and how their answers, losses and curvature follow.

Shapes: n rows, K outputs (classes of a multiclass task, else one); a head's linear forms η are of shape (n, K).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from feedback_loop.inference.adapter_coefficients import (
    LEAST_CHANCE,
    centred_logs,
    clipped,
    logistic,
    logits,
    softmax,
)
from feedback_loop.inference.adapter_encoding import Floats
from feedback_loop.schema import Task

LEAST_CURVATURE = 1e-3
"""Of a binary row: p(1 - p) is taken as no less."""

CLASS_RIDGE = 1e-4
"""Added to the diagonal of a multiclass row's curvature, which is singular without it."""


WHOLE_LOOK = 20
"""A look of fewer rows counts by its share of so many: memories and range were chosen on streams of at least 24 rows.

Else a row is a look: a few rows are all that is remembered, and three leave the range of rates by chance.
"""


class TaskRules(Protocol):
    """`spread` is the robust variance V of served errors, which only a regression has (else 1)."""

    @property
    def outputs(self) -> int:
        """K."""

    @property
    def slope(self) -> float:
        """The coefficient of z at birth."""

    @property
    def whole_look(self) -> int:
        """So many rows are a look that heads and pool forget by in full."""

    def inputs(self, raw: Floats) -> Floats:
        """The model's own answers as z, (n, K)."""

    def targets(self, raw: Floats, outcomes: Floats) -> Floats:
        """What heads aim at, (n, K)."""

    def residuals(self, targets: Floats, raw: Floats, served: Floats) -> Floats:
        """Outcome less what was served, (n, K)."""

    def variances(self, served: Floats, spread: float) -> Floats:
        """The variance that these residuals should have, (n, K)."""

    def answers(self, forms: Floats) -> Floats:
        """What a head of these linear forms answers, (n, K)."""

    def losses(self, targets: Floats, answers: Floats, spread: float) -> Floats:
        """The loss of a member's answers, (n,)."""

    def errors(self, targets: Floats, answers: Floats, spread: float) -> Floats:
        """The negative gradient of the loss in the linear form, (n, K)."""

    def curvature(self, answers: Floats, spread: float, *, is_full: bool) -> Floats:
        """The loss's second derivatives in the linear form: (n, K, K), or only the diagonal (n, K)."""

    def rates(self, outcomes: Floats) -> Floats:
        """What the range guard watches: the mean outcome, or each class's share, (K,)."""


@dataclass(frozen=True)
class _Binary:
    """Outcomes are 1 for the positive class, else 0; answers are its probability."""

    outputs: int = 1
    slope: float = 1.0
    whole_look: int = WHOLE_LOOK

    def inputs(self, raw: Floats) -> Floats:
        return logits(raw)[:, None]

    def targets(self, raw: Floats, outcomes: Floats) -> Floats:
        del raw
        return outcomes[:, None]

    def residuals(self, targets: Floats, raw: Floats, served: Floats) -> Floats:
        del raw
        return targets - clipped(served)[:, None]

    def variances(self, served: Floats, spread: float) -> Floats:
        del spread
        chances = clipped(served)[:, None]
        return chances * (1.0 - chances)

    def answers(self, forms: Floats) -> Floats:
        return logistic(forms)

    def losses(self, targets: Floats, answers: Floats, spread: float) -> Floats:
        del spread
        chances = clipped(answers[:, 0])
        return -np.log(np.where(targets[:, 0] > 0, chances, 1.0 - chances))

    def errors(self, targets: Floats, answers: Floats, spread: float) -> Floats:
        del spread
        return targets - answers

    def curvature(self, answers: Floats, spread: float, *, is_full: bool) -> Floats:
        del spread
        curved = np.maximum(answers * (1.0 - answers), LEAST_CURVATURE)
        return curved[:, :, None] if is_full else curved

    def rates(self, outcomes: Floats) -> Floats:
        return np.array([outcomes.mean()])


@dataclass(frozen=True)
class _Multiclass:
    """Outcomes are the places of their classes; answers are the probabilities of all of them."""

    outputs: int
    slope: float = 1.0
    whole_look: int = WHOLE_LOOK

    def inputs(self, raw: Floats) -> Floats:
        return centred_logs(raw.T).T

    def targets(self, raw: Floats, outcomes: Floats) -> Floats:
        del raw
        return np.asarray(np.eye(self.outputs)[outcomes.astype(int)])

    def residuals(self, targets: Floats, raw: Floats, served: Floats) -> Floats:
        del raw
        return targets - clipped(served)

    def variances(self, served: Floats, spread: float) -> Floats:
        del spread
        chances = clipped(served)
        return chances * (1.0 - chances)

    def answers(self, forms: Floats) -> Floats:
        return softmax(forms.T).T

    def losses(self, targets: Floats, answers: Floats, spread: float) -> Floats:
        del spread
        return np.asarray(-np.log(np.maximum((answers * targets).sum(axis=1), LEAST_CHANCE)))

    def errors(self, targets: Floats, answers: Floats, spread: float) -> Floats:
        del spread
        return targets - answers

    def curvature(self, answers: Floats, spread: float, *, is_full: bool) -> Floats:
        del spread
        if not is_full:
            return answers * (1.0 - answers) + CLASS_RIDGE
        curved = -answers[:, :, None] * answers[:, None, :]
        diagonal = np.arange(self.outputs)
        curved[:, diagonal, diagonal] += answers + CLASS_RIDGE
        return curved

    def rates(self, outcomes: Floats) -> Floats:
        return np.bincount(outcomes.astype(int), minlength=self.outputs) / len(outcomes)


@dataclass(frozen=True)
class _Regression:
    """Outcomes and answers are numbers; heads answer what is to be added, in the reference's standard deviations."""

    centre: float
    scale: float
    outputs: int = 1
    slope: float = 0.0
    whole_look: int = 1  # a number tells more than a class does

    def inputs(self, raw: Floats) -> Floats:
        return ((raw - self.centre) / self.scale)[:, None]

    def targets(self, raw: Floats, outcomes: Floats) -> Floats:
        return ((outcomes - raw) / self.scale)[:, None]

    def residuals(self, targets: Floats, raw: Floats, served: Floats) -> Floats:
        return targets - ((served - raw) / self.scale)[:, None]

    def variances(self, served: Floats, spread: float) -> Floats:
        return np.full((len(served), 1), spread)

    def answers(self, forms: Floats) -> Floats:
        return forms

    def losses(self, targets: Floats, answers: Floats, spread: float) -> Floats:
        return 2.0 * np.log1p((targets - answers)[:, 0] ** 2 / (4.0 * spread))

    def errors(self, targets: Floats, answers: Floats, spread: float) -> Floats:
        return (targets - answers) / spread

    def curvature(self, answers: Floats, spread: float, *, is_full: bool) -> Floats:
        curved = np.full(answers.shape, 1.0 / spread)
        return curved[:, :, None] if is_full else curved

    def rates(self, outcomes: Floats) -> Floats:
        return np.array([outcomes.mean()])


def rules_of(task: Task, classes: int, centre: float, scale: float) -> TaskRules:
    """The rules of a task."""
    if task is Task.REGRESSION:
        return _Regression(centre, scale)
    return _Binary() if task is Task.BINARY else _Multiclass(classes)
