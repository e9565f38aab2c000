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
    from feedback_loop.dashboard.oidc import checks_of
    from feedback_loop.loop import FeedbackLoop
    from feedback_loop.views.doctor import doctor as checked

    settings = load_settings(shell.config)
    checks = checked(FeedbackLoop(settings), checks_of(settings))
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
        *(_frozen_words(freeze) for freeze in model["frozen"]),
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
    lines += [f"incident      {_incident_words(incident)}" for incident in model["open_incidents"] or [None]]
    if model["adapter"]:
        lines.append(f"adapter       {_adapter_words(model['adapter'])}")
    if model["exploration"]:
        lines += _exploration_lines(model["exploration"])
    lines += _candidate_lines(model)
    lines += [f"NOT SERVED    version {version['version']}: {version['cause']}" for version in model["not_served"]]
    lines += [_running_words(job) for job in model["running_jobs"]]
    lines += [f"STANDS STILL  {trouble}" for trouble in model["troubles"]]
    lines += [f"FAILED job    {job['job']} of {job['at']}: {job['cause']}" for job in model["failed_jobs"]]
    lines += [
        "UNDELIVERED   alert {alert} on {route} ({state}): ".format(**alert) + (alert["cause"] or "not tried yet")
        for alert in model["undelivered_alerts"]
    ]
    return lines


def _candidate_lines(model: dict[str, Any]) -> list[str]:
    """Retrainings, and where their candidates stand."""
    lines = []
    if last := model["last_retraining"]:
        lines.append(f"retrainings   {model['retrainings']}; last {last['at']} ({last['reason']}): {last['state']}")
    if rollout := model["rollout"]:
        lines.append(_rollout_words(rollout))
    if asked := model["approval"]:
        what = f"version {asked['candidate']}, to replace {asked['champion']}, until {asked['expires_at']}"
        lines.append(f"APPROVAL      {asked['approval_id']} is {asked['state']}: {what}")
    return [*lines, f"promotions    {model['promotions']}"]


def _frozen_words(freeze: dict[str, Any]) -> str:
    what = "" if freeze["model"] else "all models, "
    return f"FROZEN        {what}since {freeze['frozen_at']}, by {freeze['frozen_by']}: {freeze['reason']}"


def _rollout_words(rollout: dict[str, Any]) -> str:
    evidence = rollout["evidence"]
    sofar = "no window has matured yet"
    if evidence.get("difference") is not None:
        sofar = (
            f"{evidence['counted']} windows, {evidence['scale']['loss']} {evidence['difference']:+.4f}, "
            f"e-values: worse {evidence['harm']:.3g}, better {evidence['gain']:.3g}"
        )
    share = f" with {rollout['share']:.0%} of callers" if rollout["share"] else ""
    return (
        f"{rollout['stage']:<14}version {rollout['candidate']} beside {rollout['baseline']}{share}, {sofar} "
        f"(until {rollout['windows']} windows have matured)"
    )


def _condition_words(standing: dict[str, Any]) -> str:
    if standing["state"] == "crossed":
        value, window = standing["value"], span(standing["window"])
        return f"CONDITION     {standing['condition']}: {value:.4g} ({window}; since {standing['since']})"
    names = ", ".join(standing["known"]) or "none yet"
    return f"NO VALUE      {standing['condition']}: no matured window has it; there are {names}"


def _running_words(job: dict[str, Any]) -> str:
    """A job that runs: one that takes ten times as long as usual, and one whose process has died, stand out."""
    usual = job["usual_seconds"]
    words = f"{job['job']} (run {job['run']}) for {job['seconds']:,.0f} s" + (
        "" if usual is None else f" (usually {usual:,.1f} s)"
    )
    if not job["alive"]:
        return f"DIED          {words}: {job['holder']} holds no lease any more; the next turn makes it anew"
    is_long = job["seconds"] > max(60.0, 10 * (usual or 0.0))
    return f"{'RUNS LONG     ' if is_long else 'running       '}{words}, by {job['holder']}"


def _adapter_words(adapter: dict[str, Any]) -> str:
    if "stopped" in adapter:
        return f"STOPPED at revision {adapter['revision']}: {adapter['stopped']}"
    gain = f"{adapter['loss_raw']:.4f} without it, {adapter['loss_served']:.4f} as served"
    held = f"; HELD by {', '.join(adapter['held_by'])}" if adapter["held_by"] else ""
    covered = f"; intervals hold {adapter['coverage']:.0%}" if adapter["coverage"] is not None else ""
    return f"revision {adapter['revision']}; loss of the last {adapter['looks']} looks: {gain}{covered}{held}"


def _exploration_lines(effect: dict[str, Any]) -> list[str]:
    """Explored rows beside the rest of those acted on, and whether the loop has changed what it measures."""
    lines = []
    for name in ("explored", "rest"):
        group = effect[name]
        figures = [("outcome", "outcome"), (effect["loss"], "loss"), ("answer - outcome", "calibration")]
        known = [f"{words} {group[key]:.4f}" for words, key in figures if group and group[key] is not None]
        label = "exploration" if name == "explored" else ""
        words = ", ".join([f"{group['rows']:,} acted on", *known]) if group else "none was acted on"
        lines.append(f"{label:<14}{name}: {words}")
    if effect["loss_difference"] is None:
        return [*lines, f"{'':<14}not compared: both are needed, on two days"]
    for words, key in ((effect["loss"], "loss_difference"), ("outcome", "outcome_difference")):
        if difference := effect[key]:
            error = f"{difference['value']:+.4f} ± {difference['standard_error']:.4f} between days"
            lines.append(f"{'':<14}{words} of explored ones {error}, p = {difference['p_value']:.2g}")
    return lines


def _incident_words(incident: dict[str, Any] | None) -> str:
    if incident is None:
        return "none open"
    by = incident["acknowledged_by"]
    looked_after = f"acknowledged by {by}" if by else "not acknowledged"
    silenced = f", silenced until {incident['silenced_until']}" if incident["silenced_until"] else ""
    what = "" if incident["cause"] == "verdict" else f": {incident['title']}"
    return f"{incident['id']} since {incident['since']}, {looked_after}{silenced}{what}"


def _capture_lines(capture: dict[str, Any]) -> list[str]:
    if not capture["processes"]:
        return []
    names = ("answered", "spooled", "stored", "waiting", "refused", "dropped", "unsampled")
    counts = ", ".join(f"{capture[name]:,} {name}" for name in names if capture[name] or name in names[:3])
    lines = [f"served        {counts}"] if any(capture[name] for name in names) else []
    if outcomes := capture["outcomes"]["waiting"]:
        lines.append(f"WAITING       {outcomes:,} outcomes for the store")
    return [*lines, *(f"DIFFERENCE    {difference}" for difference in capture["differences"])]
