"""Verdicts, recorded together with the incidents that they open and close: neither is without the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, select

from feedback_loop.clock import Window
from feedback_loop.errors import Refused
from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.incidents import Followed, Incident, begin_in, follow_in
from feedback_loop.store.records import insert_if_new


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
