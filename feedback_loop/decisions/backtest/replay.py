"""A log played again: what policies would have said and done, look by look, with what was known then."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.decide import restarted
from feedback_loop.decisions.policy import Reason, next_step
from feedback_loop.decisions.recovery import Recoveries
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.incidents import Ended
from feedback_loop.store.retrainings import Promotion, Retraining

SOUND = ("change", "harm", "either")
"""Rules whose alarms come with an error rate: a change is best dated by one of them."""


@dataclass(frozen=True)
class Reign:
    """A version's time as the champion: since when (None: nobody was recorded before)."""

    version: str
    begins: datetime | None
    has_followed: bool = False

    @property
    def since(self) -> datetime | None:
        """Verdicts of before are of an earlier reign."""
        return self.begins if self.has_followed else None


@dataclass(frozen=True)
class Look:
    """One run of the scheduler, and whose reign it was in."""

    moment: datetime
    reign: Reign


@dataclass(frozen=True)
class Candidate:
    """A policy to be tried: its name, and the model's settings with it in them."""

    name: str
    settings: ModelSettings


@dataclass(frozen=True)
class CohortLoss:
    """What one window cost by the loss of all rows that is watched; None where no outcome was known."""

    version: str
    window: Window
    predictions: int
    labels: int
    mean: float | None


@dataclass(frozen=True)
class Step:
    """A retraining that would have begun, of whatever mode the policy is."""

    at: datetime
    reason: Reason
    version: str  # the champion then


@dataclass(frozen=True)
class Replayed:
    """What one policy would have said and done, oldest first.

    An `alarm` is a degraded verdict that opens an incident; more of them while it is open are none. `references` are
    the mean losses that versions were held against.
    """

    candidate: Candidate
    loss: str = ""
    verdicts: tuple[Verdict, ...] = ()
    alarms: tuple[Verdict, ...] = ()
    warnings: tuple[Verdict, ...] = ()
    steps: tuple[Step, ...] = ()
    cohorts: tuple[CohortLoss, ...] = ()
    references: tuple[tuple[Reign, float], ...] = ()


@dataclass(frozen=True)
class Change:
    """The moment that delays are counted from: `given`, `estimated` by an alarm, or where its cohorts begin."""

    at: datetime
    source: Literal["given", "estimated", "first alarm"]
    policy: str | None = None


@dataclass(frozen=True)
class Delay:
    """From the change to the first alarm after it: time, and labelled predictions of the champion's."""

    days: float
    labels: int


@dataclass(frozen=True)
class Aftermath:
    """What followed an alarm: the mean loss from its first cohort on while its version answered, and that of the next
    champion while that did. They are of other rows: the world may have changed between. Where there is none, `cause`
    says why.
    """

    version: str
    next_version: str | None = None
    before: float | None = None
    after: float | None = None
    labels: int = 0  # that `after` is of
    cause: str | None = None


@dataclass(frozen=True)
class Backtest:
    """Policies beside each other on one log. `looks` are moments in `window`.

    What is said of moments after `final_until` may change yet: nobody has asked for them before. `known`: as of when
    the log was read, if not as of each look.
    """

    model: str
    window: Window
    looks: tuple[datetime, ...]
    were_made: bool  # by decide, or else as the schedule would have
    known: datetime | None
    final_until: datetime | None
    reigns: tuple[Reign, ...]
    change: Change | None
    played: tuple[Replayed, ...]
    followed: tuple[tuple[Aftermath, ...], ...]  # of each policy, each alarm


def reigns_of(promotions: Sequence[Promotion], champion: str) -> list[Reign]:
    """Who was the champion when, by the promotions that were done, oldest first; `champion` where there are none."""
    if not promotions:
        return [Reign(champion, None)]
    first = promotions[0].from_version
    found = [Reign(first, None)] if first is not None else []
    return found + [Reign(each.to_version, each.done_at, each.from_version is not None) for each in promotions]


def reign_at(reigns: Sequence[Reign], moment: datetime, version: str | None = None) -> Reign:
    """The reign of a moment. Of promotions at that very moment, the verdict's `version` says which came before it.

    A version that was judged and never recorded as promoted had its alias set by hand, after the last that was.
    """
    begun = [each for each in reigns if each.begins is None or each.begins <= moment]
    if version is None:  # a cycle judges before it promotes
        begun = [each for each in begun if each.begins is None or each.begins < moment]
    found = begun[-1] if begun else reigns[0]
    if version is None or found.version == version:
        return found
    own = [each for each in begun if each.version == version]
    return own[-1] if own else replace(found, version=version)


@dataclass(frozen=True)
class Standing:
    """What a candidate goes on from: its last verdict on a version, the test of recovery of its open incident, how
    many monitors were begun.
    """

    previous: Verdict | None
    recovery: Mapping[str, Any] | None
    begun: int


@dataclass(frozen=True)
class Answer:
    """What a look had to say: its verdict, how the test of recovery stands, what each cohort cost, and the mean loss
    that these were held against.
    """

    verdict: Verdict
    recoveries: Recoveries | None
    cohorts: tuple[CohortLoss, ...]
    reference: float | None


Ask = Callable[[Candidate, Look, Standing], Answer | None]
"""A candidate's look; None where nothing was due."""


@dataclass(frozen=True)
class Past:
    """What really happened besides promotions: searches from before the first look, how many monitors were begun by
    then, and incidents closed by hand.

    Each of these with the moment of the last verdict before, and its own. By hand one is closed whatever the policy
    is: somebody knew of a cause that was gone.
    """

    retrainings: Sequence[Retraining] = ()
    closed: Sequence[tuple[datetime, datetime]] = ()
    begun: int = 0


def replay(
    candidates: Sequence[Candidate],
    looks: Sequence[Look],
    ask: Ask,
    *,
    told_from: datetime,
    past: Past,
    champion_since: Callable[[Reign], datetime],
    advance: Callable[[int], None],
) -> list[Replayed]:
    """Each candidate at each look, in the order of time; what was said before `told_from` only leads up to it.

    Retrainings are what `next_step` makes of the verdicts: as if each took no time, and changed no champion that the
    record does not know of.
    """
    players = [_Player(each, list(past.retrainings), list(past.closed), past.begun) for each in candidates]
    for look in looks:
        for player in players:
            player.play(look, ask, champion_since(look.reign), is_told=look.moment >= told_from)
        advance(1)
    return [player.done() for player in players]


@dataclass
class _Player:
    """One policy while the log is played."""

    candidate: Candidate
    retrainings: list[Retraining]
    closed: list[tuple[datetime, datetime]]
    begun: int
    newest: dict[str, Verdict] = field(default_factory=dict)  # of each version
    said: Verdict | None = None
    ended: dict[int, Ended] = field(default_factory=dict)  # incidents, by the number of the last verdict about each
    is_open: bool = False
    recovery: Mapping[str, Any] | None = None
    loss: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    alarms: list[Verdict] = field(default_factory=list)
    warnings: list[Verdict] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    cohorts: list[CohortLoss] = field(default_factory=list)
    references: dict[Reign, float] = field(default_factory=dict)

    def play(self, look: Look, ask: Ask, champion_since: datetime, *, is_told: bool) -> None:
        """One look, and what follows from it."""
        version, policy = look.reign.version, self.candidate.settings.policy
        while self.closed and self.closed[0][0] < look.moment and self.closed[0][1] <= look.moment:
            closed_at = self.closed.pop(0)[1]
            if self.is_open and self.said is not None:
                self._close(self.said, Ended(closed_at, by_hand=True))
        previous = self.newest.get(version)
        if previous is not None and previous.state is not State.OK:
            ended = self.ended.get(previous.verdict_id or 0)
            previous = restarted(previous, ended, self.candidate.settings.window)
        answer = ask(self.candidate, look, Standing(previous, self.recovery, self.begun))
        if answer is not None:
            self._hear(answer, is_told=is_told)
        if answer is not None and is_told:
            self.cohorts += answer.cohorts
            if answer.reference is not None:
                self.references[look.reign] = answer.reference
        reason = next_step(
            self.newest.get(version),
            policy,
            retrainings=self.retrainings,
            champion_since=champion_since,
            now=look.moment,
        )
        if reason is not None:
            self.retrainings.append(_retraining(len(self.retrainings), reason, version, look.moment))
            self.steps += [Step(look.moment, reason, version)] if is_told else []

    def done(self) -> Replayed:
        """All of it."""
        return Replayed(
            self.candidate,
            self.loss,
            tuple(self.verdicts),
            tuple(self.alarms),
            tuple(self.warnings),
            tuple(self.steps),
            tuple(self.cohorts),
            tuple(self.references.items()),
        )

    def _hear(self, answer: Answer, *, is_told: bool) -> None:
        before, number = self.said, (self.said.verdict_id or 0) + 1 if self.said is not None else 1
        # Through JSON, as a verdict goes through the store on its way to the next look.
        evidence, monitor = json.loads(json.dumps([answer.verdict.evidence, answer.verdict.monitor]))
        verdict = replace(answer.verdict, evidence=evidence, monitor=monitor, verdict_id=number)
        self.said = self.newest[verdict.version] = verdict
        self.begun = verdict.begun
        self.loss = verdict.evidence["loss"]
        alarms = verdict.state is State.DEGRADED and not self.is_open
        if alarms or self.is_open:
            self.recovery = answer.recoveries.to_json() if answer.recoveries is not None else None
        if self.is_open and answer.recoveries is not None and answer.recoveries.recovered:
            self._close(verdict, Ended(verdict.decided_at, by_hand=False))
        self.is_open = self.is_open or alarms
        if not is_told:
            return
        if self.verdicts:  # only the newest one's monitor is needed: the states of a year would fill the memory
            self.verdicts[-1] = replace(self.verdicts[-1], monitor={})
        self.verdicts.append(verdict)
        self.alarms += [replace(verdict, monitor={})] if alarms else []
        if verdict.state is State.WARNING and (before is None or before.state is not State.WARNING):
            self.warnings.append(replace(verdict, monitor={}))

    def _close(self, last: Verdict, ended: Ended) -> None:
        self.ended[last.verdict_id or 0] = ended
        self.is_open, self.recovery = False, None


def change_of(played: Sequence[Replayed], given: datetime | None) -> Change | None:
    """The moment that delays are counted from: the given one, or where the first alarm says that the change was.

    The first alarm of a policy whose rule has an error rate, if there is one: that of another may be any.
    """
    if given is not None:
        return Change(given, "given")
    sound = [each for each in played if each.alarms and each.candidate.settings.policy.rule in SOUND]
    alarmed = sound or [each for each in played if each.alarms]
    if not alarmed:
        return None
    first = min(alarmed, key=lambda each: each.alarms[0].decided_at)
    alarm = first.alarms[0]
    acting = [each for each in alarm.evidence["watched"] if each["name"] in alarm.evidence["acts"]]
    changed_at = acting[0].get("changed_at") if acting else None
    if changed_at is None:
        return Change(alarm.window.start, "first alarm", first.candidate.name)
    return Change(datetime.fromisoformat(changed_at), "estimated", first.candidate.name)


def delay_of(played: Replayed, change: Change) -> Delay | None:
    """How long after the change the first alarm on predictions from after it came; None where none came."""
    alarm = next((each for each in played.alarms if each.window.end > change.at), None)
    if alarm is None:
        return None
    between = [each for each in played.cohorts if change.at < each.window.end <= alarm.window.end]
    days = (alarm.decided_at - change.at) / timedelta(days=1)
    return Delay(days, sum(each.labels for each in between))


def aftermath_of(alarm: Verdict, played: Replayed, reigns: Sequence[Reign]) -> Aftermath:
    """What followed one of a policy's alarms, by the cohorts that its looks were at."""
    told = Aftermath(alarm.version)
    later = [each for each in reigns if each.begins is not None and each.begins >= alarm.decided_at]
    if not later:
        return replace(told, cause="no other version became champion after it")
    told, until = replace(told, next_version=later[0].version), later[1].begins if len(later) > 1 else None
    before = _mean_loss(played.cohorts, alarm.version, alarm.window.start, later[0].begins)
    after = _mean_loss(played.cohorts, later[0].version, later[0].begins, until)
    if after is None:
        return replace(told, cause=f"nothing has matured since version {later[0].version} became champion")
    return replace(told, before=before[0] if before else None, after=after[0], labels=after[1])


def _mean_loss(
    cohorts: Sequence[CohortLoss], version: str, since: datetime | None, until: datetime | None
) -> tuple[float, int] | None:
    """The mean loss of a version's cohorts, and of how many labels it is; None where there are none."""
    own = [
        (each.mean, each.labels)
        for each in cohorts
        if each.version == version and each.mean is not None
        if (since is None or each.window.end > since) and (until is None or each.window.start < until)
    ]
    labels = sum(count for _, count in own)
    return (sum(mean * count for mean, count in own) / labels, labels) if labels else None


def made_looks(
    verdicts: Mapping[datetime, str], runs: Sequence[tuple[datetime, datetime]]
) -> list[tuple[datetime, str | None]]:
    """When the log was looked at: moments of verdicts with their version, and of runs that came to none."""
    found: dict[datetime, str | None] = {**verdicts}
    said = sorted(found)
    for began, ended in runs:
        place = bisect_left(said, began)
        if place == len(said) or said[place] > ended:
            found[began] = None
    return sorted(found.items())


def _retraining(number: int, reason: Reason, version: str, now: datetime) -> Retraining:
    return Retraining(number, "", reason, None, version, None, "passed", now, now, None, None)
