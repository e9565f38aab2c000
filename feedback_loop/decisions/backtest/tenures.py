"""Who was the champion when, and at which moments the log was looked at."""

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
    """Who was the champion when, by the promotions that were done, oldest first; `champion` where there are none."""
    if not promotions:
        return [Tenure(champion, None)]
    first = promotions[0].from_version
    before = [Tenure(first, None)] if first is not None else []
    return before + [Tenure(done.to_version, done.done_at, done.from_version is not None) for done in promotions]


def tenure_at(tenures: Sequence[Tenure], moment: datetime, version: str | None = None) -> Tenure:
    """The tenure of a moment. Of promotions at that very moment, the verdict's `version` says which came before it.

    A version that was judged and never recorded as promoted had its alias set by hand, after the last that was.
    """
    begun = [tenure for tenure in tenures if tenure.begins is None or tenure.begins <= moment]
    if version is None:  # a cycle judges before it promotes
        begun = [tenure for tenure in begun if tenure.begins is None or tenure.begins < moment]
    last = begun[-1] if begun else tenures[0]
    if version is None or last.version == version:
        return last
    own = [tenure for tenure in begun if tenure.version == version]
    return own[-1] if own else replace(last, version=version)


def made_looks(
    verdicts: Mapping[datetime, str], runs: Sequence[tuple[datetime, datetime]]
) -> list[tuple[datetime, str | None]]:
    """When the log was looked at: moments of verdicts with their version, and of runs that came to none."""
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

    The first tenure answers for what was imported from before its promotion was recorded, as for a verdict.
    """
    looks = [Look(moment, tenure_at(tenures, moment, version)) for moment, version in moments if moment < window.end]
    first = next((look.tenure for look in looks if look.moment >= window.start), None)
    return [look for look in looks if first is None or first.since is None or look.moment >= first.since]
