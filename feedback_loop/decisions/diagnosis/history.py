"""Recorded diagnoses: when one is due, of which window, and whether earlier ones were right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from feedback_loop.clock import Window
from feedback_loop.decisions.diagnosis.words import Causes, Recommendation, quality_findings, quality_words
from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract
from feedback_loop.store import Store, conclusions, incidents, retrainings
from feedback_loop.store.conclusions import Diagnosis, State
from feedback_loop.store.evaluations import load_evaluations
from feedback_loop.store.incidents import Incident
from feedback_loop.store.retrainings import Promotion, Retraining, Trial


def is_owed(store: Store, model: str, champion: str) -> bool:
    """Whether the open incident has a degraded verdict on the champion that no diagnosis has followed yet."""
    incident, verdict = incidents.open_incident(store, model), conclusions.latest_verdict(store, model)
    if incident is None or verdict is None or verdict.state is not State.DEGRADED:
        return False
    if {verdict.version, champion} != {incident.version}:
        return False
    diagnoses = conclusions.load_diagnoses(store, model, incident.incident_id)
    return not diagnoses or diagnoses[-1].as_of < verdict.decided_at


def changed_window(store: Store, model: str, version: str, until: datetime) -> Window:
    """From the change that the latest verdict of then estimates (or the monitor's first look) to its end."""
    verdicts = conclusions.load_verdicts(store, model, version, newest=1, until=until)
    if not verdicts:
        cure = "Say which --window is meant, or run feedback-loop decide first."
        raise NotFound("verdict on", f"{model} version {version}", cure=cure)
    since = verdicts[0].evidence["watched"][0].get("changed_at") or verdicts[0].monitor["since"]
    return Window(datetime.fromisoformat(since), verdicts[0].window.end)


def record_causes(
    store: Store,
    contract: Contract,
    version: str,
    causes: Causes,
    window: Window,
    as_of: datetime,
    *,
    is_of_now: bool,
    reference: int,
) -> Diagnosis:
    """Records the causes and the failed checks of data quality in the window, with the open incident if it is theirs.

    `reference` is the number of rows that the policy wants; `is_of_now`: the diagnosis is not as of a past moment.
    """
    evaluations = load_evaluations(store, contract.model, within=window, until=as_of)
    findings = quality_findings(contract, evaluations, version)
    incident = incidents.open_incident(store, contract.model)
    is_about = incident is not None and incident.version == version and is_of_now
    diagnosis = Diagnosis(
        model=contract.model,
        version=version,
        incident_id=incident.incident_id if incident is not None and is_about else None,
        window=window,
        as_of=as_of,
        recommendation=str(causes.recommendation),
        summary=quality_words(findings) + causes.summary,
        evidence=causes.evidence() | {"reference": reference, "quality": [asdict(finding) for finding in findings]},
    )
    return conclusions.record_diagnosis(store, diagnosis)


def judge_diagnoses(store: Store, model: str, promotions: Sequence[Promotion]) -> int:
    """Records whether recommendations were right, where that is known by now; returns how many were judged."""
    waiting = [diagnosis for diagnosis in conclusions.load_diagnoses(store, model) if diagnosis.was_right is None]
    if not waiting:
        return 0
    by_id = {incident.incident_id: incident for incident in incidents.load_incidents(store, model)}
    searches = [
        Search(search, retrainings.load_trials(store, search.retraining_id))
        for search in retrainings.load_retrainings(store, model)
    ]
    judged = 0
    for diagnosis in waiting:
        incident = by_id.get(diagnosis.incident_id) if diagnosis.incident_id is not None else None
        verdict = was_right(diagnosis.recommendation, diagnosis.as_of, incident, searches, promotions)
        if verdict is not None:
            conclusions.save_judgement(store, diagnosis.diagnosis_id, right=verdict[0], because=verdict[1])
            judged += 1
    return judged


@dataclass(frozen=True)
class Search:
    """A retraining with its trials."""

    retraining: Retraining
    trials: Sequence[Trial]

    @property
    def has_ended(self) -> bool:
        """Whether it has ended with a result: a candidate, or a refusal by the gate."""
        return self.retraining.state in ("promoted", "proposed", "rollout", "passed", "refused")

    @property
    def chosen(self) -> Trial | None:
        """The trial (of several the best) that made the candidate, if it did better than the champion."""
        gate = self.retraining.gate or {}
        if self.retraining.candidate is None or gate.get("difference", 0.0) >= 0:
            return None
        chosen = [trial for trial in self.trials if trial.chosen]
        return min(chosen, key=lambda trial: trial.loss or 0.0, default=None)

    @property
    def is_of_another_making(self) -> bool:
        """Whether the candidate is not just the champion's pipeline fitted again."""
        return any(trial.chosen and trial.recipe != "own" for trial in self.trials)


def was_right(
    recommendation: str,
    made_at: datetime,
    incident: Incident | None,
    searches: Sequence[Search],
    promotions: Sequence[Promotion],
) -> tuple[bool, str] | None:
    """Whether a recommendation was right, and why; None while that is unknown. Sequences are oldest first.

    `recent` and `more` are judged by the next search that ended: by the window that did best on held-out rows. Others
    are judged by the end of the incident: with the old version (`repair`, `none`), or with a different pipeline
    (`replace`, `architecture`).
    """
    later = [search for search in searches if search.retraining.started_at >= made_at and search.has_ended]
    if recommendation in (Recommendation.RECENT, Recommendation.MORE):
        return _by_search(recommendation, later[0]) if later else None
    if incident is None or incident.closed_at is None or recommendation == Recommendation.INSUFFICIENT_DATA:
        return None
    moments = [(promotion.done_at, promotion.to_version) for promotion in promotions]
    done = [to for moment, to in moments if moment is not None and made_at <= moment <= incident.closed_at]
    stays = recommendation in (Recommendation.REPAIR, Recommendation.NONE)
    if not done:
        return stays, "The incident ended without another version."
    if stays:
        return False, f"The incident ended only after version {done[-1]} had taken over."
    again = {search.retraining.candidate for search in later if not search.is_of_another_making}
    if done[-1] in again:
        return False, f"Version {done[-1]}, the same pipeline fitted again, was enough."
    return True, f"Version {done[-1]}, of another making, ended the incident."


def _by_search(recommendation: str, search: Search) -> tuple[bool, str]:
    chosen, number = search.chosen, search.retraining.retraining_id
    if chosen is None:
        return False, f"Retraining {number} found no version that did better."
    is_all = chosen.rows == max(trial.rows for trial in search.trials)
    right = is_all if recommendation == Recommendation.MORE else chosen.name != "all"
    return right, f"In retraining {number} the window “{chosen.name}” ({chosen.rows:,} rows) did best."
