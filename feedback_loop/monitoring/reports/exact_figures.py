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
from feedback_loop.monitoring.exploration_effect import ExplorationEffect
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
    def values(self) -> tuple[float, float | None]:
        """The figure of the window, and of the reference."""
        return self._values


class ExactFigureCalculation(SingleValueCalculation[ExactFigure]):
    """Looks a figure up."""

    def calculate(self, *_: Any) -> Any:
        """The figure of the window, and of the reference where there is one."""
        value, reference = self.metric.values
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
        widgets: list[BaseWidgetInfo] = super().render(context, child_widgets)
        return [widget for widget in widgets if "Dataset Drift" not in str(widget.dict())]


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
        drift = [value for value in subject.evaluation.drift if value.decides or value.method == INSUFFICIENT]
        moved = [ExactFigure(value.method, value.value, column=value.column) for value in drift]
        return ExactFigures(text, moved, [*([_drift_table(drift)] if drift else []), *checks])
    metrics = [metric for metric in subject.evaluation.metrics if metric.segment == ALL_ROWS]
    reference = _of_reference(subject.reference) if subject.reference is not None else {}
    figures = [ExactFigure(metric.metric, metric.value, reference.get(metric.metric)) for metric in metrics]
    drawn: list[BaseWidgetInfo] = []
    if subject.contract.task is Task.BINARY:
        others = curves_of(subject.reference) if subject.reference is not None else {}
        drawn = [plot for name, of_class in curves.items() for plot in _curve_widgets(of_class, others.get(name))]
    estimates = [estimate for estimate in subject.evaluation.estimates if estimate.metric != INSUFFICIENT]
    estimated = [_estimate_table(estimates, metrics)] if estimates else []
    explored = [_exploration_table(subject.exploration)] if subject.exploration is not None else []
    return ExactFigures(text, figures, [_metric_table(metrics, reference), *explored, *estimated, *drawn])


def _of_reference(reference: Profile) -> dict[str, float]:
    return {metric.metric: metric.value for metric in profile_metrics(reference) if metric.segment == ALL_ROWS}


def _exploration_table(effect: ExplorationEffect) -> BaseWidgetInfo:
    head = ("acted on", "rows", "outcome", effect.loss, "answer - outcome")
    rows = [
        (name, f"{group.rows:,}", *map(_number, (group.outcome, group.loss, group.calibration)))
        for name, group in (("explored", effect.explored), ("the rest", effect.rest))
        if group is not None
    ]
    for name, difference in (("outcome", effect.outcome_difference), (effect.loss, effect.loss_difference)):
        if difference is not None:
            words = f"difference of {name}: {difference.value:+.4f} ± {difference.standard_error:.4f} between days"
            rows.append((words, "", "", "", f"p = {difference.p_value:.3g}"))
    return table_data(title="Explored rows beside the rest", column_names=head, data=rows)


def _drift_table(values: Sequence[DriftValue]) -> BaseWidgetInfo:
    head = ("column", "method", "distance", "threshold", "p-value", "drifted", "rows")
    ordered = sorted(values, key=lambda value: (value.drifted, value.value / value.threshold), reverse=True)
    rows = [
        (value.column, value.method, _number(value.value), _number(value.threshold), _number(value.p_value),
         "yes" if value.drifted else "no", f"{value.rows:,}")
        for value in ordered
    ]  # fmt: skip
    return table_data(title="Exact, of all rows: drift", column_names=head, data=rows)


def _quality_table(values: Sequence[QualityValue]) -> BaseWidgetInfo:
    head = ("column", "check", "found", "expected", "failed", "rows")
    rows = [
        (value.column, value.check, _number(value.value), _number(value.expected), "yes" if value.failed else "no",
         f"{value.rows:,}")
        for value in sorted(values, key=lambda value: not value.failed)
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
    """Estimates of all rows before outcomes, beside the realised values."""
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
        "array": [group.most - group.rate for group in bins],
        "arrayminus": [group.rate - group.least for group in bins],
    }
    reference_points = _points(reference) if reference is not None else {}
    for title, points in _points(window).items():
        axes, chance = AXES[title]
        traces = [_line(chance, "right" if title == "Calibration" else "by chance", GREY, "dot")] if chance else []
        traces += [_line(reference_points[title], "reference", GREY)] if reference_points else []
        line = _line(points, "window", RED)
        if title == "Calibration":
            line |= {
                "mode": "lines+markers",
                "error_y": errors,
                "text": [f"{group.rows:,.0f} rows" for group in bins],
            }
        if title == "Lift":
            traces.append(_band(lifts))
        yield _plot(title, axes, [*traces, line])


def _points(curves: Curves) -> dict[str, Points]:
    return {
        "Calibration": [(group.score, group.rate) for group in curves.calibration],
        "Lift": [(point.share, point.lift) for point in curves.lift],
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
