"""`feedback-loop scheduler`: the loop, turning by itself."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.options import Shell
from feedback_loop.cli.output import table, take_library_logs
from feedback_loop.errors import Refused

if TYPE_CHECKING:
    from feedback_loop.loop import FeedbackLoop


FAILED, DEGRADED, APPROVAL_WANTED = 1, 3, 4
"""The exit codes of `--once` but 0, from what counts most to what counts least: 1, then 4, then 3."""


def scheduler(
    shell: Shell,
    once: Annotated[bool, typer.Option("--once", help="Run every model's cycle now, once, and end.")] = False,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this model; may be repeated.")
    ] = None,
) -> None:
    """Runs every model's jobs by its schedule until it is stopped; missed runs are caught up once.

    With --once for cron and the like; exit code 0 all is well, 1 a job failed or could not be run, 3 a model is
    degraded, 4 a candidate waits for approval.
    """
    from feedback_loop.cycle import make_scheduler
    from feedback_loop.tracing import require_tracing

    loop = shell.loop()
    if loop.settings.scheduler.trace:
        require_tracing(key="scheduler.trace")
    models = list(dict.fromkeys(model or loop.settings.models))
    for name in models:
        loop.settings.model(name)
    if not once:
        take_library_logs()
        if not make_scheduler(loop, models).serve():
            os._exit(0)  # a job that does not end would keep the process from ending
        return
    turn = _turn(loop, models)
    shell.emit(turn, _words)
    if turn["exit_code"]:
        raise typer.Exit(turn["exit_code"])


def _turn(loop: FeedbackLoop, models: Sequence[str]) -> dict[str, Any]:
    """Runs a cycle of each model; what became of it, and of the alerts, with the exit code that says so."""
    from feedback_loop.cycle import delivering

    with delivering(loop) as deliveries:
        done = {model: _cycle(loop, model) for model in models}
    alerts: Counter[str] = Counter()
    for delivery in deliveries:
        alerts.update(asdict(delivery))
    states = [model["state"] for model in done.values()]
    codes = {"failed": FAILED, "approval_wanted": APPROVAL_WANTED, "degraded": DEGRADED}
    state = next((state for state in codes if state in states), "ok")
    return {"state": state, "exit_code": codes.get(state, 0), "models": done, "alerts": dict(alerts)}


def _cycle(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """What people asked for of a model, its cycle, and how it stands then; that another run is at work keeps no other
    waiting.
    """
    from feedback_loop.cycle import left_by_hand, retrain_as_asked, run_cycle
    from feedback_loop.store.conclusions import latest_verdict
    from feedback_loop.store.incidents import open_incident

    try:
        asked = [retrain_as_asked(loop, run) for run in left_by_hand(loop) if run.model == model]
        jobs = [asdict(outcome) for outcomes in (*asked, run_cycle(loop, model)) for outcome in outcomes]
    except Refused as error:
        jobs = [{"job": "cycle", "state": "refused", "result": None, "cause": str(error)}]
    incident, verdict = open_incident(loop.store, model), latest_verdict(loop.store, model)
    approval = next((approval for approval in loop.approvals.list(model) if approval.state == "open"), None)
    state = "degraded" if incident is not None else "ok"
    if approval is not None:
        state = "approval_wanted"
    if any(job["state"] in ("failed", "refused") for job in jobs):
        state = "failed"
    return {
        "state": state,
        "verdict": str(verdict.state) if verdict is not None else None,
        "incident": incident.incident_id if incident is not None else None,
        "approval": approval.approval_id if approval is not None else None,
        "jobs": jobs,
    }


def _words(turn: dict[str, Any]) -> str:
    from feedback_loop.views.jobs import in_words

    rows = [
        {"model": model, "job": job["job"], "state": job["state"], "": job["cause"] or in_words(job["result"])}
        for model, done in turn["models"].items()
        for job in done["jobs"]
    ]
    rows.append({"model": "", "job": "alerts", "state": "succeeded", "": in_words(turn["alerts"])})
    stands = [f"{model}: {_stands(done)}" for model, done in turn["models"].items() if done["state"] != "ok"]
    return "\n".join([table(rows, "") if turn["models"] else "No model is configured.", *stands])


def _stands(done: dict[str, Any]) -> str:
    """What somebody should look at, with the command that shows it."""
    parts = []
    if done["state"] == "failed":
        parts.append("a job failed")
    if done["approval"] is not None:
        parts.append(f"a candidate waits for approval: feedback-loop approvals show {done['approval']}")
    if done["incident"] is not None:
        parts.append(f"it is degraded: feedback-loop incidents show {done['incident']}")
    return "; ".join(parts)
