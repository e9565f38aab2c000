"""Replays a log: what policies would have concluded and done, look by look, with what was known then."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from feedback_loop.clock import Window
from feedback_loop.decisions.backtest.candidates import Candidate
from feedback_loop.decisions.backtest.tenures import Look, Tenure
from feedback_loop.decisions.decide import restarted
from feedback_loop.decisions.policy import Reason, next_step
from feedback_loop.decisions.recovery import Recoveries
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.incidents import Ended
from feedback_loop.store.retrainings import Retraining


@dataclass(frozen=True)
class CohortLoss:
    """A window's mean of the watched loss of all rows; None where no outcome was known."""

    version: str
    window: Window
    predictions: int
    labels: int
    mean: float | None


@dataclass(frozen=True)
class Step:
    """A retraining that would have begun, whatever the policy's mode."""

    at: datetime
    reason: Reason
    version: str  # the champion then


@dataclass
class Replayed:
    """What one policy would have concluded and done, oldest first.

    An `alarm` is a degraded verdict that opens an incident, not one while it is open. `references` are the mean
    losses of the versions' references.
    """

    candidate: Candidate
    loss: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    alarms: list[Verdict] = field(default_factory=list)
    warnings: list[Verdict] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    cohorts: list[CohortLoss] = field(default_factory=list)
    references: dict[Tenure, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PolicyState:
    """The state of a candidate before a look: its last verdict on the version, the test of recovery of its open
    incident, and how many monitors it has begun.
    """

    previous: Verdict | None
    recovery: Mapping[str, Any] | None
    begun: int


@dataclass(frozen=True)
class LookResult:
    """The result of a look: its verdict, the test of recovery, each cohort's loss, and the reference's mean loss."""

    verdict: Verdict
    recoveries: Recoveries | None
    cohorts: tuple[CohortLoss, ...]
    reference: float | None


JudgeLook = Callable[[Candidate, Look, PolicyState], LookResult | None]
"""A candidate's look; None where nothing was due."""


@dataclass(frozen=True)
class EarlierEvents:
    """What really happened besides promotions: searches from before the first look, how many monitors were begun by
    then, and incidents closed by hand.

    `closed` has the moment of the last verdict before and that of the closing. An incident that was closed by hand is
    closed under every policy: its cause was gone.
    """

    retrainings: Sequence[Retraining] = ()
    closed: Sequence[tuple[datetime, datetime]] = ()
    begun: int = 0


def replay(
    candidates: Sequence[Candidate],
    looks: Sequence[Look],
    judge: JudgeLook,
    *,
    recorded_from: datetime,
    earlier: EarlierEvents,
    champion_since: Callable[[Tenure], datetime],
    advance: Callable[[int], None],
) -> list[Replayed]:
    """Each candidate at each look, in the order of time; verdicts before `recorded_from` only lead up to it.

    Retrainings follow from the verdicts by `next_step`. They take no time, and only recorded promotions change the
    champion.
    """
    players = [
        _Player(Replayed(candidate), list(earlier.retrainings), list(earlier.closed), earlier.begun)
        for candidate in candidates
    ]
    for look in looks:
        for player in players:
            player.play(look, judge, champion_since(look.tenure), is_recorded=look.moment >= recorded_from)
        advance(1)
    return [player.result for player in players]


@dataclass
class _Player:
    """One policy while the log is played."""

    result: Replayed
    retrainings: list[Retraining]
    closed: list[tuple[datetime, datetime]]
    begun: int
    newest: dict[str, Verdict] = field(default_factory=dict)  # of each version
    last: Verdict | None = None
    ended: dict[int, Ended] = field(default_factory=dict)  # incidents, by the number of the last verdict about each
    is_open: bool = False
    recovery: Mapping[str, Any] | None = None

    def play(self, look: Look, judge: JudgeLook, champion_since: datetime, *, is_recorded: bool) -> None:
        """One look, and what follows from it."""
        version, candidate, result = look.tenure.version, self.result.candidate, self.result
        while self.closed and self.closed[0][0] < look.moment and self.closed[0][1] <= look.moment:
            closed_at = self.closed.pop(0)[1]
            if self.is_open and self.last is not None:
                self._close(self.last, Ended(closed_at, by_hand=True))
        previous = self.newest.get(version)
        if previous is not None and previous.state is not State.OK:
            ended = self.ended.get(previous.verdict_id or 0)
            previous = restarted(previous, ended, candidate.settings.window)
        outcome = judge(candidate, look, PolicyState(previous, self.recovery, self.begun))
        if outcome is not None:
            self._apply(outcome, is_recorded=is_recorded)
        if outcome is not None and is_recorded:
            result.cohorts += outcome.cohorts
            if outcome.reference is not None:
                result.references[look.tenure] = outcome.reference
        reason = next_step(
            self.newest.get(version),
            candidate.settings.policy,
            retrainings=self.retrainings,
            champion_since=champion_since,
            now=look.moment,
        )
        if reason is not None:
            self.retrainings.append(_retraining(len(self.retrainings), reason, version, look.moment))
            result.steps += [Step(look.moment, reason, version)] if is_recorded else []

    def _apply(self, outcome: LookResult, *, is_recorded: bool) -> None:
        before, number = self.last, (self.last.verdict_id or 0) + 1 if self.last is not None else 1
        # Through JSON, as the store would hand the verdict to the next look.
        evidence, monitor = json.loads(json.dumps([outcome.verdict.evidence, outcome.verdict.monitor]))
        verdict = replace(outcome.verdict, evidence=evidence, monitor=monitor, verdict_id=number)
        self.last = self.newest[verdict.version] = verdict
        self.begun = verdict.begun
        self.result.loss = verdict.evidence["loss"]
        alarms = verdict.state is State.DEGRADED and not self.is_open
        if alarms or self.is_open:
            self.recovery = outcome.recoveries.to_json() if outcome.recoveries is not None else None
        if self.is_open and outcome.recoveries is not None and outcome.recoveries.recovered:
            self._close(verdict, Ended(verdict.decided_at, by_hand=False))
        self.is_open = self.is_open or alarms
        if is_recorded:
            self._record(verdict, before, alarms=alarms)

    def _record(self, verdict: Verdict, before: Verdict | None, *, alarms: bool) -> None:
        verdicts, light = self.result.verdicts, replace(verdict, monitor={})
        if verdicts:  # only the newest one's monitor is needed: those of a year would fill the memory
            verdicts[-1] = replace(verdicts[-1], monitor={})
        verdicts.append(verdict)
        self.result.alarms += [light] if alarms else []
        if verdict.state is State.WARNING and (before is None or before.state is not State.WARNING):
            self.result.warnings.append(light)

    def _close(self, last: Verdict, ended: Ended) -> None:
        self.ended[last.verdict_id or 0] = ended
        self.is_open, self.recovery = False, None


def _retraining(number: int, reason: Reason, version: str, now: datetime) -> Retraining:
    return Retraining(number, "", reason, None, version, None, "passed", now, now, None, None)
