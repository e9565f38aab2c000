"""The life of a model's versions, from trial to retirement: retrainings, gates, approvals, rollouts, promotions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feedback_loop.errors import NotFound
from feedback_loop.plain import plain
from feedback_loop.store import Store, approvals, coverage, retrainings, rollouts
from feedback_loop.store.approvals import Approval
from feedback_loop.store.retrainings import Promotion, Retraining
from feedback_loop.store.rollouts import Rollout
from feedback_loop.views.history import Event, model_history, retraining_story


@dataclass(frozen=True)
class Version:
    """Where a version stands, and what brought it there.

    `state` is `champion`, `retired`, the stage of a rollout that runs, `waits for approval`, how its rollout,
    approval or retraining ended, or `predicted`: nothing but its predictions is on record.
    """

    version: str
    state: str
    retraining_id: int | None
    reason: str  # of its retraining; empty: it was not made by the loop
    promoted_at: datetime | None
    retired_at: datetime | None
    predictions: int
    newest: str  # the last thing that happened to it, in words


def model_versions(store: Store, model: str) -> list[Version]:
    """Every version that predicted, was promoted, or came out of a retraining, the newest first."""
    counts = coverage.count_by_version(store, model)
    records = _Records.of(store, model)
    events: dict[str, Event] = {event.version: event for event in model_history(store, model)}
    names = {*counts, *events} - {""}
    return [
        records.version(name, counts.get(name, 0), events.get(name))
        for name in sorted(names, key=_number, reverse=True)
    ]


def version_life(store: Store, model: str, version: str) -> dict[str, Any]:
    """One version with its retraining (trials, gates), approvals, rollouts, promotions and events, as plain values.

    Raises NotFound where nothing is on record of it.
    """
    summary = next((life for life in model_versions(store, model) if life.version == version), None)
    if summary is None:
        raise NotFound("version on record", f"{model}/{version}", cure="List them: feedback-loop models history.")
    records = _Records.of(store, model)
    return {
        **plain(summary),
        "retraining": None if summary.retraining_id is None else retraining_story(store, summary.retraining_id),
        "approvals": plain([one for one in records.approvals if one.candidate == version]),
        "rollouts": plain([one for one in records.rollouts if version in (one.candidate, one.baseline)]),
        "promotions": plain([one for one in records.done if version in (one.from_version, one.to_version)]),
        "events": plain(model_history(store, model, version)),
    }


@dataclass(frozen=True)
class _Records:
    """All that the store has of a model's versions, oldest first."""

    retrainings: list[Retraining]
    approvals: list[Approval]
    rollouts: list[Rollout]
    done: list[Promotion]

    @classmethod
    def of(cls, store: Store, model: str) -> _Records:
        promotions = [one for one in retrainings.load_promotions(store, model) if one.state == "done"]
        return cls(
            retrainings.load_retrainings(store, model),
            approvals.load_approvals(store, model),
            rollouts.load_rollouts(store, model),
            promotions,
        )

    def version(self, name: str, predictions: int, newest: Event | None) -> Version:
        made_by = _last(one for one in self.retrainings if one.candidate == name)
        promoted = _last(one for one in self.done if one.to_version == name)
        retired = _last(one for one in self.done if one.from_version == name)
        return Version(
            version=name,
            state=self._state(name, made_by),
            retraining_id=made_by.retraining_id if made_by else None,
            reason=made_by.reason if made_by else "",
            promoted_at=promoted.done_at if promoted else None,
            retired_at=retired.done_at if retired and not self._is_champion(name) else None,
            predictions=predictions,
            newest=newest.words if newest else "",
        )

    def _is_champion(self, name: str) -> bool:
        return bool(self.done) and self.done[-1].to_version == name

    def _state(self, name: str, made_by: Retraining | None) -> str:
        """The strongest thing that can be said of it."""
        rollout = _last(one for one in self.rollouts if one.candidate == name)
        approval = _last(one for one in self.approvals if one.candidate == name)
        if self._is_champion(name):
            is_on_probation = rollout is not None and rollout.state == "running" and rollout.stage == "probation"
            return "champion on probation" if is_on_probation else "champion"
        if rollout is not None and rollout.state in ("running", "harmful"):
            return rollout.stage if rollout.state == "running" else "harmful"
        if approval is not None and approval.ended_at is None:
            return "waits for approval"
        if any(name in (one.from_version, one.to_version) for one in self.done):
            return "retired"
        ended = [one.state for one in (rollout, approval, made_by) if one is not None]
        return ended[0] if ended else "predicted"


def _last(records: Iterable[Any]) -> Any:
    return next(reversed(list(records)), None)


def _number(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdecimal() else (-1, version)
