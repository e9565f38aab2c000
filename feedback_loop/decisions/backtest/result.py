"""The result of a backtest: policies compared, the delay of each alarm, and what followed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from feedback_loop.clock import Window
from feedback_loop.decisions.backtest.injection import Injection
from feedback_loop.decisions.backtest.replay import CohortLoss, Replayed
from feedback_loop.decisions.backtest.tenures import Tenure
from feedback_loop.store.conclusions import Verdict

WITH_ERROR_RATE = ("change", "harm", "either")
"""Rules with an error rate: a change is dated by one of them, if one has alarmed."""


@dataclass(frozen=True)
class Change:
    """The moment that delays are counted from, and its source; `first alarm`: the begin of that alarm's cohorts."""

    at: datetime
    source: Literal["given", "injected", "estimated", "first alarm"]
    policy: str | None = None


@dataclass(frozen=True)
class Delay:
    """The delay of the first alarm after the change, in days and in labelled predictions of the champion."""

    days: float
    labels: int


@dataclass(frozen=True)
class Aftermath:
    """What followed an alarm: the mean loss from its first cohort on while its version answered, and that of the next
    champion while that one did. They are of different rows, between which the world may have changed. Where there is
    none, `cause` says why.
    """

    version: str
    next_version: str | None = None
    before: float | None = None
    after: float | None = None
    labels: int = 0  # that `after` is of
    cause: str | None = None


@dataclass(frozen=True)
class Backtest:
    """Policies compared on one log. `looks` are moments in `window`.

    Results for moments after `final_until` may still change: rows may yet be recorded there. `known` is the moment as
    of which the log was read, if not each look's own.
    """

    model: str
    window: Window
    looks: tuple[datetime, ...]
    were_made: bool  # by decide, or else as the schedule would have
    known: datetime | None
    injected: Injection | None
    final_until: datetime | None
    tenures: tuple[Tenure, ...]
    change: Change | None
    played: tuple[Replayed, ...]
    followed: tuple[tuple[Aftermath, ...], ...]  # of each policy, each alarm


def change_of(
    played: Sequence[Replayed], given: datetime | None = None, injected: Injection | None = None
) -> Change | None:
    """The moment that delays are counted from: the given or injected one, or the one that the first alarm estimates.

    That is the first alarm under a rule with an error rate, if there is one.
    """
    if given is not None:
        return Change(given, "given")
    if injected is not None:
        return Change(injected.at, "injected")
    alarmed = [policy for policy in played if policy.alarms]
    sound = [policy for policy in alarmed if policy.candidate.settings.policy.rule in WITH_ERROR_RATE]
    if not alarmed:
        return None
    first = min(sound or alarmed, key=lambda policy: policy.alarms[0].decided_at)
    alarm = first.alarms[0]
    acting = [watched for watched in alarm.evidence["watched"] if watched["name"] in alarm.evidence["acts"]]
    changed_at = acting[0].get("changed_at") if acting else None
    if changed_at is None:
        return Change(alarm.window.start, "first alarm", first.candidate.name)
    return Change(datetime.fromisoformat(changed_at), "estimated", first.candidate.name)


def delay_of(played: Replayed, change: Change) -> Delay | None:
    """The delay of the first alarm on predictions from after the change; None without one."""
    alarm = next((alarm for alarm in played.alarms if alarm.window.end > change.at), None)
    if alarm is None:
        return None
    between = [cohort for cohort in played.cohorts if change.at < cohort.window.end <= alarm.window.end]
    days = (alarm.decided_at - change.at) / timedelta(days=1)
    return Delay(days, sum(cohort.labels for cohort in between))


def aftermath_of(alarm: Verdict, played: Replayed, tenures: Sequence[Tenure]) -> Aftermath:
    """What followed one of a policy's alarms, by the cohorts of its looks."""
    result = Aftermath(alarm.version)
    later = [tenure for tenure in tenures if tenure.begins is not None and tenure.begins >= alarm.decided_at]
    if not later:
        return replace(result, cause="no other version became champion after it")
    result, until = replace(result, next_version=later[0].version), later[1].begins if len(later) > 1 else None
    before = _mean_loss(played.cohorts, alarm.version, alarm.window.start, later[0].begins)
    after = _mean_loss(played.cohorts, later[0].version, later[0].begins, until)
    if after is None:
        return replace(result, cause=f"nothing has matured since version {later[0].version} became champion")
    return replace(result, before=before[0] if before else None, after=after[0], labels=after[1])


def _mean_loss(
    cohorts: Sequence[CohortLoss], version: str, since: datetime | None, until: datetime | None
) -> tuple[float, int] | None:
    """The mean loss of a version's cohorts and its number of labels; None where there are none."""
    means = [
        (cohort.mean, cohort.labels)
        for cohort in cohorts
        if cohort.version == version and cohort.mean is not None
        if (since is None or cohort.window.end > since) and (until is None or cohort.window.start < until)
    ]
    labels = sum(count for _, count in means)
    return (sum(mean * count for mean, count in means) / labels, labels) if labels else None
