"""The history of a model's versions and of its retrainings: what was tried, asked, compared, promoted, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from feedback_loop.errors import NotFound
from feedback_loop.plain import plain
from feedback_loop.store import Store, approvals, freezes, retrainings, rollouts
from feedback_loop.store.retrainings import Retraining
from feedback_loop.store.rollouts import Rollout


@dataclass(frozen=True)
class Event:
    """One thing that happened to a version (none: to the model), in words and with the figures that moved it."""

    at: datetime
    kind: str
    version: str
    words: str
    figures: dict[str, Any] = field(default_factory=dict)


def model_history(store: Store, model: str, version: str | None = None) -> list[Event]:
    """All that happened to a model (or to one version of it), in the order of time: from trial to retirement."""
    parts = (_searches, _approvals, _rollouts, _promotions, _freezes)
    events = sorted((event for part in parts for event in part(store, model)), key=lambda event: event.at)
    return [event for event in events if version in (None, event.version)]


def retraining_story(store: Store, retraining_id: int) -> dict[str, Any]:
    """One retraining with its trials, gates, and what became of its candidate, as plain values; raises NotFound."""
    search = retrainings.find_retraining(store, retraining_id)
    if search is None:
        raise NotFound("retraining", str(retraining_id), cure="List them: feedback-loop retrainings list.")
    of_it: dict[str, list[Any]] = {
        "approvals": approvals.load_approvals(store, search.model),
        "rollouts": rollouts.load_rollouts(store, search.model),
        "promotions": retrainings.load_promotions(store, search.model),
    }
    became = {
        name: [record for record in records if record.retraining_id == retraining_id]
        for name, records in of_it.items()
    }
    return {
        **retraining_row(store, search),
        "trials": [
            {**plain(trial), "log": trial.log.splitlines()} for trial in retrainings.load_trials(store, retraining_id)
        ],
        **plain(became),
    }


def retraining_row(store: Store, search: Retraining) -> dict[str, Any]:
    """A retraining as plain values, with what its fits took."""
    seconds = [trial.seconds for trial in retrainings.load_trials(store, search.retraining_id)]
    row: dict[str, Any] = plain(search)
    return {**row, "fit_seconds": sum(each for each in seconds if each is not None)}


def _searches(store: Store, model: str) -> Iterator[Event]:
    for search in retrainings.load_retrainings(store, model):
        failed = [gate["name"] for gate in search.gates or () if not gate["passed"]]
        cause = search.cause or (search.gate or {}).get("summary", "")
        took = "".join(
            f" The trainer took {trial.seconds or 0:.1f} s and {(trial.peak_bytes or 0) / 1e6:,.0f} MB; what it "
            f"printed: feedback-loop retrainings show {search.retraining_id}."
            for trial in retrainings.load_trials(store, search.retraining_id)
            if trial.run_id
        )
        words = f"retraining {search.retraining_id} ({search.reason}), {search.state}: {cause}{took}"
        figures = {"gate": search.gate, "failed_gates": failed}
        yield Event(search.finished_at or search.started_at, "trial", search.candidate or "", words, figures)


def _approvals(store: Store, model: str) -> Iterator[Event]:
    for approval in approvals.load_approvals(store, model):
        name = f"approval {approval.approval_id}"
        gain = {key: approval.evidence.get(key) for key in ("gain", "gain_at_least")}
        words = f"{name}: may it replace version {approval.champion}?"
        yield Event(approval.asked_at, "asked", approval.candidate, words, gain)
        for vote in approvals.load_votes(store, approval.approval_id):
            answer = f"{name}: {'yes' if vote.approves else 'no'} by {vote.voter}: {vote.reason}"
            yield Event(vote.voted_at, "answered", approval.candidate, answer)
        if approval.ended_at is not None:
            ended = f"{name} {approval.state}: {approval.ended_because}"
            yield Event(approval.ended_at, approval.state, approval.candidate, ended)


def _rollouts(store: Store, model: str) -> Iterator[Event]:
    for rollout in rollouts.load_rollouts(store, model):
        words = f"beside version {rollout.baseline}, for {rollout.windows} matured windows"
        yield Event(rollout.since, rollout.stage, rollout.candidate, words)
        if rollout.ended_at is not None:
            ended = f"{rollout.stage} ended: {rollout.ended_because}"
            yield Event(rollout.ended_at, rollout.state, rollout.candidate, ended, rollout_figures(rollout))


def rollout_figures(rollout: Rollout) -> dict[str, Any]:
    """How a rollout's windows speak so far."""
    names = ("counted", "rows", "difference", "standard_error", "harm", "gain")
    return {name: rollout.evidence[name] for name in names if name in rollout.evidence}


def _promotions(store: Store, model: str) -> Iterator[Event]:
    for promotion in retrainings.load_promotions(store, model):
        at = promotion.done_at or promotion.intended_at
        by = f" by {promotion.made_by}" if promotion.made_by else ""
        state = "" if promotion.state == "done" else f", {promotion.state}"
        cause = f": {promotion.cause}" if promotion.cause else ""
        before = f"in place of version {promotion.from_version}" if promotion.from_version else "the first champion"
        words = f"{before}{by}{state}: {promotion.reason}{cause}"
        yield Event(at, promotion.kind, promotion.to_version, words, promotion.evidence or {})
        if promotion.from_version is not None and promotion.state == "done":
            yield Event(
                at, "retired", promotion.from_version, f"by version {promotion.to_version} ({promotion.kind})"
            )


def _freezes(store: Store, model: str) -> Iterator[Event]:
    for freeze in freezes.load_freezes(store, model):
        what = "" if freeze.model == model else "all models, "
        yield Event(freeze.frozen_at, "frozen", "", f"{what}by {freeze.frozen_by}: {freeze.reason}")
        if freeze.lifted_at is not None:
            words = f"{what}by {freeze.lifted_by}: {freeze.lifted_because}"
            yield Event(freeze.lifted_at, "unfrozen", "", words)
