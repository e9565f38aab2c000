"""A picture of losses over time, with the promotions that were made on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from feedback_loop.decisions.backtest import BLUE, GREY, RED, YELLOW, draw_promotions
from feedback_loop.private import new_folder

Series = Mapping[datetime, float]
"""One value a moment, oldest first."""

SMOOTHED = 7
"""Points of which the bold line is the mean."""

_COLOURS = (GREY, RED, BLUE, YELLOW)


def plot_losses(
    losses: Mapping[str, Series],
    promotions: Sequence[tuple[datetime, str]],
    *,
    title: str,
    folder: Path,
    loss: str = "log_loss",
    every: str = "day",
) -> list[Path]:
    """Draws each named series of losses (thin) and the mean of 7 of them (bold), and a line at each promotion.

    A point is of `every` day, or turn. Writes `loss.png` and `loss.html` (which needs no network) and returns both
    paths.
    """
    new_folder(folder)
    png, html = folder / "loss.png", folder / "loss.html"
    axis, bold = f"mean {loss.replace('_', ' ')} of the {every}", f"mean of {SMOOTHED} {every}s"
    _png(losses, promotions, title, axis, bold, png)
    _html(losses, promotions, title, axis, bold, html)
    return [png, html]


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value's mean with the six before it (with fewer at the beginning)."""
    windows = (values[max(place - SMOOTHED + 1, 0) : place + 1] for place in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _png(
    losses: Mapping[str, Series],
    promotions: Sequence[tuple[datetime, str]],
    title: str,
    axis: str,
    bold: str,
    path: Path,
) -> None:
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and chooses a screen's backend

    figure = Figure(figsize=(12, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for colour, (label, series) in zip(_COLOURS, losses.items(), strict=False):
        moments, values = list(series), list(series.values())
        axes.plot(moments, values, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(moments, smoothed(values), color=colour, linewidth=2.2, label=f"{label} (bold: {bold})")
    draw_promotions(axes, promotions)
    axes.set_title(title, pad=48)
    axes.set_ylabel(f"{axis} (lower is better)")
    axes.margins(x=0.01)
    figure.legend(loc="outside lower center", ncols=len(losses), frameon=False)
    figure.savefig(path, dpi=120)


def _html(
    losses: Mapping[str, Series],
    promotions: Sequence[tuple[datetime, str]],
    title: str,
    axis: str,
    bold: str,
    path: Path,
) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for colour, (name, series) in zip(_COLOURS, losses.items(), strict=False):
        label, moments, values = _text(name), list(series), list(series.values())
        figure.add_scatter(x=moments, y=values, name=label, line={"color": colour, "width": 1}, opacity=0.4)
        figure.add_scatter(x=moments, y=smoothed(values), name=f"{label}, {bold}", line={"color": colour, "width": 3})
    for moment, label in promotions:
        figure.add_vline(
            x=moment.timestamp() * 1000, line_dash="dot", line_color="grey", annotation_text=_text(label)
        )
    figure.update_layout(title=_text(title), yaxis_title=axis, template="plotly_white", hovermode="x")
    figure.write_html(path, include_plotlyjs=True)


def _text(words: str) -> str:
    """Words as Plotly shows them and no more: it takes some markup in them for its own."""
    return words.replace("<", "&lt;")
