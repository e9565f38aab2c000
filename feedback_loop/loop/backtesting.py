"""Backtests: the log played again under other policies. Nothing is written, not even what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from feedback_loop.clock import Window, as_utc
from feedback_loop.decisions.backtest import (
    Backtest,
    Injection,
    Policy,
    Versions,
    candidates_of,
    looks_until,
    made_looks,
    run_backtest,
    tenures_of,
)
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.loop.context import Context
from feedback_loop.loop.judging import Judging
from feedback_loop.progress import Progress
from feedback_loop.scheduling import parse_schedule
from feedback_loop.store import ledger
from feedback_loop.store.conclusions import verdict_moments
from feedback_loop.store.predictions import predicted_span


@dataclass(frozen=True)
class Backtesting:
    """What other policies would have said."""

    context: Context
    judging: Judging

    def backtest(
        self,
        model: str,
        policies: Sequence[Policy] = (),
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        change: datetime | None = None,
        every: timedelta | None = None,
        known_now: bool = False,
        inject: str | Injection | None = None,
        progress: Progress | None = None,
    ) -> Backtest:
        """Plays the log again under the configured policy and the given ones (default: every other rule).

        Looks are those that were made, in `[start, end)`; where none were, those of the schedule, or one `every` so
        often. At each counts what was known then, or (`known_now`, for a log that was imported) what is known now.
        Champions are those that there really were. Delays are counted from the `change`. `inject` makes the watched
        loss worse from a moment on (`error=+0.03@2026-03-11`): would a policy have caught it? Raises NotFound for a
        log without predictions, BadInput for a window without looks, ConfigError for a policy file.
        """
        context, settings, now = self.context, self.context.settings.model(model), self.context.clock()
        candidates = candidates_of(settings, model, policies)
        injected = Injection.parse(inject) if isinstance(inject, str) else inject
        span = predicted_span(context.store, model)
        if span is None:
            raise NotFound("logged prediction of", model, cure="A backtest plays what was predicted: predict first.")
        promotions = context.promotions(model)
        tenures = tenures_of(promotions, context.champion(model).version if not promotions else "")
        window = Window(as_utc(start) if start else min(span[0], now), as_utc(end or now + timedelta.resolution))
        made = [] if every or known_now else self._made_looks(model)
        moments = made or self._scheduled(model, every, min(span[0], window.end), min(window.end, now))
        looks = looks_until(moments, tenures, window)
        if not any(look.moment in window for look in looks):
            raise BadInput.of(
                "window",
                f"{window} has no look at {model}: its log begins at {span[0].isoformat()}",
                cure="Give another --from and --to, or look often at an imported log: --every 1d --known-now.",
            )
        known = now if known_now else None
        versions = Versions(
            lambda version: context.scorer(context.version(model, version)).logged,
            lambda version, settings, as_of: self.judging.baseline(
                context.version(model, version), settings, as_of=as_of, known=known
            ),
            lambda version: context.version(model, version).created_at,
        )
        return run_backtest(
            context.store,
            model,
            candidates,
            looks,
            tenures,
            versions,
            window=window,
            were_made=bool(made),
            known=known,
            change=as_utc(change) if change else None,
            injected=injected,
            track=(progress or context.progress).track,
        )

    def _made_looks(self, model: str) -> list[tuple[datetime, str | None]]:
        runs = [
            (run.started_at, run.finished_at)
            for run in ledger.load_runs(self.context.store, model)
            if run.job == "decide" and run.state == "succeeded" and run.finished_at is not None
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
        moments: list[tuple[datetime, str | None]] = []
        fires = trigger.get_next_fire_time(None, start)
        while fires is not None and fires <= end:
            moments.append((as_utc(fires), None))
            fires = trigger.get_next_fire_time(fires, fires + timedelta.resolution)
        return moments
