"""The plot of a backtest: each cohort's loss, and each policy's warnings, alarms and retrainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY, RED, BLUE, YELLOW = "#8c8c8c", "#d1495b", "#2a6f97", "#edae49"

Marks = Mapping[str, Sequence[datetime]]
"""Moments by kind: `warning`, `alarm` or `retraining`."""

_MARKS = {"warning": ("o", YELLOW), "alarm": ("X", RED), "retraining": ("^", BLUE)}

FORMATS = (".png", ".svg", ".pdf")
"""The suffixes of a plot's file."""


def plot_policies(
    losses: Mapping[datetime, float],
    references: Sequence[tuple[datetime, datetime, float]],
    policies: Mapping[str, Marks],
    promotions: Sequence[tuple[datetime, str]],
    *,
    change: datetime | None,
    loss: str,
    title: str,
    path: Path,
) -> None:
    """Draws the mean loss of each cohort and, below, a row of marks for each policy.

    `references` are the mean losses of references, from when to when. The suffix of `path` is one of FORMATS.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and chooses a screen's backend

    figure = Figure(figsize=(12, 4.2 + 0.32 * len(policies)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 0.6 + 0.32 * len(policies)])
    above.plot(list(losses), list(losses.values()), color=GREY, marker=".", linewidth=0.9, label="cohort")
    for place, (start, end, mean) in enumerate(references):
        label = "reference" if not place else None
        above.plot([start, end], [mean, mean], color="black", linestyle="--", linewidth=1, label=label)
    for row, marks in enumerate(policies.values()):
        for kind, moments in marks.items():
            shape, colour = _MARKS[kind]
            below.scatter(moments, [row] * len(moments), marker=shape, color=colour, s=42, zorder=3)
    below.set_yticks(range(len(policies)), list(policies))
    below.set_ylim(len(policies) - 0.5, -0.5)
    for axes in (above, below):
        if change is not None:
            axes.axvline(change, color=RED, linewidth=0.9, alpha=0.6)
        draw_promotions(axes, promotions, labelled=axes is above)
    for kind, (shape, colour) in _MARKS.items():
        above.scatter([], [], marker=shape, color=colour, label=kind)
    above.set_title(title, pad=36 if promotions else 6)
    above.set_ylabel(f"mean {loss} (lower is better)")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


def draw_promotions(axes: Axes, promotions: Sequence[tuple[datetime, str]], *, labelled: bool = True) -> None:
    """Draws a line at each promotion, with its words above, on a grid without a frame."""
    for moment, label in promotions:
        axes.axvline(moment, color="0.5", linewidth=0.8, linestyle=":")
        if labelled:
            axes.annotate(
                label, (moment, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                rotation=45, fontsize=8, color="0.35",
            )  # fmt: skip
    axes.grid(alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
