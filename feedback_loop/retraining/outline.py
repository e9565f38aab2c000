"""What a search would do: its rows, its trials, and about how long it would take. Nothing is registered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from feedback_loop.retraining.dataset import TrainingRows
from feedback_loop.retraining.parallel import fit, workers_for
from feedback_loop.retraining.retrain import Prepared, Search
from feedback_loop.retraining.trainers import TrainerJob
from feedback_loop.retraining.trials import Plan
from feedback_loop.retraining.tuning import Tuning
from feedback_loop.store.retrainings import load_retrainings, load_trials

SAMPLE = 2_000
"""A recipe that was never fitted before is fitted to so many rows, to see how long that takes."""


@dataclass(frozen=True)
class OutlinedTrial:
    """A trial, and about how long it takes to fit (None: it will not be made)."""

    recipe: str
    window: str
    rows: int
    why: str
    seconds: float | None


@dataclass(frozen=True)
class Outline:
    """The rows that would be learned from and compared on (from `held_out_from` on), the trials, and their time."""

    model: str
    rows: int
    held_out: int
    held_out_from: datetime
    trials: tuple[OutlinedTrial, ...]
    processes: int
    seconds: float
    notes: tuple[str, ...]


def outline(search: Search) -> Outline:
    """What `search` would do. Raises NotMade and Refused where it could not be made."""
    prepared, settings = search.prepare(), search.settings.retraining
    split, by_row = prepared.split, _seconds_by_row(search)
    trials, tried, values = [], set(), 0
    notes = [*prepared.notes, *split.left_out]
    for plan in prepared.planned:
        rows = plan.rows_of(split.learn, split.at)
        same = (plan.recipe, len(rows), plan.why)
        if len(rows) < settings.min_rows or same in tried:
            trials.append(OutlinedTrial(plan.recipe, plan.window, len(rows), plan.why, None))
            continue
        tried.add(same)
        if plan.trainer is not None and plan.recipe not in by_row:
            notes.append("How long the trainer takes is not known: it has not been run yet.")
        if plan.recipe not in by_row:
            by_row[plan.recipe] = _measured(plan, prepared.rows)
        values += len(rows) * len(search.champion.contract.features)
        seconds = by_row[plan.recipe] * len(rows)
        trials.append(OutlinedTrial(plan.recipe, plan.window, len(rows), plan.why, seconds))
    if (tuning := prepared.tuning) is not None:
        trials += [_tuned(prepared, tuning, kind, by_row) for kind in tuning.space.kinds]
    made = [trial.seconds for trial in trials if trial.seconds is not None]
    processes = workers_for(values, len(made), settings.jobs)
    longest = {trial.recipe: trial.seconds or 0.0 for trial in trials}  # what is chosen is fitted again
    seconds = (sum(made) + (sum(longest.values()) if settings.refit else 0.0)) / processes
    return Outline(
        search.model, len(split.learn), len(split.holdout), split.at, tuple(trials), processes, seconds, tuple(notes)
    )


def _tuned(prepared: Prepared, tuning: Tuning, kind: str, by_row: dict[str, float]) -> OutlinedTrial:
    """All trials of a kind that a search space adds, as if each learned from all rows."""
    rows, trials = len(prepared.split.learn), tuning.space.trials
    if kind not in by_row:
        by_row[kind] = _measured(Plan(kind, tuning.own, "all", None, tuning.seed), prepared.rows)
    why = f"{trials} trials of the search space"
    return OutlinedTrial(kind, "tuned", rows, why, by_row[kind] * rows * trials)


def _seconds_by_row(search: Search) -> dict[str, float]:
    """How long each recipe took for a row the last time it was fitted."""
    seconds: dict[str, float] = {}
    for retraining in load_retrainings(search.store, search.model):
        for trial in load_trials(search.store, retraining.retraining_id):
            if trial.seconds is not None and trial.rows:
                seconds[trial.recipe] = trial.seconds / trial.rows
    return seconds


def _measured(plan: Plan, rows: TrainingRows) -> float:
    """Seconds a row, on the newest rows; a trainer is not run for that."""
    sample = replace(rows, table=rows.table.slice(max(len(rows) - SAMPLE, 0)))
    job = plan.job(sample)
    return 0.0 if isinstance(job, TrainerJob) else fit(job).seconds / len(sample)
