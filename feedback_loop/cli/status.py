"""`feedback-loop status` and `doctor`: the whole loop at a glance, and whether it can work at all."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import Shell
from feedback_loop.cli.output import estimate_words, share, span


def status(shell: Shell, model: Annotated[str | None, typer.Argument(help="Only this model.")] = None) -> None:
    """Shows every model's champion, rows, outcomes, verdict, incident, retrainings and failed jobs."""
    from feedback_loop.views.status import loop_status

    loop = shell.loop()
    if model:
        loop.settings.model(model)
    state = loop_status(loop)
    if model:
        state["models"] = {model: state["models"][model]}
    shell.emit(state, _words)


def doctor(shell: Shell) -> None:
    """Checks configuration, database, registry, models and disk; exit code 1 if anything is amiss."""
    from feedback_loop.config import load_settings
    from feedback_loop.loop import FeedbackLoop
    from feedback_loop.views.doctor import doctor as checked

    checks = checked(FeedbackLoop(load_settings(shell.config)))
    shell.emit(checks, _check_words)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _check_words(checks: list[dict[str, Any]]) -> str:
    signs = ["note" if check["is_note"] else "ok  " if check["ok"] else "FAIL" for check in checks]
    return "\n".join(
        f"{sign} {check['name']}: {check['detail']} {check['cure']}".rstrip()
        for sign, check in zip(signs, checks, strict=True)
    )


def _words(state: dict[str, Any]) -> str:
    lines = [f"store {state['store']}, registry {state['registry']}, now {state['now']}"]
    for name, model in state["models"].items():
        lines += ["", name, *(f"  {line}" for line in _model_lines(model))]
    return "\n".join(lines)


def _model_lines(model: dict[str, Any]) -> list[str]:
    predicted = f", {model['predicted'][0]} – {model['predicted'][1]}" if model["predicted"] else ""
    lines = [
        f"champion      version {model['champion']}"
        if model["champion"]
        else "champion      none on record: feedback-loop models promote, or a turn of the scheduler, writes it down",
        *([f"NOT JUDGED    {model['missing_reference']}"] if model["missing_reference"] else []),
        *(f"NOTE          {note}" for note in (model["evaluation"] or {"notes": []})["notes"]),
        f"predictions   {model['predictions']:,}{predicted}",
        *_capture_lines(model["capture"]),
        f"outcomes      {model['outcomes']:,}, of which {model['unmatched_outcomes']:,} match no prediction",
        f"conflicts     {model['conflicts']:,} predictions whose outcomes contradict each other",
    ]
    refused = model["refused_outcomes"]
    if any(refused.values()):
        lines.append(
            f"REFUSED       {refused['files']:,} files of outcomes; {refused['polls']:,} polls left rows out"
        )
    payloads = model["payloads"]
    if any(payloads.values()):
        lines.append("payloads      " + ", ".join(f"{count:,} {what}" for what, count in payloads.items()))
    if evaluation := model["evaluation"]:
        metrics = "".join(f", {name} {value:.4f}" for name, value in list(evaluation["metrics"].items())[:4])
        lines.append(f"last window   {span(evaluation['window'])}: coverage {share(evaluation['coverage'])}{metrics}")
        lines += [f"              {line}" for line in estimate_words(evaluation["estimates"])]
    lines += [
        f"FAILED window {span(failed['window'])}, tried {failed['attempts']:,} times: {failed['cause']}"
        for failed in model["failed_windows"]
    ]
    if drift := model["drift"]:
        lines.append(f"drift         {drift['windows']:,} windows watched, up to {drift['until']}")
        lines += [f"DRIFTED       {column['words']} ({column['window']})" for column in drift["columns"]]
        lines += [f"DATA QUALITY  {failing['check']} (since {failing['since']})" for failing in drift["failing"]]
        lacking = "of its reference's values are missing before drift is judged"
        lines += [f"NOT JUDGED    {column['column']}: {column['missing']} {lacking}" for column in drift["unjudged"]]
    lines += [_condition_words(standing) for standing in model["conditions"] if standing["state"] != "within"]
    if verdict := model["verdict"]:
        lines.append(f"verdict       {verdict['state']} ({verdict['decided_at']}): {verdict['summary']}")
    elif due := model["first_verdict_due"]:
        since = "its first window matures" if due["predicted"] else "nothing is predicted yet; one of now matures"
        lines.append(f"verdict       none yet: {since} on {due['at']}")
    lines.append(f"incident      {_incident_words(model['incident'])}")
    if last := model["last_retraining"]:
        lines.append(f"retrainings   {model['retrainings']}; last {last['at']} ({last['reason']}): {last['state']}")
    lines.append(f"promotions    {model['promotions']}")
    lines += [f"NOT SERVED    version {version['version']}: {version['cause']}" for version in model["not_served"]]
    lines += [_running_words(job) for job in model["running_jobs"]]
    lines += [f"STANDS STILL  {trouble}" for trouble in model["troubles"]]
    lines += [f"FAILED job    {job['job']} of {job['at']}: {job['cause']}" for job in model["failed_jobs"]]
    lines += [
        f"UNDELIVERED   alert on {alert['route']} ({alert['state']}): {alert['cause'] or 'not tried yet'}"
        for alert in model["undelivered_alerts"]
    ]
    return lines


def _condition_words(standing: dict[str, Any]) -> str:
    if standing["state"] == "crossed":
        value, window = standing["value"], span(standing["window"])
        return f"CONDITION     {standing['condition']}: {value:.4g} ({window}; since {standing['since']})"
    names = ", ".join(standing["known"]) or "none yet"
    return f"NO VALUE      {standing['condition']}: no matured window has it; there are {names}"


def _running_words(job: dict[str, Any]) -> str:
    """A job that runs: one that takes ten times as long as usual, and one whose process has died, stand out."""
    usual = job["usual_seconds"]
    words = f"{job['job']} for {job['seconds']:,.0f} s" + ("" if usual is None else f" (usually {usual:,.1f} s)")
    if not job["alive"]:
        return f"DIED          {words}: {job['holder']} holds no lease any more; the next turn makes it anew"
    is_long = job["seconds"] > max(60.0, 10 * (usual or 0.0))
    return f"{'RUNS LONG     ' if is_long else 'running       '}{words}, by {job['holder']}"


def _incident_words(incident: dict[str, Any] | None) -> str:
    if incident is None:
        return "none open"
    by = incident["acknowledged_by"]
    looked_after = f"acknowledged by {by}" if by else "not acknowledged"
    silenced = f", silenced until {incident['silenced_until']}" if incident["silenced_until"] else ""
    return f"{incident['id']} since {incident['since']}, {looked_after}{silenced}"


def _capture_lines(capture: dict[str, Any]) -> list[str]:
    if not capture["processes"]:
        return []
    names = ("answered", "spooled", "stored", "waiting", "refused", "dropped", "unsampled")
    counts = ", ".join(f"{capture[name]:,} {name}" for name in names if capture[name] or name in names[:3])
    lines = [f"served        {counts}"] if any(capture[name] for name in names) else []
    if outcomes := capture["outcomes"]["waiting"]:
        lines.append(f"WAITING       {outcomes:,} outcomes for the store")
    return [*lines, *(f"DIFFERENCE    {difference}" for difference in capture["differences"])]
