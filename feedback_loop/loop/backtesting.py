"""Backtests: the log played again under other policies. Nothing is written, not even what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from feedback_loop.clock import Window, as_utc, windows_between
from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions import Baseline, SharedReader, look
from feedback_loop.decisions.backtest import (
    Answer,
    Backtest,
    Candidate,
    CohortLoss,
    Look,
    Past,
    Reign,
    Standing,
    aftermath_of,
    candidates_of,
    change_of,
    made_looks,
    reign_at,
    reigns_of,
    replay,
)
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.loop.context import Context
from feedback_loop.loop.judging import Judging
from feedback_loop.scheduling import parse_schedule
from feedback_loop.schema import Contract
from feedback_loop.store import Store, fence, ledger, retention, retrainings
from feedback_loop.store.conclusions import monitors_begun, verdict_moments
from feedback_loop.store.incidents import closed_by_hand
from feedback_loop.store.predictions import predicted_span

MOST_BASELINES = 32
"""So many are kept: one for each candidate and the reign that goes on, and some that were not complete yet."""


@dataclass(frozen=True)
class Backtesting:
    """What other policies would have said."""

    context: Context
    judging: Judging

    def backtest(
        self,
        model: str,
        policies: Sequence[str | Path | PolicySettings] = (),
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        change: datetime | None = None,
        every: timedelta | None = None,
        known_now: bool = False,
    ) -> Backtest:
        """Plays the log again under the configured policy and the given ones (default: every other rule).

        Looks are those that were made, in `[start, end)`; where none were, those of the schedule, or one `every` so
        often. At each counts what was known then, or (`known_now`, for a log that was imported) what is known now.
        Champions are those that there really were. Delays are counted from the `change`. Raises NotFound for a log
        without predictions, BadInput for a window without looks, ConfigError for a policy file.
        """
        settings, now = self.context.settings.model(model), self.context.clock()
        candidates = candidates_of(settings, model, policies)
        span = predicted_span(self.context.store, model)
        if span is None:
            raise NotFound("logged prediction of", model, cure="A backtest plays what was predicted: predict first.")
        promotions = self.context.promotions(model)
        reigns = reigns_of(promotions, self.context.champion(model).version if not promotions else "")
        wanted = Window(as_utc(start) if start else min(span[0], now), as_utc(end or now + timedelta.resolution))
        moments = [] if every or known_now else self._made_looks(model)
        were_made = bool(moments)
        moments = moments or self._scheduled(model, every, min(span[0], wanted.end), min(wanted.end, now))
        looks = _in_reigns(moments, reigns, wanted)
        if not any(each.moment in wanted for each in looks):
            raise BadInput.of(
                "window",
                f"{wanted} has no look at {model}: its log begins at {span[0].isoformat()}",
                cure="Give another --from and --to, or look often at an imported log: --every 1d --known-now.",
            )
        known = now if known_now else None
        stage = _Stage(
            self.context.store,
            lambda version: self.context.scorer(self.context.version(model, version)).logged,
            lambda version, settings, as_of: self.judging.baseline(
                self.context.version(model, version), settings, as_of=as_of, known=known
            ),
            retention.kept_since(self.context.store, model),
            known,
        )
        history = retrainings.load_retrainings(self.context.store, model)
        with self.context.progress.track(f"replay {model}", len(looks)) as advance:
            played = replay(
                candidates,
                looks,
                stage.ask,
                told_from=wanted.start,
                past=Past(
                    [each for each in history if each.started_at < looks[0].moment],
                    closed_by_hand(self.context.store, model),
                    monitors_begun(self.context.store, model, looks[0].moment),
                ),
                champion_since=lambda reign: reign.begins or self.context.version(model, reign.version).created_at,
                advance=advance,
            )
        return Backtest(
            model=model,
            window=wanted,
            looks=tuple(each.moment for each in looks if each.moment in wanted),
            were_made=were_made,
            known=known,
            final_until=fence.asked_until(self.context.store, model),
            reigns=tuple(reigns),
            change=change_of(played, as_utc(change) if change else None),
            played=tuple(played),
            followed=tuple(tuple(aftermath_of(alarm, each, reigns) for alarm in each.alarms) for each in played),
        )

    def _made_looks(self, model: str) -> list[tuple[datetime, str | None]]:
        runs = [
            (each.started_at, each.finished_at)
            for each in ledger.load_runs(self.context.store, model)
            if each.job == "decide" and each.state == "succeeded" and each.finished_at is not None
        ]
        return made_looks(verdict_moments(self.context.store, model), runs)

    def _scheduled(
        self, model: str, every: timedelta | None, start: datetime, end: datetime
    ) -> list[tuple[datetime, str | None]]:
        """When the scheduler would have looked: by the cycle, or every so often."""
        text = self.context.settings.model(model).schedule.cycle if every is None else f"{every.total_seconds():.0f}s"
        trigger = parse_schedule(text, f"models.{model}.schedule.cycle")
        if trigger is None:
            raise BadInput.of("every", "is missing, and the configured schedule is `never`", cure="Give --every 1d.")
        found: list[tuple[datetime, str | None]] = []
        fires = trigger.get_next_fire_time(None, start)
        while fires is not None and fires <= end:
            found.append((as_utc(fires), None))
            fires = trigger.get_next_fire_time(fires, fires + timedelta.resolution)
        return found


@dataclass
class _Stage:
    """Answers the looks of all candidates at one moment from one reading of the log."""

    store: Store
    contract_of: Callable[[str], Contract]
    baseline_of: Callable[[str, ModelSettings, datetime], Baseline]
    kept_since: datetime | None
    known: datetime | None
    moment: datetime | None = None
    readers: dict[tuple[str, timedelta], SharedReader] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)

    def ask(self, candidate: Candidate, at: Look, standing: Standing) -> Answer | None:
        """The candidate's verdict, if something was due."""
        settings, reign = candidate.settings, at.reign
        if at.moment != self.moment:
            self.moment, self.readers = at.moment, {}
        reader = self._reader(reign.version, settings.maturity)
        since = max([each for each in (reign.since, self.kept_since) if each is not None], default=None)
        held: list[Baseline] = []

        def baseline_as_of(as_of: datetime) -> Baseline:
            held.append(self._baseline(reign.version, settings, as_of))
            return held[-1]

        seen = look(
            reader,
            settings,
            baseline_as_of,
            previous=standing.previous,
            recovery=standing.recovery,
            since=since,
            begun=standing.begun,
            now=at.moment,
        )
        if seen is None:
            return None
        verdict, recoveries = seen
        first = held[-1].watched[0]
        reference = held[-1].raw(first)
        costs = []
        for window in windows_between(verdict.window.start, verdict.window.end, settings.window):
            cohort = reader.cohort(window, at.moment)
            losses = cohort.losses.of(first)
            mean = float(losses.mean()) if len(losses) else None
            costs.append(CohortLoss(reign.version, window, cohort.predictions, len(losses), mean))
        return Answer(verdict, recoveries, tuple(costs), float(reference.mean()) if len(reference) else None)

    def _reader(self, version: str, maturity: timedelta) -> SharedReader:
        if (version, maturity) not in self.readers:
            contract = self.contract_of(version)
            contract = replace(contract, join=replace(contract.join, maturity=maturity))
            self.readers[version, maturity] = SharedReader(self.store, contract, version, self.known)
        return self.readers[version, maturity]

    def _baseline(self, version: str, settings: ModelSettings, as_of: datetime) -> Baseline:
        policy = settings.policy
        shape = (settings.maturity, settings.window, policy.reference, policy.loss, policy.watch)
        key = repr((version, as_of, shape))
        if key not in self.baselines:
            if len(self.baselines) >= MOST_BASELINES:
                self.baselines.clear()
            self.baselines[key] = self.baseline_of(version, settings, as_of)
        return self.baselines[key]


def _in_reigns(moments: Sequence[tuple[datetime, str | None]], reigns: Sequence[Reign], wanted: Window) -> list[Look]:
    """The looks of the window, and those that lead up to it: since its first champion followed another.

    The first of all answers for what was imported from before its promotion was recorded, as for a verdict.
    """
    looks = [Look(moment, reign_at(reigns, moment, version)) for moment, version in moments if moment < wanted.end]
    first = next((each.reign for each in looks if each.moment >= wanted.start), None)
    return [each for each in looks if first is None or first.since is None or each.moment >= first.since]
