"""The reads of a backtest's looks: each cohort of the log once, for the policies of all candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from feedback_loop.clock import Window, windows_between
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.backtest.candidates import Candidate
from feedback_loop.decisions.backtest.injection import Injection
from feedback_loop.decisions.backtest.replay import CohortLoss, LookResult, PolicyState
from feedback_loop.decisions.backtest.tenures import Look, Tenure
from feedback_loop.decisions.cohorts import LogReader
from feedback_loop.decisions.decide import look
from feedback_loop.decisions.evidence import Estimated
from feedback_loop.decisions.losses import Baseline, Cohort
from feedback_loop.schema import Contract
from feedback_loop.store import Store

T = TypeVar("T")

MOST_BASELINES = 32
"""The most baselines kept: one for each candidate and current tenure, and some that were not complete yet."""


@dataclass(frozen=True)
class SharedReader(LogReader):
    """Reads everything once for the looks of several policies at one moment; as of `known`, if that is set."""

    known: datetime | None = None
    injected: Injection | None = None
    _read: dict[tuple[str, Window | None], Any] = field(default_factory=dict, compare=False)

    def first_predicted(self, as_of: datetime) -> datetime | None:
        """When its first prediction was made."""
        return self._once("first", None, lambda: LogReader.first_predicted(self, self.known or as_of))

    def cohorts(self, windows: Sequence[Window], as_of: datetime) -> list[Cohort]:
        """The cohorts of consecutive windows; those not read yet are read a day at a time."""
        missing = [window for window in windows if ("cohort", window) not in self._read]
        for window, cohort in zip(missing, LogReader.cohorts(self, missing, self.known or as_of), strict=True):
            self._read["cohort", window] = self.injected.into(cohort) if self.injected is not None else cohort
        return [self._read["cohort", window] for window in windows]

    def drifted_share(self, window: Window, as_of: datetime) -> float | None:
        """The share of columns that had drifted in a window, from its newest evaluation."""
        return self._once("drift", window, lambda: LogReader.drifted_share(self, window, self.known or as_of))

    def estimated_loss(self, as_of: datetime) -> Estimated | None:
        """The newest estimate of the mean loss: always as of the look's moment, not `known`."""
        return self._once("estimate", None, lambda: LogReader.estimated_loss(self, as_of))

    def _once(self, what: str, window: Window | None, read: Callable[[], T]) -> T:
        if (what, window) not in self._read:
            self._read[what, window] = read()
        value: T = self._read[what, window]
        return value


@dataclass(frozen=True)
class Versions:
    """What a backtest needs of versions: contract, reference as of a moment, time of creation."""

    contract: Callable[[str], Contract]
    baseline: Callable[[str, ModelSettings, datetime], Baseline]
    created_at: Callable[[str], datetime]

    def champion_since(self, tenure: Tenure) -> datetime:
        """When a version became champion or, unless that is recorded, was created."""
        return tenure.begins or self.created_at(tenure.version)


@dataclass
class LogJudge:
    """Judges the looks of all candidates at one moment from one read of the log."""

    store: Store
    versions: Versions
    kept_since: datetime | None
    known: datetime | None
    injected: Injection | None = None
    moment: datetime | None = None
    readers: dict[tuple[str, timedelta], SharedReader] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)

    def judge(self, candidate: Candidate, at: Look, state: PolicyState) -> LookResult | None:
        """The candidate's verdict, if something was due."""
        settings, tenure = candidate.settings, at.tenure
        if at.moment != self.moment:
            self.moment, self.readers = at.moment, {}
        reader = self._reader(tenure.version, settings)
        used: list[Baseline] = []

        def baseline_as_of(as_of: datetime) -> Baseline:
            used.append(self._baseline(tenure.version, settings, as_of))
            return used[-1]

        judged = look(
            reader,
            settings,
            baseline_as_of,
            previous=state.previous,
            recovery=state.recovery,
            since=max([since for since in (tenure.since, self.kept_since) if since is not None], default=None),
            begun=state.begun,
            now=at.moment,
        )
        if judged is None:
            return None
        verdict, recoveries = judged
        first = used[-1].watched[0]
        windows = list(windows_between(verdict.window.start, verdict.window.end, settings.window))
        costs = []
        for cohort in reader.cohorts(windows, at.moment):
            losses = cohort.losses.of(first)
            mean = float(losses.mean()) if len(losses) else None
            costs.append(CohortLoss(tenure.version, cohort.window, cohort.predictions, len(losses), mean))
        reference = used[-1].raw(first)
        return LookResult(verdict, recoveries, tuple(costs), float(reference.mean()) if len(reference) else None)

    def _reader(self, version: str, settings: ModelSettings) -> SharedReader:
        maturity = settings.maturity
        if (version, maturity) not in self.readers:
            contract = self.versions.contract(version)
            contract = replace(contract, join=replace(contract.join, maturity=maturity))
            is_adapted = settings.adapter.mode == "on"
            reader = SharedReader(self.store, contract, version, is_adapted, self.known, self.injected)
            self.readers[version, maturity] = reader
        return self.readers[version, maturity]

    def _baseline(self, version: str, settings: ModelSettings, as_of: datetime) -> Baseline:
        policy = settings.policy
        shape = (settings.maturity, settings.window, policy.reference, policy.loss, policy.watch)
        key = repr((version, as_of, shape))
        if key not in self.baselines:
            if len(self.baselines) >= MOST_BASELINES:
                self.baselines.clear()
            self.baselines[key] = self.versions.baseline(version, settings, as_of)
        return self.baselines[key]
