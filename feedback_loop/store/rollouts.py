"""Rollouts and probations: two versions compared window by window, from the first window to the decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, and_

from feedback_loop.store.engine import Store
from feedback_loop.store.records import Source, add, change, many, one
from feedback_loop.store.schema import PREFIX, shared_table


@dataclass(frozen=True)
class Rollout:
    """A candidate and the version that it is held against, on the same matured rows.

    In `shadow` and `canary` the candidate wants to replace the `baseline`; in `probation` it has done so. It ends
    `passed`, `harmful` (evidence that the candidate is worse: it is blocked), `refused` (by the gate on live rows),
    `inconclusive` (too few labels) or `superseded`.
    """

    rollout_id: int
    model: str
    stage: str
    candidate: str
    baseline: str
    windows: int  # so many matured windows at most (of a canary: for each step)
    since: datetime
    until: datetime  # judged until here
    state: str  # running, or how it ended
    evidence: dict[str, Any]
    share: float = 0.0  # of the canary
    retraining_id: int | None = None
    approval_id: int | None = None
    promotion_id: int | None = None
    ended_at: datetime | None = None
    ended_because: str | None = None


rollouts = shared_table(
    "rollouts",
    Rollout,
    ForeignKeyConstraint(["retraining_id"], [f"{PREFIX}retrainings.retraining_id"]),
    ForeignKeyConstraint(["approval_id"], [f"{PREFIX}approvals.approval_id"]),
    ForeignKeyConstraint(["promotion_id"], [f"{PREFIX}promotions.promotion_id"]),
    Index(None, "model"),
    key=["rollout_id"],
)
Index(
    f"uq_{PREFIX}rollouts_running",
    rollouts.c.model,
    unique=True,  # one candidate at a time
    sqlite_where=rollouts.c.state == "running",
    postgresql_where=rollouts.c.state == "running",
)


def begin_rollout(store: Store, rollout: Rollout) -> Rollout:
    """Stores its beginning; one that was running is superseded, and says so."""
    with store.write() as connection:
        words = f"Version {rollout.candidate} came into {rollout.stage}."
        superseded = {"state": "superseded", "ended_at": rollout.since, "ended_because": words}
        change(connection, Rollout, superseded, model=rollout.model, state="running")
        return replace(rollout, rollout_id=add(connection, rollout))


def save_progress(source: Source, before: Rollout, **values: Any) -> Rollout | None:
    """Stores what a look found, if nobody has looked since `before` was read; else returns None."""
    key = {"rollout_id": before.rollout_id, "state": "running", "until": before.until}
    if not change(source, Rollout, values, **key):
        return None
    return replace(before, **values)


def running_rollout(source: Source, model: str) -> Rollout | None:
    """The one that is running, if there is one."""
    return one(source, Rollout, model=model, state="running")


def load_rollouts(source: Source, model: str) -> list[Rollout]:
    """All of a model, oldest first."""
    return many(source, Rollout, model=model, order_by="rollout_id")


def blocked_by(source: Source, model: str, version: str) -> Rollout | None:
    """The rollout that found a version to be worse than the one it was to replace; None where none did."""
    harmful = and_(rollouts.c.state == "harmful", rollouts.c.candidate == version)
    return next(
        iter(many(source, Rollout, harmful, model=model, order_by=rollouts.c.rollout_id.desc(), newest=1)), None
    )
