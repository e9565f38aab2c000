"""What a version takes to answer and how large it is, against the budgets; a smaller candidate that meets them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.inference import Scorer, served_engine
from feedback_loop.registry import LoadedModel
from feedback_loop.retraining.dataset import TrainingRows
from feedback_loop.retraining.gate import paired_difference
from feedback_loop.retraining.recipes import averaged
from feedback_loop.retraining.trials import Candidate

CALLS, KNOWN_ROWS = 11, 500
"""Single rows whose time is taken; rows that what is served is proven on."""


@dataclass(frozen=True)
class Cost:
    """The median time of a single row, the size of the estimator as it is kept, and by which way it was asked."""

    seconds: float
    bytes: int
    way: str

    def over(self, settings: RetrainingSettings) -> list[str]:
        """Which budgets it exceeds, in words."""
        words = []
        if settings.max_latency is not None and self.seconds > settings.max_latency.total_seconds():
            words.append(f"a row takes it longer than {settings.max_latency.total_seconds() * 1e3:g} ms")
        if settings.max_bytes is not None and self.bytes > settings.max_bytes:
            words.append(f"it is larger than {settings.max_bytes:,} bytes")
        return words


def cost_of(scorer: Scorer, rows: TrainingRows, settings: ModelSettings) -> Cost:
    """What a version costs, measured on some of these rows.

    Where there is a budget of time it is taken of what a server would answer by; else of the model in Python.
    """
    engine, why = scorer.engine, "no budget of time is set"
    if settings.retraining.max_latency is not None:
        known = rows.table.slice(0, KNOWN_ROWS)
        engine, why = served_engine(scorer.loaded, scorer.contract, engine, settings.inference, known)
    seconds = []
    for place in range(min(CALLS, len(rows))):
        row, start = rows.table.slice(place, 1), time.perf_counter()
        engine.score(row)
        seconds.append(time.perf_counter() - start)
    way = f"as a model in Python: {why}" if why else "as ONNX, as it is served"
    return Cost(float(np.median(seconds)), _bytes_of(scorer.loaded), way)


def _bytes_of(loaded: LoadedModel) -> int:
    """The size of an estimator as it is kept; of another model, that of its files."""
    if loaded.estimator is not None:
        return len(pickle.dumps(loaded.estimator))
    return sum(file.stat().st_size for file in loaded.path.rglob("*") if file.is_file())


def within_budget(
    candidate: Candidate, holdout: TrainingRows, loss: str, settings: ModelSettings, rescored: Callable[[Any], Scorer]
) -> Candidate:
    """The candidate; or, where it is an average over a budget, fewer of its members: two, or one.

    Only what meets the budgets takes its place, and is worse on the held-out rows by at most one standard error.
    """

    def is_over(version: Candidate) -> bool:
        return bool(cost_of(version.scorer, holdout, settings).over(settings.retraining))

    budgets = settings.retraining.max_latency, settings.retraining.max_bytes
    if budgets == (None, None) or len(candidate.members) == 1 or not is_over(candidate):
        return candidate
    for fewer in _fewer(candidate, holdout, loss, rescored):
        paired = paired_difference(fewer.losses, candidate.losses, holdout.decided)
        if paired.mean <= paired.standard_error < float("inf") and not is_over(fewer):
            return fewer
    return candidate


def _fewer(
    candidate: Candidate, holdout: TrainingRows, loss: str, rescored: Callable[[Any], Scorer]
) -> Iterator[Candidate]:
    """The average of the best two of three members, then each member, the best first."""
    if len(candidate.members) > 2:
        two = candidate.members[:2]
        scorer = rescored(averaged({member.plan.recipe: member.estimator for member in two}))
        yield Candidate(two, scorer, holdout.losses(scorer, loss))
    for member in candidate.members:
        yield Candidate((member,), member.scorer, member.losses)
