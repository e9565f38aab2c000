"""Files of outcomes of any size, part by part: what is in memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from feedback_loop.errors import BadInput, NotFound, RowError
from feedback_loop.outcomes.formats import format_of, read_objects
from feedback_loop.outcomes.intake import IntakeResult
from feedback_loop.schema.budget import UNLIMITED
from feedback_loop.schema.files.reader import read_chunks
from feedback_loop.store.outcomes import Intake

CHUNK_ROWS = 50_000

Part = tuple[Any, bool]
"""Rows (a table, or a list of objects), and whether their values are text."""


def outcome_parts(path: Path, chunk_rows: int = CHUNK_ROWS) -> Iterator[Part]:
    """The rows of a Parquet, CSV, NDJSON or Arrow file in parts (Arrow's own batches); raises NotFound, BadInput."""
    if not path.exists():
        raise NotFound("file", str(path))
    if path.is_dir():
        raise BadInput.of("file", f"{path} is a folder", cure="Name one file of it.")
    kind = format_of(path.name)
    if kind == "ndjson":
        yield from _objects(path, chunk_rows)
    elif kind == "arrow":
        yield from _batches(path)
    else:
        yield from ((rows, kind == "csv") for rows in read_chunks(path, chunk_rows))


def take_parts(
    parts: Callable[[], Iterator[Part]],
    check: Callable[[Any, bool], object] | None,
    take: Callable[[Any, bool], IntakeResult],
) -> IntakeResult:
    """Takes all parts in. With `check`, which raises BadInput, all of them are looked at before one is taken."""
    if check is not None:
        _check(parts(), check)
    counts, skipped, before = Intake(), list[RowError](), 0
    for rows, text in parts():
        result = take(rows, text)
        counts += result.counts
        skipped += [replace(each, row=each.row + before) for each in result.skipped]
        before += len(rows)
    return IntakeResult(counts, tuple(skipped))


def _check(parts: Iterator[Part], check: Callable[[Any, bool], object]) -> None:
    problems: list[RowError] = []
    total, before, cure = 0, 0, ""
    for rows, text in parts:
        try:
            check(rows, text)
        except BadInput as error:
            if any(each.row < 0 for each in error.problems):
                raise
            moved, total, cure = error.moved(before), total + error.total, error.cure
            problems += moved.problems[: BadInput.KEPT - len(problems)]
        before += len(rows)
    if problems:
        raise BadInput(problems, cure=cure, total=total)


def _objects(path: Path, chunk_rows: int) -> Iterator[Part]:
    line, before = 1, 0
    with path.open("rb") as file:
        while lines := list(islice(file, chunk_rows)):
            try:
                rows = read_objects(lines, path.name, UNLIMITED, line)
            except BadInput as error:
                raise error.moved(before) from error
            if rows:  # and not blank lines alone
                yield rows, False
            line, before = line + len(lines), before + len(rows)


def _batches(path: Path) -> Iterator[Part]:
    try:
        with pa.memory_map(str(path)) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            with pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file) as reader:
                batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
                for batch in batches:
                    batch.validate(full=True)
                    yield pa.Table.from_batches([batch]), False
    except (pa.ArrowException, OSError, ValueError) as error:
        cure = "Mend the file, or give it the ending of its format."
        raise BadInput.of(path.name, f"is no arrow: {error}", cure=cure) from error
