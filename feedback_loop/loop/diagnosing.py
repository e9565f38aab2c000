"""Diagnosis: why the champion has become worse, asked of the log, kept, and held against what followed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window
from feedback_loop.decisions.diagnosis import (
    Recommendation,
    Searched,
    find_causes,
    quality_findings,
    quality_words,
    score_with,
    was_right,
)
from feedback_loop.errors import NotFound, Refused
from feedback_loop.inference import refuse_unfit
from feedback_loop.loop.context import Context
from feedback_loop.loop.judging import Judging
from feedback_loop.loop.outcomes import Outcomes
from feedback_loop.monitoring import sample_window, spread
from feedback_loop.registry import ModelVersion
from feedback_loop.store import conclusions, incidents, retrainings
from feedback_loop.store.alerts import Message, raise_in
from feedback_loop.store.conclusions import Diagnosis, State
from feedback_loop.store.evaluations import load_evaluations

ADVICE = {
    Recommendation.REPAIR: "repair the feed, do not retrain",
    Recommendation.RECENT: "retrain on recent data",
    Recommendation.MORE: "retrain on more data",
    Recommendation.REPLACE: "drop or replace a feature",
    Recommendation.ARCHITECTURE: "search another architecture",
    Recommendation.NONE: "nothing to be done is known",
    Recommendation.INSUFFICIENT_DATA: "too few rows for a diagnosis yet",
}
"""What is recommended, in an alert's title."""

MOST_ROWS = 6_000
"""So many rows of each side are compared at most."""


@dataclass(frozen=True)
class Diagnosing:
    """What lies behind a verdict."""

    context: Context
    judging: Judging
    outcomes: Outcomes

    def diagnose(self, model: str, window: Window | None = None, as_of: datetime | None = None) -> Diagnosis:
        """Why the champion's loss in a window is another than on its reference, and what is to be done; it is kept.

        What data quality has found in the window is told first; it is by default that from the change which the
        latest verdict estimates to its end. Of a moment of the past it is the diagnosis of then, to the bit, of the
        version that was the champion then. At most 6,000 rows of each side are looked at. Raises NotFound where
        nothing has been judged and no window is given, and Refused for a model whose features the log does not hold
        plain, one of several labels, and one without a reference.
        """
        settings, now = self.context.settings.model(model), self.context.final(model, as_of)
        version = self._champion_at(model, now)
        scorer = self.context.scorer(version)
        advice = "See which label has become worse (feedback-loop evaluate), or register a model for each."
        refuse_unfit(scorer, "diagnosed", of_labels=advice)
        window = window or self._changed_window(version, now)
        self.outcomes.refuse_removed(model, window)
        reference = self.judging.reference(version, settings, now)
        if not reference.num_rows:
            raise Refused(
                f"{version} has no reference: there is nothing that it could have become worse than.",
                cure="Register it with reference rows, or wait until its first labelled predictions have matured.",
            )
        contract = scorer.logged
        current = sample_window(self.context.store, contract, window, version=version.version, as_of=now).labelled
        current = _without(current, reference).slice(0, MOST_ROWS)
        causes = find_causes(
            contract,
            spread(reference, MOST_ROWS),
            current,
            score_with(scorer.engine, contract),
            length=settings.window,
            seed=settings.policy.seed,
        )
        known = load_evaluations(self.context.store, model, within=window, until=now)
        findings = quality_findings(contract, known, version.version)
        incident = incidents.open_incident(self.context.store, model)
        belongs = incident is not None and incident.version == version.version and as_of is None
        made = Diagnosis(
            model=model,
            version=version.version,
            incident_id=incident.incident_id if incident is not None and belongs else None,
            window=window,
            as_of=now,
            recommendation=str(causes.recommendation),
            summary=quality_words(findings) + causes.summary,
            evidence=causes.evidence()
            | {"reference": settings.policy.reference, "quality": [asdict(each) for each in findings]},
        )
        return conclusions.record_diagnosis(self.context.store, made)

    def diagnose_incident(self, model: str) -> Diagnosis | None:
        """The diagnosis of the open incident, made anew with each degraded verdict; None where there is none to make.

        What earlier ones recommended is held against what has followed by now.
        """
        self.judge_diagnoses(model)
        incident = incidents.open_incident(self.context.store, model)
        verdict = conclusions.latest_verdict(self.context.store, model)
        if incident is None or verdict is None or verdict.state is not State.DEGRADED:
            return None
        if verdict.version != incident.version or self.context.champion(model).version != incident.version:
            return None
        made = conclusions.load_diagnoses(self.context.store, model, incident.incident_id)
        if made and made[-1].as_of >= verdict.decided_at:
            return None
        return self._tell(self.diagnose(model))

    def _tell(self, made: Diagnosis) -> Diagnosis:
        """An incident's diagnosis is told when it says something new: with its alert nobody knew what to do."""
        about = {"model": made.model, "model_version": made.version, "incident": str(made.incident_id)}
        message = Message(
            f"incident:{made.incident_id}:diagnosis:{made.recommendation}:{made.evidence['feature']}",
            f"{made.model} version {made.version}: {ADVICE[Recommendation(made.recommendation)]}",
            made.summary,
            made.incident_id,
            about | {"recommendation": made.recommendation},
        )
        with self.context.store.write() as connection:
            raise_in(connection, message, self.context.routes, self.context.clock())
        return made

    def judge_diagnoses(self, model: str) -> int:
        """Records whether recommendations were right, where what followed has shown it; counts those."""
        waiting = [each for each in conclusions.load_diagnoses(self.context.store, model) if each.was_right is None]
        if not waiting:
            return 0
        known = {each.incident_id: each for each in incidents.load_incidents(self.context.store, model)}
        searched = [
            Searched(each, retrainings.load_trials(self.context.store, each.retraining_id))
            for each in retrainings.load_retrainings(self.context.store, model)
        ]
        judged = 0
        for each in waiting:
            incident = known.get(each.incident_id) if each.incident_id is not None else None
            found = was_right(each.recommendation, each.as_of, incident, searched, self.context.promotions(model))
            if found is not None:
                conclusions.save_judgement(self.context.store, each.diagnosis_id, right=found[0], because=found[1])
                judged += 1
        return judged

    def _champion_at(self, model: str, moment: datetime) -> ModelVersion:
        """Who answered callers then."""
        done = [
            each for each in self.context.promotions(model) if each.done_at is not None and each.done_at <= moment
        ]
        return self.context.version(model, done[-1].to_version) if done else self.context.champion(model)

    def _changed_window(self, version: ModelVersion, now: datetime) -> Window:
        """From the change that the latest verdict of then estimates (or the monitor's first look) to its end."""
        found = conclusions.load_verdicts(self.context.store, version.model, version.version, newest=1, until=now)
        if not found:
            raise NotFound(
                "verdict on", str(version), cure="Say which --window is meant, or run feedback-loop decide first."
            )
        [verdict] = found
        since = verdict.evidence["watched"][0].get("changed_at") or verdict.monitor["since"]
        return Window(datetime.fromisoformat(since), verdict.window.end)


def _without(rows: pa.Table, reference: pa.Table) -> pa.Table:
    """Rows of the log that are not part of the reference."""
    if "prediction_id" not in reference.column_names or not rows.num_rows:
        return rows
    known = pc.is_in(
        rows.column("prediction_id").cast(pa.string()), reference.column("prediction_id").cast(pa.string())
    )
    return rows.filter(pa.array(~np.asarray(known)))
