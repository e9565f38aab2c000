"""Outcomes that are put into a folder as files: each is taken in once, then moved aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from feedback_loop.errors import BadInput, NotFound
from feedback_loop.outcomes.intake import IntakeResult
from feedback_loop.store import outcomes as stored

LOADED = "loaded"
REFUSED = "refused"


@dataclass(frozen=True)
class FolderIntake:
    """What became of a folder's files."""

    counts: stored.Intake
    loaded: int
    refused: dict[str, str]


def read_outcomes(path: Path) -> tuple[pa.Table, bool]:
    """A Parquet or CSV file as a table, and whether its values are text; raises NotFound and BadInput."""
    if not path.exists():
        raise NotFound("file", str(path))
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pq.read_table(path), False
        if path.suffix.lower() == ".csv":
            with path.open("rb") as file:
                names = csv.open_csv(file).schema.names
            options = csv.ConvertOptions(column_types={name: pa.string() for name in names})
            return csv.read_csv(path, convert_options=options), True
    except pa.ArrowInvalid as error:
        raise BadInput.of("file", f"{path.name} can't be read: {error}") from error
    raise BadInput.of("file", f"{path.name} is neither .parquet nor .csv")


def load_folder(folder: Path, take: Callable[[Any, bool], IntakeResult]) -> FolderIntake:
    """Takes every file of the folder in, by name, and moves it to `loaded/` (or `refused/`, with its cause beside).

    A crash between the two leaves the file: it is taken in again, which changes nothing. A name that begins with a
    dot is a file that is still being written.
    """
    counts, loaded, refused = stored.Intake(), 0, {}
    for path in sorted(folder.glob("[!.]*.*")):
        if not path.is_file():
            continue
        try:
            table, text = read_outcomes(path)
            counts += take(table, text).counts
        except BadInput as error:
            refused[path.name] = str(error)
            _move(path, REFUSED).with_suffix(path.suffix + ".cause.txt").write_text(str(error) + "\n")
            continue
        loaded += 1
        _move(path, LOADED)
    return FolderIntake(counts, loaded, refused)


def _move(path: Path, folder: str) -> Path:
    target = path.parent / folder / path.name
    target.parent.mkdir(exist_ok=True)
    return path.replace(target)
