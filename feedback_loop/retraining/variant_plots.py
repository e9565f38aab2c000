"""A picture of the variants of a model: what each costs, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from feedback_loop.private import new_folder

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
    """Draws a panel per figure: the chosen variant in red, those out of the budget in grey.

    Writes `<name>.png` and `<name>.html` (which needs no network) and returns both paths.
    """
    new_folder(folder)
    png, html = folder / f"{name}.png", folder / f"{name}.html"
    variants = variants[::-1]  # the first one on top
    labels, colours = [str(variant["variant"]) for variant in variants], [_colour(variant) for variant in variants]
    panels = [(label, [float(variant[key]) * by for variant in variants]) for key, label, by in _PANELS]
    _png(labels, colours, panels, title, png)
    _html(labels, colours, panels, title, html)
    return [png, html]


def _colour(variant: Figures) -> str:
    if variant["chosen"]:
        return "#d1495b"
    return "#2a6f97" if variant["within_budget"] else "#c8c8c8"


def _limits(label: str, values: Sequence[float]) -> list[float] | None:
    """Of a panel of scores: there the differences are what is looked for."""
    return [min(values) - 0.02, max(values) + 0.01] if label.startswith("accuracy") else None


def _png(
    labels: Sequence[str], colours: Sequence[str], panels: Sequence[tuple[str, list[float]]], title: str, path: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 1.5 + 0.35 * len(labels)), layout="constrained")
    rows = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axes, (label, values) in zip(rows[0], panels, strict=True):
        axes.barh(labels, values, color=colours)
        axes.set_title(label, fontsize=9)
        axes.set_xlim(_limits(label, values))
        axes.grid(axis="x", alpha=0.2)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _html(
    labels: Sequence[str], colours: Sequence[str], panels: Sequence[tuple[str, list[float]]], title: str, path: Path
) -> None:
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    figure = make_subplots(1, len(panels), shared_yaxes=True, subplot_titles=[label for label, _ in panels])
    rows = [_text(label) for label in labels]
    for place, (label, values) in enumerate(panels, start=1):
        bars = graph_objects.Bar(x=values, y=rows, orientation="h", marker={"color": list(colours)}, name=label)
        figure.add_trace(bars, 1, place)
        figure.update_xaxes(range=_limits(label, values), row=1, col=place)
    figure.update_layout(title=_text(title), template="plotly_white", showlegend=False, height=200 + 30 * len(labels))
    figure.write_html(path, include_plotlyjs=True)


def _text(words: str) -> str:
    """Words as Plotly shows them and no more: it takes some markup in them for its own."""
    return words.replace("<", "&lt;")
