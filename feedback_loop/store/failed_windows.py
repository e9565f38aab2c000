"""Windows that could not be evaluated, until they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, String

from feedback_loop.clock import Window
from feedback_loop.store.engine import Store
from feedback_loop.store.records import many, put, remove
from feedback_loop.store.schema import shared_table


@dataclass(frozen=True)
class FailedWindow:
    """A window that could not be evaluated: why, how often that was tried, and from when on it is tried again."""

    window: Window
    attempts: int
    failed_at: datetime
    next_attempt_at: datetime
    cause: str


shared_table("failed_windows", FailedWindow, Column("model", String), key=["model", "window_start", "window_end"])


def load_failed_windows(store: Store, model: str) -> list[FailedWindow]:
    """The windows whose last attempt failed, oldest first."""
    return many(store, FailedWindow, model=model, order_by="window_start")


def save_failed_window(store: Store, model: str, failed: FailedWindow) -> None:
    """Keeps what became of another attempt."""
    put(store, failed, model=model)


def forget_failed_window(store: Store, model: str, window: Window) -> None:
    """It was evaluated after all."""
    remove(store, FailedWindow, model=model, window_start=window.start, window_end=window.end)
