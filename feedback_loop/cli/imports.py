"""`feedback-loop import`: what others predicted, brought into the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from feedback_loop.cli.options import ModelArgument, Shell, group
from feedback_loop.cli.outcomes import OnErrorOption, say_left_out

app = group("Import: what others predicted, brought into the log.")


@app.command("predictions")
def predictions(
    shell: Shell,
    model: ModelArgument,
    file: Annotated[
        Path | None,
        typer.Argument(help="Parquet or CSV: features, key, prediction and/or probabilities, predicted_at."),
    ] = None,
    sql: Annotated[str | None, typer.Option(help="A query with these columns, instead of a file.")] = None,
    url: Annotated[str | None, typer.Option(help="The database that is asked, as SQLAlchemy writes it.")] = None,
    version: Annotated[
        str | None, typer.Option(help="The version that answered, where no model_version says so; default: champion.")
    ] = None,
    on_error: OnErrorOption = "refuse",
) -> None:
    """Brings predictions that were made elsewhere into the log. Imported twice, they change nothing."""
    from feedback_loop.store.sql_source import Query

    if (file is None) == (sql is None) or (sql is None) != (url is None):
        raise typer.BadParameter("it takes a file, or --sql and --url: give the one or the other", param_hint="FILE")
    source = file if file is not None else Query(str(url), str(sql))
    loop = shell.loop()
    result = loop.import_predictions(model, source, version=version, on_error=on_error)
    say_left_out(shell, result.problems)
    shell.emit(result, _words)


def _words(result: dict[str, Any]) -> str:
    versions = " and ".join(result["versions"]) or "no version"
    erased = f"{result['erased']:,} of erased keys not stored, " if result["erased"] else ""
    unsampled = f"{result['unsampled']:,} not in the sample, " if result["unsampled"] else ""
    return (
        f"{result['rows']:,} predictions of version {versions}: {result['logged']:,} logged, "
        f"{result['known']:,} there already, {erased}{unsampled}{result['skipped']:,} left out."
    )
