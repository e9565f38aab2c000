"""Progress as something that is passed in: silent by default, a bar where a person looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from feedback_loop.safe_text import as_text

Advance = Callable[[int], None]
"""Says that so many more rows (or steps) are done."""


class Progress(Protocol):
    """Where long work reports to."""

    def track(self, description: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """A piece of work of `total` steps (None: unknown); what it yields is called as steps get done."""
        ...

    def say(self, text: str) -> None:
        """A line that whoever works wants to be seen."""
        ...


class Silent:
    """Reports to nobody."""

    @contextmanager
    def track(self, description: str, total: int | None = None) -> Iterator[Advance]:
        """Takes all, shows nothing."""
        del description, total
        yield lambda _: None

    def say(self, text: str) -> None:
        """Takes it, shows nothing."""


class Bar:
    """A bar on standard error, so that standard output stays a program's to read."""

    @contextmanager
    def track(self, description: str, total: int | None = None) -> Iterator[Advance]:
        """Shows a Rich bar with count, rate and time left until the work ends."""
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
        )
        with progress.Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(as_text(description), total=total)
            yield lambda steps: bar.advance(task, steps)

    def say(self, text: str) -> None:
        """Shows the line above the bar."""
        sys.stderr.write(f"{as_text(text)}\n")
