"""A retraining from end to end: rows, trials, gate, registration, promotion; every end of it is on record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from feedback_loop.clock import format_moment
from feedback_loop.config import ModelSettings
from feedback_loop.decisions import Reason
from feedback_loop.errors import FeedbackLoopError, Refused, Unavailable
from feedback_loop.inference import Scorer
from feedback_loop.monitoring import primary_loss, scored_rows
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.progress import Progress
from feedback_loop.registry import TAG, LoadedModel, ModelVersion, Origin, Proven, Reference, Registry
from feedback_loop.retraining.column_types import chosen_kinds, refuse_other_choice
from feedback_loop.retraining.dataset import TrainingRows, training_rows
from feedback_loop.retraining.gate import GateResult, non_inferiority
from feedback_loop.retraining.promotion import Champions
from feedback_loop.retraining.trials import Candidate, NotMade, Split, reaches, split_newest, try_windows
from feedback_loop.store import Store
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.retrainings import (
    Trial,
    finish_retraining,
    load_retrainings,
    note_retraining,
    start_retraining,
)

PROVEN_ROWS = 100
"""On so many of the held-out rows a fresh process must answer as this one does."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RetrainingResult:
    """How a retraining ended, and why: `promoted`, `passed` (not promoted, as asked), `refused`, or `not_made`."""

    retraining_id: int
    state: str
    champion: str
    candidate: str | None
    summary: str
    gate: GateResult | None
    trials: tuple[Trial, ...]


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
    diagnosis: str = ""  # what was recommended in the open incident

    @property
    def model(self) -> str:
        """The model's name."""
        return self.champion.contract.model

    def run(self, reason: Reason, incident_id: int | None, *, promotes: bool) -> RetrainingResult:
        """Trains candidates, gates the best, registers it and (if `promotes`) makes it the champion.

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
        try:
            for step in self._search(result):
                self._note(step)
                result = step  # what is on record
            if promotes and result.candidate is not None:
                self._promote(result, f"{reason}: {result.summary}")
                result = replace(result, state="promoted")
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

    def _search(self, result: RetrainingResult) -> Iterator[RetrainingResult]:
        """What is known after each step: trials, gate, registration."""
        estimator = self.champion.loaded.estimator
        if estimator is None:
            raise Refused(
                f"{self.champion.version} is not a scikit-learn model: its pipeline can't be fitted again.",
                cure="Register a scikit-learn pipeline, or retrain it elsewhere and promote that version.",
            )
        loss, settings = primary_loss(self.champion.contract), self.settings.retraining
        with self.progress.track(f"retrain {self.model}", len(reaches(settings)) + 2) as advance:
            rows = training_rows(self.store, self.champion, until=self.until, as_of=self.now, history=self.history)
            if len(rows):
                rows = replace(rows, kinds=chosen_kinds(estimator, rows.inputs()))
            split = split_newest(rows, settings, self.until, self.settings.window)
            best, trials = try_windows(estimator, split, settings, loss, self._rescored, advance)
            result = replace(result, trials=tuple(trials))
            yield result
            if best is None:
                causes = "; ".join(f"{trial.name}: {trial.cause}" for trial in trials)
                raise Refused(f"No trial succeeded: {causes}.", cure="See what the pipeline raises on these rows.")
            gate = non_inferiority(
                loss,
                best.losses,
                split.holdout.losses(self.champion, loss),
                split.holdout.decided,
                margin=settings.margin,
                alpha=settings.alpha,
            )
            advance(1)
            summary = " ".join([gate.summary, *self._class_news(best.scorer), *split.left_out])
            result = replace(result, gate=gate, summary=summary)
            yield result
            if gate.passed:
                candidate = self._register(result, rows, split, best)
                yield replace(result, state="passed", candidate=candidate.version)
            advance(1)

    def _rescored(self, estimator: Any) -> Scorer:
        """The champion with another estimator, whose own classes it has: what a candidate is before it is one."""
        return self.score(replace(self.champion.loaded, estimator=estimator))

    def _class_news(self, scorer: Scorer) -> Iterator[str]:
        before, after = set(self.champion.contract.classes), set(scorer.contract.classes)
        for classes, words in (
            (after - before, "It has learned a new class"),
            (before - after, "It knows no more of"),
        ):
            if classes:
                yield f"{words}: {', '.join(sorted(map(str, classes)))}."

    def _register(self, result: RetrainingResult, rows: TrainingRows, split: Split, best: Candidate) -> ModelVersion:
        """Registers the winning recipe, fitted again with the held-out rows too; what was gated stays with it."""
        until, used, fitted = split.at, split.learn.between(best.trial.trained_from, split.at), best.estimator
        refit = self.settings.retraining.refit
        if refit:
            until, estimator = self.until, self.champion.loaded.estimator
            used = rows.between(until - best.reach if best.reach is not None else best.trial.trained_from, until)
            fitted = used.fitted(estimator)
            refuse_other_choice(estimator, fitted)
            _check_refit(self._rescored(fitted), split, result.gate)
        reference = scored_rows(best.scorer, split.holdout.table)
        return self.registry.register_candidate(
            Proven(self.champion.loaded, fitted, split.holdout.inputs(PROVEN_ROWS)),
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
                params={"window": best.trial.name, "rows": str(len(used)), "refit": str(refit)},
                tags={
                    "champion_before": self.champion.version.version,
                    "diagnosis": self.diagnosis or "none was made",
                    "retraining": _mark(result.retraining_id, self.now),
                },
            ),
            self.now,
        )

    def _promote(self, result: RetrainingResult, why: str) -> None:
        assert result.candidate is not None  # only a candidate that passed is promoted
        champions = Champions(self.store, self.registry, self.model, self.settings.alias)
        champions.promote(
            result.candidate,
            reason=why,
            now=self.now,
            expected=result.champion,
            retraining_id=result.retraining_id,
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
