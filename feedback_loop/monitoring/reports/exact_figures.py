"""Our exact figures as Evidently's metrics and widgets. Imported where a report is made: Evidently takes seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evidently.core.container import MetricContainer
from evidently.core.metric_types import SingleValueCalculation, SingleValueMetric
from evidently.core.report import Context
from evidently.legacy.model.widget import BaseWidgetInfo
from evidently.legacy.renderers.html_widgets import WidgetSize, plotly_data, table_data, text_widget
from evidently.presets import DataDriftPreset

from feedback_loop.monitoring.curves import Curves, Lifted
from feedback_loop.monitoring.curves import curves as curves_of
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.reports.subject import Kind, Subject
from feedback_loop.monitoring.validation import profile_metrics
from feedback_loop.schema import Task
from feedback_loop.store.evaluations import (
    ALL_ROWS,
    INSUFFICIENT,
    DriftValue,
    EstimateValue,
    MetricValue,
    QualityValue,
)

Points = Sequence[tuple[float, float]]
GREY, RED = "#4d4d4d", "#ed0400"
NONE = "–"

AXES: Mapping[str, tuple[tuple[str, str], Points]] = {
    "Calibration": (("mean score", "share of outcomes"), ((0, 0), (1, 1))),
    "Lift": (("share of predictions", "lift"), ((0, 1), (1, 1))),
    "ROC": (("false positive rate", "true positive rate"), ((0, 0), (1, 1))),
    "Precision and recall": (("recall", "precision"), ()),
}
"""Of each curve what its axes are, and where it would be by chance (or, for calibration, should be)."""


class ExactFigure(SingleValueMetric):
    """One figure of an evaluation: a metric, or the distance of a `column` by the method that is its `figure`.

    It was computed of all rows before the report is made. The value is no field: figures with the same fields are, to
    Evidently, one series over time.
    """

    figure: str
    column: str = ""
    _values: tuple[float, float | None] = (0.0, None)

    def __init__(self, figure: str, value: float, reference: float | None = None, column: str = "") -> None:
        self.figure, self.column, self._values = figure, column, (value, reference)
        super().__init__()

    @property
    def known(self) -> tuple[float, float | None]:
        """The figure of the window, and of the reference."""
        return self._values


class ExactFigureCalculation(SingleValueCalculation[ExactFigure]):
    """Looks a figure up."""

    def calculate(self, *_: Any) -> Any:
        """The figure of the window, and of the reference where there is one."""
        value, reference = self.metric.known
        return self.result(value), self.result(reference) if reference is not None else None

    def display_name(self) -> str:
        """What it is called on a page."""
        return f"{self.metric.column} {self.metric.figure}".strip() + " (exact)"


class ColumnDrift(DataDriftPreset):
    """Evidently's table of columns, without its word on the data set: it says "not detected" in the page's largest
    letters wherever fewer than half of the columns have drifted.
    """

    def render(self, context: Context, child_widgets: Any = None) -> list[BaseWidgetInfo]:
        """The widgets of the table alone."""
        shown: list[BaseWidgetInfo] = super().render(context, child_widgets)
        return [each for each in shown if "Dataset Drift" not in str(each.dict())]


class ExactFigures(MetricContainer):
    """What a page begins with: what it is of, the exact figures as a table, the curves."""

    text: str
    _figures: Sequence[ExactFigure] = ()
    _widgets: Sequence[BaseWidgetInfo] = ()

    def __init__(self, text: str, figures: Sequence[ExactFigure], widgets: Sequence[BaseWidgetInfo]) -> None:
        self.text, self._figures, self._widgets = text, figures, widgets
        super().__init__()

    def generate_metrics(self, *_: Any) -> Sequence[ExactFigure]:
        """The figures, each as a metric of its own."""
        return self._figures

    def render(self, *_: Any) -> list[BaseWidgetInfo]:
        """The text, the table, the curves."""
        return [text_widget(text=self.text), *self._widgets]


def exact_figures(kind: Kind, subject: Subject, text: str, curves: Mapping[str, Curves]) -> ExactFigures:
    """The exact figures of a report, with what its page begins with."""
    checks = [_quality_table(subject.evaluation.quality)] if subject.evaluation.quality else []
    if kind == "drift":
        drift = [each for each in subject.evaluation.drift if each.decides or each.method == INSUFFICIENT]
        moved = [ExactFigure(each.method, each.value, column=each.column) for each in drift]
        return ExactFigures(text, moved, [*([_drift_table(drift)] if drift else []), *checks])
    metrics = [metric for metric in subject.evaluation.metrics if metric.segment == ALL_ROWS]
    reference = _of_reference(subject.reference) if subject.reference is not None else {}
    figures = [ExactFigure(metric.metric, metric.value, reference.get(metric.metric)) for metric in metrics]
    drawn: list[BaseWidgetInfo] = []
    if subject.contract.task is Task.BINARY:
        others = curves_of(subject.reference) if subject.reference is not None else {}
        drawn = [plot for name, each in curves.items() for plot in _curve_widgets(each, others.get(name))]
    estimates = [estimate for estimate in subject.evaluation.estimates if estimate.metric != INSUFFICIENT]
    believed = [_estimate_table(estimates, metrics)] if estimates else []
    return ExactFigures(text, figures, [_metric_table(metrics, reference), *believed, *drawn])


def _of_reference(reference: Profile) -> dict[str, float]:
    return {each.metric: each.value for each in profile_metrics(reference) if each.segment == ALL_ROWS}


def _drift_table(values: Sequence[DriftValue]) -> BaseWidgetInfo:
    head = ("column", "method", "distance", "threshold", "p-value", "drifted", "rows")
    ordered = sorted(values, key=lambda each: (each.drifted, each.value / each.threshold), reverse=True)
    rows = [
        (each.column, each.method, _number(each.value), _number(each.threshold), _number(each.p_value),
         "yes" if each.drifted else "no", f"{each.rows:,}")
        for each in ordered
    ]  # fmt: skip
    return table_data(title="Exact, of all rows: drift", column_names=head, data=rows)


def _quality_table(values: Sequence[QualityValue]) -> BaseWidgetInfo:
    head = ("column", "check", "found", "expected", "failed", "rows")
    rows = [
        (value.column, value.check, _number(value.value), _number(value.expected), "yes" if value.failed else "no",
         f"{value.rows:,}")
        for value in sorted(values, key=lambda each: not each.failed)
    ]  # fmt: skip
    return table_data(title="Exact, of all rows: data quality", column_names=head, data=rows)


def _metric_table(metrics: Sequence[MetricValue], reference: Mapping[str, float]) -> BaseWidgetInfo:
    head = ("metric", "window", "± (95%)", "reference", "coverage", "least possible", "most possible", "rows")
    rows = [
        (metric.metric, _number(metric.value),
         _number(1.96 * metric.standard_error if metric.standard_error is not None else None),
         _number(reference.get(metric.metric)), f"{metric.coverage:.1%}" if metric.coverage is not None else NONE,
         _number(metric.least), _number(metric.most), f"{metric.rows:,}")
        for metric in metrics
    ]  # fmt: skip
    return table_data(title="Exact, of all rows: metrics", column_names=head, data=rows)


def _estimate_table(estimates: Sequence[EstimateValue], metrics: Sequence[MetricValue]) -> BaseWidgetInfo:
    """What was believed of all rows without an outcome, beside what came."""
    realised = {metric.metric: metric.value for metric in metrics}
    head = ("metric", "estimated", "± (95%)", "realised", "method", "rows", "learned from")
    rows = [
        (estimate.metric, _number(estimate.value),
         _number(1.96 * estimate.standard_error if estimate.standard_error is not None else None),
         _number(realised.get(estimate.metric)), estimate.method, f"{estimate.rows:,}", f"{estimate.calibrated_on:,}")
        for estimate in estimates
        if estimate.segment == ALL_ROWS
    ]  # fmt: skip
    return table_data(title="Estimated without outcomes, of all rows", column_names=head, data=rows)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _curve_widgets(window: Curves, reference: Curves | None) -> Iterator[BaseWidgetInfo]:
    """The curves of the window, in red, with bands of 95%, and those of the reference, in grey."""
    bins, lifts = window.calibration, window.lift
    errors = {
        "type": "data",
        "symmetric": False,
        "array": [each.most - each.rate for each in bins],
        "arrayminus": [each.rate - each.least for each in bins],
    }
    reference_points = _points(reference) if reference is not None else {}
    for title, points in _points(window).items():
        axes, chance = AXES[title]
        traces = [_line(chance, "right" if title == "Calibration" else "by chance", GREY, "dot")] if chance else []
        traces += [_line(reference_points[title], "reference", GREY)] if reference_points else []
        line = _line(points, "window", RED)
        if title == "Calibration":
            line |= {"mode": "lines+markers", "error_y": errors, "text": [f"{each.rows:,.0f} rows" for each in bins]}
        if title == "Lift":
            traces.append(_band(lifts))
        yield _plot(title, axes, [*traces, line])


def _points(curves: Curves) -> dict[str, Points]:
    return {
        "Calibration": [(each.score, each.rate) for each in curves.calibration],
        "Lift": [(each.share, each.lift) for each in curves.lift],
        "ROC": curves.roc,
        "Precision and recall": curves.precision_recall,
    }


def _line(points: Points, name: str, color: str, dash: str = "solid") -> dict[str, Any]:
    across, up = zip(*points, strict=True)
    line = {"color": color, "dash": dash}
    return {"type": "scatter", "mode": "lines", "x": list(across), "y": list(up), "name": name, "line": line}


def _band(lifts: Sequence[Lifted]) -> dict[str, Any]:
    ends = [*((lift.share, lift.least) for lift in lifts), *((lift.share, lift.most) for lift in reversed(lifts))]
    filled = {"fill": "toself", "fillcolor": "rgba(237,4,0,0.15)", "line": {"width": 0}, "hoverinfo": "skip"}
    return {**_line(ends, "95%", RED), **filled}


def _plot(title: str, axes: tuple[str, str], traces: list[dict[str, Any]]) -> BaseWidgetInfo:
    axis = {"gridcolor": "#eee", "zeroline": False, "rangemode": "tozero"}
    layout = {
        "xaxis": {"title": {"text": axes[0]}, **axis},
        "yaxis": {"title": {"text": axes[1]}, **axis},
        "plot_bgcolor": "white",
        "margin": {"t": 10, "r": 20},
        "legend": {"orientation": "h", "y": 1.1},
    }
    return plotly_data(title=title, data=traces, layout=layout, size=WidgetSize.HALF)
