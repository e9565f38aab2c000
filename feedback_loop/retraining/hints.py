"""What a diagnosis says to a search: which rows it does not learn from, and which trials are added.

The fixed trials stay as they are. A hint adds trials, and these compete with them on the same held-out rows: within
one standard error the fixed ones, which learn from more, are preferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from feedback_loop.clock import Window, format_moment
from feedback_loop.decisions.diagnosis import Recommendation
from feedback_loop.monitoring import Floats
from feedback_loop.retraining.dataset import TrainingRows, as_text
from feedback_loop.retraining.recipes import BOOSTING, OWN, Columns, recipe
from feedback_loop.store.conclusions import Diagnosis

SURE = 3
"""An effect that is so many standard errors above zero is one."""

MOST_WEIGHT = 20.0
"""The largest weight that a row gets for being like today's, and one over it the smallest."""


@dataclass(frozen=True)
class Hints:
    """What is known of a change: `broken` rows and what is `faulty` in them; since when the relation is another one
    (`changed`); whether the inputs are others (`moved`); when outcomes stopped the adapter (`mistrusted`).
    """

    broken: Window | None = None
    faulty: tuple[str, ...] = ()
    changed: Window | None = None
    moved: bool = False
    mistrusted: tuple[Window, ...] = ()

    def sound(self, rows: TrainingRows) -> TrainingRows:
        """The rows that may be learned from."""
        for window in (*((self.broken,) if self.broken is not None else ()), *self.mistrusted):
            rows = rows.outside(window)
        return rows

    @property
    def left_out(self) -> dict[str, str]:
        """The rows that are left out, as a version's run has them: see `rows_again`."""
        broken = self.broken
        rules = (
            {}
            if broken is None
            else {"broken_from": broken.start.isoformat(), "broken_until": broken.end.isoformat()}
        )
        return rules | ({"mistrusted": as_text(self.mistrusted)} if self.mistrusted else {})

    @property
    def words(self) -> str:
        """What is left out because of them."""
        words = []
        if self.broken is not None:
            words.append(f"{_left_out(self.broken)}: {', '.join(self.faulty)} is broken there.")
        if self.mistrusted:
            words.append(
                f"{_left_out(*self.mistrusted)}: their outcomes stopped the adapter (feedback-loop adapter release "
                "says that they are right)."
            )
        return " ".join(words)


def hints_of(diagnosis: Diagnosis | None, mistrusted: tuple[Window, ...] = ()) -> Hints:
    """What the newest diagnosis of an open incident says; nothing where there is none, or it found nothing.

    Rows that stopped the adapter are learned from where the diagnosis says that the relation has changed.
    """
    hints = _of_diagnosis(diagnosis)
    return hints if hints.changed is not None else replace(hints, mistrusted=mistrusted)


def _left_out(*windows: Window) -> str:
    spans = [f"{format_moment(window.start)} to {format_moment(window.end)}" for window in windows]
    return f"Nothing was learned from the rows of {' and '.join(spans)}"


def _of_diagnosis(diagnosis: Diagnosis | None) -> Hints:
    if diagnosis is None or not (diagnosis.evidence.get("split") and diagnosis.evidence.get("change")):
        return Hints()
    split, recommendation = diagnosis.evidence["split"], diagnosis.recommendation
    faulty = tuple(fault["feature"] for fault in diagnosis.evidence.get("faults", ()))
    if recommendation == Recommendation.REPAIR:
        return Hints(broken=diagnosis.window, faulty=faulty)
    if recommendation == Recommendation.REPLACE:  # it has been so for long: all that is new would be left out
        return Hints(faulty=(diagnosis.evidence.get("feature") or faulty[0],))
    relation, inputs = (_is_sure(split[part]) for part in ("relation", "inputs"))
    return Hints(changed=diagnosis.window if relation else None, moved=inputs)


def _is_sure(effect: Mapping[str, Any]) -> bool:
    return float(effect["value"]) > SURE * float(effect["error"])


@dataclass(frozen=True)
class Steering:
    """How a hint or a search space changes a trial: other rows, features, weights or parameters; and why."""

    window: str
    why: str
    since: Window | None = None
    without: tuple[str, ...] = ()
    today: TrainingRows | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def steered(hints: Hints, kinds: Sequence[str], today: TrainingRows) -> list[tuple[str, Steering]]:
    """The trials that hints add, as kinds with what is changed of them. `today` are rows as they come now."""
    added: list[tuple[str, Steering]] = []
    if hints.faulty:
        why = f"the diagnosis: {', '.join(hints.faulty)} is broken"
        others = [kind for kind in kinds if kind != OWN] or [BOOSTING]  # the champion's own pipeline wants all
        added += [(kind, Steering("all", why, without=hints.faulty)) for kind in others]
    if hints.changed is not None:
        why = f"the diagnosis: the relation is another one since {format_moment(hints.changed.start)}"
        added += [(kind, Steering("since the change", why, since=hints.changed)) for kind in kinds]
    if hints.moved:
        why = "the diagnosis: the inputs are others, and rows like today's count for more"
        added += [(kind, Steering("all", why, today=today)) for kind in kinds]
    return added


def likeness(rows: TrainingRows, today: TrainingRows, columns: Columns, seed: int) -> Floats:
    """How much likelier each row is among today's than among these: odds by a boosting that tells them apart.

    The density ratio by classification (Sugiyama, Suzuki and Kanamori 2012, section 4.1), bounded on both sides.
    """
    import pandas as pd

    old, new = rows.inputs(), today.inputs()
    both = pd.concat([old, new]) if isinstance(old, pd.DataFrame) else np.concatenate([old, new])
    is_new = np.arange(len(old) + len(new)) >= len(old)
    told = recipe(BOOSTING, columns, classifies=True, seed=seed).fit(both, is_new)
    chance = np.clip(told.predict_proba(old)[:, 1], 1e-6, 1 - 1e-6)
    ratio = chance / (1 - chance) * (len(old) / len(new))
    bounded = np.clip(ratio, 1 / MOST_WEIGHT, MOST_WEIGHT)
    return np.asarray(bounded / bounded.mean())
