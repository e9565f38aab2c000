"""Files of outcomes of any size, part by part: what is in memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from feedback_loop.errors import BadInput, RowError
from feedback_loop.outcomes.formats import format_of, read_objects
from feedback_loop.outcomes.intake import IntakeResult
from feedback_loop.schema.budget import PART, Budget
from feedback_loop.schema.files.csv import Lines
from feedback_loop.schema.files.reader import check_file, read_chunks, readable
from feedback_loop.store.outcomes import Intake

CHUNK_ROWS = 50_000

Part = tuple[Any, bool]
"""Rows (a table, or a list of objects), and whether their values are text."""


@dataclass(frozen=True)
class OutcomeFile:
    """A file of outcomes: where it lies, and what people call it."""

    path: Path
    name: str

    @classmethod
    def of(cls, path: Path) -> OutcomeFile:
        """A file under its own name."""
        return cls(path, path.name)

    def parts(
        self, wanted: Collection[str] | None, chunk_rows: int = CHUNK_ROWS, budget: Budget = PART
    ) -> Iterator[Part]:
        """The wanted columns (None: all) of a file in parts of so many rows at the most.

        Raises NotFound and BadInput.
        """
        check_file(self.path)
        kind = format_of(self.path.name)
        if kind == "ndjson":
            yield from self._objects(chunk_rows, budget)
            return
        for rows in read_chunks(self.path, chunk_rows, wanted=wanted, name=self.name, budget=budget):
            yield rows, kind == "csv"

    def _objects(self, chunk_rows: int, budget: Budget) -> Iterator[Part]:
        line, before, budget = 1, 0, Budget(chunk_rows, budget.unpacked_bytes)
        with readable(self.name), self.path.open("rb") as file:
            lines = Lines(file, budget)
            remaining = iter(lines)
            while part := lines.some(remaining, chunk_rows):
                budget.check_json(b"".join(part))
                try:
                    rows = read_objects(part, self.name, budget, line)
                except BadInput as error:
                    raise error.moved(before) from error
                if rows:  # and not blank lines alone
                    yield rows, False
                line, before = line + len(part), before + len(rows)


def read_outcomes(path: Path) -> Part:
    """All rows of a file, and whether their values are text; raises NotFound and BadInput."""
    parts = list(OutcomeFile.of(path).parts(None))
    if parts and isinstance(parts[0][0], pa.Table):
        return pa.concat_tables([rows for rows, _ in parts]), parts[0][1]
    return [row for rows, _ in parts for row in rows], False


def take_parts(
    parts: Callable[[], Iterator[Part]],
    check: Callable[[Any, bool], object] | None,
    take: Callable[[Any, bool], IntakeResult],
) -> IntakeResult:
    """Takes all parts in. With `check`, which raises BadInput, all parts are checked before the first is taken."""
    if check is not None:
        _check(parts(), check)
    counts, skipped, before = Intake(), list[RowError](), 0
    for rows, text in parts():
        result = take(rows, text)
        counts += result.counts
        skipped += [replace(error, row=error.row + before) for error in result.skipped]
        before += len(rows)
    return IntakeResult(counts, tuple(skipped))


def _check(parts: Iterator[Part], check: Callable[[Any, bool], object]) -> None:
    problems: list[RowError] = []
    total, before, cure = 0, 0, ""
    for rows, text in parts:
        try:
            check(rows, text)
        except BadInput as error:
            if any(problem.row < 0 for problem in error.problems):
                raise
            moved, total, cure = error.moved(before), total + error.total, error.cure
            problems += moved.problems[: BadInput.KEPT - len(problems)]
        before += len(rows)
    if problems:
        raise BadInput(problems, cure=cure, total=total)
