"""`feedback-loop evaluate`, `report`, `decide`: how the model does, shown and judged."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from feedback_loop.cli.output import (
    ModelArgument,
    Shell,
    estimate_words,
    table,
)
from feedback_loop.clock import Window, format_moment, parse_moment
from feedback_loop.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feedback_loop.monitoring import PastError, ReportFile
    from feedback_loop.store.evaluations import Evaluation

METRICS_TOLD = 4
"""The rest of them is in `--json`."""

WindowOption = Annotated[
    str | None, typer.Option("--window", help="A month (2026-05), a day (2026-05-03), or START/END (ISO 8601).")
]
FromOption = Annotated[str | None, typer.Option("--from", help="Start of the window, ISO 8601 (UTC if bare).")]
ToOption = Annotated[str | None, typer.Option("--to", help="End of the window (not part of it).")]


def evaluate(
    shell: Shell,
    model: ModelArgument,
    within: WindowOption = None,
    start: FromOption = None,
    end: ToOption = None,
    as_of: Annotated[str | None, typer.Option(help="With what was known at this moment; default: now.")] = None,
    audit: Annotated[bool, typer.Option(help="Read every row again instead of what is kept of each hour.")] = False,
    multivariate: Annotated[bool, typer.Option(help="Also look at all features together (reads rows).")] = False,
    slices: Annotated[bool, typer.Option(help="Also find where a matured window does worst (reads rows).")] = False,
) -> None:
    """Computes validation, coverage and drift of a window (default: of every window that is due)."""
    window = window_of(within, start, end)
    moment = parse_moment(as_of) if as_of else None
    loop = shell.loop()
    found = loop.evaluate(model, window, moment, from_log=audit, multivariate=multivariate, slices=slices)
    rows = [_evaluation(each) for each in found]
    # What was estimated before, or is still missing, is no part of an evaluation, which stays what it is: only words
    # tell it.
    missing = loop.judging.missing_reference(model) if not shell.as_json else None
    first = f"NOT JUDGED: {missing.words} {missing.cure}\n" if missing is not None else ""
    shell.emit(rows, lambda rows: first + _evaluation_words(rows, loop.judging.past_errors(model)))


def report(
    shell: Shell,
    model: ModelArgument,
    within: WindowOption = None,
    start: FromOption = None,
    end: ToOption = None,
    sample: Annotated[int | None, typer.Option(help="Draw so many rows of each side, not surrogates.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Draw all rows: time and memory grow with them.")] = False,
    as_of: Annotated[str | None, typer.Option(help="With what was known at this moment; default: now.")] = None,
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
        found = [_listed(each) for each in list_reports(loop.reports) if each.model == model]
        shell.emit(found, lambda rows: _listed_words(rows, model_folder(loop.reports, model)))
        return
    if full and sample is not None:
        raise BadInput.of("rows", "can't be both a sample and all", cure="Give --sample or --full.")
    window = window_of(within, start, end)
    if window is None:
        raise BadInput.of("window", "is missing", cure="Give --window, or --from and --to.")
    name = within
    if name is None or "/" in name:
        name = f"{format_moment(window.start)}_{format_moment(window.end)}".replace(":", "")
    chosen: Literal["surrogate", "full"] = "full" if full else "surrogate"
    moment = parse_moment(as_of) if as_of else None
    made = loop.report(model, window, name, rows=chosen if sample is None else sample, as_of=moment)
    paths = [str(path) for path in made]
    shell.emit(paths, "\n".join)


def _listed(each: ReportFile) -> dict[str, Any]:
    return {
        "model": each.model,
        "version": each.version,
        "window": " – ".join(each.window),
        "kind": each.kind,
        "rows": each.rows,
        "reference": each.reference_rows,
        "drawn of": each.shown,
        "as of": each.as_of,
        "page": str(each.path),
    }


def _listed_words(rows: list[dict[str, Any]], folder: Path) -> str:
    """The same as a table, with the pages by their names: a path that is folded can't be copied."""
    if not rows:
        return "There are no reports yet."
    short = ("window", "kind", "rows", "drawn of")
    named = [{name: row[name] for name in short} | {"page": Path(row["page"]).name} for row in rows]
    return f"{table(named, '')}\n\nin {folder}"


def decide(shell: Shell, model: ModelArgument) -> None:
    """Judges what has matured since the last verdict: ok, warning, degraded or insufficient_data."""
    loop = shell.loop()
    verdict, plain = loop.decide(model), None
    has_judged = verdict is not None and verdict.evidence["predictions"]
    because = "" if has_judged else loop.judging.why_not_judged(model)
    if verdict is not None:
        plain = {
            "model": verdict.model,
            "version": verdict.version,
            "state": str(verdict.state),
            "summary": verdict.summary,
            "window": [format_moment(verdict.window.start), format_moment(verdict.window.end)],
            "evidence": verdict.evidence,
        }
    shell.emit(plain, lambda plain: _verdict_words(plain, because))


def _verdict_words(verdict: dict[str, Any] | None, because: str) -> str:
    if verdict is None:
        return because
    return f"{verdict['state']}: {verdict['summary']} {because}".rstrip()


def _evaluation(found: Evaluation) -> dict[str, Any]:
    return {
        "window": [format_moment(found.window.start), format_moment(found.window.end)],
        "as_of": format_moment(found.as_of),
        "version": found.version,
        "revision": found.revision,
        "matured": found.matured,
        "notes": list(found.notes),
        "predictions": found.predictions,
        "labelled": found.labelled,
        "coverage": found.coverage,
        "metrics": [vars(each) for each in found.metrics],
        "drift": [vars(each) for each in found.drift],
        "quality": [vars(each) for each in found.quality],
        "estimates": [vars(each) for each in found.estimates],
        "slices": [vars(each) for each in found.slices],
        "drifted_share": found.drifted_share,
    }


def _evaluation_words(rows: list[dict[str, Any]], past: Mapping[str, PastError]) -> str:
    drawn = table([_short(row) for row in rows], "No window is due.")
    notes = dict.fromkeys(f"NOTE: {note}" for row in rows for note in row["notes"])
    return "\n".join([*notes, drawn, *(_told(row, past) for row in rows)])


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "window": " – ".join(row["window"]),
        "version": row["version"] or "–",
        "predictions": f"{row['predictions']:,}",
        "coverage": "–" if row["coverage"] is None else f"{row['coverage']:.1%}",
        "matured": "yes" if row["matured"] else "not yet",
        "revision": row["revision"],
        "drifted": "–" if row["drifted_share"] is None else f"{row['drifted_share']:.0%}",
    }


def _told(row: dict[str, Any], past: Mapping[str, PastError]) -> str:
    """An evaluation's first metrics, what was estimated, is wrong with its data and does worst, in a line each."""
    values = {each["metric"]: each["value"] for each in row["metrics"] if not each["segment"]}
    overall = [f"{metric} {value:.4f}" for metric, value in values.items()]
    errors = {metric: vars(error) for metric, error in past.items()}
    estimated = estimate_words(
        [
            {**each, "realised": values.get(each["metric"]), "past": errors.get(each["metric"])}
            for each in row["estimates"]
        ]
    )
    failed = [f"{each['column'] or 'rows'}: {each['check']}" for each in row["quality"] if each["failed"]]
    which = f"{' – '.join(row['window'])}" + (f", version {row['version']}" if row["version"] else "")
    lines = [f"{which}: {', '.join(overall[:METRICS_TOLD]) or 'no metrics'}"]
    drifted = [
        f"{each['column']} ({each['method']} {each['value']:.3g})"
        for each in row["drift"]
        if each["decides"] and each["drifted"]
    ]
    lines += [f"  drifted: {', '.join(drifted)}"] if drifted else []
    lines += [f"  {line}" for line in estimated]
    lines += [f"  data quality: {', '.join(failed)}"] if failed else []
    lines += [
        f"  all features: {each['method']} {each['value']:.3f}{each['binning'] and ', ' + each['binning']}"
        for each in row["drift"]
        if not each["column"]
    ]
    lines += [
        f"  {each['segment']}: {each['metric']} {each['value']:.4f}, rest {each['rest']:.4f} ({each['rows']:,} rows)"
        for each in row["slices"]
    ]
    return "\n".join(lines)


def window_of(within: str | None, start: str | None, end: str | None) -> Window | None:
    """The window that the options name, if any: as one text, or by its ends."""
    if within is not None:
        if start is not None or end is not None:
            raise BadInput.of("window", "is given twice", cure="Give --window, or --from and --to.")
        if "/" not in within:
            return _calendar(within)
        start, _, end = within.partition("/")
    if (start is None) != (end is None):
        raise BadInput.of("window", "has only one end", cure="Give both --from and --to, or neither.")
    return Window(parse_moment(start), parse_moment(end)) if start is not None and end is not None else None


def _calendar(text: str) -> Window:
    """A month, or a day."""
    if text.count("-") > 1:
        start = parse_moment(text)
        return Window(start, start + timedelta(days=1))
    start = parse_moment(f"{text}-01")
    following = (start.year + start.month // 12, start.month % 12 + 1)
    return Window(start, start.replace(year=following[0], month=following[1]))
