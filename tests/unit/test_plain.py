"""Records as plain values."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from feedback_loop.clock import Window
from feedback_loop.plain import plain

START = datetime(2026, 3, 1, tzinfo=UTC)


class Kind(StrEnum):
    ONE = "one"


@dataclass(frozen=True)
class Record:
    at: datetime
    window: Window
    inner: tuple[object, ...]


def test_a_record_is_plain_however_deep_it_is():
    window = Window(START, START + timedelta(days=1))
    inner = (Kind.ONE, Path("a/b"), timedelta(hours=1), {"x": [1.5, None, True]}, datetime(2026, 3, 1, 4))  # noqa: DTZ001
    assert plain([Record(START + timedelta(hours=4), window, inner)]) == [
        {
            "at": "2026-03-01T04:00Z",
            "window": ["2026-03-01", "2026-03-02"],
            "inner": ["one", "a/b", "1:00:00", {"x": [1.5, None, True]}, "2026-03-01T04:00:00"],
        }
    ]
