"""Pictures of what the figures say: a loss over time, with the promotions that were made on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from feedback_loop.private import new_folder

Series = Mapping[datetime, float]
"""One value a moment, oldest first."""

SMOOTHED = 7
"""The values of which the bold line is the mean."""

_COLOURS = ("#8c8c8c", "#d1495b", "#2a6f97", "#edae49")


def plot_losses(
    losses: Mapping[str, Series],
    promotions: Sequence[tuple[datetime, str]],
    *,
    name: str,
    title: str,
    folder: Path,
    loss: str = "log_loss",
) -> list[Path]:
    """Draws each named series of daily losses (thin) and its 7-day mean (bold), and a line at each promotion.

    Writes `<name>.png` and `<name>.html` (which needs no network) and returns both paths.
    """
    new_folder(folder)
    png, html = folder / f"{name}.png", folder / f"{name}.html"
    axis = f"mean {loss.replace('_', ' ')} of the day"
    _png(losses, promotions, title, axis, png)
    _html(losses, promotions, title, axis, html)
    return [png, html]


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value's mean with the six before it (with fewer at the beginning)."""
    windows = (values[max(place - SMOOTHED + 1, 0) : place + 1] for place in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _png(
    losses: Mapping[str, Series], promotions: Sequence[tuple[datetime, str]], title: str, axis: str, path: Path
) -> None:
    # The object interface: pyplot would keep figures and choose a screen's backend behind our back.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for colour, (label, series) in zip(_COLOURS, losses.items(), strict=False):
        moments, values = list(series), list(series.values())
        axes.plot(moments, values, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(moments, smoothed(values), color=colour, linewidth=2.2, label=f"{label} (bold: 7-day mean)")
    for moment, label in promotions:
        axes.axvline(moment, color="0.5", linewidth=0.8, linestyle=":")
        place = (moment, 1.0)
        axes.annotate(label, place, xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                      rotation=45, fontsize=8, color="0.35")  # fmt: skip
    axes.set_title(title, pad=48)
    axes.set_ylabel(f"{axis} (lower is better)")
    axes.grid(alpha=0.2)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(losses), frameon=False)
    figure.savefig(path, dpi=120)


def _html(
    losses: Mapping[str, Series], promotions: Sequence[tuple[datetime, str]], title: str, axis: str, path: Path
) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for colour, (name, series) in zip(_COLOURS, losses.items(), strict=False):
        label, moments, values = _text(name), list(series), list(series.values())
        figure.add_scatter(x=moments, y=values, name=label, line={"color": colour, "width": 1}, opacity=0.4)
        figure.add_scatter(
            x=moments, y=smoothed(values), name=f"{label}, 7-day mean", line={"color": colour, "width": 3}
        )
    for moment, label in promotions:
        figure.add_vline(
            x=moment.timestamp() * 1000, line_dash="dot", line_color="grey", annotation_text=_text(label)
        )
    figure.update_layout(title=_text(title), yaxis_title=axis, template="plotly_white", hovermode="x")
    figure.write_html(path, include_plotlyjs=True)


def _text(words: str) -> str:
    """Words as Plotly shows them and no more: it takes some markup in them for its own."""
    return words.replace("<", "&lt;")


Figures = Mapping[str, float | str | bool]
"""One variant of a model: its `variant` name, what it costs and how good it is."""

_PANELS = (
    ("size_bytes", "size, KiB", 1 / 1024),
    ("p50_us", "one row, median, µs", 1.0),
    ("p99_us", "one row, 99th percentile, µs", 1.0),
    ("rows_per_second", "rows a second, thousands", 1e-3),
    ("score", "accuracy, or R²", 1.0),
)


def plot_variants(variants: Sequence[Figures], *, name: str, title: str, folder: Path) -> list[Path]:
    """Draws what each variant costs and how good it is, a panel per figure; the chosen one in red, those out of the
    budget in grey.

    Writes `<name>.png` and `<name>.html` (which needs no network) and returns both paths.
    """
    new_folder(folder)
    png, html = folder / f"{name}.png", folder / f"{name}.html"
    labels = [str(each["variant"]) for each in variants][::-1]
    colours = [_variant_colour(each) for each in variants][::-1]
    panels = [(label, [float(each[key]) * by for each in variants][::-1]) for key, label, by in _PANELS]
    _variants_png(labels, colours, panels, title, png)
    _variants_html(labels, colours, panels, title, html)
    return [png, html]


def _variant_colour(figures: Figures) -> str:
    if figures["chosen"]:
        return _COLOURS[1]
    return _COLOURS[2] if figures["within_budget"] else "#c8c8c8"


def _variants_png(
    labels: Sequence[str], colours: Sequence[str], panels: Sequence[tuple[str, list[float]]], title: str, path: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 1.5 + 0.35 * len(labels)), layout="constrained")
    for axes, (label, values) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        axes.barh(labels, values, color=colours)
        axes.set_title(label, fontsize=9)
        if label.startswith("accuracy"):  # the differences are what is looked for
            axes.set_xlim(min(values) - 0.02, max(values) + 0.01)
        axes.grid(axis="x", alpha=0.2)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _variants_html(
    labels: Sequence[str], colours: Sequence[str], panels: Sequence[tuple[str, list[float]]], title: str, path: Path
) -> None:
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    figure = make_subplots(1, len(panels), shared_yaxes=True, subplot_titles=[label for label, _ in panels])
    rows = [_text(each) for each in labels]
    for place, (label, values) in enumerate(panels, start=1):
        bars = graph_objects.Bar(x=values, y=rows, orientation="h", marker={"color": list(colours)}, name=label)
        figure.add_trace(bars, 1, place)
        if label.startswith("accuracy"):
            figure.update_xaxes(range=[min(values) - 0.02, max(values) + 0.01], row=1, col=place)
    figure.update_layout(title=_text(title), template="plotly_white", showlegend=False, height=200 + 30 * len(labels))
    figure.write_html(path, include_plotlyjs=True)


Marks = Mapping[str, Sequence[datetime]]
"""Moments by what they are: `warning`, `alarm` or `retraining`."""

_MARKS = {"warning": ("o", "#edae49"), "alarm": ("X", "#d1495b"), "retraining": ("^", "#2a6f97")}

FORMATS = (".png", ".svg", ".pdf")
"""What a plot can be written as."""


def plot_policies(
    losses: Series,
    references: Sequence[tuple[datetime, datetime, float]],
    policies: Mapping[str, Marks],
    promotions: Sequence[tuple[datetime, str]],
    *,
    change: datetime | None,
    loss: str,
    title: str,
    path: Path,
) -> None:
    """Draws what each cohort cost, and below, a row for each policy, what it would have said and when.

    `references` are mean losses that versions were held against, from when to when. The suffix of `path` is one of
    FORMATS.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2 + 0.32 * len(policies)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 0.6 + 0.32 * len(policies)])
    above.plot(list(losses), list(losses.values()), color=_COLOURS[0], marker=".", linewidth=0.9, label="cohort")
    for place, (start, end, mean) in enumerate(references):
        above.plot([start, end], [mean, mean], color="black", linestyle="--", linewidth=1,
                   label="reference" if not place else None)  # fmt: skip
    for row, marks in enumerate(policies.values()):
        for kind, moments in marks.items():
            shape, colour = _MARKS[kind]
            below.scatter(moments, [row] * len(moments), marker=shape, color=colour, s=42, zorder=3)
    below.set_yticks(range(len(policies)), list(policies))
    below.set_ylim(len(policies) - 0.5, -0.5)
    for axes in (above, below):
        for moment, _ in promotions:
            axes.axvline(moment, color="0.5", linewidth=0.8, linestyle=":")
        if change is not None:
            axes.axvline(change, color=_COLOURS[1], linewidth=0.9, alpha=0.6)
        axes.grid(alpha=0.2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for moment, label in promotions:
        above.annotate(label, (moment, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                       textcoords="offset points", rotation=45, fontsize=8, color="0.35")  # fmt: skip
    for kind, (shape, colour) in _MARKS.items():
        above.scatter([], [], marker=shape, color=colour, label=kind)
    above.set_title(title, pad=36 if promotions else 6)
    above.set_ylabel(f"mean {loss} (lower is better)")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)
