"""A retraining from end to end: rows, trials, gate, registration; every end of it is on record."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from feedback_loop.adaptation import Anticipation
from feedback_loop.clock import Window, format_moment
from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.decisions import Reason
from feedback_loop.errors import FeedbackLoopError, Refused, Unavailable
from feedback_loop.inference import Scorer
from feedback_loop.monitoring import primary_loss, scored_rows
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.progress import Advance, Progress
from feedback_loop.registry import TAG, LoadedModel, ModelVersion, Origin, Proven, Reference, Registry
from feedback_loop.retraining.budget import within_budget
from feedback_loop.retraining.dataset import TrainingRows, training_rows
from feedback_loop.retraining.gate import GateResult, non_inferiority
from feedback_loop.retraining.gates import GateCase, run_gates
from feedback_loop.retraining.hints import Hints, hints_of, steered
from feedback_loop.retraining.leaderboard import class_news, made_of, trial_runs, with_chosen
from feedback_loop.retraining.recipes import OWN, kinds_after
from feedback_loop.retraining.result import RetrainingResult
from feedback_loop.retraining.split import NotMade, Split, split_newest
from feedback_loop.retraining.trainers import TRAINER, Trainer
from feedback_loop.retraining.trials import Candidate, Plan, Success, make_candidate, plans, refitted, try_plans
from feedback_loop.retraining.tuning import Tuning, make_tuning
from feedback_loop.run_tags import run_tags
from feedback_loop.store import Store
from feedback_loop.store.conclusions import Diagnosis
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.retrainings import (
    Check,
    Trial,
    finish_retraining,
    load_retrainings,
    note_retraining,
    start_retraining,
)

PROVEN_ROWS = 100
"""On so many of the held-out rows a fresh process must answer as this one does."""

PARITY = "parity"
"""The gate of what is registered: refitted it is not broken, and elsewhere it answers as here."""

AVERAGE = "average"
"""The tag of a version that is an average of several pipelines: of which kinds."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """The rows and trials of a search before anything is fitted, and what is to be said of them."""

    rows: TrainingRows
    split: Split
    planned: tuple[Plan, ...]
    notes: tuple[str, ...]
    tuning: Tuning | None = None  # what Optuna adds, where there is a search space

    @property
    def trials(self) -> int:
        """How many trials are made at most."""
        space = self.tuning.space if self.tuning is not None else None
        return len(self.planned) + (space.trials * len(space.kinds) if space is not None else 0)


Settle = Callable[[RetrainingResult, Reason], str]
"""What is done with a candidate that passed: returns the state in which its search ends, such as `promoted`."""


@dataclass(frozen=True)
class Search:
    """One search for a better version than `champion`, on rows predicted before `until`, as known `now`.

    `until` is the end of a window: rows of a window stay together. `score` makes a scorer of a loaded model, as
    whoever serves it will.
    """

    store: Store
    registry: Registry
    champion: Scorer
    score: Callable[[LoadedModel], Scorer]
    settings: ModelSettings
    until: datetime
    history: Path | None
    now: datetime
    progress: Progress
    diagnosis: Diagnosis | None = None  # of the open incident the newest
    trainer: Trainer | None = None  # in place of the usual trials
    mistrusted: tuple[Window, ...] = ()  # whose outcomes stopped the adapter
    anticipation: Callable[[datetime], Anticipation | None] = lambda _: None  # the adapter, as of a moment

    @property
    def model(self) -> str:
        """The model's name."""
        return self.champion.contract.model

    def run(self, reason: Reason, incident_id: int | None, *, settle: Settle | None = None) -> RetrainingResult:
        """Trains candidates, gates the best and registers it; `settle` decides what becomes of one that passed.

        A candidate that is not good enough is a result, not an error, and so is a search that could not be made. What
        goes wrong on the way is recorded with its cause, and raised. However it ends, the record has what was found.
        """
        self.registry.end_abandoned(self.model, self.now)
        version = self.champion.version.version
        began = start_retraining(
            self.store, self.model, reason=reason, champion=version, incident_id=incident_id, now=self.now
        )
        self._take_note_of_orphans()
        result = RetrainingResult(began, "refused", version, None, "", None, ())
        of = {"model": self.model, "retraining": _mark(began, self.now), "incident": incident_id}
        try:
            with run_tags(**of), closing(self._search(result)) as steps:
                for step in steps:
                    self._note(step)
                    result = step  # what is on record
            if settle is not None and result.candidate is not None:
                result = replace(result, state=settle(result, reason))
        except Refused as error:
            state = "not_made" if isinstance(error, NotMade) else "refused"
            result = replace(result, state=state, summary=error.cause)
        except Exception as error:
            self._fail(result, error)
            raise
        finish_retraining(self.store, began, state=result.state, now=self.now, cause=result.summary)
        return result

    def _note(self, result: RetrainingResult) -> None:
        """Records what was found so far; a version that nobody could take note of is taken back."""
        try:
            note_retraining(
                self.store,
                result.retraining_id,
                candidate=result.candidate,
                gate=asdict(result.gate) if result.gate is not None else None,
                trials=result.trials,
                gates=result.gates,
            )
        except Exception:
            if result.candidate is not None:
                self.registry.unregister(
                    self.registry.find(Reference(self.model, version=result.candidate)), self.now
                )
            raise

    def _take_note_of_orphans(self) -> None:
        """Records the versions of searches whose process died between making one and saying so."""
        for search in load_retrainings(self.store, self.model):
            if search.state == "abandoned" and search.candidate is None and (search.gate or {}).get("passed"):
                mark = _mark(search.retraining_id, search.started_at)
                versions = [
                    version
                    for version in self.registry.versions(self.model)
                    if version.tags.get(TAG + "retraining") == mark
                ]
                if versions:
                    note_retraining(self.store, search.retraining_id, candidate=versions[0].version)

    def _fail(self, result: RetrainingResult, error: Exception) -> None:
        """Records a failure. An outage is none of the search's: it was not made."""
        state = "not_made" if isinstance(error, Unavailable | OSError) else "failed"
        cause = str(error) if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
        if result.candidate is not None:  # all but its promotion is done
            state, cause = "passed", f"{result.summary} Not promoted: {cause}"
        try:
            finish_retraining(self.store, result.retraining_id, state=state, now=self.now, cause=cause)
        except Unavailable as unavailable:  # the next search says of this one that it did not end
            _log.warning("retraining_not_recorded", model=self.model, cause=str(unavailable))

    def _search(self, result: RetrainingResult) -> Generator[RetrainingResult]:
        """What is known after each step: trials, gate, registration. It is a run in MLflow from the first fit on."""
        prepared = self.prepare()
        with (
            self.registry.lineage.search(self.model, self.now) as run_id,
            self.progress.track(f"retrain {self.model}", prepared.trials + 2) as advance,
            tempfile.TemporaryDirectory() as kept,
        ):
            planned = tuple(plan.within(run_id, Path(kept)) for plan in prepared.planned)
            yield from self._steps(result, replace(prepared, planned=planned), run_id, advance)

    def _steps(
        self, result: RetrainingResult, prepared: Prepared, run_id: str, advance: Advance
    ) -> Iterator[RetrainingResult]:
        loss, settings = primary_loss(self.champion.contract), self.settings.retraining
        rows, split = prepared.rows, prepared.split
        successes, trials, taken_over = self._tried(prepared, loss, advance)
        result = replace(result, trials=tuple(trials))
        yield result
        best = make_candidate(successes, split.holdout, loss, self._rescored)
        if best is None:
            self._show(result, run_id)
            causes = "; ".join(f"{trial.recipe}, {trial.name}: {trial.cause}" for trial in trials)
            raise Refused(f"No trial succeeded: {causes}.", cure="See what the pipeline raises on these rows.")
        best = within_budget(best, split.holdout, loss, self.settings, self._rescored)
        result = replace(result, trials=with_chosen(trials, best))
        self._show(result, run_id)
        before = split.holdout.losses(self.champion, loss)
        options = {"margin": settings.margin, "alpha": settings.alpha}
        gate = non_inferiority(loss, best.losses, before, split.holdout.decided, **options)
        case = GateCase(self.champion, best.scorer, split, loss, before, best.losses, self.settings, best.without)
        gates = run_gates(case, gate)
        advance(1)
        words = [gate.summary, *made_of(best)]
        words += [f"The gate {check.name!r}: {check.summary}" for check in gates[1:] if not check.passed]
        words += [*prepared.notes, *taken_over, *class_news(self.champion, best.scorer), *split.left_out]
        summary = " ".join(words)
        result = replace(result, gate=gate, gates=gates, summary=summary)
        yield result
        if all(check.passed for check in gates):
            try:
                candidate = self._register(result, rows, split, best)
            except Refused as error:
                yield replace(result, gates=(*gates, Check(PARITY, False, error.cause)))
                raise
            gates = (*gates, Check(PARITY, True, f"A fresh process answers {PROVEN_ROWS} held-out rows alike."))
            yield replace(result, state="passed", candidate=candidate.version, gates=gates)
        advance(1)

    def _tried(self, prepared: Prepared, loss: str, advance: Advance) -> tuple[list[Success], list[Trial], list[str]]:
        """The trials that succeeded, all of them on record, and what a search that was cut off had done already."""

        def attempt(planned: Sequence[Plan], settings: RetrainingSettings) -> tuple[list[Success], list[Trial]]:
            return try_plans(planned, prepared.split, settings, loss, self._rescored, advance)

        settings, began = self.settings.retraining, time.monotonic()
        successes, trials = attempt(prepared.planned, settings)
        if prepared.tuning is None:
            return successes, trials, []
        left = settings.time_limit - timedelta(seconds=time.monotonic() - began)
        limited = settings.model_copy(update={"time_limit": left})
        tuned = replace(prepared.tuning, settings=limited).run(attempt)
        words = f"{tuned.taken_over} trials of the search space are from a search that was cut off."
        return [*successes, *tuned.successes], [*trials, *tuned.trials], [words] if tuned.taken_over else []

    def prepare(self) -> Prepared:
        """The rows and the trials of this search, before anything is fitted; raises Refused and NotMade."""
        settings, seed, hints = self.settings.retraining, self.settings.policy.seed, self._hints
        rows = training_rows(
            self.store,
            self.champion,
            until=self.until,
            as_of=self.now,
            history=self.history,
            maturity=self.settings.maturity,
            most=settings.max_rows,
            seed=seed,
        )
        own = self._own_estimator()
        if len(rows) and own is not None:
            rows = rows.with_kinds(own)
        split = split_newest(rows, settings, self.until, self.settings.window).anticipating(self.anticipation)
        notes: tuple[str, ...] = ()
        if self.trainer is not None:
            planned = [Plan(TRAINER, own, "all", None, seed, trainer=self.trainer)]
        else:
            kinds, notes = self._kinds(own)
            planned = plans(kinds, own, settings, seed, steered(hints, kinds, split.holdout))
        split = replace(split, learn=hints.sound(split.learn))
        notes = (*notes, *([hints.words] if hints.words else ()))
        return Prepared(hints.sound(rows), split, tuple(planned), notes, self._tuning(own))

    def _tuning(self, own: Any) -> Tuning | None:
        """What varies the search space, if there is one; a search of the same window goes on where it was killed."""
        settings, contract, seed = self.settings.retraining, self.champion.contract, self.settings.policy.seed
        if settings.search_space is None:
            return None
        of = (self.champion.version.version, format_moment(self.until), str(self._hints.left_out))
        return make_tuning(self.store, settings.search_space, own, contract, settings, seed, of)

    def _show(self, result: RetrainingResult, run_id: str) -> None:
        """Writes the trials into MLflow, where each is a run within the search's."""
        self.registry.lineage.log_trials(self.model, run_id, trial_runs(result.trials), self.now)

    def _own_estimator(self) -> Any | None:
        """The champion's pipeline; where a search has made it an average, that of the last version that is none.

        None where that is no scikit-learn model.
        """
        if TAG + AVERAGE not in self.champion.version.tags or self.trainer is not None:
            return self.champion.loaded.estimator
        before = self.registry.versions(self.model)
        for version in reversed(before[: [other.version for other in before].index(self.champion.version.version)]):
            if TAG + AVERAGE not in version.tags:
                return self.registry.load(version).estimator
        raise Refused(
            f"{self.champion.version} is an average, and no version before it is a single pipeline.",
            cure="Promote a version of your own pipeline.",
        )

    def _kinds(self, own: Any | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The kinds that are tried, and why not all of those that are asked for; raises Refused where none can be."""
        kinds, cause = kinds_after(self.champion.contract, own)
        if self.settings.retraining.search == OWN:
            kinds = tuple(kind for kind in kinds if kind == OWN)
            if kinds:
                return kinds, ()
        if not kinds:
            raise Refused(
                f"No kind of trial can follow {self.champion.version}: {cause}.",
                cure='Set retraining.search = "kinds" (of a regression, or where it answers probabilities), or a '
                "retraining.trainer of your own; or retrain it elsewhere and promote that version.",
            )
        return kinds, (f"Only {', '.join(kinds)} could be tried: {cause}.",) if cause else ()

    def _rules(self) -> dict[str, str | int]:
        """By what the training rows were taken: enough to take the same again."""
        settings = self.settings
        return {
            "until": self.until.isoformat(),
            "max_rows": settings.retraining.max_rows,
            "seed": settings.policy.seed,
            "history": str(self.history or ""),
            **self._hints.left_out,
        }

    @property
    def _hints(self) -> Hints:
        return hints_of(self.diagnosis, self.mistrusted)

    def _rescored(self, estimator: Any) -> Scorer:
        """The champion with another estimator, whose own classes it has: what a candidate is before it is one.

        A trainer's model that is no scikit-learn estimator comes as it was loaded.
        """
        if isinstance(estimator, LoadedModel):
            return self.score(estimator)
        return self.score(self.champion.loaded.followed_by(estimator))

    def _register(self, result: RetrainingResult, rows: TrainingRows, split: Split, best: Candidate) -> ModelVersion:
        """Registers the winning recipe, fitted again with the held-out rows too; what was gated stays with it."""
        settings, until, source = self.settings.retraining, split.at, split.learn
        fitted = best.estimator
        if settings.refit:
            until, source = self.until, rows
            fitted = refitted(best, rows, until, settings)
            _check_refit(self._rescored(fitted), split, result.gate)
        used = max((member.plan.rows_of(source, until) for member in best.members), key=len)
        reference = scored_rows(best.scorer, split.holdout.table)
        return self.registry.register_candidate(
            Proven(self.champion.loaded, fitted, split.holdout.inputs_of(self._rescored(fitted), PROVEN_ROWS)),
            Origin(
                place=self.store.name,
                rows=len(used),
                trained_from=str(used.times.min()),
                digest=used.digest,
                trained_until=until,
                reference=reference,
                metrics={
                    f"holdout_{metric.metric}": metric.value
                    for metric in validation_metrics(best.scorer.contract, reference)
                    if metric.segment == ALL_ROWS
                },
                rules=self._rules(),
                params={
                    "recipe": best.words,
                    "window": ", ".join(f"{member.plan.recipe}: {member.plan.window}" for member in best.members),
                    "rows": str(len(used)),
                    "refit": str(settings.refit),
                    **({"trainer": settings.trainer.model_dump_json()} if settings.trainer is not None else {}),
                },
                tags={
                    "champion_before": self.champion.version.version,
                    "diagnosis": self.diagnosis.recommendation if self.diagnosis is not None else "none was made",
                    "retraining": _mark(result.retraining_id, self.now),
                    **({AVERAGE: best.words} if len(best.members) > 1 else {}),
                },
            ),
            self.now,
        )


def _mark(retraining_id: int, started_at: datetime) -> str:
    """What a version is tagged with, to be found by the search that made it."""
    return f"{retraining_id} of {format_moment(started_at)}"


def _check_refit(scorer: Scorer, split: Split, gate: GateResult | None) -> None:
    """Rows that it has learned from can't show that it is good, but they can show that it is broken."""
    assert gate is not None  # only what has passed one is registered
    loss = float(split.holdout.losses(scorer, gate.loss).mean())
    if gate.champion is None or not loss <= gate.champion + gate.margin:
        raise Refused(
            f"Fitted again with the newest rows, its {gate.loss} on these is {loss:.4f}: something is broken."
        )
