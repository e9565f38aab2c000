"""What was concluded: verdicts with the incidents that they open and close, monitors of drift, diagnoses.

What belongs together moves in one transaction: neither a verdict nor its incident is without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, select

from feedback_loop.clock import Window
from feedback_loop.errors import Refused
from feedback_loop.store import tables, watching_tables
from feedback_loop.store.alerts import Message, raise_in
from feedback_loop.store.engine import Store
from feedback_loop.store.incidents import Followed, Incident, begin_in, follow_in
from feedback_loop.store.records import as_record, insert_if_new, insert_one, insert_unless


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
    begun: int = 0  # monitors of the model, with it or before


def record_verdict(
    store: Store, verdict: Verdict, routes: Sequence[str] = (), followed: Followed | None = None
) -> tuple[Verdict, Incident | None]:
    """Stores the verdict and, where it is degraded and no incident is open, opens one with an alert per route.

    What the same look says about the incident that is open (`followed`) is kept with it: it may close. All in one
    transaction. Raises Refused where another process has already judged this cohort.
    """
    values = {
        "model": verdict.model,
        "version": verdict.version,
        "decided_at": verdict.decided_at,
        "window_start": verdict.window.start,
        "window_end": verdict.window.end,
        "state": str(verdict.state),
        "summary": verdict.summary,
        "evidence": verdict.evidence,
        "monitor": verdict.monitor,
        "begun": verdict.begun,
    }
    with store.write() as connection:
        identifier = insert_if_new(connection, tables.verdicts, values, "model", "version", "window_end")
        if identifier is None:
            raise Refused(
                f"The cohort {verdict.window} of {verdict.model} version {verdict.version} has been judged already.",
                cure="Another scheduler runs on this store; its verdict stands.",
            )
        saved, opened = replace(verdict, verdict_id=identifier), None
        if followed is not None and followed.incident_id is not None:
            follow_in(connection, followed, identifier, verdict.decided_at)
        elif verdict.state is State.DEGRADED:
            opened = begin_in(
                connection,
                model=verdict.model,
                version=verdict.version,
                verdict_id=identifier,
                why=verdict.summary,
                recovery=followed.recovery if followed is not None else None,
                routes=routes,
                now=verdict.decided_at,
            )
        return saved, opened


def latest_verdict(store: Store, model: str, version: str | None = None) -> Verdict | None:
    """The verdict on the newest cohort (of one version)."""
    found = load_verdicts(store, model, version, newest=1)
    return found[0] if found else None


def monitors_begun(store: Store, model: str, before: datetime) -> int:
    """How many monitors of the model were begun before a moment, whatever for."""
    table = tables.verdicts.c
    newest = select(table.begun).where(table.model == model, table.decided_at < before)
    with store.read() as connection:
        return connection.execute(newest.order_by(table.verdict_id.desc()).limit(1)).scalar_one_or_none() or 0


def load_verdict(store: Store, verdict_id: int) -> Verdict:
    """The verdict of that id, which something else on record names."""
    table = tables.verdicts
    with store.read() as connection:
        return _verdict(connection.execute(select(table).where(table.c.verdict_id == verdict_id)).one())


def degraded_verdicts(store: Store, model: str, first: int, last: int | None) -> list[Verdict]:
    """The degraded ones from one id to another (None: all after), oldest first."""
    table = tables.verdicts
    where = [table.c.model == model, table.c.verdict_id >= first, table.c.state == str(State.DEGRADED)]
    where += [table.c.verdict_id <= last] if last is not None else []
    with store.read() as connection:
        return [_verdict(row) for row in connection.execute(select(table).where(*where).order_by(table.c.verdict_id))]


def verdict_moments(store: Store, model: str) -> dict[datetime, str]:
    """When there was a verdict, and on which version."""
    table = tables.verdicts.c
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
    table = tables.verdicts
    where = [table.c.model == model] + ([table.c.version == version] if version is not None else [])
    where += [table.c.decided_at <= until] if until is not None else []
    with store.read() as connection:
        rows = connection.execute(select(table).where(*where).order_by(table.c.verdict_id.desc()).limit(newest)).all()
    return [_verdict(row) for row in rows]


def _verdict(row: Row[Any]) -> Verdict:
    return Verdict(
        model=row.model,
        version=row.version,
        decided_at=row.decided_at,
        window=Window(row.window_start, row.window_end),
        state=State(row.state),
        summary=row.summary,
        evidence=row.evidence,
        monitor=row.monitor,
        verdict_id=row.verdict_id,
        begun=row.begun,
    )


@dataclass(frozen=True)
class DriftMonitor:
    """The state of a version's monitor, after all windows that end by `until`."""

    model: str
    version: str
    until: datetime
    state: dict[str, Any]


def load_monitor(store: Store, model: str, version: str) -> DriftMonitor | None:
    """The monitor of a version; None before its first window."""
    table = watching_tables.drift_monitors
    with store.read() as connection:
        row = connection.execute(
            select(table).where(table.c.model == model, table.c.version == version)
        ).one_or_none()
    return as_record(DriftMonitor, row) if row is not None else None


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
    table = watching_tables.drift_monitors
    key = {"model": after.model, "version": after.version}
    values = {"until": after.until, "state": after.state}
    with store.write() as connection:
        if before is None:
            insert = insert_unless(connection, table).values(**key, **values)
            kept = insert.on_conflict_do_nothing(index_elements=table.primary_key)
            done = connection.execute(kept.execution_options(preserve_rowcount=True)).rowcount
        else:
            where = [table.c[name] == value for name, value in key.items()]
            done = connection.execute(table.update().where(*where, table.c.until == before).values(**values)).rowcount
        if not done:
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


def record_diagnosis(store: Store, made: Diagnosis) -> Diagnosis:
    """Keeps a diagnosis; returns it with its id."""
    values = {
        "model": made.model,
        "version": made.version,
        "incident_id": made.incident_id,
        "window_start": made.window.start,
        "window_end": made.window.end,
        "as_of": made.as_of,
        "recommendation": made.recommendation,
        "summary": made.summary,
        "evidence": made.evidence,
    }
    with store.write() as connection:
        identifier = insert_one(connection, watching_tables.diagnoses.insert().values(**values))
    return replace(made, diagnosis_id=identifier)


def load_diagnoses(store: Store, model: str, incident_id: int | None = None) -> list[Diagnosis]:
    """The diagnoses of a model (of one incident), oldest first."""
    table = watching_tables.diagnoses
    where = [table.c.model == model] + ([table.c.incident_id == incident_id] if incident_id is not None else [])
    with store.read() as connection:
        rows = connection.execute(select(table).where(*where).order_by(table.c.diagnosis_id)).all()
    return [_diagnosis(row) for row in rows]


def save_judgement(store: Store, diagnosis_id: int, *, right: bool, because: str) -> None:
    """Keeps whether a diagnosis was right; one that has been judged stays as it was judged."""
    table = watching_tables.diagnoses
    where = (table.c.diagnosis_id == diagnosis_id) & table.c.was_right.is_(None)
    with store.write() as connection:
        connection.execute(table.update().where(where).values(was_right=right, judged_because=because))


def _diagnosis(row: Row[Any]) -> Diagnosis:
    return Diagnosis(
        model=row.model,
        version=row.version,
        incident_id=row.incident_id,
        window=Window(row.window_start, row.window_end),
        as_of=row.as_of,
        recommendation=row.recommendation,
        summary=row.summary,
        evidence=row.evidence,
        was_right=row.was_right,
        judged_because=row.judged_because,
        diagnosis_id=row.diagnosis_id,
    )
