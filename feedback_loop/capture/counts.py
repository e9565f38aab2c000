"""What a process counts of its rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """What this process did with the rows of one model."""

    answered: int = 0
    spooled: int = 0
    refused: int = 0
    dropped: int = 0
    unsampled: int = 0


@dataclass(frozen=True)
class Gauges:
    """What became of the rows in this process's spool, by model, and when the first that waits came."""

    waiting: dict[str, int]
    stored: dict[str, int]
    rejected: dict[str, int]
    missing: dict[str, int]  # taken once, and nowhere now
    waiting_since: int | None  # microseconds since 1970
