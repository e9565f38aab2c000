"""What a report is of, and how it says so: this part knows nothing of Evidently."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from feedback_loop.clock import format_moment
from feedback_loop.monitoring.exploration_effect import ExplorationEffect
from feedback_loop.monitoring.profiles.blocks import Rows
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.schema import Contract
from feedback_loop.store.evaluations import Evaluation

Kind = Literal["drift", "validation"]
KINDS: tuple[Kind, ...] = ("drift", "validation")

RowSource = Literal["surrogate", "sample", "full"]
"""Where the drawn rows of a page come from: the profiles, a sample of the log, or all of its rows."""

LEAST_REPORT_ROWS = 10


@dataclass(frozen=True)
class Subject:
    """What a report is of: one version's predictions of a window, and what they are measured by.

    Without a `reference` they are by themselves. `evaluation` has the exact figures. `others` were predicted in the
    window by other champions and are not in it.
    `reference_span` is from when to when the rows of the reference were predicted, if they say. Where outcomes need
    an action `judged` is the profile of the rows that can be judged, and `exploration` says how explored ones differ.
    """

    name: str
    current: Profile
    reference: Profile | None
    evaluation: Evaluation
    others: int = 0
    reference_span: tuple[datetime, datetime] | None = None
    judged: Profile | None = None
    exploration: ExplorationEffect | None = None

    @property
    def contract(self) -> Contract:
        """The model's contract."""
        return self.current.layout.contract

    def of(self, kind: Kind) -> Profile:
        """The window's profile that a report of that kind is of."""
        return self.current if kind == "drift" or self.judged is None else self.judged

    def rows(self, kind: Kind) -> tuple[int, int]:
        """How many rows (in a report of validation: labelled ones) there are, and of the reference."""
        counted = Rows.PREDICTED if kind == "drift" else Rows.LABELLED
        return self.of(kind).rows(counted), self.reference.rows(counted) if self.reference is not None else 0

    def has_enough(self, kind: Kind) -> bool:
        """Whether there are ten rows for such a report, of the window and of a reference that there is."""
        rows, reference_rows = self.rows(kind)
        return rows >= LEAST_REPORT_ROWS and (self.reference is None or reference_rows >= LEAST_REPORT_ROWS)


def about(kind: Kind, subject: Subject, shown: RowSource, drawn: tuple[int, int]) -> dict[str, Any]:
    """What a report's data file says of itself; `drawn` are the rows of each side that the page is drawn of."""
    evaluation = subject.evaluation
    window = [format_moment(evaluation.window.start), format_moment(evaluation.window.end)]
    rows, reference_rows = subject.rows(kind)
    spans = [(evaluation.window.start, evaluation.window.end)]
    spans += [subject.reference_span] if subject.reference_span is not None else []
    return {
        "about": summary(kind, subject, shown, drawn),
        "model": evaluation.model,
        "version": evaluation.version,
        "name": subject.name,
        "kind": kind,
        "window": window,
        "as_of": format_moment(evaluation.as_of),
        "rows": rows,
        "reference_rows": reference_rows,
        "shown": shown,
        "drawn": list(drawn),
        "coverage": evaluation.coverage,
        "spans": [[start.isoformat(), end.isoformat()] for start, end in spans],
    }


def summary(kind: Kind, subject: Subject, shown: RowSource, drawn: tuple[int, int]) -> str:
    """What every page says at its top: of what it is, of how many rows, and what is drawn of them."""
    evaluation, (rows, reference_rows) = subject.evaluation, subject.rows(kind)
    what = "predictions" if kind == "drift" else "predictions with outcomes"
    coverage = f" (coverage {evaluation.coverage:.1%})" if evaluation.coverage is not None else ""
    window = f"{format_moment(evaluation.window.start)} – {format_moment(evaluation.window.end)}"
    against = f"against a reference of {reference_rows:,}" if subject.reference is not None else "without a reference"
    sentences = [
        f"{evaluation.model} version {evaluation.version}, {subject.name}, {kind}:",
        f"{rows:,} {what}{coverage}, {window}, {against},",
        f"as of {format_moment(evaluation.as_of)}.",
        *evaluation.notes,
        _drawn_from(kind, shown, drawn),
    ]
    if kind == "drift" and not subject.has_enough("validation"):
        sentences.append(f"There is no report of validation: {subject.rows('validation')[0]:,} outcomes are too few.")
    if subject.others:
        sentences.append(f"{subject.others:,} predictions of other champions in this window are not in it.")
    return " ".join(sentences)


def _drawn_from(kind: Kind, shown: RowSource, drawn: tuple[int, int]) -> str:
    if not any(drawn):
        return "Nothing else is drawn: all outcomes of the window, or of the reference, are of one class, or of none."
    if shown == "full":
        return "What is drawn below is of all these rows."
    if shown == "sample":
        return f"What is drawn below is of a sample of {_sizes(drawn)} of these rows."
    joint = (
        "each column by itself: how columns go together is not shown"
        if kind == "drift"
        else "with the same counts of answers and outcomes and the same distribution of each score or error"
    )
    surrogates = f"{_sizes(drawn)} surrogate rows, made from their profiles, {joint}"
    return f"The exact figures are of all of them. What is drawn below these is of {surrogates}."


def _sizes(drawn: tuple[int, int]) -> str:
    return " and ".join(f"{rows:,}" for rows in drawn if rows)
