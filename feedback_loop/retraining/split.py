"""Rows to learn from and rows to compare on: the newest ones are held out, and no outcome is on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from feedback_loop.adaptation import Anticipation
from feedback_loop.clock import EPOCH, floor_moment, format_moment
from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.errors import Refused
from feedback_loop.retraining.dataset import TrainingRows


class NotMade(Refused):
    """A search that could not be made, for a cause that may be gone tomorrow: it has found nothing out."""


@dataclass(frozen=True)
class Split:
    """Rows to learn from, the newest ones held out, and where the one ends and the other begins.

    No outcome is on both sides. `left_out` says which rows are on neither.
    """

    learn: TrainingRows
    holdout: TrainingRows
    at: datetime
    left_out: tuple[str, ...] = ()

    def anticipating(self, adapter: Callable[[datetime], Anticipation | None]) -> Split:
        """The same, where versions are judged with the adapter (if there is one) as of when held-out rows begin."""
        began = moment_of(self.holdout.times.min())
        return replace(self, holdout=replace(self.holdout, adapter=adapter(began)))


def split_newest(rows: TrainingRows, settings: RetrainingSettings, until: datetime, window: timedelta) -> Split:
    """Holds the newest share of the last three `recent` spans out, and nothing that the champion has learned from.

    Whole windows are held out, up to `until` (the end of one); what is learned was known when they begin. Rows that
    share an outcome (of their key) are on one side: who has learned from one of them knows the others'. Raises
    NotMade where that leaves too few rows to compare or to learn from.
    """
    if not len(rows):
        cause = " ".join(["There are no labelled predictions to learn from.", *rows.left_out])
        raise NotMade(cause, cure="Load outcomes: feedback-loop outcomes load.")
    learned_until = rows.champion.version.trained_until
    lately = np.sort(rows.between(until - 3 * settings.recent, until).times)
    begins = moment_of(lately[int(len(lately) * (1 - settings.holdout))]) if len(lately) else until
    at = max(floor_moment(begins, window), learned_until)
    newest, before = rows.between(at, until), rows.between(EPOCH, at)
    holdout = newest.without_outcomes_of(rows.between(EPOCH, learned_until))
    known_alike, holdout = len(newest) - len(holdout), holdout.for_judging
    apart = before.without_outcomes_of(holdout)
    learn = apart.known_before(at)
    shared = {
        "are as new, but their key's outcome is one that the champion has learned from": known_alike,
        "share their key's outcome with held-out ones": len(before) - len(apart),
        "have outcomes that were not known when the held-out ones began": len(apart) - len(learn),
    }
    left_out = (*rows.left_out, *(f"{count:,} rows {why}: left out." for why, count in shared.items() if count))
    for part, what in ((holdout, "newer than what the champion has learned from"), (learn, "to learn from")):
        if len(part) < settings.min_rows:
            older = _older(rows, learned_until) if part is holdout else ""
            few = f"{len(part):,} labelled rows are {what}; {settings.min_rows:,} are needed."
            raise NotMade(
                " ".join([few, *([older] if older else []), *left_out]),
                cure="Wait for more outcomes, or lower retraining.min_rows.",
            )
    return Split(learn, holdout, at, left_out)


def _older(rows: TrainingRows, learned_until: datetime) -> str:
    """What to do about rows that are no test of the champion because it may have learned from them."""
    count, version = len(rows.between(EPOCH, learned_until)), rows.champion.version
    if not count:
        return ""
    before = f"{count:,} are from before {format_moment(learned_until)}"
    if version.tells_trained_until:
        return f"{before}, until when it has learned."
    say = f"feedback-loop models promote {version.model} {version.version} --trained-until MOMENT"
    return f"{before}, when it was registered, and nobody said until when it had learned. Say so: {say}."


def moment_of(time: np.datetime64) -> datetime:
    """NumPy's moment as Python's, in UTC."""
    moment: datetime = time.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)
