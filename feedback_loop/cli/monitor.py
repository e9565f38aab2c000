"""`feedback-loop evaluate`, `report`, `decide`: how the model does, shown and judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from feedback_loop.cli.options import AsOfOption, ModelArgument, Shell, WindowGiven
from feedback_loop.cli.output import estimate_words, share, span, table
from feedback_loop.clock import format_moment
from feedback_loop.errors import BadInput
from feedback_loop.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feedback_loop.monitoring import PastError, ReportFile
    from feedback_loop.store.evaluations import Evaluation

METRICS_SHOWN = 4
"""The rest of them is in `--json`."""


def evaluate(
    shell: Shell,
    model: ModelArgument,
    within: WindowGiven,
    as_of: AsOfOption = None,
    audit: Annotated[bool, typer.Option(help="Read every row again instead of what is kept of each hour.")] = False,
    multivariate: Annotated[bool, typer.Option(help="Also look at all features together (reads rows).")] = False,
    slices: Annotated[bool, typer.Option(help="Also find where a matured window does worst (reads rows).")] = False,
) -> None:
    """Computes validation, coverage and drift of a window (default: of every window that is due)."""
    window, loop = within.window(), shell.loop()
    evaluations = loop.evaluate(model, window, as_of, from_log=audit, multivariate=multivariate, slices=slices)
    rows = [_evaluation(evaluation) for evaluation in evaluations]
    # What was estimated before, or is still missing, is no part of an evaluation, which stays what it is: only words
    # tell it.
    missing = loop.judging.missing_reference(model) if not shell.as_json else None
    first = f"NOT JUDGED: {missing.words} {missing.cure}\n" if missing is not None else ""
    shell.emit(rows, lambda rows: first + _evaluation_words(rows, loop.judging.past_errors(model)))


def report(
    shell: Shell,
    model: ModelArgument,
    within: WindowGiven,
    sample: Annotated[int | None, typer.Option(help="Draw so many rows of each side, not surrogates.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Draw all rows: time and memory grow with them.")] = False,
    as_of: AsOfOption = None,
    lists: Annotated[bool, typer.Option("--list", help="Only list the model's reports that are there.")] = False,
) -> None:
    """Writes Evidently's reports of drift and validation (HTML and JSON), and keeps them in MLflow.

    The figures are of all rows. What is drawn is of surrogates made from the profiles, or with --sample and --full of
    real rows. `evidently ui --workspace reports/evidently` shows the reports over time.
    """
    from feedback_loop.monitoring import list_reports, model_folder

    loop = shell.loop()
    if lists:
        loop.settings.model(model)
        rows = [_listed(report) for report in list_reports(loop.reports) if report.model == model]
        shell.emit(rows, lambda rows: _listed_words(rows, model_folder(loop.reports, model)))
        return
    if full and sample is not None:
        raise BadInput.of("rows", "can't be both a sample and all", cure="Give --sample or --full.")
    window, name = within.window(), within.within
    if window is None:
        raise BadInput.of("window", "is missing", cure="Give --window, or --from and --to.")
    if name is None or "/" in name:
        name = f"{format_moment(window.start)}_{format_moment(window.end)}".replace(":", "")
    drawn: Literal["surrogate", "full"] = "full" if full else "surrogate"
    paths = loop.report(model, window, name, rows=drawn if sample is None else sample, as_of=as_of)
    shell.emit(paths, "\n".join)


def _listed(report: ReportFile) -> dict[str, Any]:
    return {
        "model": report.model,
        "version": report.version,
        "window": span(report.window),
        "kind": report.kind,
        "rows": report.rows,
        "reference": report.reference_rows,
        "drawn of": report.shown,
        "as of": report.as_of,
        "page": report.path,
    }


def _listed_words(rows: list[dict[str, Any]], folder: Path) -> str:
    """The same as a table, with the pages by their names: a path that is folded can't be copied."""
    if not rows:
        return "There are no reports yet."
    columns = ("window", "kind", "rows", "drawn of")
    named = [{name: row[name] for name in columns} | {"page": Path(row["page"]).name} for row in rows]
    return f"{table(named, '')}\n\nin {folder}"


def decide(shell: Shell, model: ModelArgument) -> None:
    """Judges what has matured since the last verdict: ok, warning, degraded or insufficient_data."""
    loop = shell.loop()
    verdict, result = loop.decide(model), None
    has_judged = verdict is not None and verdict.evidence["predictions"]
    because = "" if has_judged else loop.judging.why_not_judged(model)
    if verdict is not None:
        names = ("model", "version", "state", "summary", "window", "evidence")
        result = {name: getattr(verdict, name) for name in names}
    shell.emit(result, lambda verdict: _verdict_words(verdict, because))


def _verdict_words(verdict: dict[str, Any] | None, because: str) -> str:
    if verdict is None:
        return because
    return f"{verdict['state']}: {verdict['summary']} {because}".rstrip()


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    shown = {name: value for name, value in plain(evaluation).items() if name not in ("model", "evaluation_id")}
    return {**shown, "coverage": evaluation.coverage, "drifted_share": evaluation.drifted_share}


def _evaluation_words(rows: list[dict[str, Any]], past: Mapping[str, PastError]) -> str:
    drawn = table([_row(row) for row in rows], "No window is due.")
    notes = dict.fromkeys(f"NOTE: {note}" for row in rows for note in row["notes"])
    return "\n".join([*notes, drawn, *(_details(row, past) for row in rows)])


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "window": span(row["window"]),
        "version": row["version"] or "–",
        "predictions": f"{row['predictions']:,}",
        "coverage": share(row["coverage"]),
        "matured": "yes" if row["matured"] else "not yet",
        "revision": row["revision"],
        "drifted": share(row["drifted_share"], 0),
    }


def _details(row: dict[str, Any], past: Mapping[str, PastError]) -> str:
    """An evaluation's first metrics, what was estimated, is wrong with its data and does worst, in a line each."""
    values = {metric["metric"]: metric["value"] for metric in row["metrics"] if not metric["segment"]}
    overall = [f"{metric} {value:.4f}" for metric, value in values.items()]
    version = f", version {row['version']}" if row["version"] else ""
    lines = [f"{span(row['window'])}{version}: {', '.join(overall[:METRICS_SHOWN]) or 'no metrics'}"]
    drifted = [
        f"{column['column']} ({column['method']} {column['value']:.3g})"
        for column in row["drift"]
        if column["decides"] and column["drifted"]
    ]
    lines += [f"  drifted: {', '.join(drifted)}"] if drifted else []
    errors = {metric: plain(error) for metric, error in past.items()}
    estimates = [
        {**estimate, "realised": values.get(estimate["metric"]), "past": errors.get(estimate["metric"])}
        for estimate in row["estimates"]
    ]
    lines += [f"  {line}" for line in estimate_words(estimates)]
    failed = [f"{check['column'] or 'rows'}: {check['check']}" for check in row["quality"] if check["failed"]]
    lines += [f"  data quality: {', '.join(failed)}"] if failed else []
    lines += [
        f"  all features: {drift['method']} {drift['value']:.3f}{drift['binning'] and ', ' + drift['binning']}"
        for drift in row["drift"]
        if not drift["column"]
    ]
    lines += [
        f"  {part['segment']}: {part['metric']} {part['value']:.4f}, rest {part['rest']:.4f} ({part['rows']:,} rows)"
        for part in row["slices"]
    ]
    return "\n".join(lines)
