"""When a whole cohort is fed: as soon as hardly more of its outcomes are to be expected. Pure.

Outcomes that come early are not like those that come late, so a cohort is never fed in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

REMEMBERED = 30
"""The final share is a median over so many matured cohorts."""

ENOUGH = 5
"""Before so many have matured, `FIRST_SHARE` is asked for."""

FIRST_SHARE = 0.97

MARGIN = 0.02
"""So much less than the median final share will do."""

LATE_SHARE = 0.8
"""At maturity so much of the median final share will do."""


@dataclass(frozen=True)
class Share:
    """How many of a cohort's predictions have an outcome."""

    predicted: int
    labelled: int

    @property
    def labelled_share(self) -> float:
        """Of those predicted; 0 of none."""
        return self.labelled / self.predicted if self.predicted else 0.0


def is_due(now: Share, finals: Sequence[float], *, is_matured: bool) -> bool:
    """Whether a whole cohort is fed now, by the `finals` of matured cohorts before, oldest first."""
    if not now.labelled:
        return False
    known = finals[-REMEMBERED:]
    usual = median(known) if len(known) >= ENOUGH else None
    if now.labelled_share >= (usual - MARGIN if usual is not None else FIRST_SHARE):
        return True
    return is_matured and now.labelled_share >= LATE_SHARE * (usual if usual is not None else FIRST_SHARE)
