"""Rollout and probation: two versions on the same rows, window by window, until there is evidence or an end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from feedback_loop.clock import floor_moment
from feedback_loop.config import ModelSettings
from feedback_loop.errors import ContractError, NotFound, Refused
from feedback_loop.promotion.fence import STALE, Champions
from feedback_loop.promotion.live import MaturedWindows
from feedback_loop.promotion.paired import PairedTest
from feedback_loop.retraining import GateResult
from feedback_loop.store import Store
from feedback_loop.store.alerts import Message, raise_in
from feedback_loop.store.incidents import Cause, end_incident, raise_incident
from feedback_loop.store.records import Source
from feedback_loop.store.retrainings import find_retraining, load_promotions
from feedback_loop.store.rollouts import (
    Rollout,
    begin_rollout,
    blocked_by,
    load_rollouts,
    running_rollout,
    save_progress,
)
from feedback_loop.store.serving_state import TrafficPlan, load_traffic, save_traffic

CHALLENGER = "challenger"
"""The alias of a canary."""

THE_LOOP = "the loop"
"""Who promotes and rolls back where no person does."""


@dataclass(frozen=True)
class RolloutDesk:
    """Begins, follows and ends the rollouts of one model. `compare` is `compare_matured` on the model's log."""

    champions: Champions
    settings: ModelSettings
    compare: Callable[[Rollout, datetime, datetime], MaturedWindows]

    @property
    def store(self) -> Store:
        """Where rollouts are kept."""
        return self.champions.store

    def land(self, candidate: str, baseline: str, now: datetime, *, reason: str, **record: Any) -> str:
        """Makes a candidate the champion, or begins its rollout; returns `promoted` or `rollout`.

        `record` goes with the promotion: see `Champions.promote`, whose errors are raised. A version that was found
        to be worse on live rows is refused.
        """
        if blocked := blocked_by(self.store, self.champions.model, candidate):
            raise Refused(f"Version {candidate} is blocked: {blocked.ended_because}")
        self._refuse_ungated(candidate, record.get("retraining_id"))
        if self.settings.rollout.mode == "direct":
            self.champions.promote(candidate, reason=reason, now=now, expected=baseline, **record)
            return "promoted"
        plan = self.settings.rollout
        share = plan.steps[0] if plan.mode == "canary" else 0.0
        before = running_rollout(self.store, self.champions.model)
        if before is not None and before.stage == "canary":
            self._unroute(now)
        if share:
            self._refuse_other_canary()
        begun = Rollout(
            rollout_id=0,
            model=self.champions.model,
            stage=plan.mode,
            candidate=candidate,
            baseline=baseline,
            windows=plan.windows,
            since=self._next_window(now),
            until=self._next_window(now),
            state="running",
            evidence={"reason": reason, "made_by": record.get("made_by")},
            share=share,
            retraining_id=record.get("retraining_id"),
            approval_id=record.get("approval_id"),
        )
        self._routed(begin_rollout(self.store, begun), now)
        return "rollout"

    def _refuse_ungated(self, candidate: str, retraining_id: int | None) -> None:
        """Raises Refused for a search's candidate unless it is on record that it has passed all gates."""
        search = find_retraining(self.store, retraining_id) if retraining_id is not None else None
        if search is None:
            return
        failed = [check["name"] for check in search.gates or () if not check["passed"]]
        if failed or not search.gates:
            raise Refused(f"Version {candidate} has not passed all gates: {', '.join(failed) or 'none on record'}.")

    def turn(self, now: datetime, matured: datetime, judge: Callable[[Rollout], GateResult | str]) -> Rollout | None:
        """One look: takes in the windows that have matured since, and acts where there is evidence, or an end.

        `judge` is the gate on all rows since a rollout began. Returns the rollout as it is then, if one runs.
        """
        rollout = running_rollout(self.store, self.champions.model) or self._probation(now)
        if rollout is None:
            return None
        champion = self.champions.reconcile(now)
        rollout = self._settled_elsewhere(rollout, champion, now) or self._followed(rollout, matured, now)
        decision = rollout.evidence.get("decision") if rollout.state == "running" else None
        if not decision:
            return rollout
        if rollout.stage == "probation":
            return self._probation_ends(rollout, decision, now)
        return self._ends(rollout, decision, now, judge)

    def _probation(self, now: datetime) -> Rollout | None:
        """Begins the probation of the champion, if it was promoted in another's place and has had none.

        One that another rollout has superseded begins again where it began, if the champion is still the same.
        """
        history = [
            promotion for promotion in load_promotions(self.store, self.champions.model) if promotion.state == "done"
        ]
        newest = history[-1] if history else None
        if newest is None or newest.kind != "promotion" or newest.made_by is None or newest.from_version is None:
            return None  # the first one, a rollback, a hand in MLflow, or from before there were probations
        if not self.settings.rollout.probation:
            return None
        tried = [
            rollout
            for rollout in load_rollouts(self.store, self.champions.model)
            if rollout.promotion_id == newest.promotion_id
        ]
        if tried and (tried[-1].state != "superseded" or self.champions.reconcile(now) != newest.to_version):
            return None
        assert newest.done_at is not None  # it is done
        since = self._next_window(newest.done_at)
        return begin_rollout(
            self.store,
            Rollout(
                rollout_id=0,
                model=newest.model,
                stage="probation",
                candidate=newest.to_version,
                baseline=newest.from_version,
                windows=self.settings.rollout.probation,
                since=since,
                until=since,
                state="running",
                evidence={},
                retraining_id=newest.retraining_id,
                promotion_id=newest.promotion_id,
            ),
        )

    def _settled_elsewhere(self, rollout: Rollout, champion: str | None, now: datetime) -> Rollout | None:
        """The rollout, ended, where the champion has changed: by what it decided itself, or by somebody else.

        So is a canary that has answered nobody for days, since its process died: a new search judges anew.
        """
        done = (promotion for promotion in load_promotions(self.store, rollout.model) if promotion.state == "done")
        own = [change for change in done if (change.evidence or {}).get("rollout") == rollout.rollout_id]
        if own:  # whoever has changed the champion back since is not to be undone
            return self._end(rollout, "harmful" if own[-1].kind == "rollback" else "passed", own[-1].reason, now)
        stands = rollout.candidate if rollout.stage == "probation" else rollout.baseline
        if champion != stands:
            return self._end(rollout, "superseded", f"The champion is version {champion} by now.", now)
        if rollout.stage != "canary" or "routed" in rollout.evidence or now - rollout.since <= STALE:
            return None
        return self._end(rollout, "superseded", "It never answered anybody, and is too old to begin now.", now)

    def _followed(self, rollout: Rollout, matured: datetime, now: datetime) -> Rollout:
        """The rollout with the windows that have matured since the last look, and what they decide."""
        rollout = self._routed(rollout, now)
        if matured <= rollout.until or (rollout.evidence.get("decision") and not _is_stale(rollout, now)):
            return rollout
        try:
            matured_windows = self.compare(rollout, matured, now)
        except (NotFound, ContractError) as error:  # one of them was deleted, or is loadable no more
            return self._end(rollout, "inconclusive", f"They can't be compared: {error.cause}", now)
        evidence, pairs = dict(rollout.evidence), matured_windows.pairs
        if "test" in evidence:
            test = PairedTest.of(evidence["test"])
        else:
            test = PairedTest().scaled_by([pair.difference for pair in matured_windows.before])
            evidence |= {"scale": asdict(matured_windows.scale), "windows": []}
        test = test.after(pairs)
        evidence |= {"test": asdict(test), "windows": [*evidence["windows"], *map(asdict, pairs)], **test.figures}
        values: dict[str, Any] = {"until": matured, "evidence": evidence}
        evidence["decision"] = self._decision(rollout, test, matured)
        if evidence["decision"]:
            evidence["decided_at"] = now.isoformat()
        elif rollout.stage == "canary":
            values["share"] = self.settings.rollout.steps[self._passed(rollout, matured) // rollout.windows]
        saved = save_progress(self.store, rollout, **values)
        return self._routed(_not_overtaken(saved, rollout), now)

    def _decision(self, rollout: Rollout, test: PairedTest, matured: datetime) -> str:
        line, steps = 1 / self.settings.rollout.alpha, len(self.settings.rollout.steps)
        if test.harm >= line:
            return "harm"
        if test.gain >= line and rollout.stage != "probation":
            return "gain"
        wanted = rollout.windows * (steps if rollout.stage == "canary" else 1)
        if self._passed(rollout, matured) < wanted:
            return ""
        return "end" if 2 * test.windows >= wanted else "inconclusive"

    def _passed(self, rollout: Rollout, matured: datetime) -> int:
        return int((matured - rollout.since) / self.settings.window)

    def _probation_ends(self, rollout: Rollout, decision: str, now: datetime) -> Rollout:
        if decision == "harm":
            words = (
                f"Version {rollout.candidate} is worse than {rollout.baseline}, which it replaced: {_words(rollout)}"
            )
            self._promote(rollout, rollout.baseline, words, now, kind="rollback")
            return self._end(rollout, "harmful", words, now)
        if decision == "inconclusive":
            return self._end(rollout, "inconclusive", f"It has too few labels: {_words(rollout)}", now)
        return self._end(rollout, "passed", f"No evidence that it is worse: {_words(rollout)}", now)

    def _ends(
        self, rollout: Rollout, decision: str, now: datetime, judge: Callable[[Rollout], GateResult | str]
    ) -> Rollout:
        if decision == "harm":
            words = f"It is worse than the champion (version {rollout.baseline}) on live rows: {_words(rollout)}"
            return self._end(rollout, "harmful", words, now, tells=True)
        if decision == "inconclusive":
            return self._end(rollout, "inconclusive", f"It has too few labels: {_words(rollout)}", now, tells=True)
        why = f"better on live rows: {_words(rollout)}"
        if decision == "end":
            gate = judge(rollout)
            why = gate if isinstance(gate, str) else gate.summary
            if isinstance(gate, str) or not gate.passed:
                return self._end(rollout, "refused", f"After its {rollout.stage}: {why}", now, tells=True)
        self._promote(
            rollout, rollout.candidate, f"{rollout.evidence['reason']} After its {rollout.stage}: {why}", now
        )
        return self._end(rollout, "passed", why, now)

    def _promote(self, rollout: Rollout, version: str, reason: str, now: datetime, kind: str = "promotion") -> None:
        self.champions.promote(
            version,
            reason=reason,
            now=now,
            expected=rollout.candidate if rollout.stage == "probation" else rollout.baseline,
            kind=kind,
            made_by=rollout.evidence.get("made_by") or THE_LOOP,
            retraining_id=rollout.retraining_id,
            approval_id=rollout.approval_id,
            evidence={"rollout": rollout.rollout_id, **PairedTest.of(rollout.evidence["test"]).figures},
        )

    def _end(self, rollout: Rollout, state: str, because: str, now: datetime, *, tells: bool = False) -> Rollout:
        """Ends it on record, with an incident where callers had a worse version, or else, if it `tells`, an alert."""
        if rollout.stage == "canary":
            self._unroute(now)
        with self.store.write() as connection:
            ended = save_progress(connection, rollout, state=state, ended_at=now, ended_because=because)
            if ended is not None and state == "harmful" and rollout.stage != "shadow":
                self._raise_incident(connection, ended, now)
            elif ended is not None and tells:
                title = f"{rollout.model} version {rollout.candidate}: {rollout.stage} ended, {state}"
                subject = f"promotion:{rollout.model}:rollout-{rollout.rollout_id}"
                raise_in(
                    connection, Message(subject, title, because, model=rollout.model), self.champions.routes, now
                )
        return ended or replace(rollout, state=state, ended_at=now, ended_because=because)

    def _raise_incident(self, connection: Source, ended: Rollout, now: datetime) -> None:
        """A version was taken back; what was known of an earlier one is history by now."""
        name = f"{ended.model} version {ended.candidate}"
        end_incident(connection, ended.model, Cause.ROLLBACK, f"{name} was taken back since.", now)
        stopped = f"was rolled back to {ended.baseline}" if ended.stage == "probation" else "was stopped as a canary"
        raise_incident(
            connection,
            model=ended.model,
            version=ended.candidate,
            cause=Cause.ROLLBACK,
            title=f"{name} {stopped}",
            summary=ended.ended_because or "",
            evidence={"rollout": ended.rollout_id, **PairedTest.of(ended.evidence["test"]).figures},
            routes=self.champions.routes,
            now=now,
        )

    def _routed(self, rollout: Rollout, now: datetime) -> Rollout:
        """Lets a canary answer its share, once: also where a process died after it had said so and before it did.

        What a person has changed since the last step is not undone.
        """
        before = rollout.evidence.get("routed")
        if rollout.stage != "canary" or before == rollout.share:
            return rollout
        plan = load_traffic(self.store, rollout.model)
        if before is None or (plan.canary, plan.share) == (CHALLENGER, before):
            self._refuse_other_canary()
            self.champions.registry.set_alias(rollout.model, CHALLENGER, rollout.candidate)
            shadows = tuple(alias for alias in plan.shadows if alias != CHALLENGER)
            save_traffic(self.store, rollout.model, TrafficPlan(shadows, CHALLENGER, rollout.share), now)
        routed = {**rollout.evidence, "routed": rollout.share}
        return _not_overtaken(save_progress(self.store, rollout, evidence=routed), rollout)

    def _unroute(self, now: datetime) -> None:
        """The canary answers no more; shadows, and a canary of a person's, stay as they are."""
        plan = load_traffic(self.store, self.champions.model)
        if plan.canary == CHALLENGER:
            save_traffic(self.store, self.champions.model, TrafficPlan(plan.shadows), now)

    def _refuse_other_canary(self) -> TrafficPlan:
        plan = load_traffic(self.store, self.champions.model)
        if plan.canary not in (None, CHALLENGER):
            raise Refused(
                f"{plan.canary} is a canary of {self.champions.model} already.",
                cure=f"End it: feedback-loop models traffic {self.champions.model} --off.",
            )
        return plan

    def _next_window(self, moment: datetime) -> datetime:
        """The beginning of the first window that lies after a moment."""
        begins = floor_moment(moment, self.settings.window)
        return begins if begins == moment else begins + self.settings.window


def _is_stale(rollout: Rollout, now: datetime) -> bool:
    """Whether what was decided is old by now, and not done: it is judged anew on the windows since."""
    return now - datetime.fromisoformat(rollout.evidence["decided_at"]) > STALE


def _not_overtaken(saved: Rollout | None, rollout: Rollout) -> Rollout:
    if saved is None:
        raise Refused(f"Somebody else looks at the rollout of {rollout.model} at this moment.")
    return saved


def _words(rollout: Rollout) -> str:
    evidence = rollout.evidence
    mean, error = evidence["difference"], evidence["standard_error"]
    figures = f"{mean:+.4f}" + (f" ± {error:.4f}" if error is not None else "") if mean is not None else "no number"
    return (
        f"{evidence['scale']['loss']} {figures} against version {rollout.baseline} on {evidence['rows']:,} rows of "
        f"{evidence['counted']} windows; e-values: worse {evidence['harm']:.3g}, better {evidence['gain']:.3g}."
    )
