"""Backtests that are asked for on a page: each a job of this process, in the ledger, with progress and result."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
from feedback_loop.progress import Advance, Silent
from feedback_loop.scheduling import Job
from feedback_loop.store.leases import holder_of
from feedback_loop.store.ledger import load_runs
from feedback_loop.views.jobs import BACKTEST, lease_of
from feedback_loop.views.policy import check_policy, policy_row, try_policy

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Asked:
    """What is to be played: settings by name (`try_policy`), and who wants to know."""

    changes: Mapping[str, Any]
    every: timedelta | None
    known_now: bool
    by: str


class _Steps(Silent):
    """How far a backtest is."""

    def __init__(self) -> None:
        self.done, self.total = 0, 0

    @contextmanager
    def track(self, description: str, total: int | None = None) -> Iterator[Advance]:
        """Counts the looks of the replay."""
        del description
        self.done, self.total = 0, total or 0
        yield self._advance

    def _advance(self, steps: int) -> None:
        self.done += steps


class Backtests:
    """Those that this process plays: one of a model at once, and in all as many as there are `slots`."""

    def __init__(self, loop: FeedbackLoop, slots: threading.BoundedSemaphore) -> None:
        self._loop, self._slots = loop, slots
        self._playing: dict[str, _Steps] = {}
        self._lock = threading.Lock()

    def start(self, model: str, asked: Asked) -> None:
        """Begins one, and returns at once; raises BadInput, and Refused while another is played."""
        check_policy(self._loop, model, asked.changes, asked.every)
        with self._lock:
            if model in self._playing or holder_of(self._loop.store, lease_of(BACKTEST, model)) is not None:
                raise Refused(
                    f"A backtest of {model} has begun already.", cure="Wait for its end: the policy's page shows it."
                )
            if not self._slots.acquire(blocking=False):
                raise Refused("As many backtests as may be are being played.", cure="Try again when one has ended.")
            self._playing[model] = _Steps()
        threading.Thread(target=self._run, args=(model, asked), name=f"backtest {model}", daemon=True).start()

    def newest(self, model: str) -> dict[str, Any] | None:
        """How the newest one of a model stands, as plain values: its run in the ledger, and how far it is.

        Its state is `cut` where its process ended before it did.
        """
        steps = self._playing.get(model)
        newest = load_runs(self._loop.store, model, newest=1, job=BACKTEST)
        if not newest:
            return {"state": "running", "started_at": None, "done": 0, "total": 0} if steps is not None else None
        run, holder = newest[0], holder_of(self._loop.store, lease_of(BACKTEST, model))
        is_ours = run.holder == self._loop.runner.holder
        is_cut = run.state == "abandoned" or (
            run.state == "running" and (steps is None if is_ours else holder is None)
        )
        return {
            **plain(run),
            "state": "cut" if is_cut else run.state,
            "done": steps.done if steps is not None else None,
            "total": steps.total if steps is not None else None,
        }

    def _run(self, model: str, asked: Asked) -> None:
        loop = self._loop
        try:
            job = Job(BACKTEST, lambda: self._play(model, asked))
            loop.runner.run(model, [job], loop.clock(), lease=lease_of(BACKTEST, model))
        except FeedbackLoopError as error:  # another process was quicker, or the lease was lost
            _log.error("backtest not played", model=model, cause=str(error))
        finally:
            with self._lock:
                del self._playing[model]
            self._slots.release()

    def _play(self, model: str, asked: Asked) -> dict[str, Any]:
        """The result as the page shows it. A policy that can't be played is an answer, and no failure of the loop."""
        about: dict[str, Any] = {"asked_by": asked.by}
        try:
            result = try_policy(
                self._loop,
                model,
                asked.changes,
                every=asked.every,
                known_now=asked.known_now,
                progress=self._playing[model],
            )
        except FeedbackLoopError as error:
            return {**about, "problem": str(error)}
        named = {name: result[name] for name in ("from", "to", "looks_were_made", "change", "toml")}
        policies = [
            {"name": policy["name"], "row": policy_row(policy), "alarms": policy["alarms"]}
            for policy in result["policies"]
        ]
        return {**about, **named, "looks": len(result["looks"]), "policies": policies}
