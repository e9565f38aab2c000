"""`feedback-loop outcomes`: what really happened, brought in."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from feedback_loop.cli.options import ModelArgument, Shell, group
from feedback_loop.cli.output import say, table
from feedback_loop.errors import BadInput, RowError
from feedback_loop.safe_text import as_text

if TYPE_CHECKING:
    from feedback_loop.loop.outcomes import Outcomes
    from feedback_loop.outcomes import OnError

app = group("Outcomes: what really happened.")
actions_app = group("Actions: what the callers did with the answers.")


OnErrorOption = Annotated[
    Literal["refuse", "skip"], typer.Option(help="What a bad row does: all are refused, or it is left out.")
]


FormatOption = Annotated[
    Literal["parquet", "csv", "ndjson", "arrow"] | None, typer.Option("--format", help="Of standard input.")
]


@app.command("load")
def load(
    shell: Shell,
    model: ModelArgument,
    file: Annotated[
        Path,
        typer.Argument(help="Parquet, CSV, NDJSON or Arrow, or - : prediction_id or the key, the label."),
    ],
    on_error: OnErrorOption = "refuse",
    kind: FormatOption = None,
) -> None:
    """Takes a file of outcomes in. Loaded twice, it changes nothing; another value is a correction."""
    _load(shell, shell.loop().outcomes, model, file, on_error, kind)


@actions_app.command("load")
def load_actions(
    shell: Shell,
    model: ModelArgument,
    file: Annotated[
        Path,
        typer.Argument(help="Parquet, CSV, NDJSON or Arrow, or - : prediction_id or the key, acted, propensity."),
    ],
    on_error: OnErrorOption = "refuse",
    kind: FormatOption = None,
) -> None:
    """Takes a file of actions in: rows that were acted on, unless `acted` says no. Another value is a correction."""
    _load(shell, shell.loop().actions, model, file, on_error, kind)


def _load(shell: Shell, reports: Outcomes, model: str, file: Path, on_error: OnError, kind: str | None) -> None:
    if str(file) == "-":
        if kind is None:
            raise BadInput.of("format", "is missing", cure="Say what standard input holds: --format csv.")
        result = reports.load_stream(model, sys.stdin.buffer, kind, "standard input", on_error=on_error)
    else:
        result = reports.load(model, file, on_error=on_error)
    say_left_out(shell, result.skipped)
    said = partial(_words, what="actions" if reports.are_actions else "outcomes")
    shell.emit({**vars(result.counts), "skipped": result.skipped}, said)


def say_left_out(shell: Shell, problems: Iterable[RowError]) -> None:
    """Tells people which rows were not taken, on standard error."""
    for problem in problems if not shell.as_json else ():
        say(as_text(f"left out: {problem}"), to=sys.stderr)


@app.command("poll")
def poll(shell: Shell, model: ModelArgument) -> None:
    """Takes in now what lies in the model's folder and what its SQL source has that is new."""
    from feedback_loop.cycle import take_in

    shell.emit(take_in(shell.loop(), model), _poll_words)


def _poll_words(done: dict[str, Any]) -> str:
    lines = [f"{name}: {_words({**result['counts'], 'skipped': []})}" for name, result in done.items() if result]
    if done["folder"] and done["folder"]["waiting"]:
        lines.append(f"folder: {done['folder']['waiting']:,} files wait: {done['folder']['cause']}")
    lines += [f"refused {file}: {cause}" for file, cause in (done["folder"] or {}).get("refused", {}).items()]
    if done["sql"] and done["sql"]["bad_rows"]:
        first = "; ".join(str(RowError(**problem)) for problem in done["sql"]["problems"])
        lines.append(f"sql: {done['sql']['bad_rows']:,} bad rows were left out, first: {first}")
    return "\n".join(lines) or "Neither outcomes.folder nor outcomes.sql is configured."


@app.command("coverage")
def coverage(
    shell: Shell,
    model: ModelArgument,
    by: Annotated[Literal["age", "version", "segment"], typer.Option(help="Break it down by this.")] = "age",
) -> None:
    """Shows how many of the champion's predictions have an outcome (█), or a label for having none (░)."""
    groups = shell.loop().outcomes.coverage(model, by)
    rows = [{**vars(group), "labelled": group.labelled, "coverage": group.share} for group in groups]
    shell.emit(rows, lambda rows: table([_bar(row) for row in rows], "Nothing was predicted yet."))


@app.command("findings")
def findings(
    shell: Shell,
    model: ModelArgument,
    kind: Annotated[Literal["unmatched", "conflict"], typer.Option(help="Which of them.")] = "unmatched",
    most: Annotated[int, typer.Option(min=1, help="So many at the most, oldest first.")] = 100,
) -> None:
    """Lists outcomes that fit no prediction (they may be early), or predictions whose outcomes conflict."""
    rows = shell.loop().outcomes.findings(model, kind, most)
    shell.emit(rows, lambda rows: table(rows, _NO_FINDINGS[kind]))


_NO_FINDINGS = {
    "unmatched": "There is no outcome that fits no prediction.",
    "conflict": "There is no prediction whose outcomes conflict.",
}


def _bar(row: dict[str, Any]) -> dict[str, Any]:
    observed = round(20 * row["observed"] / max(row["eligible"], 1))
    drawn = "█" * observed + "░" * (round(20 * row["coverage"]) - observed)
    counts = {name: f"{row[name]:,}" for name in ("predictions", "eligible", "observed", "inferred", "labelled")}
    if row["eligible"] == row["predictions"]:
        del counts["eligible"]
    return {"group": row["group"], **counts, "coverage": f"{row['coverage']:7.2%} {drawn}"}


def _words(result: dict[str, Any], what: str = "outcomes") -> str:
    erased = f", {result['erased']:,} of erased keys not stored" if result["erased"] else ""
    skipped = f", {len(result['skipped']):,} left out" if result["skipped"] else ""
    return (
        f"{result['received']:,} {what}: {result['new']:,} new, {result['corrected']:,} corrected, "
        f"{result['unchanged']:,} unchanged, {result['unmatched']:,} without a prediction yet{erased}{skipped}."
    )
