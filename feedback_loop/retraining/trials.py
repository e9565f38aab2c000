"""Trials: the champion's own pipeline, trained on several windows, compared on the newest labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from feedback_loop.clock import EPOCH, floor_moment, format_moment
from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.inference import Scorer, without_data
from feedback_loop.monitoring import Floats
from feedback_loop.progress import Advance
from feedback_loop.retraining.column_types import refuse_other_choice
from feedback_loop.retraining.dataset import TrainingRows
from feedback_loop.retraining.gate import paired_difference
from feedback_loop.store.retrainings import Trial


class NotMade(Refused):
    """A search that could not be made, for a cause that may be gone tomorrow: it has found nothing out."""


@dataclass(frozen=True)
class Split:
    """Rows to learn from, the newest ones held out, and where the one ends and the other begins.

    No outcome is on both sides. `left_out` says which rows are on neither.
    """

    learn: TrainingRows
    holdout: TrainingRows
    at: datetime
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """The best trial: what it fitted, its losses on the held-out rows, how far back it looked (None: all)."""

    trial: Trial
    estimator: Any
    scorer: Scorer
    losses: Floats
    reach: timedelta | None


def split_newest(rows: TrainingRows, settings: RetrainingSettings, until: datetime, window: timedelta) -> Split:
    """Holds the newest share of the last three `recent` spans out, and nothing that the champion has learned from.

    Whole windows are held out, up to `until` (the end of one). Rows that share an outcome (of their key) are on one
    side: who has learned from one of them knows the others'. Raises NotMade where that leaves too few rows to compare
    or to learn from.
    """
    if not len(rows):
        cause = " ".join(["There are no labelled predictions to learn from.", *rows.left_out])
        raise NotMade(cause, cure="Load outcomes: feedback-loop outcomes load.")
    learned_until = rows.champion.version.trained_until
    lately = np.sort(rows.between(until - 3 * settings.recent, until).times)
    begins = _moment(lately[int(len(lately) * (1 - settings.holdout))]) if len(lately) else until
    at = max(floor_moment(begins, window), learned_until)
    newest, before = rows.between(at, until), rows.between(EPOCH, at)
    holdout = newest.without_outcomes_of(rows.between(EPOCH, learned_until))
    learn = before.without_outcomes_of(holdout)
    shared = {
        "are as new, but their key's outcome is one that the champion has learned from": len(newest) - len(holdout),
        "share their key's outcome with held-out ones": len(before) - len(learn),
    }
    left_out = (*rows.left_out, *(f"{count:,} rows {why}: left out." for why, count in shared.items() if count))
    for part, what in ((holdout, "newer than what the champion has learned from"), (learn, "to learn from")):
        if len(part) < settings.min_rows:
            older = _older(rows, learned_until) if part is holdout else ""
            few = f"{len(part):,} labelled rows are {what}; {settings.min_rows:,} are needed."
            raise NotMade(
                " ".join([few, *([older] if older else []), *left_out]),
                cure="Wait for more outcomes, or lower retraining.min_rows.",
            )
    return Split(learn, holdout, at, left_out)


def _older(rows: TrainingRows, learned_until: datetime) -> str:
    """What to do about rows that are no test of the champion because it may have learned from them."""
    count, version = len(rows.between(EPOCH, learned_until)), rows.champion.version
    if not count:
        return ""
    before = f"{count:,} are from before {format_moment(learned_until)}"
    if version.tells_trained_until:
        return f"{before}, until when it has learned."
    say = f"feedback-loop models promote {version.model} {version.version} --trained-until MOMENT"
    return f"{before}, when it was registered, and nobody said until when it had learned. Say so: {say}."


def reaches(settings: RetrainingSettings) -> dict[str, timedelta | None]:
    """The windows that are tried: how far back each looks."""
    return {"recent": settings.recent, "3x recent": 3 * settings.recent, "all": None}


def try_windows(
    estimator: Any,
    split: Split,
    settings: RetrainingSettings,
    loss: str,
    rescored: Callable[[Any], Scorer],
    advance: Advance,
) -> tuple[Candidate | None, Sequence[Trial]]:
    """Fits the estimator once per window and scores each on the held-out rows; returns the best, and all.

    A trial that fails, or whose loss is no number, is recorded with its cause and does not stop the others.
    """
    trials: list[Trial] = []
    tried: list[Candidate] = []
    for name, reach in reaches(settings).items():
        start = split.at - reach if reach is not None else EPOCH
        rows = split.learn.between(start, split.at)
        trial = Trial(name, max(start, _moment(split.learn.times.min())), split.at, len(rows), None)
        advance(1)
        if len(rows) < settings.min_rows or any(len(rows) == candidate.trial.rows for candidate in tried):
            cause = "too few rows" if len(rows) < settings.min_rows else "the same rows as another trial"
            trials.append(replace(trial, cause=cause))
            continue
        try:
            fitted = rows.fitted(estimator)
            refuse_other_choice(estimator, fitted)
            scorer = rescored(fitted)
            losses = split.holdout.losses(scorer, loss)
        except Exception as error:  # noqa: BLE001 (training is foreign code: its failure is a result)
            words = without_data(str(error), {column.name for column in rows.champion.contract.features})
            cause = error.cause if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {words}"
            trials.append(replace(trial, cause=cause))
            continue
        if bad := int((~np.isfinite(losses)).sum()):
            trials.append(replace(trial, cause=f"its {loss} is no number on {bad:,} of {len(losses):,} rows"))
            continue
        trials.append(replace(trial, loss=float(losses.mean())))
        tried.append(Candidate(trials[-1], fitted, scorer, losses, reach))
    if not tried:
        return None, trials
    best = choose(tried, split.holdout.decided)
    chosen = replace(best.trial, chosen=True)
    return replace(best, trial=chosen), [chosen if trial is best.trial else trial for trial in trials]


def choose(tried: Sequence[Candidate], times: npt.NDArray[np.datetime64]) -> Candidate:
    """The trial with the most rows among those that are not worse than the best by more than one standard error.

    The one-standard-error rule (Breiman et al. 1984, section 3.4.3): a few weeks can't tell good from lucky, and
    more data is the safer choice where they do not.
    """
    best = min(tried, key=lambda candidate: float(candidate.losses.mean()))
    close = []
    for candidate in tried:
        paired = paired_difference(candidate.losses, best.losses, times)
        if candidate is best or paired.mean <= paired.standard_error < float("inf"):
            close.append(candidate)
    return max(close, key=lambda candidate: candidate.trial.rows)


def _moment(time: np.datetime64) -> datetime:
    moment: datetime = time.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)
