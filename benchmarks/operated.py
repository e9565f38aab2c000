"""A store as it is after 90 days of a model that was watched: a long log, and all that was concluded and done.

The log begins as `history` logs it, through the product; the rest of its rows are copies of these under ids and keys
of their own, at the same moments, made by the database. What the join counted is raised accordingly. Tallies of
profiles stay as they are: they have one size, whatever they count.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Integer, String, Table, cast, func, literal, select, true, union_all

from benchmarks import history
from benchmarks.history import DAY, DAYS, START
from feedback_loop.clock import Window
from feedback_loop.cycle import cycle
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import Profile, WindowQuery, evaluate_window
from feedback_loop.store import Store, profiles, retrainings
from feedback_loop.store.approvals import Approval, ask, end, load_approval, vote
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.coverage import coverage_counts, joins, load_coverage
from feedback_loop.store.evaluations import DriftValue, Evaluation, MetricValue, save_evaluation
from feedback_loop.store.incidents import close_incident, load_incidents, record_verdict
from feedback_loop.store.ledger import job_runs
from feedback_loop.store.model_tables import find_tables
from feedback_loop.store.retrainings import Check, Trial
from feedback_loop.store.schema import Identifier

MODEL = "orders"
SEED = 1_000_000
"""So many rows at most are logged one by one."""

MOST_COPIES = 9
BAD = range(40, 46)
"""The windows whose verdict is that the model is degraded."""

HOUR = timedelta(hours=1)


def fill(store: Store, size: int) -> datetime:
    """A log of so many predictions, with their outcomes; returns when it ends."""
    copies = 0 if size <= SEED else size // SEED - 1
    assert copies <= MOST_COPIES
    seed = size // (copies + 1)
    until = history.fill(store, seed)
    with store.read() as connection:
        tables = find_tables(connection, MODEL)
    (log,) = (generation.table for generation in tables.generations)
    for day in range(DAYS if copies else 0):
        window = Window(START + day * DAY, START + (day + 1) * DAY)
        with store.write() as connection:
            _copy(connection, log, copies, seed, log.c.predicted_at, window)
    for day in range(DAYS if copies else 0):
        window = Window(START + day * DAY, START + (day + 1) * DAY)
        with store.write() as connection:
            _copy(connection, tables.outcomes, copies, seed, tables.outcomes.c.recorded_at, window)
    with store.write() as connection:
        counted = {name: coverage_counts.c[name] * (copies + 1) for name in ("predictions", "labelled", "eligible")}
        connection.execute(coverage_counts.update().values(**counted))
        connection.execute(joins.update().values(outcomes=joins.c.outcomes * (copies + 1)))
        connection.exec_driver_sql("ANALYZE")
    return until


def _copy(
    connection: Connection, table: Table, copies: int, seed: int, time: ColumnElement[datetime], window: Window
) -> None:
    """Copies the rows of a window that are not copies yet."""
    numbers = union_all(*(select(literal(place, Integer).label("copy")) for place in range(1, copies + 1))).subquery()
    copy = numbers.c.copy
    changed: dict[str, ColumnElement[Any]] = {"order_id": table.c.order_id + copy * seed}
    if "outcome_id" in table.c:
        changed["outcome_id"] = table.c.outcome_id + copy * seed
    else:  # of the same moment, its last twelve digits turned by so many places
        text = cast(table.c.prediction_id, String)
        turned = func.substr(text, 25 + copy, type_=String) + func.substr(text, 25, copy, type_=String)
        turned = func.substr(text, 1, 24, type_=String) + turned
        changed["prediction_id"] = cast(turned, Identifier)
    rows = select(*(changed.get(column.name, column) for column in table.c)).join_from(table, numbers, true())
    rows = rows.where(time >= window.start, time < window.end, table.c.order_id < seed)
    connection.execute(table.insert().from_select(list(table.c), rows))


def operate(store: Store, loop: FeedbackLoop) -> None:
    """What 90 days leave behind: evaluations, verdicts, an incident, retrainings, promotions, runs of jobs."""
    with store.read() as connection:
        kept = profiles.load_reference(connection, MODEL, "1")
    assert kept is not None
    _evaluate(store, Profile.from_bytes(kept.profile))
    for day in range(DAYS):
        _judge(store, day)
    _promote(store, "first", None, "1", START)
    for week in range(DAYS // 7):
        _retrain(store, week)
    _run_jobs(store, loop)
    with store.write() as connection:
        connection.exec_driver_sql("ANALYZE")


def _evaluate(store: Store, reference: Profile) -> None:
    """The evaluation of the newest window, for each of them: when it closed, and when it had matured."""
    until = load_coverage(store, MODEL)[1]
    assert until is not None
    newest = Window(START + (DAYS - 1) * DAY, START + DAYS * DAY)
    query = WindowQuery(newest, until, DAY, timedelta())
    (saved,) = evaluate_window(store, history.contract(), query, lambda _version: reference)
    found = replace(saved, evaluation_id=None)
    for day in range(DAYS):
        window = Window(START + day * DAY, START + (day + 1) * DAY)
        of_window = replace(found, window=window, as_of=window.end, matured=False, labelled=0, metrics=())
        save_evaluation(store, of_window)
        save_evaluation(store, replace(found, window=window, as_of=until))


def _judge(store: Store, day: int) -> None:
    """The verdict on one window; the last bad one ends the incident."""
    window, is_bad = Window(START + day * DAY, START + (day + 1) * DAY), day in BAD
    evidence = {"loss": "brier", "acts": ["brier"], "figures": list(range(100))}
    monitor = {"since": START.isoformat(), "sums": [0.5] * 300}
    state = State.DEGRADED if is_bad else State.OK
    summary = "brier 0.17 → 0.25" if is_bad else "brier is as before"
    verdict = Verdict(MODEL, "1", window.end, window, state, summary, evidence, monitor)
    record_verdict(store, verdict, ["log"])
    if day == BAD[-1]:
        for incident in load_incidents(store, MODEL):
            close_incident(store, incident.incident_id, "its feed is repaired", window.end, "ada")


def _retrain(store: Store, week: int) -> None:
    """A search with trials and gates; every second one brought a champion, who was rolled back a day later."""
    at, candidate, is_better = START + week * 7 * DAY, str(week + 2), week % 2 == 0
    number = retrainings.start_retraining(store, MODEL, reason="refresh", champion="1", incident_id=None, now=at)
    trials = [
        Trial(f"{days} days", at - days * DAY, at, 1000 * days, 0.2 + days / 1000) for days in (30, 60, 90, 120)
    ]
    gates = [
        Check(name, passed=is_better, summary="In words.") for name in ("non_inferiority", "segments", "latency")
    ]
    gate = {"summary": "in words"}
    retrainings.note_retraining(store, number, candidate=candidate, trials=trials, gates=gates, gate=gate)
    question = Approval(0, MODEL, candidate, "1", number, 1, at, at + DAY, "open", {"gain": 0.01})
    asked = ask(store, question).approval_id
    vote(store, asked, voter="ada", approves=is_better, reason="the figures", now=at)
    retrainings.finish_retraining(store, number, state="promoted" if is_better else "refused", now=at)
    if is_better:
        end(store, load_approval(store, asked), "promoted", "by ada", at)
        _promote(store, "promotion", "1", candidate, at)
        _promote(store, "rollback", candidate, "1", at + DAY)


def _promote(store: Store, kind: str, before: str | None, version: str, at: datetime) -> None:
    intended = retrainings.intend_promotion(
        store, MODEL, kind=kind, from_version=before, to_version=version, reason="in words", now=at
    )
    retrainings.end_promotion(store, intended, now=at)


def _run_jobs(store: Store, loop: FeedbackLoop) -> None:
    """A turn each hour, every job of it in the ledger."""
    names = [job.name for job in cycle(loop, MODEL)]
    moments = [START + hour * HOUR for hour in range(DAYS * 24)]
    runs = [
        {"job": name, "model": MODEL, "scheduled_at": at, "started_at": at, "finished_at": at + timedelta(seconds=2)}
        | {"holder": "host:1", "state": "succeeded", "result": {"alerts": 0}, "cause": None}
        for at in moments
        for name in names
    ]
    with store.write() as connection:
        connection.execute(job_runs.insert(), runs)


def widen(store: Store, columns: int) -> None:
    """A model `wide` of so many columns, whose windows have a figure of drift for each."""
    drawn = np.random.default_rng(1)
    for day in range(DAYS):
        window = Window(START + day * DAY, START + (day + 1) * DAY)
        far = drawn.exponential(0.05, columns)
        drift = tuple(
            DriftValue(
                f"column_{n}", "psi", float(value), 0.1, 0.01, drifted=bool(value > 0.1), rows=1000, decides=True
            )
            for n, value in enumerate(far)
        )
        metrics = (MetricValue("brier", 0.2, 1000, 0.01),)
        save_evaluation(
            store, Evaluation("wide", "1", window, window.end, True, 1000, 1000, metrics=metrics, drift=drift)
        )
