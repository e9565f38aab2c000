"""The files of reports: which there are, and which may hold rows of the log. This part knows nothing of Evidently."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import msgspec


@dataclass(frozen=True)
class ReportFile:
    """A report as its data file tells of it. `rows` are those of the window, `shown` what the page is drawn of."""

    model: str
    version: str
    name: str
    kind: str
    window: tuple[str, str]
    as_of: str
    rows: int
    reference_rows: int
    shown: str
    path: Path


def model_folder(folder: Path, model: str) -> Path:
    """Where a model's reports lie in the folder of all: those of two models have the same names."""
    return folder / quote(model, safe="")


def list_reports(folder: Path) -> list[ReportFile]:
    """The reports of all models that lie in a folder, oldest first."""
    reports = []
    for path in sorted(folder.glob("*/*-*.json"), key=lambda path: (path.stat().st_mtime, path.name)):
        data = _read(path)
        if data.about:
            fields = {name: getattr(data, name) for name in ReportFile.__annotations__ if name != "path"}
            reports.append(ReportFile(**fields, path=path.with_suffix(".html")))
    return reports


def pages_holding(folder: Path, model: str, moments: Sequence[datetime]) -> list[Path]:
    """The data files of reports that may hold a row predicted at one of these moments.

    A report of surrogates has none: it is an aggregate, as the profiles that it is made from. One of real rows may
    show single values of them; one that does not say of when these are may hold any.
    """
    return [path for path in sorted(folder.glob("*-*.json")) if moments and _holds(path, model, moments)]


def snapshot_of(data: Path) -> Path | None:
    """The snapshot in Evidently's workspace that a report's data file says is of it."""
    snapshot = _read(data).snapshot
    return (data.parent / snapshot).resolve() if snapshot else None


def _holds(path: Path, model: str, moments: Sequence[datetime]) -> bool:
    page = _read(path)
    if page.shown == "surrogate":
        return False
    if not page.spans:
        return page.about.startswith(f"{model}, ")
    spans = [tuple(datetime.fromisoformat(end) for end in span) for span in page.spans]
    return page.model == model and any(first <= moment <= last for moment in moments for first, last in spans)


class _Data(msgspec.Struct):
    """What is read of a data file; those of earlier releases have less."""

    about: str = ""
    model: str = ""
    version: str = ""
    name: str = ""
    kind: str = ""
    window: tuple[str, str] = ("", "")
    as_of: str = ""
    rows: int = 0
    reference_rows: int = 0
    shown: str = ""
    spans: list[tuple[str, str]] = []
    snapshot: str = ""


def _read(path: Path) -> _Data:
    return msgspec.convert(json.loads(path.read_text()), _Data)
