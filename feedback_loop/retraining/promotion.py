"""Promotion and rollback: the store's fence first, then the registry's alias, then the record that it is done."""

from __future__ import annotations

from datetime import datetime

from feedback_loop.errors import Refused
from feedback_loop.registry import Registry
from feedback_loop.store import Store
from feedback_loop.store.retrainings import Promotion, end_promotion, intend_promotion, load_promotions


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
) -> Promotion:
    """Makes a version the champion, if `expected` (default: whoever it is now) still is.

    Raises Refused where somebody else promoted in between. If the registry can't be reached (Unavailable), the
    intent stays on record and `reconcile` ends it.
    """
    champion = reconcile(store, registry, model, alias, now)
    if champion == version:
        raise Refused(f"Version {version} of {model} is the champion already.")
    if expected is not None and expected != champion:
        raise Refused(f"The champion of {model} is version {champion} by now, not {expected}.", cure="Compare again.")
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
    _carry_out(store, registry, promotion, alias, now)
    return promotion


def rollback(store: Store, registry: Registry, model: str, alias: str, *, reason: str, now: datetime) -> Promotion:
    """Makes the version before the champion the champion again; raises Refused where there is none."""
    champion = reconcile(store, registry, model, alias, now)
    done = [each for each in load_promotions(store, model) if each.state == "done"]
    if not done or done[-1].from_version is None or champion is None:
        raise Refused(
            f"{model} has had no champion before this one.", cure="Promote a version by its number instead."
        )
    back_to = done[-1].from_version
    return promote(store, registry, model, alias, back_to, reason=reason, now=now, expected=champion, kind="rollback")


def reconcile(store: Store, registry: Registry, model: str, alias: str, now: datetime) -> str | None:
    """Makes the record and the registry agree, and returns the champion's version (None: there is none).

    An intended promotion whose process died is carried out. An alias that was moved by hand, in MLflow, is taken
    as it is and recorded as an `external` promotion.
    """
    found = registry.champion(model, alias)
    actual = found.version if found is not None else None
    history = load_promotions(store, model)
    if history and history[-1].state == "intended":
        pending = history[-1]
        if actual in (pending.from_version, pending.to_version):
            _carry_out(store, registry, pending, alias, now)
            return pending.to_version
        end_promotion(store, pending, state="failed", now=now)
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
        end_promotion(store, moved, state="done", now=now)
    return actual


def _carry_out(store: Store, registry: Registry, promotion: Promotion, alias: str, now: datetime) -> None:
    registry.set_alias(promotion.model, alias, promotion.to_version)
    end_promotion(store, promotion, state="done", now=now)
