"""What MLflow shows of the loop: figures of windows, verdicts, promotions; with links to our pages.

All of it is in our own store too: that it can't be shown is said in the log, and fails nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any
from urllib.parse import quote

import structlog

from feedback_loop.clock import format_moment
from feedback_loop.errors import FeedbackLoopError, NotFound, Unavailable
from feedback_loop.plain import plain
from feedback_loop.registry import TAG, ModelVersion, Registry
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.evaluations import ALL_ROWS, INSUFFICIENT, Evaluation
from feedback_loop.store.retrainings import Promotion

LEVELS = {State.OK: 0.0, State.WARNING: 1.0, State.DEGRADED: 2.0}
"""How verdicts are drawn over time."""

MOST_COLUMNS = 50
"""Of a model with more, only the drift of columns that have drifted is drawn: each is a chart."""

NORMAL_95 = 1.96
"""A band reaches so many standard errors to both sides."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Shown:
    """Writes it: into a version's monitoring run, and runs for promotions and for verdicts that say a new thing.

    `pages` is where people reach ours (empty: that is not known). `find` gives a version by model and number,
    `incident_of` the incident that a promotion is about.
    """

    registry: Registry
    pages: str
    find: Callable[[str, str], ModelVersion]
    incident_of: Callable[[Promotion], int | None] = lambda _: None

    def windows(self, evaluations: Sequence[Evaluation]) -> None:
        """The figures of windows, which MLflow's page draws: as estimated, and as they came later."""
        known = sorted((evaluation for evaluation in evaluations if evaluation.version), key=_version_and_end)
        for number, of_version in groupby(known, key=lambda evaluation: evaluation.version):
            several = list(of_version)
            newest = several[-1]
            points = [(evaluation.window.start, _drawn(evaluation)) for evaluation in several]
            tags = {TAG + "evaluation": str(newest.evaluation_id), TAG + "window": str(newest.window)}
            file = "evaluation.json", _details(newest)
            try:
                version = self.find(newest.model, number)
                self.registry.lineage.log_windows(version, points, newest.as_of, tags, file)
            except NotFound as error:
                _log.warning("not drawn in MLflow", model=newest.model, version=number, cause=str(error))
            except Unavailable as error:  # it would be waited for again with each version
                _log.warning("windows not drawn in MLflow", model=newest.model, cause=str(error))
                return

    def verdict(self, verdict: Verdict, incident_id: int | None) -> None:
        """What the policy has concluded of a version, the newest as tags, all of them as a line over time."""
        page = f"/models/{quote(verdict.model, safe='')}"
        place = f"/incidents/{incident_id}" if incident_id is not None else page
        tags = {
            TAG + "verdict": str(verdict.state),
            TAG + "verdict_at": format_moment(verdict.decided_at),
            TAG + "incident": str(incident_id) if incident_id is not None else "none",
            "mlflow.note.content": self._note(f"**{verdict.state}**: {verdict.summary}", place),
        }
        level = LEVELS.get(verdict.state)
        metrics = {"verdict": level} if level is not None else {}
        with _told("verdict", verdict.model):
            version = self.find(verdict.model, verdict.version)
            self.registry.lineage.log_metrics(version, metrics, verdict.window.start, verdict.decided_at, tags)

    def news(
        self, verdict: Verdict, before: State | None, incident_id: int | None, evaluations: Sequence[Evaluation]
    ) -> str | None:
        """A verdict that is another than the one `before` (None: the version's first), as a run of its own, with the
        evaluations of its windows; its id, None where MLflow can't be told.
        """
        model, number = verdict.model, verdict.version
        page = f"/incidents/{incident_id}" if incident_id is not None else f"/models/{quote(model, safe='')}"
        known = {
            "verdict": verdict.state,
            "verdict_before": before or "none",
            "verdict_id": verdict.verdict_id,
            "window": verdict.window,
            "incident": incident_id if incident_id is not None else "none",
            "evaluation": ",".join(str(evaluation.evaluation_id) for evaluation in evaluations),
        }
        tags = {TAG + name: str(value) for name, value in known.items()}
        tags["mlflow.note.content"] = self._note(f"**{verdict.state}**: {verdict.summary}", page)
        details = _evidence(verdict) | {"evaluations": [_details(each) for each in evaluations]}
        try:
            words, version = f"{verdict.state} {model} version {number}", self.find(model, number)
            run = words, tags, _judged(verdict), details, verdict.decided_at
            return self.registry.lineage.log_verdict(version, *run)
        except FeedbackLoopError as error:
            _log.warning("verdict not shown in MLflow", model=model, cause=str(error))
            return None

    def promotion(self, promotion: Promotion) -> None:
        """A promotion or rollback, as a run of its own that its version is tagged with."""
        model, number = promotion.model, promotion.to_version
        moment = promotion.done_at or promotion.intended_at
        words = f"Version {number} of {model} took over from {promotion.from_version or 'none'}: {promotion.reason}"
        known = {
            "version": number,
            "from_version": promotion.from_version,
            "promotion": promotion.promotion_id,
            "promotion_kind": promotion.kind,
            "reason": promotion.reason,
            "made_by": promotion.made_by,
            "retraining": promotion.retraining_id,
            "approval": promotion.approval_id,
            "incident": self.incident_of(promotion),
        }
        with _told("promotion", model):
            version = self.find(model, number)
            known["training_run"] = version.run_id
            tags = {TAG + name: str(value)[:5000] for name, value in known.items() if value is not None}
            tags["mlflow.note.content"] = self._note(words, f"/models/{quote(model, safe='')}/versions/{number}")
            run_id = self.registry.lineage.log_promotion(version, promotion.kind, tags, moment)
            self.registry.tag(version, {"promotion_run": run_id})

    def _note(self, words: str, place: str) -> str:
        """MLflow shows it as the run's description, in Markdown."""
        return f"{words}\n\n[In the loop's pages]({self.pages.rstrip('/')}{place})" if self.pages else words


@contextmanager
def _told(what: str, model: str) -> Iterator[None]:
    try:
        yield
    except FeedbackLoopError as error:
        _log.warning(f"{what} not shown in MLflow", model=model, cause=str(error))


def _version_and_end(evaluation: Evaluation) -> tuple[str, datetime, datetime]:
    return evaluation.version, evaluation.window.end, evaluation.as_of


def _drawn(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's figures of all rows: estimates, predictions, drift; and once it has matured the metrics
    themselves with their bands, and coverage.
    """
    estimates = [estimate for estimate in evaluation.estimates if estimate.metric != INSUFFICIENT]
    figures = {f"estimated_{e.metric}": e.value for e in estimates if e.segment == ALL_ROWS}
    if evaluation.matured:
        whole = [metric for metric in evaluation.metrics if metric.segment == ALL_ROWS]
        figures |= {metric.metric: metric.value for metric in whole}
        for metric in whole:
            if metric.standard_error is not None and "[" not in metric.metric:
                reach = NORMAL_95 * metric.standard_error
                figures[f"band[{metric.metric}_lower]"] = metric.value - reach
                figures[f"band[{metric.metric}_upper]"] = metric.value + reach
        if evaluation.coverage is not None:
            figures["coverage"] = evaluation.coverage
    decisive = [value for value in evaluation.drift if value.decides]
    if evaluation.drifted_share is not None:
        figures["drifted_share"] = evaluation.drifted_share
    shown = [value for value in decisive if value.drifted or len(decisive) <= MOST_COLUMNS]
    figures |= {f"drift[{value.column}]": value.value for value in shown}
    return {**figures, "predictions": evaluation.predictions}


def _details(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as a file. Segments and slices stay in our store, where an erasure takes them out."""
    whole = [metric for metric in evaluation.metrics if metric.segment == ALL_ROWS]
    estimates = [estimate for estimate in evaluation.estimates if estimate.segment == ALL_ROWS]
    shown: dict[str, Any] = plain(replace(evaluation, metrics=tuple(whole), estimates=tuple(estimates), slices=()))
    return shown


def _evidence(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a file, without segments (as above), and without the state that the next verdict goes on from."""
    shown: dict[str, Any] = plain(verdict)
    del shown["monitor"], shown["run_id"]
    shown["evidence"] = {name: value for name, value in shown["evidence"].items() if name != "carriers"}
    if "watched" in shown["evidence"]:
        shown["evidence"]["watched"] = [loss for loss in shown["evidence"]["watched"] if not loss["segment"]]
    return shown


def _judged(verdict: Verdict) -> dict[str, float]:
    """A verdict's figures: its level, and each watched loss of all rows beside the reference's."""
    level = LEVELS.get(verdict.state)
    figures = {"verdict": level} if level is not None else {}
    for watched in verdict.evidence.get("watched", ()):
        if not watched["segment"]:
            named = {watched["name"]: watched["current"], f"{watched['name']}_reference": watched.get("reference")}
            figures |= {name: value for name, value in named.items() if value is not None}
    return figures
