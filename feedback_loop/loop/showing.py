"""What MLflow shows of the loop: figures of windows, verdicts, promotions; with links to our pages.

All of it is in our own store too: that it can't be shown is said in the log, and fails nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import structlog

from feedback_loop.clock import format_moment
from feedback_loop.errors import FeedbackLoopError, NotFound, Unavailable
from feedback_loop.registry import TAG, ModelVersion, Registry
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.evaluations import ALL_ROWS, INSUFFICIENT, Evaluation
from feedback_loop.store.retrainings import Promotion

LEVELS = {State.OK: 0.0, State.WARNING: 1.0, State.DEGRADED: 2.0}
"""How verdicts are drawn over time."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Shown:
    """Writes it: into a version's monitoring run, and a run for each promotion.

    `pages` is where people reach ours (empty: that is not known). `find` gives a version by model and number.
    """

    registry: Registry
    pages: str
    find: Callable[[str, str], ModelVersion]

    def windows(self, evaluations: Sequence[Evaluation]) -> None:
        """The figures of windows, which MLflow's page draws: as estimated, and as they came later."""
        for evaluation in evaluations:
            model, metrics, window = evaluation.model, _drawn(evaluation), evaluation.window
            if not evaluation.version or not metrics:
                continue
            tags = {TAG + "evaluation": str(evaluation.evaluation_id), TAG + "window": str(window)}
            try:
                version = self.find(model, evaluation.version)
                self.registry.lineage.log_metrics(version, metrics, window.start, evaluation.as_of, tags)
            except NotFound as error:
                _log.warning("not drawn in MLflow", model=model, version=evaluation.version, cause=str(error))
            except Unavailable as error:  # it would be waited for again with each window
                _log.warning("windows not drawn in MLflow", model=model, cause=str(error))
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


def _drawn(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's figures of all rows: estimates, and once it has matured the metrics themselves and coverage."""
    estimates = [estimate for estimate in evaluation.estimates if estimate.metric != INSUFFICIENT]
    figures = {f"estimated_{e.metric}": e.value for e in estimates if e.segment == ALL_ROWS}
    if evaluation.matured:
        figures |= {metric.metric: metric.value for metric in evaluation.metrics if metric.segment == ALL_ROWS}
        if evaluation.coverage is not None:
            figures["coverage"] = evaluation.coverage
    return figures
