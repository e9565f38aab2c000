"""Verdicts, the state of drift monitors, and diagnoses with whether they were right.

A verdict is recorded by `incidents.record_verdict`, together with the incident that it opens or closes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, UniqueConstraint, select

from feedback_loop.clock import Window
from feedback_loop.store.alerts import Message, Routes, raise_in
from feedback_loop.store.engine import Store
from feedback_loop.store.records import add, as_row, change, insert_new, many, one
from feedback_loop.store.schema import PREFIX, shared_table


class State(StrEnum):
    """What a policy concludes."""

    OK = "ok"
    WARNING = "warning"
    DEGRADED = "degraded"
    INSUFFICIENT_DATA = "insufficient_data"


@dataclass(frozen=True)
class Verdict:
    """What the policy concluded from the cohort in `window`: evidence, and the monitor's state after it."""

    model: str
    version: str
    decided_at: datetime
    window: Window
    state: State
    summary: str
    evidence: dict[str, Any]
    monitor: dict[str, Any]
    verdict_id: int | None = None
    begun: int = 0  # monitors of the model that were begun by then: each has its own alpha
    run_id: str | None = None  # in MLflow, of the verdict that said so first


verdicts = shared_table(
    "verdicts",
    Verdict,
    # Of two schedulers that judge a cohort at once, one is refused: the monitor has one state.
    UniqueConstraint("model", "version", "window_end"),
    Index(None, "model", "verdict_id"),
    key=["verdict_id"],
)


def latest_verdict(store: Store, model: str, version: str | None = None) -> Verdict | None:
    """The verdict on the newest cohort (of one version)."""
    return next(iter(load_verdicts(store, model, version, newest=1)), None)


def monitors_begun(store: Store, model: str, before: datetime) -> int:
    """How many monitors of the model were begun before a moment, by its newest verdict then."""
    table = verdicts.c
    newest = select(table.begun).where(table.model == model, table.decided_at < before)
    with store.read() as connection:
        return connection.execute(newest.order_by(table.verdict_id.desc()).limit(1)).scalar_one_or_none() or 0


def load_verdict(store: Store, verdict_id: int) -> Verdict:
    """The verdict with that id, which a stored record refers to."""
    verdict = one(store, Verdict, verdict_id=verdict_id)
    assert verdict is not None  # of a foreign key
    return verdict


def note_run(store: Store, verdict: Verdict, run_id: str) -> Verdict:
    """Notes where MLflow shows a verdict; returns it with that."""
    change(store, Verdict, {"run_id": run_id}, verdict_id=verdict.verdict_id)
    return replace(verdict, run_id=run_id)


def degraded_verdicts(store: Store, model: str, first: int, last: int | None) -> list[Verdict]:
    """The degraded verdicts with ids from `first` to `last` (None: no end), oldest first."""
    where = [verdicts.c.verdict_id >= first, *([verdicts.c.verdict_id <= last] if last is not None else [])]
    return many(store, Verdict, *where, model=model, state=State.DEGRADED, order_by="verdict_id")


def verdict_moments(store: Store, model: str) -> dict[datetime, str]:
    """The moments of the model's verdicts, and the version that each is on."""
    table = verdicts.c
    with store.read() as connection:
        rows = connection.execute(select(table.decided_at, table.version).where(table.model == model))
        return {row.decided_at: row.version for row in rows}


def load_verdicts(
    store: Store,
    model: str,
    version: str | None = None,
    newest: int | None = None,
    *,
    until: datetime | None = None,
) -> list[Verdict]:
    """Verdicts (on one version, made by `until`), newest first; with `newest` only the first so many."""
    where = [verdicts.c.version == version] if version is not None else []
    where += [verdicts.c.decided_at <= until] if until is not None else []
    return many(store, Verdict, *where, model=model, order_by=verdicts.c.verdict_id.desc(), newest=newest)


@dataclass(frozen=True)
class DriftMonitor:
    """The state of a version's monitor, after all windows that end by `until`."""

    model: str
    version: str
    until: datetime
    state: dict[str, Any]


drift_monitors = shared_table("drift_monitors", DriftMonitor, key=["model", "version"])


def load_monitor(store: Store, model: str, version: str) -> DriftMonitor | None:
    """The monitor of a version; None before its first window."""
    return one(store, DriftMonitor, model=model, version=version)


def advance_monitor(
    store: Store,
    after: DriftMonitor,
    before: datetime | None,
    messages: Iterable[Message],
    routes: Routes,
    now: datetime,
) -> int | None:
    """Stores the monitor's state `after` another window and adds its messages; returns how many alerts are new.

    In one transaction, and only if the stored state still is of `before` (None: there is none). Otherwise another
    process has advanced it meanwhile: returns None and changes nothing.
    """
    key = {"model": after.model, "version": after.version}
    with store.write() as connection:
        if before is None:
            is_ours = insert_new(connection, drift_monitors, as_row(after))
        else:
            values = {"until": after.until, "state": after.state}
            is_ours = bool(change(connection, DriftMonitor, values, **key, until=before))
        if not is_ours:
            return None
        return sum(raise_in(connection, message, routes, now) for message in messages)


@dataclass(frozen=True)
class Diagnosis:
    """A recommendation for a version after a window, as of a moment, with its evidence.

    `was_right` is None until later data has shown it.
    """

    model: str
    version: str
    incident_id: int | None
    window: Window
    as_of: datetime
    recommendation: str
    summary: str
    evidence: dict[str, Any]
    was_right: bool | None = None
    judged_because: str | None = None
    diagnosis_id: int = 0


shared_table(
    "diagnoses",
    Diagnosis,
    ForeignKeyConstraint(["incident_id"], [f"{PREFIX}incidents.incident_id"]),
    key=["diagnosis_id"],
)


def record_diagnosis(store: Store, diagnosis: Diagnosis) -> Diagnosis:
    """Stores a diagnosis; returns it with its id."""
    return replace(diagnosis, diagnosis_id=add(store, diagnosis))


def load_diagnoses(store: Store, model: str, incident_id: int | None = None) -> list[Diagnosis]:
    """The diagnoses of a model (of one incident), oldest first."""
    equal = {"incident_id": incident_id} if incident_id is not None else {}
    return many(store, Diagnosis, model=model, order_by="diagnosis_id", **equal)


def save_judgement(store: Store, diagnosis_id: int, *, right: bool, because: str) -> None:
    """Stores whether a diagnosis was right; the first judgement stays."""
    judgement = {"was_right": right, "judged_because": because}
    change(store, Diagnosis, judgement, diagnosis_id=diagnosis_id, was_right=None)
