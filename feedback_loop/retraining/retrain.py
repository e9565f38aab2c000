"""A retraining from end to end: rows, trials, gate, registration, promotion; every end of it is on record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.decisions import Reason
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.inference import Scorer
from feedback_loop.monitoring import primary_loss
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.progress import Progress
from feedback_loop.registry import DataSource, ModelVersion, Registry
from feedback_loop.retraining.dataset import TrainingRows, training_rows
from feedback_loop.retraining.gate import GateResult, non_inferiority
from feedback_loop.retraining.promotion import promote
from feedback_loop.retraining.trials import Candidate, Split, reaches, rescored, split_newest, try_windows
from feedback_loop.store import Store
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.retrainings import Trial, finish_retraining, start_retraining


@dataclass(frozen=True)
class RetrainingResult:
    """How a retraining ended: `promoted`, `passed` (not promoted, as asked), or `refused`, and why."""

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

    `until` is the end of a window, and `window` how long one is: rows of a window stay together.
    """

    store: Store
    registry: Registry
    champion: Scorer
    settings: RetrainingSettings
    alias: str
    until: datetime
    window: timedelta
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

        A candidate that is not good enough is a result, not an error. What goes wrong on the way is recorded with
        its cause, and raised.
        """
        version = self.champion.version.version
        began = start_retraining(
            self.store, self.model, reason=reason, champion=version, incident_id=incident_id, now=self.now
        )
        try:
            result = self._search(began)
            if promotes and result.candidate is not None:
                self._promote(result, f"{reason}: {result.summary}")
                result = replace(result, state="promoted")
        except Refused as error:
            result = RetrainingResult(began, "refused", version, None, error.cause, None, ())
        except Exception as error:
            cause = str(error) if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
            finish_retraining(self.store, began, state="failed", now=self.now, cause=cause)
            raise
        finish_retraining(
            self.store,
            began,
            state=result.state,
            now=self.now,
            candidate=result.candidate,
            gate=asdict(result.gate) if result.gate is not None else None,
            cause=result.summary,
            trials=result.trials,
        )
        return result

    def _search(self, retraining_id: int) -> RetrainingResult:
        estimator = self.champion.loaded.estimator
        if estimator is None:
            raise Refused(
                f"{self.champion.version} is not a scikit-learn model: its pipeline can't be fitted again.",
                cure="Register a scikit-learn pipeline, or retrain it elsewhere and promote that version.",
            )
        loss, version = primary_loss(self.champion.contract), self.champion.version
        with self.progress.track(f"retrain {self.model}", len(reaches(self.settings)) + 2) as advance:
            contract = self.champion.contract
            rows = training_rows(self.store, contract, until=self.until, as_of=self.now, history=self.history)
            split = split_newest(rows, self.settings, version.trained_until, self.until, self.window)
            best, trials = try_windows(self.champion, estimator, split, self.settings, loss, advance)
            gate = non_inferiority(
                loss,
                best.losses,
                split.holdout.losses(self.champion, loss),
                split.holdout.times,
                margin=self.settings.margin,
                alpha=self.settings.alpha,
            )
            advance(1)
            result = RetrainingResult(
                retraining_id, "refused", version.version, None, gate.summary, gate, tuple(trials)
            )
            if not gate.passed:
                return result
            candidate = self._register(estimator, rows, split, best, gate)
            advance(1)
        return replace(result, state="passed", candidate=candidate.version)

    def _register(
        self, estimator: Any, rows: TrainingRows, split: Split, best: Candidate, gate: GateResult
    ) -> ModelVersion:
        """Registers the winning recipe, fitted again with the held-out rows too; what was gated stays with it."""
        until, used, fitted = split.at, split.learn.between(best.trial.trained_from, split.at), best.estimator
        if self.settings.refit:
            until = self.until
            used = rows.between(until - best.reach if best.reach is not None else best.trial.trained_from, until)
            fitted = used.fitted(estimator)
            _check_refit(rescored(self.champion, fitted), split, gate)
        reference = split.holdout.scored(best.scorer)
        return self.registry.register(
            self.model,
            fitted,
            signature=self.champion.loaded.signature,
            answers_with=self.champion.loaded.answers_with,
            example=None,  # rows of the log inside a model's files could not be erased
            reference=reference,
            trained_until=until,
            source=DataSource(
                name=self.model,
                place=self.store.name,
                rows=len(used),
                trained_from=str(used.times.min()),
                trained_until=until.isoformat(),
                as_of=self.now.isoformat(),
                digest=used.digest,
            ),
            metrics={
                f"holdout_{each.metric}": each.value
                for each in validation_metrics(self.champion.contract, reference)
                if each.segment == ALL_ROWS
            },
            params={"window": best.trial.name, "rows": str(len(used)), "refit": str(self.settings.refit)},
            requirements=self.champion.loaded.requirements,
            tags={"champion_before": self.champion.version.version, "diagnosis": self.diagnosis or "none was made"},
            now=self.now,
        )

    def _promote(self, result: RetrainingResult, why: str) -> None:
        assert result.candidate is not None  # only a candidate that passed is promoted
        promote(
            self.store,
            self.registry,
            self.model,
            self.alias,
            result.candidate,
            reason=why,
            now=self.now,
            expected=result.champion,
            retraining_id=result.retraining_id,
        )


def _check_refit(scorer: Scorer, split: Split, gate: GateResult) -> None:
    """Rows that it has learned from can't show that it is good, but they can show that it is broken."""
    loss = float(split.holdout.losses(scorer, gate.loss).mean())
    if gate.champion is None or not loss <= gate.champion + gate.margin:
        raise Refused(
            f"Fitted again with the newest rows, its {gate.loss} on these is {loss:.4f}: something is broken."
        )
