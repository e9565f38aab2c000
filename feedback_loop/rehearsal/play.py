"""A rehearsal from end to end: a history is played, and the loop compared with doing nothing and a calendar."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from feedback_loop.clock import ManualClock, Window, floor_moment
from feedback_loop.errors import Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import Floats, primary_loss
from feedback_loop.progress import Progress
from feedback_loop.rehearsal.history import History, read_history
from feedback_loop.rehearsal.monthly import monthly_outputs
from feedback_loop.rehearsal.plots import plot_losses
from feedback_loop.rehearsal.results import labelled_rows, losses_with, story_of, why_not_fitted
from feedback_loop.rehearsal.sandbox import own_loop
from feedback_loop.rehearsal.strategies import Strategy, compare, losses_by_turn
from feedback_loop.rehearsal.turn import take_turn

DAY = timedelta(days=1)
"""The loop turns once a simulated day, unless its windows are shorter."""

SLOW = ("explain", "report")
"""Pages for people, which a rehearsal does not write."""

FROZEN, CALENDAR, LOOP = "frozen: as answered", "monthly retraining", "the loop"
ADAPTED = "the loop, with an adapter"


def load_history(
    loop: FeedbackLoop,
    model: str,
    predictions: Path,
    outcomes: Path,
    start: datetime | None = None,
    end: datetime | None = None,
) -> History:
    """The history of a model in two files (see `read_history`), by its champion's contract and its own maturity."""
    contract = loop.scorer(loop.champion(model)).contract
    return read_history(contract, predictions, outcomes, loop.settings.model(model).maturity, start, end)


def rehearse(
    loop: FeedbackLoop, history: History, folder: Path, *, turn: timedelta | None = None, store: str = ""
) -> dict[str, Any]:
    """Plays the history in an empty folder (see `fresh_folder`) and returns what came of it, as plain values.

    The clock is moved by a `turn` at a time (default: the model's window, at most a day). `store` is the URL of an
    empty database to play it in, instead of SQLite in the folder. Until the loop promotes a version its answers are
    the history's own; from then on the new version's. Neither the user's store nor the registry is written to. Raises
    NotFound, Refused for a store that is not empty, and FeedbackLoopError where a job fails.
    """
    began, model = time.monotonic(), history.contract.model
    turn = turn or min(loop.settings.model(model).window, DAY)
    clock = ManualClock(floor_moment(history.span[0], turn))
    own, champion = own_loop(loop, model, folder, clock, store)
    try:
        unfit = why_not_fitted(own.scorer(champion))
        rehearsal = _Rehearsal(own, clock, history, champion.version, unfit, turn)
        rehearsal.play(loop.progress)
        result = rehearsal.closing(folder)
    finally:
        own.close()
    return {"model": model, **result, "folder": str(folder), "seconds": time.monotonic() - began}


@dataclass(frozen=True)
class _Rehearsal:
    """A loop of its own, whose clock is moved over a history. `unfit` says why its model can't be fitted again."""

    own: FeedbackLoop
    clock: ManualClock
    history: History
    first: str
    unfit: str
    turn: timedelta

    @property
    def model(self) -> str:
        return self.history.contract.model

    def play(self, progress: Progress) -> None:
        settings = self.own.settings.model(self.model)
        turns = (self.history.span[1] - self.clock()) // self.turn + 1
        # The last predictions mature; nothing is left to retrain for.
        after = -(-(settings.maturity + settings.window) // self.turn) + 1
        with progress.track(f"rehearse {self.model}", turns + after) as advance:
            for turn in range(turns + after):
                now = Window(self.clock(), self.clock() + self.turn)
                self.clock.set(now.end)
                self._bring(now)
                without = SLOW if turn < turns and not self.unfit else (*SLOW, "retrain")
                take_turn(self.own, self.clock, self.model, now.end, without=without)
                advance(1)

    def _bring(self, now: Window) -> None:
        """A turn's predictions by the champion of its start, and what became known by its end."""
        inputs, outputs = self.history.predicted(now)
        if inputs.num_rows:
            champion = self.own.champion(self.model)
            if champion.version != self.first:
                scorer = self.own.scorer(champion)
                outputs = scorer.score(inputs).outputs.select([column.stored for column in scorer.contract.outputs])
                outputs = outputs.rename_columns([column.name for column in scorer.contract.outputs])
            self.own.import_predictions(self.model, pa.table(_columns(inputs) | _columns(outputs)))
        known = self.history.learned(now)
        if known.num_rows:
            self.own.record_outcomes(self.model, known, source="rehearsal")

    def closing(self, folder: Path) -> dict[str, Any]:
        """Compares the loop's own log with what other strategies would have answered for the same rows."""
        own, model, history = self.own, self.model, self.history
        versions = {version.version: version for version in own.registry.versions(model)}
        contracts = {name: own.scorer(version).logged for name, version in versions.items()}
        story, notes = story_of(own, model, history.span[0]), list(history.notes)
        try:
            adapted = own.adapter.what_if(model)
        except Refused as error:
            adapted = None
            notes.append(f"No adapter is compared: {error.cause}")
        labelled = labelled_rows(own, contracts, adapted)
        losses = _complete(labelled, "loss.")
        frozen = losses_with(contracts[self.first], labelled, history, history.outputs)
        strategies = [Strategy(FROZEN, frozen, 0, 0)]
        if self.unfit:
            notes.append(f"No version was retrained, as {self.unfit}: these are the losses and alarms alone.")
        else:
            outputs, fits = monthly_outputs(own, own.scorer(versions[self.first]), history)
            calendar = losses_with(contracts[self.first], labelled, history, outputs)
            strategies.append(Strategy(CALENDAR, calendar, fits, fits))
        notes += self._held_back(story)
        promoted = [promotion for promotion in story["promotions"] if promotion["kind"] == "promotion"]
        strategies.append(Strategy(LOOP, losses, len(story["retrainings"]), len(promoted)))
        if adapted is not None:
            changed = _complete(labelled, "adapted.")
            strategies.append(Strategy(ADAPTED, changed, len(story["retrainings"]), len(promoted)))
        return self._result(folder, labelled, strategies, story, notes)

    def _held_back(self, story: dict[str, Any]) -> list[str]:
        """What kept the loop from alarming, or from acting."""
        missing, mode = (
            self.own.judging.missing_reference(self.model),
            self.own.settings.model(self.model).policy.mode,
        )
        notes = [missing.words] if missing is not None and not story["promotions"] else []
        if mode != "act" and not self.unfit:
            idle = "retrained by itself" if mode == "observe" else "promoted: nobody is there to approve"
            notes.append(f"policy.mode is {mode!r}: nothing is {idle}.")
        return notes

    def _result(
        self,
        folder: Path,
        labelled: pa.Table,
        strategies: list[Strategy],
        story: dict[str, Any],
        notes: list[str],
    ) -> dict[str, Any]:
        common = [name for name in strategies[0].losses if all(name in strategy.losses for strategy in strategies)]
        preferred = primary_loss(self.history.contract)
        loss = preferred if preferred in common else common[0]
        strategies = [
            Strategy(
                strategy.name,
                {name: strategy.losses[name] for name in common},
                strategy.retrainings,
                strategy.promotions,
            )
            for strategy in strategies
        ]
        moments, every = labelled.column("predicted_at").to_pylist(), "day" if self.turn == DAY else "turn"
        plots = plot_losses(
            losses_by_turn(strategies, loss, moments, self.turn),
            [(promotion["at"], f"version {promotion['version']}") for promotion in story["promotions"]],
            title=f"{self.model}: mean {loss.replace('_', ' ')} of each {every}, had the loop been there",
            folder=folder,
            loss=loss,
            every=every,
        )
        start, last = self.history.span
        return {
            "from": start,
            "to": last,
            "turn_seconds": self.turn.total_seconds(),
            "predictions": self.history.inputs.num_rows,
            "labelled": labelled.num_rows,
            "coverage": labelled.num_rows / self.history.inputs.num_rows,
            "loss": loss,
            "strategies": compare(strategies, loss),
            **story,
            "notes": notes,
            "plots": [str(path) for path in plots],
        }


def _complete(labelled: pa.Table, prefix: str) -> dict[str, Floats]:
    """The columns of that prefix that all rows have."""
    return {
        name.removeprefix(prefix): labelled.column(name).to_numpy()
        for name in labelled.column_names
        if name.startswith(prefix) and not labelled.column(name).null_count
    }


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))
