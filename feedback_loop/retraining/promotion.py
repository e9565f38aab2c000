"""Promotion and rollback: the store's fence first, then the registry's alias, then the record that it is done."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.registry import Reference, Registry
from feedback_loop.store import Store
from feedback_loop.store.leases import hold
from feedback_loop.store.retrainings import (
    Promotion,
    end_promotion,
    give_up_promotion,
    intend_promotion,
    load_promotions,
    put_off_promotion,
)

LEASE = timedelta(seconds=30)
"""How long an intent is left alone whose process has died; one that lives renews its lease."""


def promote(
    store: Store,
    registry: Registry,
    model: str,
    alias: str,
    version: str,
    *,
    reason: str,
    now: datetime,
    expected: str | None = None,
    kind: str = "promotion",
    retraining_id: int | None = None,
    routes: Sequence[str] = (),
) -> Promotion:
    """Makes a version the champion, if `expected` (default: whoever it is now) still is.

    Raises Refused where somebody else promoted in between, and NotFound for a version that is gone. If the registry
    can't be reached (Unavailable), the promotion waits on record, and `reconcile` carries it out.
    """
    with _alone(store, model):
        champion = _reconcile(store, registry, model, alias, now, routes)
        if champion == version:
            raise Refused(f"Version {version} of {model} is the champion already.")
        if expected is not None and expected != champion:
            raise Refused(
                f"The champion of {model} is version {champion} by now, not {expected}.", cure="Compare again."
            )
        promotion = intend_promotion(
            store,
            model,
            kind=kind if champion is not None else "first",
            from_version=champion,
            to_version=version,
            reason=reason,
            now=now,
            retraining_id=retraining_id,
        )
        try:
            _carry_out(store, registry, promotion, alias, now)
        except NotFound as error:
            give_up_promotion(store, promotion, error.cause, now=now)
            raise
    return promotion


def rollback(
    store: Store,
    registry: Registry,
    model: str,
    alias: str,
    *,
    reason: str,
    now: datetime,
    routes: Sequence[str] = (),
) -> Promotion:
    """Makes the newest version before the champion, and before all that were rolled back, the champion again.

    Versions that the registry no longer has are passed over. Raises Refused where there is none.
    """
    champion = reconcile(store, registry, model, alias, now, routes)
    before = champions_that_stand(load_promotions(store, model))[:-1]
    back_to = next((each for each in reversed(before) if _is_there(registry, model, each)), None)
    if back_to is None or champion is None:
        raise Refused(
            f"{model} has had no champion before this one that was not rolled back.",
            cure="Promote a version by its number instead.",
        )
    return promote(
        store,
        registry,
        model,
        alias,
        back_to,
        reason=reason,
        now=now,
        expected=champion,
        kind="rollback",
        routes=routes,
    )


def champions_that_stand(history: Sequence[Promotion]) -> list[str]:
    """The champions that followed each other, without those that were left for one before them."""
    standing: list[str] = []
    for each in history:
        if each.state != "done":
            continue
        if each.to_version in standing:
            del standing[standing.index(each.to_version) :]
        standing.append(each.to_version)
    return standing


def reconcile(
    store: Store, registry: Registry, model: str, alias: str, now: datetime, routes: Sequence[str] = ()
) -> str | None:
    """Makes the record and the registry agree, and returns the champion's version (None: there is none).

    A promotion that waits for the registry is carried out. One whose process died is done if its alias was set; else
    it is given up, and told on the routes: the alias may never have been set, or somebody has moved it back since,
    who is not to be undone. An alias that was moved by hand, in MLflow, is taken as it is and recorded as an
    `external` promotion. While somebody promotes, all is left to them.
    """
    try:
        with _alone(store, model):
            return _reconcile(store, registry, model, alias, now, routes)
    except _BusyError:
        return _champion(registry, model, alias)


class _BusyError(Refused):
    """Somebody else promotes the model at this moment."""


def _alone(store: Store, model: str) -> AbstractContextManager[object]:
    busy = f"Somebody else promotes {model} at this moment"
    return hold(store, f"promotion:{model}", LEASE, busy=busy, refuse=_BusyError)


def _champion(registry: Registry, model: str, alias: str) -> str | None:
    found = registry.champion(model, alias)
    return found.version if found is not None else None


def _is_there(registry: Registry, model: str, version: str) -> bool:
    try:
        registry.find(Reference(model, version=version), exactly=True)
    except NotFound:
        return False
    return True


def _reconcile(
    store: Store, registry: Registry, model: str, alias: str, now: datetime, routes: Sequence[str]
) -> str | None:
    actual = _champion(registry, model, alias)
    history = load_promotions(store, model)
    if history and history[-1].is_open:
        pending = history[-1]
        if actual == pending.to_version:
            end_promotion(store, pending, now=now)
            return actual
        why = _why_given_up(pending, actual)
        if not why:
            try:
                _carry_out(store, registry, pending, alias, now)
            except NotFound as error:
                why = error.cause
            else:
                return pending.to_version
        give_up_promotion(store, pending, why, now=now, routes=routes)
    done = [each for each in history if each.state == "done"]
    recorded = done[-1].to_version if done else None
    if actual is not None and actual != recorded:
        moved = intend_promotion(
            store,
            model,
            kind="external",
            from_version=recorded,
            to_version=actual,
            reason="the alias was set in MLflow",
            now=now,
        )
        end_promotion(store, moved, now=now)
    return actual


def _why_given_up(pending: Promotion, actual: str | None) -> str:
    """Why a promotion is not carried out now; empty where it waits for that."""
    if actual != pending.from_version:
        return f"Meanwhile version {actual} was made the champion in MLflow." if actual else "The alias was deleted."
    if pending.state == "intended":
        return "Its process ended before it was done, or the alias was moved back since."
    return ""


def _carry_out(store: Store, registry: Registry, promotion: Promotion, alias: str, now: datetime) -> None:
    try:
        registry.set_alias(promotion.model, alias, promotion.to_version)
    except Unavailable:
        put_off_promotion(store, promotion)
        raise
    end_promotion(store, promotion, now=now)
