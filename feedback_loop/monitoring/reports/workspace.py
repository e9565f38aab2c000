"""Evidently's workspace: a project for each model, in which `evidently ui` shows the reports over time."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidently.sdk.models import DashboardPanelPlot, DashboardTabModel, PanelMetric, ProjectModel
from evidently.sdk.panels import line_plot_panel
from evidently.ui.storage.local.base import LocalState

NAMES = uuid.UUID("6a4f3c1e-5b0d-5e0a-9d53-0c8f6f1f0a11")
"""What ids are derived from: the same model is the same project, the same window the same snapshot."""

MOST_DRAWN = 6


def keep(folder: Path, snapshot: Any, about_report: Mapping[str, Any]) -> Path:
    """Keeps a report's snapshot in the place of one of the same window and kind; returns its file.

    The project is made with the first of its snapshots, with panels of the exact figures that this one has.
    """
    state = LocalState(str(folder))
    model, kind = about_report["model"], about_report["kind"]
    project_id = uuid.uuid5(NAMES, model)
    if project_id not in (state.list_projects() if folder.is_dir() else []):
        about = "Reports of feedback-loop; a snapshot's time is the end of its window."
        state.write_project(ProjectModel(id=project_id, name=model, description=about))
    dashboard = state.read_dashboard(project_id)
    if kind not in {tab.title for tab in dashboard.tabs}:
        panels = _panels(kind, snapshot)
        dashboard.panels += panels
        dashboard.tabs.append(DashboardTabModel(title=kind, panels=[panel.id for panel in panels]))
        state.write_dashboard(project_id, dashboard)
    snapshot_id = uuid.uuid5(project_id, f"{kind} {about_report['window'][0]} {about_report['window'][1]}")
    path = folder / str(project_id) / "snapshots" / f"{snapshot_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")  # Evidently's server reads a file as soon as it is there
    half.write_text(snapshot.dumps())
    half.replace(path)
    return path


def _panels(kind: str, snapshot: Any) -> list[DashboardPanelPlot]:
    """A line for each metric, or for the distance of each column, over time."""
    configs = [metric_result.to_dict()["config"] for metric_result in snapshot.metric_results.values()]
    figures = [config for config in configs if config["type"].endswith(":ExactFigure")]
    if kind == "drift":
        lines = [(figure["column"], {"figure": figure["figure"], "column": figure["column"]}) for figure in figures]
        return [_panel("Distance from the reference, by the method that decides", lines)]
    lines = [(figure["figure"], {"figure": figure["figure"]}) for figure in figures]
    return [_panel(title, [line]) for line in lines[:MOST_DRAWN] for title in (line[0],)]


def _panel(title: str, lines: list[tuple[str, dict[str, str]]]) -> DashboardPanelPlot:
    values = [PanelMetric(legend=name, metric="ExactFigure", metric_labels=labels) for name, labels in lines]
    return line_plot_panel(title=title, values=values, size="half" if len(lines) == 1 else "full")
