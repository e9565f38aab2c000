"""`feedback-loop backtest`: what other policies would have said of the log that there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.monitor import FromOption, ToOption
from feedback_loop.cli.output import ModelArgument, Shell, table
from feedback_loop.clock import format_moment, parse_duration, parse_moment
from feedback_loop.errors import BadInput
from feedback_loop.shown import as_text

if TYPE_CHECKING:
    from feedback_loop.decisions.backtest import Aftermath, Backtest, Replayed
    from feedback_loop.store.conclusions import Verdict

ALARMS_TOLD = 3
"""Of each policy with `--verbose`; the rest of them is in `--json`."""

MANY = 10
"""A look at more cohorts at once than this is told: it was made long after they had matured."""


def backtest(
    shell: Shell,
    model: ModelArgument,
    policy: Annotated[
        list[Path] | None,
        typer.Option(help="A file with a [policy] table (repeat it for more); default: every other rule."),
    ] = None,
    start: FromOption = None,
    end: ToOption = None,
    change: Annotated[
        str | None, typer.Option(help="When the world changed: delays are counted from it; default: estimated.")
    ] = None,
    every: Annotated[
        str | None, typer.Option(help="Look so often (1d), instead of when it was looked.", show_default=False)
    ] = None,
    known_now: Annotated[
        bool, typer.Option("--known-now", help="With what is known now at every look: for a log that was imported.")
    ] = False,
    inject: Annotated[
        str | None,
        typer.Option(help="Make it worse, to see who catches it: error=+0.03@2026-03-11.", show_default=False),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf file.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell what each alarm said, and was worth.")
    ] = False,
) -> None:
    """Plays the log again under other policies, beside the configured one. Nothing is changed or written."""
    _check(plot)
    loop = shell.loop()
    result = loop.backtest(
        model,
        policy or (),
        parse_moment(start) if start else None,
        parse_moment(end) if end else None,
        change=parse_moment(change) if change else None,
        every=parse_duration(every) if every else None,
        known_now=known_now,
        inject=inject,
    )
    if plot is not None:
        _draw(result, plot)
    plain = _plain(result) | {"plot": str(plot) if plot else None}
    shell.emit(plain, lambda _: _words(result, plain, verbose=verbose))


def _check(plot: Path | None) -> None:
    from feedback_loop.decisions.backtest import FORMATS

    if plot is None:
        return
    if plot.suffix.lower() not in FORMATS:
        raise BadInput.of(
            "plot", f"can't be {plot.suffix or 'without a suffix'}", cure=f"One of {', '.join(FORMATS)}."
        )
    if not plot.absolute().parent.is_dir():
        raise BadInput.of("plot", f"there is no folder {str(plot.parent)!r}", cure="Make it first.")


def _draw(result: Backtest, path: Path) -> None:
    from feedback_loop.decisions.backtest import plot_policies

    first, window = result.played[0], result.window
    begun = [each for each in result.tenures if each.begins is not None]
    ends = {each: later.begins for each, later in zip(result.tenures, result.tenures[1:], strict=False)}
    spans = [
        (max(each.begins or window.start, window.start), min(ends.get(each) or window.end, window.end), mean)
        for each, mean in first.references.items()
    ]
    plot_policies(
        {each.window.start: each.mean for each in first.cohorts if each.mean is not None},
        [(start, end, mean) for start, end, mean in spans if start < end],
        {
            each.candidate.name: {
                "warning": [verdict.decided_at for verdict in each.warnings],
                "retraining": [step.at for step in each.steps],
                "alarm": [verdict.decided_at for verdict in each.alarms],
            }
            for each in result.played
        },
        [(each.begins, f"version {each.version}") for each in begun if each.begins and each.begins in window],
        change=result.change.at if result.change else None,
        loss=first.loss,
        title=f"{result.model}: what each policy would have said",
        path=path,
    )


def _plain(result: Backtest) -> dict[str, Any]:
    """Everything, as plain values."""
    change = result.change
    return {
        "model": result.model,
        "from": result.window.start,
        "to": result.window.end,
        "looks": result.looks,
        "looks_were_made": result.were_made,
        "known": result.known,
        "injected": vars(result.injected) if result.injected else None,
        "final_until": result.final_until,
        "versions": [{"version": each.version, "since": each.begins} for each in result.tenures],
        "change": {"at": change.at, "source": change.source, "policy": change.policy} if change else None,
        "policies": [
            _policy(result, played, followed) for played, followed in zip(result.played, result.followed, strict=True)
        ],
    }


def _policy(result: Backtest, played: Replayed, followed: tuple[Aftermath, ...]) -> dict[str, Any]:
    from feedback_loop.decisions.backtest import delay_of

    settings = played.candidate.settings
    delay = delay_of(played, result.change) if result.change else None
    return {
        "name": played.candidate.name,
        "rule": settings.policy.rule,
        "policy": settings.policy.model_dump(mode="json"),
        "maturity": str(settings.maturity),
        "window": str(settings.window),
        "loss": played.loss,
        "alarms": [
            _verdict(each) | {"followed": vars(after)} for each, after in zip(played.alarms, followed, strict=True)
        ],
        "warnings": [_verdict(each) for each in played.warnings],
        "delay": {"days": delay.days, "labels": delay.labels} if delay else None,
        "retrainings": [vars(each) for each in played.steps],
        "verdicts": [_verdict(each) | {"evidence": each.evidence} for each in played.verdicts],
        "cohorts": [vars(each) | {"window": [each.window.start, each.window.end]} for each in played.cohorts],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "at": verdict.decided_at,
        "version": verdict.version,
        "window": [verdict.window.start, verdict.window.end],
        "state": str(verdict.state),
        "summary": verdict.summary,
    }


def _words(result: Backtest, plain: dict[str, Any], *, verbose: bool) -> str:
    how, window = "as they were made" if result.were_made else "as scheduled", result.window
    end = format_moment(window.end.replace(microsecond=0))
    lines = [f"{result.model}: {len(result.looks):,} looks ({how}), {format_moment(window.start)} – {end}"]
    if result.change is not None:
        by = f" by {result.change.policy}" if result.change.policy else ""
        lines.append(f"Delays count from {format_moment(result.change.at)} ({result.change.source}{by}).")
    if result.known is None and not any(each.verdicts for each in result.played):
        lines.append(
            "No look had anything to judge: of what was imported since, nothing was known then. "
            "With what is known now: --every 1d --known-now."
        )
    lines.append(table([_row(each, verbose=verbose) for each in plain["policies"]], ""))
    if verbose:
        lines += _alarm_words(result)
    elif any(each.alarms for each in result.played):
        lines.append("--verbose tells what each alarm said, --json everything.")
    first = result.played[0]
    widest = max(((each.window.end - each.window.start) for each in first.verdicts), default=None)
    if widest is not None and widest > MANY * first.candidate.settings.window:
        count = widest // first.candidate.settings.window
        lines.append(
            f"One look was at {count} cohorts at once; --every 1d --known-now plays an imported log by the day."
        )
    return "\n".join(lines)


def _row(policy: dict[str, Any], *, verbose: bool) -> dict[str, Any]:
    """A policy in a line that fits 100 columns; verbosely also when it first alarmed, and how often it warned."""
    name, rule, delay, alarms = policy["name"], policy["rule"], policy["delay"], policy["alarms"]
    told = [each["followed"] for each in alarms if each["followed"]["cause"] is None]
    reasons = [each["reason"] for each in policy["retrainings"]]
    kinds = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
    first = {
        "warnings": len(policy["warnings"]),
        "first alarm": format_moment(alarms[0]["at"]) if alarms else "–",
        "version": alarms[0]["version"] if alarms else "–",
    }
    return {
        "policy": name if name == rule else f"{name} ({rule})",
        "alarms": len(alarms),
        **(first if verbose else {}),
        "delay": f"{delay['days']:.1f} d, {delay['labels']:,} labels" if delay else "–",
        "retrainings": kinds or "–",
        "loss: it → the next": f"{told[0]['before']:.4f} → {told[0]['after']:.4f}" if told else "–",
    }


def _alarm_words(result: Backtest) -> list[str]:
    """What the first alarms of each policy said, and what followed."""
    lines = []
    for played, aftermaths in zip(result.played, result.followed, strict=True):
        name, told = played.candidate.name, list(zip(played.alarms, aftermaths, strict=True))
        for place, (alarm, after) in enumerate(told[:ALARMS_TOLD]):
            summary = as_text(alarm.summary)
            lines.append(f"{name}, {format_moment(alarm.decided_at)}, version {alarm.version}: {summary}")
            lines += [f"  {_after_words(after, played.loss)}"] if after.cause is None or not place else []
        lines += [f"{name}: {len(told) - ALARMS_TOLD} more alarms, see --json"] if len(told) > ALARMS_TOLD else []
    return lines


def _after_words(after: Aftermath, loss: str) -> str:
    if after.cause is not None:
        return f"What followed: {after.cause}."
    return (
        f"From it on {loss} {after.before:.4f} by version {after.version}, then {after.after:.4f} "
        f"on {after.labels:,} labels by version {after.next_version}."
    )
