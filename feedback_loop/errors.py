"""Every error that the package raises on purpose: what happened, where, and what to do about it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from feedback_loop.safe_text import without_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class FeedbackLoopError(Exception):
    """Base of all: `cause` says what happened and where, `cure` what the reader can do."""

    def __init__(self, cause: str, *, cure: str = "") -> None:
        if cause.endswith(".."):  # a library's words bring a full stop of their own
            cause = cause.rstrip(".") + "."
        cause, cure = without_secrets(cause), without_secrets(cure)
        super().__init__(cause, cure)
        self.cause = cause
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.cause} {self.cure}".rstrip()


class ConfigError(FeedbackLoopError):
    """The configuration names something that does not exist or holds a wrong value."""

    def __init__(self, cause: str, *, cure: str = "", path: Path | None = None, key: str = "") -> None:
        super().__init__(cause, cure=cure)
        self.path = path
        self.key = key


class ContractError(FeedbackLoopError):
    """A model's signature, key or label is not what this model's tables were made for."""

    def __init__(self, cause: str, *, cure: str = "", model: str, field: str = "") -> None:
        super().__init__(cause, cure=cure)
        self.model = model
        self.field = field


@dataclass(frozen=True)
class RowError:
    """One thing wrong with one row: `row` counts from 0, -1 means the whole input."""

    row: int
    field: str
    cause: str

    def __str__(self) -> str:
        place = "" if self.row < 0 else f"row {self.row}: "
        return f"{place}{self.field}: {self.cause}" if self.field else f"{place}{self.cause}"


class BadInput(FeedbackLoopError):
    """Data from a caller that can't be taken; `problems` names each row and field (the first 100)."""

    KEPT = 100
    SHOWN = 5

    def __init__(self, problems: Sequence[RowError], *, cure: str = "", total: int | None = None) -> None:
        self.problems = tuple(problems[: self.KEPT])
        self.total = len(problems) if total is None else total
        shown = "; ".join(str(problem).rstrip(".") for problem in self.problems[: self.SHOWN])
        more = f"; and {self.total - self.SHOWN} more" if self.total > self.SHOWN else ""
        super().__init__(f"{shown}{more}.", cure=cure)

    @classmethod
    def of(cls, field: str, cause: str, *, row: int = -1, cure: str = "") -> Self:
        """One problem as an error."""
        return cls([RowError(row, field, cause)], cure=cure)

    def moved(self, rows: int, *, cure: str = "") -> BadInput:
        """The same about rows that come so many later: those of a part, counted from the whole's first."""
        moved = [
            RowError(problem.row + rows if problem.row >= 0 else -1, problem.field, problem.cause)
            for problem in self.problems
        ]
        return BadInput(moved, cure=self.cure or cure, total=self.total)


class TooLarge(BadInput):
    """Data from a caller that would take more memory than is allowed, found out before it did."""


class ModelRefused(BadInput):
    """Rows that fit a model's signature, and that the model itself raised an error for."""


class ModelFault(FeedbackLoopError):
    """What a model answers is no answer: of another number of rows, of another type. No caller can help it."""

    def __init__(self, cause: str, *, cure: str = "Mend the model, and register it anew.") -> None:
        super().__init__(cause, cure=cure)


class NotFound(FeedbackLoopError):
    """A model, version, alias, file or record that was asked for by name is not there."""

    def __init__(self, kind: str, name: str, *, cure: str = "") -> None:
        super().__init__(f"There is no {kind} {name!r}.", cure=cure)
        self.kind = kind
        self.name = name


class Refused(FeedbackLoopError):
    """A guard said no, on purpose: a fence, a gate, a lease, a policy."""


class LeaseLost(Refused):
    """A run that held a lease holds it no longer: it was not renewed in time, and another may have begun."""

    def __init__(self, lease: str) -> None:
        super().__init__(
            f"The lease {lease!r} was lost while it was at work: it could not be renewed in time, or another run has "
            "it. Nothing was written since.",
            cure="Look why the database did not answer in time; the next run makes what is left.",
        )
        self.lease = lease


class Cancelled(FeedbackLoopError):
    """A person has asked for the end of the job that runs: each of its accesses to the store raises this."""

    def __init__(self, by: str, reason: str) -> None:
        super().__init__(f"It was cancelled by {by}: {reason}", cure="The next turn of the loop makes it anew.")
        self.by, self.reason = by, reason


class Unavailable(FeedbackLoopError):
    """A service that this needs did not answer; the same call may go through later."""

    def __init__(self, service: str, cause: str, *, cure: str = "") -> None:
        super().__init__(cause, cure=cure)
        self.service = service


def traceback_of(error: BaseException) -> str:
    """The traceback as text, for the log's `exception`, however the log is set up.

    Without the variables of each frame, which structlog's own way of telling shows: settings are among them.
    """
    return "".join(traceback.format_exception(error))
