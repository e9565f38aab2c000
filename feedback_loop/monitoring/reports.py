"""Evidently's reports of drift and of validation, as HTML for people and JSON for programs."""

from __future__ import annotations

import html
import json
import random
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window
from feedback_loop.config import keep_telemetry_off
from feedback_loop.errors import BadInput
from feedback_loop.monitoring.evaluation import labelled_only
from feedback_loop.monitoring.profiles import TIME, profiled_columns
from feedback_loop.schema import Contract, Task

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["drift", "validation"]

MODEL, SPANS = "model", "spans"
"""In a report's data: whose rows are in it, and when these were predicted."""

MOST_ROWS = 10_000
"""Evidently's time and memory grow with the rows: more than these are sampled, and the report says so."""

LEAST_ROWS = 10

STYLE = "font: 15px sans-serif; margin: 1em 2em; color: #444"


def write_report(
    kind: Kind,
    contract: Contract,
    reference: pa.Table,
    current: pa.Table,
    folder: Path,
    name: str,
    *,
    window: Window | None = None,
    seed: int = 0,
) -> list[Path]:
    """Writes `<name>-<kind>.html` and `.json` into the folder and returns both paths.

    `reference` and `current` are rows of the log (stored names), these of `window`; for validation only labelled ones
    count. Raises BadInput where either has fewer than ten.
    """
    if kind == "validation":
        reference, current = labelled_only(contract, reference), labelled_only(contract, current)
    for what, rows in (("reference", reference), ("current window", current)):
        if rows.num_rows < LEAST_ROWS:
            raise BadInput.of(what, f"{rows.num_rows} rows are too few for a {kind} report; {LEAST_ROWS} are needed")
    # What Evidently warns of (its own deprecated imports, divisions by zero in a metric) is nothing a user can mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snapshot = _run(kind, contract, reference, current, seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}-{kind}.html", folder / f"{name}-{kind}.json"]
    said = _said(kind, contract, reference, current, name)
    page = snapshot.get_html_str(as_iframe=False)
    paths[0].write_text(page.replace("<body>", f"<body>\n<p style='{STYLE}'>{html.escape(said)}</p>", 1))
    held = {MODEL: contract.model, SPANS: _spans(window, reference)} if window is not None else {}
    paths[1].write_text(json.dumps({**json.loads(snapshot.json()), "about": said, **held}))
    return paths


def pages_holding(folder: Path, model: str, moments: Sequence[datetime]) -> list[Path]:
    """The data files of reports that may hold a row predicted at one of these moments.

    A report may show single values of the rows that it is of. One that does not say of when it is may hold any.
    """
    return [path for path in sorted(folder.glob("*-*.json")) if moments and _holds(path, model, moments)]


def _holds(path: Path, model: str, moments: Sequence[datetime]) -> bool:
    page = json.loads(path.read_text())
    if SPANS not in page:
        return str(page.get("about", "")).startswith(f"{model}, ")
    spans = [tuple(datetime.fromisoformat(end) for end in span) for span in page[SPANS]]
    return page[MODEL] == model and any(first <= moment <= last for moment in moments for first, last in spans)


def _spans(window: Window, reference: pa.Table) -> list[tuple[str, str]]:
    """From when to when the rows of a report were predicted, those of the reference apart."""
    spans = [(window.start, window.end)]
    if TIME in reference.column_names and reference.num_rows:
        ends = pc.min_max(reference.column(TIME)).as_py()
        spans.append((ends["min"], ends["max"]))
    return [(start.isoformat(), end.isoformat()) for start, end in spans]


def _run(kind: Kind, contract: Contract, reference: pa.Table, current: pa.Table, seed: int) -> Any:
    keep_telemetry_off()
    from evidently import Dataset, Report
    from evidently.presets import ClassificationPreset, DataDriftPreset, RegressionPreset

    definition = _definition(kind, contract)
    sets = [
        Dataset.from_pandas(_frame(kind, contract, _sampled(rows, seed)), definition) for rows in (current, reference)
    ]
    preset: Any = DataDriftPreset()
    if kind == "validation":
        preset = ClassificationPreset() if contract.task.is_classification else RegressionPreset()
    return Report([preset]).run(*sets)


def _said(kind: Kind, contract: Contract, reference: pa.Table, current: pa.Table, name: str) -> str:
    """What every page says at its top: of what it is, and whether it is of all rows."""
    said = (
        f"{contract.model}, {name}, {kind}: {current.num_rows:,} rows against a reference of {reference.num_rows:,}."
    )
    if max(current.num_rows, reference.num_rows) > MOST_ROWS:
        said += f" Shown is a random sample of at most {MOST_ROWS:,} rows of each."
    return said


def _definition(kind: Kind, contract: Contract) -> Any:
    from evidently import BinaryClassification, DataDefinition, MulticlassClassification, Regression

    if kind == "drift":
        columns = profiled_columns(contract)
        return DataDefinition(
            numerical_columns=[column.stored for column in columns if column.type.is_numeric],
            categorical_columns=[column.stored for column in columns if not column.type.is_numeric],
        )
    target, prediction = contract.label.stored, contract.outputs[0].stored
    if contract.task is Task.REGRESSION:
        return DataDefinition(
            numerical_columns=[target, prediction], regression=[Regression(target=target, prediction=prediction)]
        )
    labels = {"target": target, "prediction_labels": prediction}
    numbers = [column.stored for column in contract.probabilities]
    if contract.task is Task.BINARY:
        positive = {"pos_label": str(contract.positive)}
        probability = {"prediction_probas": numbers[0]} if numbers else {}
        return DataDefinition(
            numerical_columns=numbers,
            categorical_columns=[target, prediction],
            classification=[BinaryClassification(**labels, **probability, **positive)],
        )
    # Evidently looks a class's probability up in the column that is called like the class.
    classes = {"prediction_probas": [str(label) for label in contract.classes]} if numbers else {}
    return DataDefinition(
        numerical_columns=[str(label) for label in contract.classes] if numbers else [],
        categorical_columns=[target, prediction],
        classification=[MulticlassClassification(**labels, **classes)],
    )


def _frame(kind: Kind, contract: Contract, rows: pa.Table) -> pd.DataFrame:
    if kind == "drift":
        columns = profiled_columns(contract)
        frame = rows.select([column.stored for column in columns]).to_pandas()
        words = [column.stored for column in columns if not column.type.is_numeric]
        return frame.astype(dict.fromkeys(words, "object")).assign(
            **{
                name: frame[name].astype("object").where(frame[name].notna(), "(missing)").astype(str)
                for name in words
            }
        )
    kept = [contract.label.stored, *(column.stored for column in contract.outputs)]
    frame = rows.select(kept).to_pandas()
    if not contract.task.is_classification:
        return frame
    classes = {name: frame[name].astype(str).astype("object") for name in kept[:2]}
    frame = frame.assign(**classes)
    if contract.task is Task.MULTICLASS:
        named = zip(contract.probabilities, contract.classes, strict=True) if contract.probabilities else ()
        frame = frame.rename(columns={column.stored: str(label) for column, label in named})
    return frame


def _sampled(rows: pa.Table, seed: int) -> pa.Table:
    if rows.num_rows <= MOST_ROWS:
        return rows
    return rows.take(sorted(random.Random(seed).sample(range(rows.num_rows), MOST_ROWS)))  # noqa: S311 (no secret)


def report_names(folder: Path) -> Sequence[Path]:
    """The reports that lie in a folder, oldest first."""
    return sorted(folder.glob("*.html"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
