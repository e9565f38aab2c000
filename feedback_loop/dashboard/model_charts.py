"""The charts of a model's page and of its columns', from what `views.performance` knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedback_loop.dashboard.charts import Chart, band, line, marker_lines
from feedback_loop.dashboard.tables import number_words, share_words
from feedback_loop.store.strengths import Strength

SCALE = [[0, "--heat-low"], [0.5, "--heat-middle"], [1, "--heat-high"]]
"""Half of it is the threshold, beyond which a distance counts."""


def of_model(figures: dict[str, Any]) -> list[Chart]:
    """Those that there are figures for."""
    made = [metric(figures), _coverage(figures), _segments(figures), _drift(figures["drift"]), _adapter(figures)]
    return [chart for chart in (*made, *_calibration(figures)) if chart is not None]


def metric(figures: dict[str, Any]) -> Chart | None:
    """A metric over windows, with what happened to the model."""
    rows = figures["history"]
    if not rows:
        return None
    name, marks = figures["metric"], figures["marks"]
    realised = [row for row in rows if row["value"] is not None]
    estimated = [row for row in rows if row["estimate"] is not None]
    traces: list[dict[str, Any]] = []
    if realised:
        at = _starts(realised)
        traces += band("95% interval", at, _each(realised, "low"), _each(realised, "high"))
        versions = [f"version {row['version']}, {row['rows']:,} rows" for row in realised]
        traces.append(line(name, at, _each(realised, "value"), text=versions))
    if estimated:
        dashed = {
            "line": {"color": "--second", "width": 2, "dash": "dash"},
            "marker": {"size": 4, "color": "--second"},
        }
        traces.append({**line("estimated", _starts(estimated), _each(estimated, "estimate")), **dashed})
    promoted = [(mark["at"], f"v{mark['version']}") for mark in marks["promotions"]]
    acts = [(mark["at"], f"adapter {mark['kind']}") for mark in marks["adapter"]]
    lines, more = marker_lines(promoted, "--good"), marker_lines(acts, "--third", raised=13)
    last = rows[-1]["window"][1]
    open_spans = [
        {"type": "rect", "x0": mark["at"], "x1": mark["until"] or last, "y0": 0, "y1": 1, "yref": "paper"}
        | {"fillcolor": "--bad-soft", "opacity": 0.6, "line": {"width": 0}, "layer": "below"}
        for mark in marks["incidents"]
    ]
    layout = {
        "shapes": [*open_spans, *lines["shapes"], *more["shapes"]],
        "annotations": [*lines["annotations"], *more["annotations"]],
        "xaxis": {"type": "date"},  # where there is no value too, for the shapes
        "yaxis": {"title": {"text": name}},
    }
    where = f" of {figures['segment']}" if figures["segment"] else ""
    newest = f"{number_words(realised[-1]['value'])} in the newest matured window" if realised else "none has matured"
    words = (
        f"{newest}; {_count(len(rows), 'window')}, {_count(len(promoted), 'promotion')} (dotted, green), "
        f"{_count(len(marks['incidents']), 'incident')} (shaded)."
    )
    return Chart("metric", f"{name}{where} over time", words, traces, layout, height=340)


def _coverage(figures: dict[str, Any]) -> Chart | None:
    rows = figures["coverage"]
    if not rows:
        return None
    bars = {
        "type": "bar",
        "x": _each(rows, "group"),
        "y": _each(rows, "share"),
        "width": 0.4,
        "marker": {"color": "--accent"},
        "text": [share_words(row["share"]) for row in rows],
        "textposition": "auto",
    }
    words = "; ".join(f"{row['group']}: {share_words(row['share'])} of {row['predictions']:,}" for row in rows)
    layout = {"yaxis": {"range": [0, 1.05], "tickformat": ".0%"}, "xaxis": {"type": "category"}}
    return Chart("coverage", "Coverage by age of the predictions", words, [bars], layout)


def _calibration(figures: dict[str, Any]) -> list[Chart]:
    curves = figures["calibration"]
    if not curves:
        return []
    colours = ("--accent", "--second", "--third", "--warn", "--good", "--bad")
    ideal = {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "ideal", "hoverinfo": "skip"}
    traces: list[dict[str, Any]] = [{**ideal, "line": {"color": "--muted", "width": 1, "dash": "dot"}}]
    for place, (name, points) in enumerate(list(curves.items())[: len(colours)]):
        trace = line(name, _each(points, "score"), _each(points, "rate"), colours[place])
        errors = {
            "type": "data",
            "symmetric": False,
            "array": [point["most"] - point["rate"] for point in points],
            "arrayminus": [point["rate"] - point["least"] for point in points],
            "thickness": 1,
        }
        traces.append({**trace, "error_y": errors})
    layout = {
        "xaxis": {"title": {"text": "probability"}, "range": [0, 1]},
        "yaxis": {"title": {"text": "rate"}, "range": [0, 1]},
    }
    start, end = figures["calibration_window"]
    words = f"How often it happened, by tenths of the probability; version {figures['version']}, {start} to {end}."
    return [Chart("calibration", "Calibration", words, traces, layout)]


def _segments(figures: dict[str, Any]) -> Chart | None:
    rows = list(reversed(figures["by_segment"]))
    if not rows:
        return None
    errors = [None if row["standard_error"] is None else 1.96 * row["standard_error"] for row in rows]
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": _each(rows, "value"),
        "y": _each(rows, "segment"),
        "marker": {"size": 8, "color": "--accent"},
        "error_x": {"type": "data", "array": errors, "thickness": 1.2, "color": "--accent"},
    }
    words = f"With 95% intervals, in the window {rows[0]['window'][0]}."
    layout = {"yaxis": {"type": "category"}, "xaxis": {"title": {"text": figures["metric"]}}}
    height = min(max(160, 30 * len(rows) + 70), 900)
    return Chart("segments", f"{figures['metric']} by segment", words, [points], layout, height)


def _drift(drift: dict[str, Any]) -> Chart | None:
    if not drift["columns"]:
        return None
    columns = list(reversed(drift["columns"]))
    strength, drifted = list(reversed(drift["strength"])), list(reversed(drift["drifted"]))
    cells = {
        "type": "heatmap",
        "x": drift["windows"],
        "y": columns,
        "z": strength,
        "zmin": 0,
        "zmax": 2,
        "colorscale": SCALE,
        "text": [["▲" if is_drifted else "" for is_drifted in row] for row in drifted],
        "texttemplate": "%{text}",
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{y}<br>%{x}<br>%{z:.2f} × threshold %{text}<extra></extra>",
        "showscale": False,  # Plotly's bar sets a style that the page's policy refuses
    }
    count = sum(row[-1] for row in drifted)
    words = (
        f"Distance from the reference, darkest from twice the threshold on; ▲ drifted: {count} in the newest window."
    )
    height = min(max(200, 22 * len(columns) + 90), 1000)
    layout = {"yaxis": {"type": "category", "showgrid": False}, "xaxis": {"showgrid": False}}
    return Chart("drift", "Drift by column and window", words, [cells], layout, height)


def _adapter(figures: dict[str, Any]) -> Chart | None:
    rows = figures["adapter"]
    if not rows:
        return None
    at = _each(rows, "cohort")
    traces = [
        line("the model alone", at, _each(rows, "loss_raw"), "--second"),
        line("as served, with the adapter", at, _each(rows, "loss_served"), "--accent"),
    ]
    words = f"Loss of each cohort with and without what the adapter has learned; revision {rows[-1]['revision']}."
    return Chart("adapter", "Adapter", words, traces)


def column(name: str, detail: dict[str, Any]) -> Chart:
    """A column's values in the reference beside a window's."""
    sides = (("reference", "--second"), ("current", "--accent"))
    traces = [
        {"type": "bar", "name": "window" if side == "current" else side, "x": detail["groups"], "y": detail[side]}
        | {"marker": {"color": colour}}
        for side, colour in sides
    ]
    rows = detail["rows"]
    words = f"Shares of {rows['current']:,.0f} rows of the window beside {rows['reference']:,.0f} of the reference."
    layout = {"barmode": "group", "yaxis": {"tickformat": ".0%"}, "xaxis": {"type": "category"}}
    return Chart("column", f"Values of {name}", words, traces, layout, height=320)


def strength(deciding: Sequence[tuple[str, Strength]]) -> list[Chart]:
    """How far a column strayed in each window, beside its threshold."""
    if not deciding:
        return []
    at = [start for start, _ in deciding]
    drifted = ["drifted" if value.drifted else "within" for _, value in deciding]
    limit = {"dash": "dot", "color": "--bad", "width": 1.5}
    traces = [
        line("distance", at, [value.value for _, value in deciding], text=drifted),
        {**line("threshold", at, [value.threshold for _, value in deciding]), "mode": "lines", "line": limit},
    ]
    words = f"By {deciding[-1][1].method}; drifted in {drifted.count('drifted')} of {len(drifted)} windows."
    return [Chart("strength", "Distance from the reference", words, traces)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _starts(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["window"][0] for row in rows]


def _each(rows: Sequence[dict[str, Any]], key: str) -> list[Any]:
    return [row[key] for row in rows]
