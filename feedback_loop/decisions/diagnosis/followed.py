"""Whether a recommendation was right, by what followed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from feedback_loop.decisions.diagnosis.causes import Recommendation
from feedback_loop.store.incidents import Incident
from feedback_loop.store.retrainings import Promotion, Retraining, Trial


@dataclass(frozen=True)
class Searched:
    """A retraining that has ended, with its trials."""

    retraining: Retraining
    trials: Sequence[Trial]

    @property
    def chosen(self) -> Trial | None:
        """The trial that made the candidate, if one came of it that did better than the champion."""
        gate = self.retraining.gate or {}
        if self.retraining.candidate is None or gate.get("difference", 0.0) >= 0:
            return None
        return next((each for each in self.trials if each.chosen), None)


def was_right(
    recommendation: str,
    made_at: datetime,
    incident: Incident | None,
    searched: Sequence[Searched],
    promotions: Sequence[Promotion],
) -> tuple[bool, str] | None:
    """Whether it was right, and why; None while nobody knows. Arguments are the model's own, oldest first.

    `recent` and `more` are judged by the first search that ended after them: which window did best on held-out rows.
    All others by how the incident ended: with the old version (`repair`, `none`), or with one of another making
    (`replace`, `architecture`).
    """
    later = [each for each in searched if each.retraining.started_at >= made_at and _has_ended(each.retraining)]
    if recommendation in (Recommendation.RECENT, Recommendation.MORE):
        return _by_search(recommendation, later[0]) if later else None
    if incident is None or incident.closed_at is None or recommendation == Recommendation.INSUFFICIENT_DATA:
        return None
    done = [each for each in promotions if each.done_at is not None and made_at <= each.done_at <= incident.closed_at]
    stays = recommendation in (Recommendation.REPAIR, Recommendation.NONE)
    if not done:
        return stays, "The incident ended without another version."
    last = done[-1].to_version
    if stays:
        return False, f"The incident ended only after version {last} had taken over."
    if last in {each.retraining.candidate for each in later}:
        return False, f"Version {last}, the same pipeline fitted again, was enough."
    return True, f"Version {last}, of another making, ended the incident."


def _has_ended(retraining: Retraining) -> bool:
    return retraining.state in ("promoted", "passed", "refused")


def _by_search(recommendation: str, search: Searched) -> tuple[bool, str]:
    chosen, number = search.chosen, search.retraining.retraining_id
    if chosen is None:
        return False, f"Retraining {number} found no version that did better."
    is_all = chosen.rows == max(each.rows for each in search.trials)
    is_recent = chosen.name != "all"
    right = is_all if recommendation == Recommendation.MORE else is_recent
    return right, f"In retraining {number} the window “{chosen.name}” ({chosen.rows:,} rows) did best."
