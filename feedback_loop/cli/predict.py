"""`feedback-loop predict`: batch inference over files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from feedback_loop.cli.options import Shell, VersionArgument


def predict(
    shell: Shell,
    model: VersionArgument,
    source: Annotated[Path, typer.Argument(help="A Parquet or CSV file with the features and the key's columns.")],
    target: Annotated[Path, typer.Argument(help="The file to write (.parquet or .csv): the same columns and ours.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target if it is there.")] = False,
) -> None:
    """Scores a file of any size and logs every prediction; run again after a crash, it goes on where it stopped."""
    shell.emit(shell.loop().predict_file(model, source, target, overwrite=overwrite), _words)


def _words(result: dict[str, Any]) -> str:
    resumed = f" ({result['resumed_rows']:,} of them before)" if result["resumed_rows"] else ""
    return (
        f"{result['rows']:,} rows scored by version {result['version']}{resumed}, {result['logged']:,} logged now: "
        f"{result['target']}"
    )
