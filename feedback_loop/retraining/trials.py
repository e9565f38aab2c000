"""Trials: each recipe on each window, compared on the newest labelled rows; the candidate is made of the best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feedback_loop.clock import EPOCH
from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.inference import Scorer, without_data
from feedback_loop.monitoring import Floats
from feedback_loop.progress import Advance
from feedback_loop.retraining.column_types import refuse_other_choice
from feedback_loop.retraining.dataset import TrainingRows
from feedback_loop.retraining.gate import paired_difference
from feedback_loop.retraining.hints import Steering, likeness
from feedback_loop.retraining.parallel import Fitted, Job, fit_all, workers_for
from feedback_loop.retraining.recipes import OWN, Columns, averaged, recipe, with_parameters
from feedback_loop.retraining.split import Split, moment_of
from feedback_loop.retraining.trainers import Trainer, TrainerJob
from feedback_loop.safe_text import as_text
from feedback_loop.store.retrainings import Trial

MOST_AVERAGED = 3
"""So many kinds make up an average: the best of them by their losses on the held-out rows."""


@dataclass(frozen=True)
class Plan:
    """A trial before it is made: what is fitted (`own`: the estimator of that recipe), on which rows, and why."""

    recipe: str
    own: Any
    window: str
    reach: timedelta | None  # how far back it looks; None: all rows
    seed: int
    steering: Steering | None = None
    trainer: Trainer | None = None  # that fits in place of a recipe

    def within(self, run_id: str, kept: Path) -> Plan:
        """The same as part of a search, by its run in MLflow and its folder."""
        return (
            self if self.trainer is None else replace(self, trainer=replace(self.trainer, search=run_id, kept=kept))
        )

    @property
    def why(self) -> str:
        """Why it is tried."""
        if self.trainer is not None:
            return "the trainer that is configured"
        return self.steering.why if self.steering is not None else "one of the fixed trials"

    @property
    def without(self) -> tuple[str, ...]:
        """The features that it does without."""
        return self.steering.without if self.steering is not None else ()

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What is set of its recipe."""
        return self.steering.parameters if self.steering is not None else {}

    def rows_of(self, rows: TrainingRows, until: datetime) -> TrainingRows:
        """The rows up to a moment that it learns from."""
        since = self.steering.since if self.steering is not None else None
        start = until - self.reach if self.reach is not None else EPOCH
        return rows.between(start if since is None else since.start, until)

    def job(self, rows: TrainingRows) -> Job | TrainerJob:
        """What is to be fitted on these rows. Columns that are empty there are left to the champion's own recipe."""
        if self.trainer is not None:
            return TrainerJob(self.trainer, rows, self.seed)
        inputs, label, weights = rows.inputs(), rows.labels(self.own), rows.weights
        contract = rows.champion.contract
        empty = [column.name for column in contract.features if rows.is_empty(column.name)]
        columns = Columns.of(contract, array=bool(rows.champion.inputs.array), without=(*empty, *self.without))
        if self.steering is not None and self.steering.today is not None:
            alike = likeness(rows, self.steering.today, columns, self.seed)
            weights = alike if weights is None else alike * weights
        if self.recipe == OWN:
            inputs = inputs.astype(dict(rows.kinds)) if rows.kinds else inputs
            return Job(with_parameters(OWN, self.own, self.parameters), inputs, label, weights)
        estimator = recipe(self.recipe, columns, classifies=contract.task.is_classification, seed=self.seed)
        return Job(with_parameters(self.recipe, estimator, self.parameters), inputs, label, weights)


@dataclass(frozen=True)
class Success:
    """A trial that succeeded: what it fitted, and its losses on the held-out rows."""

    plan: Plan
    trial: Trial
    estimator: Any
    scorer: Scorer
    losses: Floats


@dataclass(frozen=True)
class Candidate:
    """One trial, or the average of several of different kinds, as it is compared with the champion."""

    members: tuple[Success, ...]
    scorer: Scorer
    losses: Floats

    @property
    def without(self) -> tuple[str, ...]:
        """The features that members do without, as they were told."""
        return tuple(sorted({name for member in self.members for name in member.plan.without}))

    @property
    def estimator(self) -> Any:
        """What was fitted: of an average all of it."""
        return self.members[0].estimator if len(self.members) == 1 else self.scorer.loaded.estimator

    @property
    def words(self) -> str:
        """What it is, in words."""
        names = [member.plan.recipe for member in self.members]
        return names[0] if len(names) == 1 else f"average of {', '.join(names)}"


def windows(settings: RetrainingSettings) -> dict[str, timedelta | None]:
    """The windows that are tried: how far back each looks."""
    return {"recent": settings.recent, "3x recent": 3 * settings.recent, "all": None}


def plans(
    kinds: Sequence[str],
    own: Any,
    settings: RetrainingSettings,
    seed: int,
    added: Sequence[tuple[str, Steering]] = (),
) -> list[Plan]:
    """Each kind on each window, and what hints have added."""
    fixed = [Plan(kind, own, window, reach, seed) for kind in kinds for window, reach in windows(settings).items()]
    return [*fixed, *(Plan(kind, own, steering.window, None, seed, steering) for kind, steering in added)]


def try_plans(
    planned: Sequence[Plan],
    split: Split,
    settings: RetrainingSettings,
    loss: str,
    rescored: Callable[[Any], Scorer],
    advance: Advance,
) -> tuple[list[Success], list[Trial]]:
    """Makes each trial and scores it on the held-out rows; returns those that succeeded, and all on record.

    A trial that fails, or whose loss is no number, is recorded with its cause and does not stop the others.
    """
    trials: list[Trial] = []
    jobs: dict[int, Job | TrainerJob] = {}
    tried: set[tuple[Any, ...]] = set()
    for place, plan in enumerate(planned):
        rows = plan.rows_of(split.learn, split.at)
        trial = _begun(plan, rows, split)
        weighs = plan.steering is not None and plan.steering.today is not None
        same = (plan.recipe, len(rows), plan.without, weighs, *sorted(plan.parameters.items()))
        if len(rows) < settings.min_rows:
            trial = replace(trial, cause="too few rows")
        elif same in tried:
            trial = replace(trial, cause="the same rows as another trial")
        else:
            tried.add(same)
            jobs[place] = plan.job(rows)
        trials.append(trial)
    advance(len(planned) - len(jobs))
    successes: list[Success] = []
    for place, fitted in _fitted(jobs, settings):
        trials[place] = replace(
            trials[place],
            seconds=fitted.seconds,
            log=fitted.log,
            peak_bytes=fitted.peak_bytes,
            run_id=fitted.run_id,
        )
        success = _judged(planned[place], trials[place], fitted, split.holdout, loss, rescored)
        if isinstance(success, Success):
            successes.append(success)
        trials[place] = success.trial if isinstance(success, Success) else replace(trials[place], cause=success)
        advance(1)
    order = {id(plan): place for place, plan in enumerate(planned)}
    return sorted(successes, key=lambda success: order[id(success.plan)]), trials


def _begun(plan: Plan, rows: TrainingRows, split: Split) -> Trial:
    first = moment_of((rows if len(rows) else split.learn).times.min())
    return Trial(plan.window, first, split.at, len(rows), None, recipe=plan.recipe, why=plan.why)


def _fitted(jobs: Mapping[int, Job | TrainerJob], settings: RetrainingSettings) -> Iterator[tuple[int, Fitted]]:
    fits = {place: job for place, job in jobs.items() if isinstance(job, Job)}
    for place, job in jobs.items():
        if isinstance(job, TrainerJob):
            yield place, job.run()
    places = list(fits)
    values = sum(job.inputs.size for job in fits.values())
    workers = workers_for(values, len(fits), settings.jobs)
    for place, fitted in fit_all(list(fits.values()), workers=workers, limit=settings.time_limit):
        yield places[place], fitted


def _judged(
    plan: Plan, trial: Trial, fitted: Fitted, holdout: TrainingRows, loss: str, rescored: Callable[[Any], Scorer]
) -> Success | str:
    """What came of a trial, or why nothing did."""
    names = {column.name for column in holdout.champion.contract.features}
    if fitted.estimator is None:
        return _cause(fitted, names)
    try:
        if plan.recipe == OWN:
            refuse_other_choice(plan.own, fitted.estimator)
        scorer = rescored(fitted.estimator)
        losses = holdout.losses(scorer, loss)
    except FeedbackLoopError as error:
        return error.cause
    except Exception as error:  # noqa: BLE001 (training is foreign code: its failure is a result)
        return f"{type(error).__name__}: {without_data(str(error), names)}"
    if bad := int((~np.isfinite(losses)).sum()):
        return f"its {loss} is no number on {bad:,} of {len(losses):,} rows"
    return Success(plan, replace(trial, loss=float(losses.mean())), fitted.estimator, scorer, losses)


def _cause(fitted: Fitted, names: set[str]) -> str:
    """Why a fit failed, as a database can hold it."""
    words = f"{fitted.error}: {without_data(fitted.words, names)}" if fitted.error else fitted.words
    return as_text(words, keep="\n\t")


def make_candidate(
    successes: Sequence[Success], holdout: TrainingRows, loss: str, rescored: Callable[[Any], Scorer]
) -> Candidate | None:
    """The average of the best kinds, each on the window that `choose` takes; of one kind that one itself.

    Only kinds that know the same classes are averaged: those of the kind that knows the most, and of equals of the
    best one.
    """
    kinds = list(dict.fromkeys(success.plan.recipe for success in successes))
    by_kind = [[success for success in successes if success.plan.recipe == kind] for kind in kinds]
    best = sorted((choose(tried, holdout.decided) for tried in by_kind), key=_mean)
    if not best:
        return None
    classes = max((success.scorer.contract.classes for success in best), key=len)
    members = tuple(success for success in best if success.scorer.contract.classes == classes)[:MOST_AVERAGED]
    if len(members) == 1:
        return Candidate(members, members[0].scorer, members[0].losses)
    scorer = rescored(averaged({member.plan.recipe: member.estimator for member in members}))
    return Candidate(members, scorer, holdout.losses(scorer, loss))


def choose(tried: Sequence[Success], times: npt.NDArray[np.datetime64]) -> Success:
    """The trial with the most rows among those that are not worse than the best by more than one standard error.

    The one-standard-error rule (Breiman et al. 1984, section 3.4.3): a few weeks can't tell good from lucky, and
    more data is the safer choice where they do not.
    """
    best = min(tried, key=_mean)
    close = []
    for success in tried:
        paired = paired_difference(success.losses, best.losses, times)
        if success is best or paired.mean <= paired.standard_error < float("inf"):
            close.append(success)
    return max(close, key=lambda success: success.trial.rows)


def _mean(success: Success) -> float:
    return float(success.losses.mean())


def refitted(candidate: Candidate, rows: TrainingRows, until: datetime, settings: RetrainingSettings) -> Any:
    """The candidate, fitted again: each member on its window up to `until`. Raises what a fit raises."""
    members = candidate.members
    jobs = {place: member.plan.job(member.plan.rows_of(rows, until)) for place, member in enumerate(members)}
    estimators: dict[str, Any] = {member.plan.recipe: None for member in members}
    for place, fitted in _fitted(jobs, settings):
        plan = members[place].plan
        if fitted.estimator is None:
            names = {column.name for column in rows.champion.contract.features}
            raise Refused(f"Fitted again with the newest rows, {plan.recipe} failed: {_cause(fitted, names)}.")
        if plan.recipe == OWN:
            refuse_other_choice(plan.own, fitted.estimator)
        estimators[plan.recipe] = fitted.estimator
    return averaged(estimators) if len(estimators) > 1 else next(iter(estimators.values()))
