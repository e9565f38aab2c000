"""`feedback-loop backtest`: what other policies would have said of the log that there is."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.options import (
    FromOption,
    ModelArgument,
    Shell,
    ToOption,
    duration_option,
    moment_option,
)
from feedback_loop.cli.output import table
from feedback_loop.clock import format_moment
from feedback_loop.errors import BadInput

if TYPE_CHECKING:
    from feedback_loop.decisions.backtest import Backtest

ALARMS_SHOWN = 3
"""Of each policy with `--verbose`; the rest of them is in `--json`."""

MANY = 10
"""A look at more cohorts at once than this gets a hint: it was made long after they had matured."""


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
        datetime | None, moment_option(help="When the world changed: delays are counted from it; default: estimated.")
    ] = None,
    every: Annotated[
        timedelta | None, duration_option(help="Look so often (1d), instead of when it was looked.")
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
    from feedback_loop.views.policy import backtest_values

    _check(plot)
    loop = shell.loop()
    result = loop.backtest(
        model,
        policy or (),
        start,
        end,
        change=change,
        every=every,
        known_now=known_now,
        inject=inject,
    )
    if plot is not None:
        _draw(result, plot)
    shown = {**backtest_values(result), "plot": plot}
    shell.emit(shown, lambda shown: _words(result, shown["policies"], verbose=verbose))


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
    next_begins = {tenure: later.begins for tenure, later in zip(result.tenures, result.tenures[1:], strict=False)}
    spans = [
        (
            max(tenure.begins or window.start, window.start),
            min(next_begins.get(tenure) or window.end, window.end),
            mean,
        )
        for tenure, mean in first.references.items()
    ]
    plot_policies(
        {cohort.window.start: cohort.mean for cohort in first.cohorts if cohort.mean is not None},
        [(start, end, mean) for start, end, mean in spans if start < end],
        {
            played.candidate.name: {
                "warning": [verdict.decided_at for verdict in played.warnings],
                "retraining": [step.at for step in played.steps],
                "alarm": [verdict.decided_at for verdict in played.alarms],
            }
            for played in result.played
        },
        [
            (tenure.begins, f"version {tenure.version}")
            for tenure in result.tenures
            if tenure.begins and tenure.begins in window
        ],
        change=result.change.at if result.change else None,
        loss=first.loss,
        title=f"{result.model}: what each policy would have said",
        path=path,
    )


def _words(result: Backtest, policies: list[dict[str, Any]], *, verbose: bool) -> str:
    from feedback_loop.views.policy import policy_row

    how, window = "as they were made" if result.were_made else "as scheduled", result.window
    end = format_moment(window.end.replace(microsecond=0))
    lines = [f"{result.model}: {len(result.looks):,} looks ({how}), {format_moment(window.start)} – {end}"]
    if result.change is not None:
        by = f" by {result.change.policy}" if result.change.policy else ""
        lines.append(f"Delays count from {format_moment(result.change.at)} ({result.change.source}{by}).")
    if result.known is None and not any(played.verdicts for played in result.played):
        lines.append(
            "No look had anything to judge: of what was imported since, nothing was known then. "
            "With what is known now: --every 1d --known-now."
        )
    lines.append(table([policy_row(policy, verbose=verbose) for policy in policies], ""))
    if verbose:
        lines += _alarm_words(policies)
    elif any(played.alarms for played in result.played):
        lines.append("--verbose tells what each alarm said, --json everything.")
    first = result.played[0]
    widest = max(((verdict.window.end - verdict.window.start) for verdict in first.verdicts), default=None)
    if widest is not None and widest > MANY * first.candidate.settings.window:
        count = widest // first.candidate.settings.window
        lines.append(
            f"One look was at {count} cohorts at once; --every 1d --known-now plays an imported log by the day."
        )
    return "\n".join(lines)


def _alarm_words(policies: list[dict[str, Any]]) -> list[str]:
    """What the first alarms of each policy said, and what followed."""
    lines = []
    for policy in policies:
        name, alarms = policy["name"], policy["alarms"]
        for place, alarm in enumerate(alarms[:ALARMS_SHOWN]):
            after = alarm["followed"]
            lines.append(f"{name}, {alarm['at']}, version {alarm['version']}: {alarm['summary']}")
            lines += [f"  {_after_words(after, policy['loss'])}"] if after["cause"] is None or not place else []
        more = len(alarms) - ALARMS_SHOWN
        lines += [f"{name}: {more} more alarms, see --json"] if more > 0 else []
    return lines


def _after_words(after: dict[str, Any], loss: str) -> str:
    if after["cause"] is not None:
        return f"What followed: {after['cause']}."
    return (
        f"From it on {loss} {after['before']:.4f} by version {after['version']}, then {after['after']:.4f} "
        f"on {after['labels']:,} labels by version {after['next_version']}."
    )
