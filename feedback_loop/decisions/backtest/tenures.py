"""Which version was champion when, and at which moments it was looked at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from feedback_loop.clock import Window
from feedback_loop.store.retrainings import Promotion


@dataclass(frozen=True)
class Tenure:
    """A version's time as the champion: since when (None: nobody was recorded before)."""

    version: str
    begins: datetime | None
    has_followed: bool = False

    @property
    def since(self) -> datetime | None:
        """Verdicts from before belong to an earlier tenure."""
        return self.begins if self.has_followed else None


@dataclass(frozen=True)
class Look:
    """One run of the scheduler, and whose tenure it was in."""

    moment: datetime
    tenure: Tenure


def tenures_of(promotions: Sequence[Promotion], champion: str) -> list[Tenure]:
    """The tenures by the promotions that were done, oldest first; one of `champion` where there are none."""
    if not promotions:
        return [Tenure(champion, None)]
    first = promotions[0].from_version
    before = [Tenure(first, None)] if first is not None else []
    return before + [Tenure(done.to_version, done.done_at, done.from_version is not None) for done in promotions]


def tenure_at(tenures: Sequence[Tenure], moment: datetime, version: str | None = None) -> Tenure:
    """The tenure of a moment. For promotions at that very moment, the verdict's `version` decides which came first.

    A judged version without a recorded promotion had its alias set by hand, after the last recorded one.
    """
    begun = [tenure for tenure in tenures if tenure.begins is None or tenure.begins <= moment]
    if version is None:  # a cycle judges before it promotes
        begun = [tenure for tenure in begun if tenure.begins is None or tenure.begins < moment]
    last = begun[-1] if begun else tenures[0]
    if version is None or last.version == version:
        return last
    of_version = [tenure for tenure in begun if tenure.version == version]
    return of_version[-1] if of_version else replace(last, version=version)


def made_looks(
    verdicts: Mapping[datetime, str], runs: Sequence[tuple[datetime, datetime]]
) -> list[tuple[datetime, str | None]]:
    """The moments of looks: of verdicts, with their version, and of runs without a verdict."""
    looks: dict[datetime, str | None] = {**verdicts}
    decided = sorted(looks)
    for began, ended in runs:
        place = bisect_left(decided, began)
        if place == len(decided) or decided[place] > ended:
            looks[began] = None
    return sorted(looks.items())


def looks_until(
    moments: Sequence[tuple[datetime, str | None]], tenures: Sequence[Tenure], window: Window
) -> list[Look]:
    """The looks of the window, and those that lead up to it: since its first champion followed another.

    The first tenure includes predictions that were imported from before its promotion was recorded.
    """
    looks = [Look(moment, tenure_at(tenures, moment, version)) for moment, version in moments if moment < window.end]
    first = next((look.tenure for look in looks if look.moment >= window.start), None)
    return [look for look in looks if first is None or first.since is None or look.moment >= first.since]
