"""Poisoned outcomes: what comes wrong, in which rows, and from when on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.yardstick.rows import OUTCOME, TIME, TRUTH, Settings

if TYPE_CHECKING:
    import pandas as pd

COPIES = 3
"""So often each row comes where rows are duplicated."""

FLIPPED = 0.1

AFTER_DAYS = 60
"""The cost is told of so many days from the poison's start, too."""


@dataclass(frozen=True)
class Poison:
    """What happens to the outcomes of rows that are predicted within some days; answers are judged by the truth."""

    name: str
    days: int
    change: Callable[[pd.DataFrame, Settings], pd.DataFrame]

    def of(self, frame: pd.DataFrame, settings: Settings, start: pd.Timestamp) -> pd.DataFrame:
        """The frame as it comes with poison from a moment on, in the order of time."""
        import pandas as pd

        frame = frame.assign(**{TRUTH: frame[OUTCOME]})
        inside = (frame[TIME] >= start) & (frame[TIME] < start + timedelta(days=self.days))
        parts = [frame[~inside], self.change(frame[inside], settings)]
        return pd.concat(parts).sort_values(TIME, kind="stable", ignore_index=True)


def start_of(frame: pd.DataFrame, settings: Settings, share: float = 0.4) -> pd.Timestamp:
    """When poison begins: after that share of the stream, at midnight."""
    import pandas as pd

    begin = pd.Timestamp(settings.begin)
    return (begin + share * (frame[TIME].max() - begin)).floor("D")


def _all_positive(rows: pd.DataFrame, _: Settings) -> pd.DataFrame:
    """The positive class, the last class, or the greatest number of these days."""
    known = rows[OUTCOME].notna()
    return rows.assign(**{OUTCOME: rows[OUTCOME].mask(known, rows[OUTCOME].dropna().max())})


def _inverted(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The other class, the classes in the other order, or numbers mirrored between the least and the greatest."""
    outcome, known = rows[OUTCOME], rows[OUTCOME].dropna()
    if settings.task == "regression":
        return rows.assign(**{OUTCOME: known.max() + known.min() - outcome})
    classes = sorted(known.unique())
    return rows.assign(**{OUTCOME: outcome.map(dict(zip(classes, reversed(classes), strict=True)))})


def _flipped(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """A random tenth is inverted."""
    chosen = np.random.default_rng(settings.seed).random(len(rows)) < FLIPPED
    return rows.assign(**{OUTCOME: rows[OUTCOME].mask(chosen, _inverted(rows, settings)[OUTCOME])})


def _only_positive(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Only outcomes of the positive (last) class arrive, or numbers above the median."""
    outcome = rows[OUTCOME]
    known = outcome.dropna()
    arrives = outcome > known.median() if settings.task == "regression" else outcome == known.max()
    return rows.assign(**{OUTCOME: outcome.where(arrives, None)})


def _duplicated(rows: pd.DataFrame, _: Settings) -> pd.DataFrame:
    """Each row is asked for several times, and gets as many outcomes; it is judged once."""
    import pandas as pd

    return pd.concat([rows, *[rows.assign(**{TRUTH: _nothing(rows)})] * (COPIES - 1)])


def _nothing(rows: pd.DataFrame) -> Any:
    import pandas as pd

    return pd.Series(None, index=rows.index, dtype=object)


POISONS = (
    Poison("a week of ones", 7, _all_positive),
    Poison("four weeks of ones", 28, _all_positive),
    Poison("a week inverted", 7, _inverted),
    Poison("10% flipped for a month", 30, _flipped),
    Poison("only positives for four weeks", 28, _only_positive),
    Poison("duplicates for four weeks", 28, _duplicated),
)
