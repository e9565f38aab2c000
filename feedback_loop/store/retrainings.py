"""Retrainings with their trials, and promotions, of which one at a time may replace a champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, ForeignKeyConstraint, Index, Integer, UniqueConstraint, func, select

from feedback_loop.errors import Refused
from feedback_loop.store.alerts import Message, Routes, raise_in
from feedback_loop.store.engine import ConstraintViolated, Store
from feedback_loop.store.freezes import refuse_frozen
from feedback_loop.store.incidents import Cause, end_incident
from feedback_loop.store.records import Source, add, change, insert_one, many, one, remove
from feedback_loop.store.schema import PREFIX, Long, shared_table


@dataclass(frozen=True)
class Trial:
    """One way of training that was tried: the span and number of its rows, and the loss on held-out newer rows.

    `name` is its window's; `why` says what made it part of the search, where that was a hint of the diagnosis.
    """

    name: str
    trained_from: datetime
    trained_until: datetime
    rows: int
    loss: float | None
    chosen: bool = False
    cause: str | None = None
    recipe: str = "own"  # own | boosting | linear | trees | trainer
    why: str = ""
    seconds: float | None = None  # that the fit took
    log: str = ""  # the end of what a trainer printed
    peak_bytes: Long | None = None  # of memory that a trainer's processes took
    run_id: str = ""  # in MLflow, of a trainer


@dataclass(frozen=True)
class Check:
    """One gate's answer."""

    name: str
    passed: bool
    summary: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Retraining:
    """One search for a better version and how it ended."""

    retraining_id: int
    model: str
    reason: str  # alarm | refresh | manual
    incident_id: int | None
    champion: str
    candidate: str | None
    state: str  # running | promoted | proposed | rollout | passed | refused | failed | not_made | abandoned
    started_at: datetime
    finished_at: datetime | None
    gate: dict[str, Any] | None
    cause: str | None
    gates: list[dict[str, Any]] | None = None  # every `Check`


retrainings = shared_table(
    "retrainings",
    Retraining,
    ForeignKeyConstraint(["incident_id"], [f"{PREFIX}incidents.incident_id"]),
    Index(None, "model", "started_at"),
    key=["retraining_id"],
)

trials = shared_table(
    "trials",
    Trial,
    Column("retraining_id", Integer),
    Column("ordinal", Integer),
    ForeignKeyConstraint(["retraining_id"], [retrainings.c.retraining_id]),
    key=["retraining_id", "ordinal"],
)


OPEN = ("intended", "waiting")
"""States of a promotion that has not ended: a process works on it (or has died), or the registry was away."""


@dataclass(frozen=True)
class Promotion:
    """One change of the champion: `intended` first, `done` once the registry's alias is set."""

    promotion_id: int
    model: str
    ordinal: int
    kind: str  # first | promotion | rollback
    from_version: str | None
    to_version: str
    state: str  # intended | waiting | done | failed
    reason: str
    intended_at: datetime
    done_at: datetime | None
    retraining_id: int | None = None
    cause: str | None = None
    made_by: str | None = None  # a person, or a part of the loop
    approval_id: int | None = None
    evidence: dict[str, Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in OPEN


promotions = shared_table(
    "promotions",
    Promotion,
    ForeignKeyConstraint(["retraining_id"], [retrainings.c.retraining_id]),
    # The fence: of two that promote from the same champion, one gets the ordinal and the other is refused.
    UniqueConstraint("model", "ordinal"),
    # An approval is used once. (No foreign key: SQLite adds none to a table that is there.)
    Index(f"uq_{PREFIX}promotions_approval_id", "approval_id", unique=True),
    key=["promotion_id"],
)


def start_retraining(
    store: Store, model: str, *, reason: str, champion: str, incident_id: int | None, now: datetime
) -> int:
    """Records that a retraining began; returns its id. One that is still running is abandoned: its process died.

    If the newest one is `not_made`, for the same reason and without a gate, it is begun again under its id.
    """
    died = {"state": "abandoned", "finished_at": now, "cause": "its process ended before it did"}
    values = {
        "model": model,
        "reason": reason,
        "incident_id": incident_id,
        "champion": champion,
        "state": "running",
        "started_at": now,
    }
    with store.write() as connection:
        change(connection, Retraining, died, model=model, state="running")
        newest_first = retrainings.c.retraining_id.desc()
        last = next(iter(many(connection, Retraining, model=model, order_by=newest_first, newest=1)), None)
        if last is None or last.state != "not_made" or last.reason != reason or last.gate is not None:
            return insert_one(connection, retrainings.insert().values(**values))
        again = {"finished_at": None, "cause": None, **values}
        remove(connection, Trial, retraining_id=last.retraining_id)
        change(connection, Retraining, again, retraining_id=last.retraining_id)
        return last.retraining_id


def note_retraining(
    store: Store,
    retraining_id: int,
    *,
    candidate: str | None = None,
    gate: dict[str, Any] | None = None,
    trials: Sequence[Trial] = (),
    gates: Sequence[Check] = (),
) -> None:
    """Records the candidate, the gates' results or the trials of a retraining; what is not given does not change."""
    checks = [asdict(check) for check in gates] or None
    known = {"candidate": candidate, "gate": gate, "gates": checks}
    values = {name: value for name, value in known.items() if value is not None}
    with store.write() as connection:
        if values:
            change(connection, Retraining, values, retraining_id=retraining_id)
        if trials:
            remove(connection, Trial, retraining_id=retraining_id)
        for ordinal, trial in enumerate(trials):
            add(connection, trial, retraining_id=retraining_id, ordinal=ordinal)


def finish_retraining(
    store: Store, retraining_id: int, *, state: str, now: datetime, cause: str | None = None
) -> None:
    """Records how a retraining ended."""
    ended = {"state": state, "finished_at": now, "cause": cause}
    change(store, Retraining, ended, retraining_id=retraining_id)


def load_retrainings(store: Store, model: str) -> list[Retraining]:
    """All retrainings of a model, oldest first."""
    return many(store, Retraining, model=model, order_by="retraining_id")


def find_retraining(store: Store, retraining_id: int) -> Retraining | None:
    """The retraining with that number."""
    return one(store, Retraining, retraining_id=retraining_id)


def load_trials(store: Store, retraining_id: int) -> list[Trial]:
    """The trials of one retraining, in the order they were made."""
    return many(store, Trial, retraining_id=retraining_id, order_by="ordinal")


def intend_promotion(
    store: Store,
    model: str,
    *,
    kind: str,
    from_version: str | None,
    to_version: str,
    reason: str,
    now: datetime,
    retraining_id: int | None = None,
    made_by: str | None = None,
    approval_id: int | None = None,
    evidence: dict[str, Any] | None = None,
) -> Promotion:
    """Records the intent to replace `from_version`, if that is still what was promoted last: the promotions' fence.

    Raises Refused where somebody else has promoted since, or is about to, and while the model is frozen (but for an
    `external` one, which is a record of what was done in MLflow).
    """
    table = promotions
    try:
        with store.write() as connection:
            if kind != "external":
                refuse_frozen(connection, model)
            last = _last(connection, model)
            if last is not None and last.is_open:
                raise Refused(
                    f"A promotion of {model} to version {last.to_version} has begun and not ended.",
                    cure="It is finished by the next run of the scheduler; then try again.",
                )
            if last is not None and last.to_version != from_version:
                raise Refused(
                    f"The champion of {model} is version {last.to_version} by now, not {from_version}.",
                    cure="Compare with that one and try again.",
                )
            newest = select(func.max(table.c.ordinal)).where(table.c.model == model)
            intended = Promotion(
                promotion_id=0,
                model=model,
                ordinal=(connection.execute(newest).scalar_one() or 0) + 1,
                kind=kind,
                from_version=from_version,
                to_version=to_version,
                state="intended",
                reason=reason,
                intended_at=now,
                done_at=None,
                retraining_id=retraining_id,
                made_by=made_by,
                approval_id=approval_id,
                evidence=evidence,
            )
            return replace(intended, promotion_id=add(connection, intended))
    except ConstraintViolated as error:
        if not error.is_unique:
            raise
        raise Refused(f"Somebody else promotes {model} at this moment.", cure="Look again, then retry.") from error


def end_promotion(store: Store, promotion: Promotion, *, now: datetime) -> None:
    """Records that the registry's alias was set, which ends the incident of an earlier rollback."""
    with store.write() as connection:
        if _change_open(connection, promotion, state="done", done_at=now):
            because = f"Version {promotion.to_version} is the champion since."
            end_incident(connection, promotion.model, Cause.ROLLBACK, because, now)


def put_off_promotion(store: Store, promotion: Promotion) -> None:
    """Records that the registry was away; the alias is set once it is back."""
    _change_open(store, promotion, state="waiting")


def give_up_promotion(store: Store, promotion: Promotion, cause: str, *, now: datetime, routes: Routes = ()) -> None:
    """Records that a promotion failed, and why, and adds an alert about it on these routes."""
    title = f"{promotion.model} version {promotion.to_version} was not made the champion"
    subject = f"promotion:{promotion.model}:{promotion.promotion_id}"
    body = f"{cause} The next promotion is not kept from it."
    message = Message(subject, title, body, model=promotion.model)
    with store.write() as connection:
        _change_open(connection, promotion, state="failed", done_at=now, cause=cause)
        raise_in(connection, message, routes, now)


def _change_open(source: Source, promotion: Promotion, **values: Any) -> int:
    return change(source, Promotion, values, promotions.c.state.in_(OPEN), promotion_id=promotion.promotion_id)


def load_promotions(store: Store, model: str) -> list[Promotion]:
    """All promotions of a model, oldest first."""
    return many(store, Promotion, model=model, order_by="ordinal")


def _last(connection: Connection, model: str) -> Promotion | None:
    """The newest promotion that has not failed."""
    order, not_failed = promotions.c.ordinal.desc(), promotions.c.state != "failed"
    return next(iter(many(connection, Promotion, not_failed, model=model, order_by=order, newest=1)), None)
