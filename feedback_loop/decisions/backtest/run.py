"""Runs a backtest, from its looks to its result. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from feedback_loop.clock import Window
from feedback_loop.decisions.backtest.candidates import Candidate
from feedback_loop.decisions.backtest.injection import Injection
from feedback_loop.decisions.backtest.log import LogJudge, Versions
from feedback_loop.decisions.backtest.replay import EarlierEvents, replay
from feedback_loop.decisions.backtest.result import Backtest, aftermath_of, change_of
from feedback_loop.decisions.backtest.tenures import Look, Tenure
from feedback_loop.decisions.losses import monitored_loss
from feedback_loop.errors import BadInput
from feedback_loop.progress import Advance
from feedback_loop.store import Store, fence, retention, retrainings
from feedback_loop.store.conclusions import monitors_begun
from feedback_loop.store.incidents import closed_by_hand


def run_backtest(
    store: Store,
    model: str,
    candidates: Sequence[Candidate],
    looks: Sequence[Look],
    tenures: Sequence[Tenure],
    versions: Versions,
    *,
    window: Window,
    were_made: bool,
    known: datetime | None,
    change: datetime | None,
    injected: Injection | None,
    track: Callable[[str, int], AbstractContextManager[Advance]],
) -> Backtest:
    """Replays looks (at least one) under all candidates, and finds what followed each alarm in the window.

    Raises BadInput for an injection into a loss that a candidate does not watch, or after the window.
    """
    if injected is not None:
        _check(injected, candidates, versions, looks[0].tenure.version, window)
    judge = LogJudge(store, versions, retention.kept_since(store, model), known, injected)
    searches = retrainings.load_retrainings(store, model)
    earlier = EarlierEvents(
        [search for search in searches if search.started_at < looks[0].moment],
        closed_by_hand(store, model),
        monitors_begun(store, model, looks[0].moment),
    )
    with track(f"replay {model}", len(looks)) as advance:
        played = replay(
            candidates,
            looks,
            judge.judge,
            recorded_from=window.start,
            earlier=earlier,
            champion_since=versions.champion_since,
            advance=advance,
        )
    return Backtest(
        model=model,
        window=window,
        looks=tuple(look.moment for look in looks if look.moment in window),
        were_made=were_made,
        known=known,
        injected=injected,
        final_until=fence.asked_until(store, model),
        tenures=tuple(tenures),
        change=change_of(played, change, injected),
        played=tuple(played),
        followed=tuple(tuple(aftermath_of(alarm, policy, tenures) for alarm in policy.alarms) for policy in played),
    )


def _check(
    injected: Injection, candidates: Sequence[Candidate], versions: Versions, version: str, window: Window
) -> None:
    contract = versions.contract(version)
    for candidate in candidates:
        loss = monitored_loss(contract, candidate.settings.policy.loss)
        if loss != injected.loss:
            raise BadInput.of(
                "inject",
                f"policy {candidate.name!r} watches {loss}, not {injected.loss}",
                cure=f"Write {loss}=…, or set policy.loss.",
            )
    if injected.at >= window.end:
        raise BadInput.of("inject", f"{injected.at.isoformat()} is not before the end of {window}")
