"""What a person sees while the demo plays: a line a month above a bar of days."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from feedback_loop.progress import Advance

_COLUMNS = ("month", "predictions", "coverage", "log loss", "verdict", "champion")


@dataclass(frozen=True)
class Month:
    """A month so far: `loss` is the mean log loss of its matured predictions."""

    name: str
    predictions: int
    coverage: float | None
    loss: float | None
    verdict: str
    champion: str

    def cells(self) -> tuple[str, ...]:
        """As it is shown."""
        coverage = "–" if self.coverage is None else f"{self.coverage:.1%}"
        loss = "–" if self.loss is None else f"{self.loss:.4f}"
        return self.name, f"{self.predictions:,}", coverage, loss, self.verdict, f"version {self.champion}"


class Screen:
    """Draws on standard error, live on a terminal, line by line elsewhere."""

    def __init__(self, *, live: bool) -> None:
        self._is_live = live
        self._months: dict[str, Month] = {}
        self._bar: Any = None
        self._view: Any = None

    def say(self, text: str) -> None:
        """One line about what goes on."""
        if self._view is not None:
            self._view.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 (this is the screen)

    @contextmanager
    def days(self, count: int) -> Iterator[Advance]:
        """A bar of so many days, below the table of months."""
        if not self._is_live:
            yield lambda _: None
            self._print_last()
            return
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(TextColumn("days"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        task = self._bar.add_task("days", total=count)
        with Live(self._table(), console=Console(stderr=True), refresh_per_second=4) as self._view:
            yield lambda steps: self._bar.advance(task, steps)
        self._view = None

    def month(self, month: Month) -> None:
        """The state of a month; the same month again replaces it."""
        if not self._is_live and month.name not in self._months:
            self._print_last()
        self._months[month.name] = month
        if self._view is not None:
            self._view.update(self._table())

    def _print_last(self) -> None:
        if self._months:
            cells = list(self._months.values())[-1].cells()
            self.say("  ".join(f"{name} {cell}" for name, cell in zip(_COLUMNS, cells, strict=True)))

    def _table(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in _COLUMNS:
            table.add_column(name, justify="left" if name in ("month", "verdict", "champion") else "right")
        for month in self._months.values():
            table.add_row(*month.cells())
        return Group(table, self._bar)
