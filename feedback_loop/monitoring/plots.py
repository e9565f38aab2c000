"""Pictures of what the figures say: a loss over time, with the promotions that were made on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

Series = Mapping[datetime, float]
"""One value a moment, oldest first."""

SMOOTHED = 7
"""The values of which the bold line is the mean."""

_COLOURS = ("#8c8c8c", "#d1495b", "#2a6f97", "#edae49")


def plot_losses(
    losses: Mapping[str, Series], promotions: Sequence[tuple[datetime, str]], *, name: str, title: str, folder: Path
) -> list[Path]:
    """Draws each named series of daily losses (thin) and its 7-day mean (bold), and a line at each promotion.

    Writes `<name>.png` and `<name>.html` (which needs no network) and returns both paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, html = folder / f"{name}.png", folder / f"{name}.html"
    _png(losses, promotions, title, png)
    _html(losses, promotions, title, html)
    return [png, html]


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value's mean with the six before it (with fewer at the beginning)."""
    windows = (values[max(place - SMOOTHED + 1, 0) : place + 1] for place in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _png(losses: Mapping[str, Series], promotions: Sequence[tuple[datetime, str]], title: str, path: Path) -> None:
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
    axes.set_ylabel("mean log loss of the day (lower is better)")
    axes.grid(alpha=0.2)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(losses), frameon=False)
    figure.savefig(path, dpi=120)


def _html(losses: Mapping[str, Series], promotions: Sequence[tuple[datetime, str]], title: str, path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for colour, (label, series) in zip(_COLOURS, losses.items(), strict=False):
        moments, values = list(series), list(series.values())
        figure.add_scatter(x=moments, y=values, name=label, line={"color": colour, "width": 1}, opacity=0.4)
        figure.add_scatter(
            x=moments, y=smoothed(values), name=f"{label}, 7-day mean", line={"color": colour, "width": 3}
        )
    for moment, label in promotions:
        figure.add_vline(x=moment.timestamp() * 1000, line_dash="dot", line_color="grey", annotation_text=label)
    figure.update_layout(title=title, yaxis_title="mean log loss of the day", template="plotly_white", hovermode="x")
    figure.write_html(path, include_plotlyjs=True)
