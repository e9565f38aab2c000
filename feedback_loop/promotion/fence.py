"""Promotion and rollback: the store's fence first, then the registry's alias, then the record that it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from feedback_loop.clock import format_moment
from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.registry import Reference, Registry
from feedback_loop.store import Store
from feedback_loop.store.alerts import Routes
from feedback_loop.store.freezes import held_by_freeze
from feedback_loop.store.leases import hold
from feedback_loop.store.retrainings import (
    Promotion,
    end_promotion,
    give_up_promotion,
    intend_promotion,
    load_promotions,
    put_off_promotion,
)
from feedback_loop.tracing import step

STALE = timedelta(days=3)
"""An intent that is older was decided on rows that are old by now: it is not carried out, but judged anew."""

LEASE = timedelta(seconds=30)
"""How long an intent is left alone whose process has died; one that lives renews its lease."""


class _BusyError(Refused):
    """Somebody else promotes the model at this moment."""


def _nothing(_: object) -> None:
    """There is nothing to prepare."""


@dataclass(frozen=True)
class Champions:
    """Who is the champion of a model: the version behind `alias` in the registry, with the store's record of it.

    `prepare` is told of a version before it becomes the champion by us, `tell` of each promotion that is done; they
    raise nothing.
    """

    store: Store
    registry: Registry
    model: str
    alias: str
    routes: Routes = ()
    prepare: Callable[[str], None] = _nothing
    tell: Callable[[Promotion], None] = _nothing

    def promote(
        self,
        version: str,
        *,
        reason: str,
        now: datetime,
        expected: str | None = None,
        kind: str = "promotion",
        **record: Any,
    ) -> Promotion:
        """Makes a version the champion, if `expected` (default: whoever it is now) still is.

        Raises Refused where somebody else promoted in between, and NotFound for a version that is gone. If the
        registry can't be reached (Unavailable), the promotion waits on record, and `reconcile` carries it out.
        `record` is kept with it: `made_by`, `retraining_id`, `approval_id`, `evidence`.
        """
        with self._alone():
            champion = self._reconcile(now)
            if champion == version:
                raise Refused(f"Version {version} of {self.model} is the champion already.")
            if expected is not None and expected != champion:
                cause = f"The champion of {self.model} is version {champion} by now, not {expected}."
                raise Refused(cause, cure="Compare again.")
            # Where the alias was deleted in MLflow, the version that had it last is the one that is replaced.
            before = champion or self._recorded()
            promotion = self._intend("first" if before is None else kind, before, version, reason, now, **record)
            try:
                self._carry_out(promotion, now)
            except NotFound as error:
                give_up_promotion(self.store, promotion, error.cause, now=now)
                raise
        return promotion

    def rollback(self, *, reason: str, now: datetime, **record: Any) -> Promotion:
        """Makes the newest version before the champion, and before all that were rolled back, the champion again.

        Versions that the registry no longer has are passed over. Raises Refused where there is none.
        """
        champion = self.reconcile(now)
        before = champions_that_stand(load_promotions(self.store, self.model))[:-1]
        back_to = next((version for version in reversed(before) if self._is_there(version)), None)
        if champion is None:
            cause = f"{self.model} has no champion: nobody has promoted one, or the alias was deleted in MLflow."
            raise Refused(cause, cure=f"Promote a version: feedback-loop models promote {self.model} VERSION.")
        if back_to is None:
            raise Refused(
                f"{self.model} has had no champion before this one that was not rolled back.",
                cure="Promote a version by its number instead.",
            )
        return self.promote(back_to, reason=reason, now=now, expected=champion, kind="rollback", **record)

    def reconcile(self, now: datetime) -> str | None:
        """Makes the record and the registry agree, and returns the champion's version (None: there is none).

        A promotion that waits for the registry is carried out; while the model is frozen it waits on. One that has
        waited for longer than `STALE` is given up. One whose process died is done if its alias was set; else it is
        given up, and an alert says so: the alias may never have been set, or somebody has moved it back since, who is
        not to be undone. An alias that was moved by hand, in MLflow, is taken as it is and recorded as an `external`
        promotion. While somebody promotes, all is left to them.
        """
        try:
            with self._alone():
                return self._reconcile(now)
        except _BusyError:
            return self._champion()

    def _alone(self) -> AbstractContextManager[object]:
        busy = f"Somebody else promotes {self.model} at this moment"
        return hold(self.store, f"promotion:{self.model}", LEASE, busy=busy, refuse=_BusyError)

    def _champion(self) -> str | None:
        version = self.registry.champion(self.model, self.alias)
        return version.version if version is not None else None

    def _recorded(self) -> str | None:
        return _last_done(load_promotions(self.store, self.model))

    def _is_there(self, version: str) -> bool:
        try:
            self.registry.find(Reference(self.model, version=version), exactly=True)
        except NotFound:
            return False
        return True

    def _reconcile(self, now: datetime) -> str | None:
        actual = self._champion()
        history = load_promotions(self.store, self.model)
        if history and history[-1].is_open:
            pending = history[-1]
            if actual == pending.to_version:
                self._end(pending, now)
                return actual
            why = _why_given_up(pending, actual, now)
            if not why and held_by_freeze(self.store, self.model):
                return actual  # it waits on
            if not why:
                try:
                    self._carry_out(pending, now)
                except NotFound as error:
                    why = error.cause
                else:
                    return pending.to_version
            give_up_promotion(self.store, pending, why, now=now, routes=self.routes)
        recorded = _last_done(history)
        if actual is not None and actual != recorded:
            moved = self._intend("external", recorded, actual, "the alias was set in MLflow", now)
            self._end(moved, now)
        return actual

    def _intend(
        self,
        kind: str,
        before: str | None,
        version: str,
        reason: str,
        now: datetime,
        **record: Any,
    ) -> Promotion:
        return intend_promotion(
            self.store,
            self.model,
            kind=kind,
            from_version=before,
            to_version=version,
            reason=reason,
            now=now,
            **record,
        )

    def _end(self, promotion: Promotion, now: datetime) -> None:
        end_promotion(self.store, promotion, now=now)
        self.tell(replace(promotion, state="done", done_at=now))

    def _carry_out(self, promotion: Promotion, now: datetime) -> None:
        with step(promotion.kind) as note:
            note({"model": promotion.model, "version": promotion.to_version, "promotion": promotion.promotion_id})
            self.prepare(promotion.to_version)
            try:
                self.registry.set_alias(promotion.model, self.alias, promotion.to_version)
            except Unavailable:
                put_off_promotion(self.store, promotion)
                raise
            self._end(promotion, now)


def champions_that_stand(history: Sequence[Promotion]) -> list[str]:
    """The champions that followed each other, without those that were left for one before them."""
    standing: list[str] = []
    for promotion in history:
        if promotion.state != "done":
            continue
        if promotion.to_version in standing:
            del standing[standing.index(promotion.to_version) :]
        standing.append(promotion.to_version)
    return standing


def _last_done(history: Sequence[Promotion]) -> str | None:
    """The version that the record has as the champion."""
    return next((promotion.to_version for promotion in reversed(history) if promotion.state == "done"), None)


def _why_given_up(pending: Promotion, actual: str | None, now: datetime) -> str:
    """Why a promotion is not carried out now; empty where it waits for that."""
    if actual not in (pending.from_version, None):  # None: the alias was deleted, before or since
        return f"Meanwhile version {actual} was made the champion in MLflow."
    if pending.state == "intended":
        return "Its process ended before it was done, or the alias was moved back since."
    if now - pending.intended_at > STALE:
        return (
            f"It was decided on {format_moment(pending.intended_at)}, which is too long ago: judge it on newer rows."
        )
    return ""
