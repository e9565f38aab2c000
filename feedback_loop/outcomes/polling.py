"""Outcomes from a user's own database, by a query that is polled for new rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from feedback_loop.config import SqlSourceSettings
from feedback_loop.errors import BadInput, RowError
from feedback_loop.outcomes.intake import IntakeResult
from feedback_loop.store import Store
from feedback_loop.store import outcomes as stored
from feedback_loop.store.outcomes import load_watermark, save_watermark
from feedback_loop.store.sql_source import Query

SOURCE = "sql"
CHUNK_ROWS = 10_000
OVERLAP, OVERLAP_NUMBERS = timedelta(hours=1), 1000
"""How far a poll looks back where `overlap` is not set: for times, and for numbers."""


@dataclass(frozen=True)
class Polled:
    """The result of one poll: bad rows are left out, reported, and not read again."""

    counts: stored.Intake
    bad_rows: int
    problems: tuple[RowError, ...]  # the first of them
    watermark: Any
    bad_until: Any = None  # the newest watermark of a bad row: another one if there are new ones among them


def poll_sql(
    store: Store, model: str, source: SqlSourceSettings, take: Callable[[Any], IntakeResult], now: datetime
) -> Polled:
    """Takes in what the source's query gives above the watermark, less an overlap; then moves the watermark.

    A row whose transaction commits late has an older time or number than others that were seen before it: the
    overlap finds it as long as it is no later than that, and rows that come again change nothing. The watermark
    moves after all rows are stored: a crash before that means that they come again too. Raises Unavailable,
    ConfigError, and BadInput where the query does not give the watermark's column.
    """
    before = load_watermark(store, model, SOURCE)
    since = source.start if before is None else _earlier(before, source.overlap)
    counts, newest, bad_rows, bad_until = stored.Intake(), before, 0, None
    problems: tuple[RowError, ...] = ()
    with closing(Query(source.url, source.query, {"watermark": since}).chunks(CHUNK_ROWS)) as chunks:
        for chunk in chunks:
            marks = _marks(chunk, source.watermark)
            newest = _newest(marks, newest)
            result = take(chunk)
            counts += result.counts
            bad_rows += len(result.skipped)
            bad_until = _newest([marks[problem.row] for problem in result.skipped], bad_until)
            problems += result.skipped[: BadInput.SHOWN - len(problems)]
    if newest is not None and newest != before:
        save_watermark(store, model, SOURCE, newest, now)
    return Polled(counts, bad_rows, problems, newest, bad_until)


def _marks(chunk: pa.Table, column: str) -> list[Any]:
    if column not in chunk.column_names:
        raise BadInput.of(
            "outcomes.sql.query", f"gives no column {column!r}", cure="Select the watermark's column as well."
        )
    return [_plain(mark) for mark in chunk.column(column).to_pylist()]


def _plain(mark: Any) -> Any:
    """A NUMERIC mark as a number that a query and the store take."""
    if not isinstance(mark, Decimal):
        return mark
    return int(mark) if mark == mark.to_integral_value() else float(mark)


def _newest(marks: Sequence[Any], newest: Any) -> Any:
    """The newest of the marks and the previous newest; marks of another type, as SQLite may have, do not count."""
    present = [mark for mark in (newest, *marks) if mark is not None]
    kinds = [_kind(mark) for mark in present]
    usual = kinds[0] if newest is not None else max(dict.fromkeys(kinds), key=kinds.count, default=None)
    comparable = [mark for mark, kind in zip(present, kinds, strict=True) if kind is usual]
    return max(comparable, default=None, key=_comparable)


def _kind(mark: Any) -> type:
    return float if isinstance(mark, int | float) else type(mark)


def _comparable(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _earlier(watermark: Any, overlap: timedelta | int | None) -> Any:
    """The watermark set back: a time (also one that is text, as in SQLite) or a number."""
    if isinstance(watermark, int | float):
        return watermark - (overlap if isinstance(overlap, int) else OVERLAP_NUMBERS)
    back = overlap if isinstance(overlap, timedelta) else OVERLAP
    if isinstance(watermark, datetime):
        return watermark - back
    try:
        moment = datetime.fromisoformat(watermark) - back
    except ValueError:
        return watermark  # a text that is no time can't be set back
    text = moment.isoformat(watermark[10:11] or "T", "microseconds" if "." in watermark else "seconds")
    return text.replace("+00:00", "Z") if watermark.endswith("Z") else text[: max(len(watermark), 10)]
