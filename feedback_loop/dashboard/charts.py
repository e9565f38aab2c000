"""Charts of a page: Plotly figures as data, drawn by `static/charts.js` in the page's own colours."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feedback_loop.safe_text import as_text

OURS = ("hovertemplate", "texttemplate")
"""Texts with markup that is ours; all others may come from data."""


@dataclass(frozen=True)
class Chart:
    """Traces and layout as Plotly has them, and in `words` what is to be seen, for who does not see it.

    A colour is the name of one of the style sheet's variables, such as `--accent`. What is not finite is a gap.
    """

    name: str
    title: str
    words: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 280

    @property
    def figure(self) -> dict[str, Any]:
        """What goes into the page: fit for JSON, and without markup in its texts."""
        return {"data": shown(list(self.traces)), "layout": shown(dict(self.layout)), "height": self.height}


def shown(value: Any, key: str = "") -> Any:
    """The same for Plotly, which reads some HTML in texts: they are escaped; NaN and infinities are None."""
    if isinstance(value, str):
        return value if key in OURS else html.escape(as_text(value), quote=False)
    if isinstance(value, Mapping):
        return {name: shown(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shown(inner, key) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str = "--accent", **more: Any) -> dict[str, Any]:
    """A line with points."""
    options = {"type": "scatter", "mode": "lines+markers", "name": name, "x": list(x), "y": list(y)}
    return {**options, "line": {"color": colour, "width": 2}, "marker": {"size": 5, "color": colour}, **more}


def band(
    name: str, x: Sequence[Any], least: Sequence[Any], most: Sequence[Any], colour: str = "--band"
) -> list[dict[str, Any]]:
    """The area between two lines; rows that lack an end are left out."""
    whole = [(at, low, high) for at, low, high in zip(x, least, most, strict=True) if None not in (low, high)]
    edge = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    at = [point[0] for point in whole]
    return [
        {**edge, "x": at, "y": [point[1] for point in whole]},
        {**edge, "x": at, "y": [point[2] for point in whole], "fill": "tonexty", "fillcolor": colour, "name": name}
        | {"showlegend": True},
    ]


def marker_lines(
    moments: Sequence[tuple[str, str]], colour: str, *, raised: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Vertical lines at moments, with a word each: the layout's `shapes` and `annotations`.

    Words that stand among others' are `raised` by so many pixels.
    """
    shapes = [
        {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
        | {"line": {"color": colour, "width": 1.5, "dash": "dot"}}
        for at, _ in moments
    ]
    annotations = [
        {"x": at, "y": 1, "yref": "paper", "yanchor": "bottom", "text": text, "showarrow": False}
        | {"font": {"size": 11, "color": colour}, "yshift": raised}
        for at, text in moments
    ]
    return {"shapes": shapes, "annotations": annotations}
