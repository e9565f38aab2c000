"""Evidently's reports of drift and of validation: HTML for people, JSON for programs, a snapshot for its own UI."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.config import keep_telemetry_off
from feedback_loop.errors import BadInput
from feedback_loop.monitoring.arrays import Floats, floats
from feedback_loop.monitoring.curves import Curves, curves
from feedback_loop.monitoring.evaluation import labelled_only
from feedback_loop.monitoring.judging import thinned
from feedback_loop.monitoring.profiles.layout import profiled_columns
from feedback_loop.monitoring.reports.files import model_folder
from feedback_loop.monitoring.reports.subject import LEAST_REPORT_ROWS, Kind, RowSource, Subject, about
from feedback_loop.monitoring.surrogates import Words, drift_columns, labelled_columns
from feedback_loop.plain import plain
from feedback_loop.private import private_files
from feedback_loop.schema import Contract, Task, shown_names

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, Floats | Words]
"""Columns of one side by stored name: numbers (NaN: none) or words (None: none)."""

MOST_COLUMNS = 30
"""So many columns, those that are farthest from the reference, are drawn on a page: each takes 60 kB of it."""


@dataclass(frozen=True)
class RealRows:
    """Rows of the log (stored names) to be drawn in the place of surrogates: of the window, and of the reference."""

    current: pa.Table
    reference: pa.Table
    shown: RowSource


def write_report(kind: Kind, subject: Subject, folder: Path, real: RealRows | None = None) -> list[Path]:
    """Writes `<model>/<name>-<kind>.html` and `.json` (it returns their paths) and a snapshot for Evidently's UI.

    What is drawn is of surrogates, or of `real` rows; the exact figures are of all. Raises BadInput where the window
    or the reference has fewer than ten rows (for validation: labelled ones), or no column has values on both sides.
    """
    check_enough(kind, subject)
    keep_telemetry_off()
    sides = _sides(kind, subject, real)
    sizes = _rows(sides[0]), _rows(sides[1]) if len(sides) > 1 else 0
    drawn = sizes if _can_be_drawn(kind, subject.contract, sides) else (0, 0)
    about_report = about(kind, subject, real.shown if real is not None else "surrogate", drawn)
    class_curves = curves(subject.of(kind)) if kind == "validation" else {}
    # Evidently warns of its own deprecated imports and of divisions by zero in its metrics: no user can mend those.
    with warnings.catch_warnings(), np.errstate(all="ignore"), _drawn_once(), private_files():
        warnings.simplefilter("ignore")
        snapshot = _run(kind, subject, sides, about_report, class_curves, is_real=real is not None)
        pages = model_folder(folder, subject.contract.model)
        pages.mkdir(parents=True, exist_ok=True)
        paths = [pages / f"{subject.name}-{kind}.{ending}" for ending in ("html", "json")]
        paths[0].write_text(_escaped(snapshot.get_html_str(as_iframe=False)))
        snapshot_path = os.path.relpath(_keep(folder, snapshot, about_report), pages)
    evaluation = subject.evaluation
    exact: dict[str, Sequence[Any]] = {"metrics": evaluation.metrics}
    if kind == "drift":
        exact = {"drift": evaluation.drift, "quality": evaluation.quality}
    explored = {} if kind == "drift" or subject.exploration is None else {"exploration": plain(subject.exploration)}
    data = {
        **about_report,
        **explored,
        "snapshot": snapshot_path,
        "exact": {name: [asdict(value) for value in values] for name, values in exact.items()},
        "curves": {name: asdict(of_class) for name, of_class in class_curves.items()},
        **json.loads(snapshot.json()),
    }
    with private_files():
        paths[1].write_text(json.dumps(_finite(data), allow_nan=False))
    return paths


def check_enough(kind: Kind, subject: Subject) -> None:
    """Raises BadInput where a report of that kind has too few rows."""
    for what, rows in zip(("current window", "reference"), subject.rows(kind), strict=True):
        if rows < LEAST_REPORT_ROWS and not (what == "reference" and subject.reference is None):
            raise BadInput.of(what, f"{rows} rows are too few for a {kind} report; {LEAST_REPORT_ROWS} are needed")


def _sides(kind: Kind, subject: Subject, real: RealRows | None) -> tuple[Columns, ...]:
    """What is drawn, of the window and of the reference, if there is one: columns that both have."""
    profiles = [subject.of(kind), *([subject.reference] if subject.reference is not None else [])]
    if real is not None:
        tables = [real.current, real.reference][: len(profiles)]
        sides = [_real_columns(kind, subject.contract, table) for table in tables]
    else:
        make = drift_columns if kind == "drift" else labelled_columns
        sides = [make(profile, profiles[-1]) for profile in profiles]
    names = [name for name in sides[-1] if name in sides[0]]
    if kind == "drift":
        names = _farthest(subject, [name for name in names if all(_has_values(side[name]) for side in sides)])
    elif subject.contract.task is Task.MULTICLASS:
        label, classes = subject.contract.label.stored, {str(name) for name in subject.contract.classes}
        if any(set(side[label]) != classes for side in sides):
            # Evidently draws probabilities only where outcomes are of each of their classes, and of no other.
            names = names[:2]
    if not names:
        raise BadInput.of("columns", "have no values that the window and the reference both have")
    cleaned = _plain if kind == "drift" else _unchanged  # Evidently looks classes up by their name
    return tuple({name: cleaned(side[name]) for name in names} for side in sides)


def _unchanged(column: Floats | Words) -> Floats | Words:
    return column


def _plain(column: Floats | Words) -> Floats | Words:
    """Words without markup, such as links, that Plotly would render: callers may send any text."""
    words = {word for word in column.tolist() if word and "<" in word} if column.dtype == object else set()
    if not words:
        return column
    plain = {word: _TAG.sub("\u2039\\1\u203a", word) for word in words}
    return np.array([plain.get(word, word) for word in column.tolist()], object)


_TAG = re.compile("<([^<>]*)>")


def _farthest(subject: Subject, names: list[str]) -> list[str]:
    far = {value.column: value.value / value.threshold for value in subject.evaluation.drift if value.decides}
    names_of = _names(subject.contract)
    farthest = sorted(names, key=lambda name: -far.get(names_of[name], 0.0))[:MOST_COLUMNS]
    return [name for name in names if name in farthest]


def _real_columns(kind: Kind, contract: Contract, rows: pa.Table) -> Columns:
    if kind == "drift":
        columns = [column for column in profiled_columns(contract) if column.stored in rows.column_names]
        return {
            column.stored: _numbers(rows.column(column.stored))
            if column.type.is_numeric
            else _texts(rows.column(column.stored))
            for column in columns
        }
    rows = labelled_only(contract, thinned(contract, rows))
    label, answer = contract.label.stored, contract.outputs[0].stored
    if contract.task is Task.REGRESSION:
        return {name: _numbers(rows.column(name)) for name in (label, answer)}
    named = {
        name: np.array([str(value) for value in rows.column(name).to_pylist()], object) for name in (label, answer)
    }
    return {
        **named,
        **{probability.stored: floats(rows.column(probability.stored)) for probability in contract.probabilities},
    }


def _numbers(values: pa.ChunkedArray) -> Floats:
    numbers = floats(values)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _texts(values: pa.ChunkedArray) -> Words:
    words: Words = pc.cast(values, pa.string()).to_numpy().astype(object)
    return words


def _has_values(column: Floats | Words) -> bool:
    return any(value is not None and value == value for value in column.tolist())  # noqa: PLR0124 (NaN differs from itself)


def _can_be_drawn(kind: Kind, contract: Contract, sides: tuple[Columns, ...]) -> bool:
    """Evidently has no curves, and raises an error, where outcomes are of one class only, or of no known one."""
    if kind == "drift" or not contract.task.is_classification:
        return True
    if not contract.classes and contract.positive is None:
        return False
    return all(len(set(side[contract.label.stored])) > 1 for side in sides)


def _labels(contract: Contract, side: Columns) -> frozenset[str]:
    return frozenset([*side[contract.label.stored], *side[contract.outputs[0].stored]])


def _rows(side: Columns) -> int:
    return len(next(iter(side.values())))


def _run(
    kind: Kind,
    subject: Subject,
    sides: tuple[Columns, ...],
    about_report: Mapping[str, Any],
    class_curves: Mapping[str, Curves],
    *,
    is_real: bool,
) -> Any:
    from evidently import Dataset, Report
    from evidently.presets import ClassificationPreset, DataSummaryPreset, RegressionPreset
    from evidently.presets.classification import ClassificationQuality

    from feedback_loop.monitoring.reports.exact_figures import ColumnDrift, exact_figures

    definition = _definition(kind, subject.contract, sides[0])
    sets = [Dataset.from_pandas(_frame(kind, subject.contract, side), definition) for side in sides]
    if kind == "drift":
        # Surrogates have distances, but no p-values: their number of rows is made up.
        methods = {} if is_real else {"num_method": "wasserstein", "cat_method": "jensenshannon"}
        presets: list[Any] = [*([ColumnDrift(**methods)] if len(sets) > 1 else []), DataSummaryPreset()]
    elif subject.contract.task.is_classification and len({_labels(subject.contract, side) for side in sides}) > 1:
        presets = [ClassificationQuality(conf_matrix=True)]  # all that Evidently has for classes that one side lacks
    elif subject.contract.task.is_classification:
        presets = [ClassificationPreset(probas_threshold=_threshold(subject.contract, sides))]
    else:
        presets = [RegressionPreset()]
    presets = presets if any(about_report["drawn"]) else []
    report = Report([exact_figures(kind, subject, about_report["about"], class_curves), *presets])
    return report.run(
        *sets,
        timestamp=subject.evaluation.window.end,
        name=f"{subject.name} {kind}",
        tags=[kind, f"version {about_report['version']}", about_report["shown"]],
        metadata={name: str(about_report[name]) for name in ("model", "version", "as_of", "rows", "reference_rows")},
    )


def _threshold(contract: Contract, sides: tuple[Columns, ...]) -> float | None:
    """From which probability on a binary model answers with the positive class; None where there are none.

    Evidently ignores the answers. Where they follow from no threshold, this is the one that gives as many positives.
    """
    probability = next(
        (probability.stored for probability in contract.probabilities if probability.stored in sides[0]), None
    )
    if contract.task is not Task.BINARY or probability is None:
        return None
    answers, scores = (
        np.concatenate([side[name] for side in sides]) for name in (contract.outputs[0].stored, probability)
    )
    ordered = np.concatenate([[0.0], np.sort(scores), [1.0]])
    negative = int((answers != str(contract.positive)).sum())
    return float(ordered[negative : negative + 2].mean())


def _definition(kind: Kind, contract: Contract, side: Columns) -> Any:
    from evidently import BinaryClassification, DataDefinition, MulticlassClassification, Regression

    shown = _names(contract)
    if kind == "drift":
        words = [shown[name] for name, column in side.items() if column.dtype == object]
        numbers = [shown[name] for name, column in side.items() if column.dtype != object]
        return DataDefinition(numerical_columns=numbers, categorical_columns=words)
    target, prediction = shown[contract.label.stored], shown[contract.outputs[0].stored]
    if contract.task is Task.REGRESSION:
        return DataDefinition(
            numerical_columns=[target, prediction], regression=[Regression(target=target, prediction=prediction)]
        )
    labels = {"target": target, "prediction_labels": prediction}
    numbers = [shown[name] for name in side if shown[name] not in labels.values()]
    if contract.task is Task.BINARY:
        positive = {"pos_label": str(contract.positive)}
        probability = {"prediction_probas": numbers[0]} if numbers else {}
        return DataDefinition(
            numerical_columns=numbers,
            categorical_columns=[target, prediction],
            classification=[BinaryClassification(**labels, **probability, **positive)],
        )
    # Evidently looks a class's probability up in the column that is called like the class.
    classes = [str(label) for label in contract.classes[: len(numbers)]]
    return DataDefinition(
        numerical_columns=classes,
        categorical_columns=[target, prediction],
        classification=[MulticlassClassification(**labels, **({"prediction_probas": classes} if classes else {}))],
    )


def _frame(kind: Kind, contract: Contract, side: Columns) -> pd.DataFrame:
    import pandas as pd

    names = _names(contract)
    if kind == "validation" and contract.task is Task.MULTICLASS:
        named = zip(contract.probabilities, contract.classes, strict=False)
        names |= {column.stored: str(label) for column, label in named}
    return pd.DataFrame({names[name]: column for name, column in side.items()})


def _names(contract: Contract) -> dict[str, str]:
    """The model's names of columns by those in the tables."""
    return shown_names((*contract.outputs, *contract.labels, *contract.features))


_drawing = threading.Lock()


@contextmanager
def _drawn_once() -> Iterator[None]:
    """Evidently 0.7 draws the same distribution of a column for seven of its figures: here it does so once.

    That is a third of a report's time; garbage collection, off meanwhile, is another fifth. The function is put back
    when the report is made.
    """
    from evidently.metrics import column_statistics

    draw: Callable[..., list[Any]] = column_statistics.distribution
    drawn: dict[str, list[Any]] = {}

    def remembered(title: str, current: Any, reference: Any) -> list[Any]:
        name = str(current.data.name)
        if name not in drawn:
            drawn[name] = draw(title, current, reference)
        return [widget.copy(update={"title": title}) for widget in drawn[name]]

    with _drawing:
        collects = gc.isenabled()
        column_statistics.distribution = remembered
        gc.disable()
        try:
            yield
        finally:
            column_statistics.distribution = draw
            if collects:
                gc.enable()


def _escaped(page: str) -> str:
    """A page of Evidently's with every `<` of its data escaped, so that no value can end the script around it.

    Evidently writes values unescaped. They lie between the random name that it gives the page's data and the end of
    the script, which is before the next place of that name; no caller knows the name.
    """
    start = re.search(r"<script>\s+var (metric_[0-9a-f]{32}) = ", page)
    if start is None:
        raise RuntimeError("Evidently's page is not as it was: its data can't be told from its markup")
    end = page.rindex("</script>", start.end(), page.index(f'<div id="root_{start[1]}">'))
    return page[: start.end()] + page[start.end() : end].replace("<", "\\u003c") + page[end:]


def _keep(folder: Path, snapshot: Any, about_report: Mapping[str, Any]) -> Path:
    """Puts the snapshot into Evidently's workspace; returns where."""
    from feedback_loop.monitoring.reports.workspace import keep

    return keep(folder / WORKSPACE, snapshot, about_report)


WORKSPACE = "evidently"
"""The folder beside the reports that `evidently ui --workspace` shows."""


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
