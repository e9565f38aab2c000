"""A model's adapter: fed with whole cohorts, held, released, begun anew, and replayed from the log."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from feedback_loop.adaptation import (
    FED,
    LONG_HOLD,
    Adapter,
    Anticipation,
    Cohort,
    Replayed,
    WhatIf,
    begin,
    cohort_length,
    cohorts,
    decides_by_chance,
    fed_with,
    read_look,
    replay,
    state_at,
    states,
    what_if,
    why_refused,
)
from feedback_loop.clock import Window
from feedback_loop.decisions import HISTORY, Suggestion
from feedback_loop.errors import Refused
from feedback_loop.loop.context import Context
from feedback_loop.loop.judging import Judging
from feedback_loop.loop.unfit_adapter import stop_if_unfit
from feedback_loop.monitoring import LEAST_ROWS
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Contract
from feedback_loop.store import adapters, retention
from feedback_loop.store.adapters import AdapterRevision, RevisionKind
from feedback_loop.store.alerts import alert_recoveries, raise_alert
from feedback_loop.store.freezes import held_by_freeze, refuse_frozen
from feedback_loop.store.incidents import Cause, end_incident, raise_incident

BACKLOG = 120
"""A model's first adapter is fed so many cohorts from before it, at most: twice the longest memory."""

GAIN_LOOKS = 30
"""What an adapter gains is said of so many looks."""


@dataclass(frozen=True)
class Turn:
    """What a run did: the newest revision, cohorts that were fed, those that never will be, what holds the adapter.

    `because` says why nothing was done.
    """

    revision: int | None
    fed: tuple[Window, ...] = ()
    skipped: tuple[Window, ...] = ()
    held_by: tuple[str, ...] = ()
    because: str = ""


@dataclass(frozen=True)
class Adapters:
    """The part of the loop that lets answers learn from outcomes between retrainings."""

    context: Context
    judging: Judging

    def run(self, model: str) -> Turn:
        """Feeds the cohorts that are due; begins the adapter if there is none. Does nothing where its mode is off."""
        context = self.context
        if context.settings.model(model).adapter.mode == "off":
            return Turn(None, because='Its mode is "off".')
        if frozen := held_by_freeze(context.store, model):
            return Turn(None, because=frozen)
        version = context.champion(model)
        contract, now = context.scorer(version).logged, context.final(model, None)
        try:
            if why := stop_if_unfit(context, version):
                return Turn(None, because=why)
            newest = self._newest(model)
            if newest is None or newest[1].coefficients.why_unfit(contract):
                newest = self._begin(version, contract, now, {})
            turn = self._feed(version, contract, *newest, now)
        except Refused as error:  # it can have none yet, or somebody else has changed it meanwhile
            return Turn(None, because=str(error))
        self._tell(model)
        return turn

    def history(self, model: str, newest: int | None = None) -> list[AdapterRevision]:
        """The model's revisions, newest first; raises NotFound for a model that is not configured."""
        self.context.settings.model(model)
        return adapters.load_revisions(self.context.store, model, newest)

    def hold(self, model: str, *, reason: str, by: str | None = None) -> AdapterRevision:
        """Has it learn nothing until it is released; what it has learned goes on being served. Raises Refused."""
        revision, adapter = self._needed(model)
        if adapter.is_held_by_hand:
            raise Refused(f"The adapter of {model} is held by hand already.")
        return self._add(revision, adapter.hold(), RevisionKind.HOLD, _by_hand(reason, by))

    def release(self, model: str, *, reason: str, by: str | None = None) -> AdapterRevision:
        """Ends what holds it, guards included: it learns on from what it holds. Raises Refused."""
        refuse_frozen(self.context.store, model)
        revision, adapter = self._needed(model)
        if not adapter.held_by:
            raise Refused(f"Nothing holds the adapter of {model}.")
        added = self._add(revision, adapter.release(), RevisionKind.RELEASE, _by_hand(reason, by))
        self._tell(model)
        return added

    def reset(self, model: str, *, reason: str, by: str | None = None) -> AdapterRevision:
        """Begins a new adapter that has learned nothing, nor will of what was predicted before. Raises Refused."""
        refuse_frozen(self.context.store, model)
        self._needed(model)
        version, now = self.context.champion(model), self.context.final(model, None)
        details = _by_hand(reason, by)
        added = self._begin(version, self.context.scorer(version).logged, now, details)[0]
        self._tell(model)
        return added

    def replay(self, model: str) -> Replayed:
        """Makes the adapter's revisions again from the log as it was known then, and compares. Raises Refused."""
        revision, _ = self._needed(model)
        history = [each for each in reversed(self.history(model)) if each.adapter == revision.adapter]
        context = self.context
        return replay(context.store, history, self._contract_of(model), retention.kept_since(context.store, model))

    def anticipation(self, model: str, moment: datetime) -> Anticipation | None:
        """What versions would serve of rows from a moment on: with the adapter as it stood then, or one begun for it.

        None where the model has no adapter and can have none yet, or its mode is off.
        """
        context, settings = self.context, self.context.settings.model(model)
        if settings.adapter.mode == "off":
            return None
        kept_since = retention.kept_since(context.store, model)
        try:
            adapter = state_at(context.store, self.history(model), moment, self._contract_of(model), kept_since)
            if adapter is None:
                version = context.champion(model)
                adapter = self._born(version, context.scorer(version).logged, context.final(model, None))
        except Refused:
            return None
        return Anticipation(adapter, cohort_length(settings.window))

    def _contract_of(self, model: str) -> Callable[[str], Contract]:
        return lambda version: self.context.scorer(self.context.version(model, version)).logged

    def what_if(self, model: str, since: datetime | None = None) -> WhatIf:
        """What a new adapter would have made of the log (of what was predicted from a moment on). Raises Refused."""
        context, settings, version = self.context, self.context.settings.model(model), self.context.champion(model)
        contract, now = context.scorer(version).logged, self.judging.known_until(model)
        adapter = self._born(version, contract, now)
        ended = cohorts(context.store, contract, settings.window, settings.maturity, now)
        windows = [each.window for each in ended if since is None or each.window.start >= since]
        return what_if(context.store, contract, adapter, windows, settings.maturity, now)

    def suggest(self, model: str) -> Suggestion:
        """Whether the model should have an adapter, by what one would have gained over the newest days of the log."""
        try:
            gained = self.what_if(model, self.context.clock() - HISTORY)
        except Refused as error:
            return Suggestion("adapter", "mode", "off", error.cause.rstrip("."))
        return Suggestion("adapter", "mode", "on" if gained.is_gain else "off", gained.words)

    def gain(self, model: str) -> dict[str, Any] | None:
        """The mean losses of raw and of served answers over the last looks, by rows; None before the first look.

        `coverage` is the share of a regression's outcomes that lay within the intervals.
        """
        history = self.history(model, 2 * GAIN_LOOKS)
        looks = [revision for revision in history if revision.kind in FED][:GAIN_LOOKS]
        rows = sum(look.labelled for look in looks)
        if rows and adapters.newest_served(self.context.store, model) is None:
            stopped = next(revision for revision in history if revision.kind is RevisionKind.STOPPED)
            return {"revision": stopped.revision, "stopped": stopped.details["because"]}
        if not rows:
            return None
        raw, served = (
            sum(look.details[name] * look.labelled for look in looks) / rows for name in ("loss_raw", "loss_served")
        )
        newest = next(revision for revision in history if revision.digest)
        covered = [
            (look.details["coverage"], look.labelled) for look in looks if look.details.get("coverage") is not None
        ]
        return {
            "revision": newest.revision,
            "looks": len(looks),
            "rows": rows,
            "loss_raw": raw,
            "loss_served": served,
            "gain": raw - served,
            "coverage": sum(share * count for share, count in covered) / sum(count for _, count in covered)
            if covered
            else None,
            "held_by": newest.held_by,
        }

    def _newest(self, model: str) -> tuple[AdapterRevision, Adapter] | None:
        """The newest revision that is served, with the newest number; and the state that it is of."""
        store = self.context.store
        history, served = self.history(model, 1), adapters.newest_served(store, model)
        if served is None:
            return None
        state = adapters.load_state(store, model, served.revision)
        assert state is not None  # the newest is always kept
        return replace(served, revision=history[0].revision), states.from_bytes(state)

    def _needed(self, model: str) -> tuple[AdapterRevision, Adapter]:
        self.context.settings.model(model)
        newest = self._newest(model)
        if newest is None:
            cure = f'Set mode = "on" in [models.{model}.adapter]: the next turn of the loop begins it.'
            raise Refused(f"{model} has no adapter.", cure=cure)
        return newest

    def _add(
        self, revision: AdapterRevision, adapter: Adapter, kind: RevisionKind, details: dict[str, Any]
    ) -> AdapterRevision:
        """Stores a state as the revision that follows; what a change by hand was fed is nothing."""
        if kind not in FED:
            revision = replace(
                revision, cohort_start=None, cohort_end=None, known_until=None, predicted=0, labelled=0
            )
        coefficients = adapter.coefficients
        revision = replace(
            revision,
            kind=kind,
            made_at=self.context.clock(),
            held_by=adapter.held_by,
            digest=coefficients.digest,
            details=details,
        )
        return adapters.add_revision(
            self.context.store, revision, coefficients=coefficients.to_bytes(), state=states.to_bytes(adapter)
        )

    def _begin(
        self, version: ModelVersion, contract: Contract, now: datetime, details: dict[str, Any]
    ) -> tuple[AdapterRevision, Adapter]:
        """A new adapter as the model's next revision; raises Refused as `_born` does."""
        adapter = self._born(version, contract, now)
        last = next(iter(self.history(version.model, 1)), None)
        number, count = (last.revision, last.adapter) if last is not None else (0, 0)
        first = AdapterRevision(version.model, number, count + 1, RevisionKind.BEGUN, now, version.version)
        details = {**details, "columns": adapter.basis.encoding.width}
        return self._add(first, adapter, RevisionKind.BEGUN, details), adapter

    def _born(self, version: ModelVersion, contract: Contract, now: datetime) -> Adapter:
        """A new adapter; raises Refused for a model that can have none, and where there is no reference yet."""
        model, settings = version.model, self.context.settings.model(version.model)
        if reason := why_refused(contract):
            raise Refused(f"{model} can have no adapter: {reason}.")
        reference = self.judging.reference(version, settings, now)
        if reference.num_rows < LEAST_ROWS:
            raise Refused(
                f"An adapter begins with the champion's reference, of at least {LEAST_ROWS} labelled rows; there are "
                f"{reference.num_rows}.",
                cure="It is made of the log as outcomes come.",
            )
        if not decides_by_chance(contract, reference):
            why = "it decides by a threshold of its own, and an adapter's class is the likeliest one"
            raise Refused(f"{model} can have no adapter: {why}.")
        return begin(contract, reference, cohort_length(settings.window))

    def _feed(
        self, version: ModelVersion, contract: Contract, revision: AdapterRevision, adapter: Adapter, now: datetime
    ) -> Turn:
        """Feeds what is due, in the order of time: a revision for each cohort."""
        if revision.version != version.version:
            revision = replace(revision, version=version.version)
            if {*adapter.held_by} - {"hand"}:
                adapter = adapter.release(by_promotion=True)
                revision = self._add(revision, adapter, RevisionKind.PROMOTED, {})
        fed, skipped = [], []
        for cohort in self._unfed(contract, revision, now):
            revision = replace(
                revision,
                cohort_start=cohort.window.start,
                cohort_end=cohort.window.end,
                known_until=now,
                predicted=cohort.share.predicted,
                labelled=cohort.share.labelled,
            )
            look = None
            if cohort.is_due:
                look = read_look(self.context.store, contract, adapter.basis.encoding, cohort.window, now)
            if look is None or not len(look.raw):
                revision = self._skip(revision)
                skipped.append(cohort.window)
                continue
            adapter = fed_with(adapter, look)
            kind = RevisionKind.HELD if adapter.held_by else RevisionKind.LEARNED
            revision = replace(revision, labelled=len(look.raw))
            revision = self._add(revision, adapter, kind, _details(revision, adapter))
            fed.append(cohort.window)
        return Turn(revision.revision, tuple(fed), tuple(skipped), adapter.held_by)

    def _unfed(self, contract: Contract, revision: AdapterRevision, now: datetime) -> Iterator[Cohort]:
        """The cohorts of this adapter that are to be fed now, or never, oldest first."""
        settings = self.context.settings.model(contract.model)
        history = [each for each in self.history(contract.model) if each.adapter == revision.adapter]
        done = {each.cohort_start for each in history}
        begun = history[-1].made_at
        since = begun - BACKLOG * cohort_length(settings.window) if revision.adapter == 1 else begun
        since = max(since, retention.kept_since(self.context.store, contract.model) or since)
        for cohort in cohorts(self.context.store, contract, settings.window, settings.maturity, now):
            is_ours = cohort.window.start >= since and cohort.window.start not in done
            if is_ours and (cohort.is_due or (cohort.is_matured and cohort.window.end > begun)):
                yield cohort

    def _skip(self, revision: AdapterRevision) -> AdapterRevision:
        """Notes that a cohort will never be fed."""
        kind, now = RevisionKind.SKIPPED, self.context.clock()
        skipped = replace(revision, kind=kind, made_at=now, held_by=(), digest="", details={})
        added = adapters.add_revision(self.context.store, skipped)
        return replace(revision, revision=added.revision)

    def _tell(self, model: str) -> None:
        """A hold is an alert, and after seven looks an incident; when it is over, that is said too."""
        context, now = self.context, self.context.clock()
        served = adapters.newest_served(context.store, model)
        standing: set[str] = set()
        if served is not None and served.kind is RevisionKind.HELD:
            since, looks = served.details["held_since"], served.details["held_looks"]
            by = " and ".join(served.held_by)
            why = (
                f"Stopped by {by} at revision {since}: {_WHY[served.held_by[0]]} It serves what it had learned "
                f"before, and learns nothing until that is over. History: feedback-loop adapter history {model}; "
                f"to go on all the same: feedback-loop adapter release {model}."
            )
            subject = f"adapter:{model}:{since}"
            standing.add(subject)
            title = f"{model}: its adapter is held"
            raise_alert(context.store, subject, title, why, context.routes, now, model=model)
            if looks >= LONG_HOLD:
                raise_incident(
                    context.store,
                    model=model,
                    version=served.version,
                    cause=Cause.ADAPTER,
                    title=f"{model}: its adapter has been held for {looks} looks",
                    summary=why,
                    evidence={"revision": since, "looks": looks, "held_by": served.held_by},
                    routes=context.routes,
                    now=now,
                )
        else:
            end_incident(context.store, model, Cause.ADAPTER, "It is not held any more.", now)
        alert_recoveries(context.store, f"adapter:{model}:", standing, now)


_WHY = {
    "surprise": "three cohorts in a row had outcomes that surprised it, all to the same side.",
    "range": "three cohorts in a row had rates of outcomes beyond all earlier ones.",
    "hand": "a person holds it.",
}


def _by_hand(reason: str, by: str | None) -> dict[str, Any]:
    return {"reason": reason, "by": by or getpass.getuser()}


def _details(before: AdapterRevision, adapter: Adapter) -> dict[str, Any]:
    """What is kept of a look; `before` has the number that the revision before it has."""
    record = adapter.last
    assert record is not None  # it was fed
    details = {
        "surprise": record.surprise,
        "design_effect": record.design_effect,
        "trust": record.trust,
        "rates": record.rates,
        "loss_raw": record.loss_raw,
        "loss_served": record.loss_served,
        "coverage": record.coverage,
        "pool": adapter.learned.pool.tolist(),
    }
    if adapter.held_by:
        details["held_looks"] = adapter.held_looks
        details["held_since"] = before.details.get("held_since", before.revision + 1)
    return details
