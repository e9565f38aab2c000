"""What was concluded: verdicts, monitors of drift with what they tell, diagnoses and whether they were right.

A verdict is recorded by `incidents.record_verdict`, together with the incident that it opens or closes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, UniqueConstraint, select

from feedback_loop.clock import Window
from feedback_loop.store.alerts import Message, raise_in
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
    """What the policy concluded from the cohort in `window`, with the evidence and the monitor's state after it."""

    model: str
    version: str
    decided_at: datetime
    window: Window
    state: State
    summary: str
    evidence: dict[str, Any]
    monitor: dict[str, Any]
    verdict_id: int | None = None
    begun: int = 0  # monitors of the model until then: each has its alpha


verdicts = shared_table(
    "verdicts",
    Verdict,
    # Two schedulers that look at the same cohort at once can't both be right about the monitor's state.
    UniqueConstraint("model", "version", "window_end"),
    Index(None, "model", "verdict_id"),
    key=["verdict_id"],
)


def latest_verdict(store: Store, model: str, version: str | None = None) -> Verdict | None:
    """The verdict on the newest cohort (of one version)."""
    found = load_verdicts(store, model, version, newest=1)
    return found[0] if found else None


def monitors_begun(store: Store, model: str, before: datetime) -> int:
    """How many monitors of the model were begun before a moment, whatever for."""
    table = verdicts.c
    newest = select(table.begun).where(table.model == model, table.decided_at < before)
    with store.read() as connection:
        return connection.execute(newest.order_by(table.verdict_id.desc()).limit(1)).scalar_one_or_none() or 0


def load_verdict(store: Store, verdict_id: int) -> Verdict:
    """The verdict of that id, which something else on record names."""
    found = one(store, Verdict, verdict_id=verdict_id)
    assert found is not None  # what names it can't be without it
    return found


def degraded_verdicts(store: Store, model: str, first: int, last: int | None) -> list[Verdict]:
    """The degraded ones from one id to another (None: all after), oldest first."""
    where = [verdicts.c.verdict_id >= first, *([verdicts.c.verdict_id <= last] if last is not None else [])]
    return many(store, Verdict, *where, model=model, state=State.DEGRADED, order_by="verdict_id")


def verdict_moments(store: Store, model: str) -> dict[datetime, str]:
    """When there was a verdict, and on which version."""
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
    """Verdicts (that were made by a moment), newest first."""
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
    routes: Sequence[str],
    now: datetime,
) -> int | None:
    """Keeps the monitor's state after another window, and what it has to tell; returns how many alerts are new.

    All in one transaction, and only if its windows were taken in up to `before` (None: not one): None where another
    process has meanwhile done so.
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
    """What was recommended for a version after a window, as of a moment, with the figures that speak for it.

    `was_right` is None until what followed has shown it.
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


def record_diagnosis(store: Store, made: Diagnosis) -> Diagnosis:
    """Keeps a diagnosis; returns it with its id."""
    return replace(made, diagnosis_id=add(store, made))


def load_diagnoses(store: Store, model: str, incident_id: int | None = None) -> list[Diagnosis]:
    """The diagnoses of a model (of one incident), oldest first."""
    of_one = {"incident_id": incident_id} if incident_id is not None else {}
    return many(store, Diagnosis, model=model, order_by="diagnosis_id", **of_one)


def save_judgement(store: Store, diagnosis_id: int, *, right: bool, because: str) -> None:
    """Keeps whether a diagnosis was right; one that has been judged stays as it was judged."""
    judged = {"was_right": right, "judged_because": because}
    change(store, Diagnosis, judged, diagnosis_id=diagnosis_id, was_right=None)
