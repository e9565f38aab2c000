"""What the demo showed, in figures: the loop beside doing nothing and beside a calendar."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feedback_loop.monitoring.losses import CLIP

Floats = npt.NDArray[np.float64]


def binary_losses(truth: npt.NDArray[np.bool_], probabilities: Any) -> dict[str, Floats]:
    """Log loss and Brier score of each row, of probabilities that it is true."""
    chances = np.asarray(probabilities, dtype=np.float64)
    clipped = np.clip(chances, CLIP, 1 - CLIP)
    return {"log_loss": -np.log(np.where(truth, clipped, 1 - clipped)), "brier": (chances - truth) ** 2}


def count_rows(database: Path, table: str) -> int:
    """Counts rows with plain SQL, past all our code."""
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0])  # noqa: S608 (our own name)


def closing_words(result: Mapping[str, Any], folder: Path) -> str:
    """The result for people: the table, the accounts, where things are, what to type next."""
    head = f"{'':22}{'log loss':>9}{'change':>9}{'Brier':>9}{'retrainings':>13}{'promotions':>12}"
    lines = [head]
    for row in result["strategies"]:
        change = f"{row['log_loss_change']:+.1%}" if row["log_loss_change"] else "–"
        figures = f"{row['log_loss']:9.4f}{change:>9}{row['brier']:9.4f}{row['retrainings']:13}{row['promotions']:12}"
        lines.append(f"{row['strategy']:22}{figures}")
    equal = "=" if result["logged"] == result["answered"] == result["flights"] else "≠"
    answered, logged = f"{result['answered']:,}", f"{result['logged']:,}"
    lines += [
        "",
        f"flights with a schedule  {result['flights']:,} {equal} answered {answered} {equal} rows logged {logged}",
        f"of these over HTTP       {result['answered_over_http']:,}",
        f"with an outcome          {result['labelled']:,} ({result['coverage']:.2%}; the rest never arrived)",
        f"incidents                {result['incidents']}",
        f"wall time                {result['seconds']:.0f} s",
        "",
        f"plot of the daily loss   {folder}/loss.png, {folder}/loss.html",
        f"reports                  {folder}/reports/ ({result['reports']} pages)",
        "",
        "Next:",
        f"  feedback-loop status --config {folder}/feedback_loop.toml",
        f"  feedback-loop models history flights --config {folder}/feedback_loop.toml",
        f"  feedback-loop dashboard --config {folder}/feedback_loop.toml",
        f"  mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db",
        f"  feedback-loop serve flights --config {folder}/feedback_loop.toml",
        "  feedback-loop init --help        (your own model)",
    ]
    return "\n".join(lines)
