"""Freezes: while one stands, nothing is retrained, promoted, rolled back or adapted; serving and logging go on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Index

from feedback_loop.clock import format_moment
from feedback_loop.errors import Refused
from feedback_loop.store.engine import Store
from feedback_loop.store.records import Source, as_row, change, insert_if_new, many
from feedback_loop.store.schema import PREFIX, shared_table

EVERYWHERE = ""
"""The model of a freeze of all models."""


@dataclass(frozen=True)
class Freeze:
    """One freeze of a model, or of all of them (`EVERYWHERE`), from its beginning to its end: who, and why."""

    freeze_id: int
    model: str
    reason: str
    frozen_by: str
    frozen_at: datetime
    lifted_by: str | None = None
    lifted_at: datetime | None = None
    lifted_because: str | None = None

    @property
    def words(self) -> str:
        """What stands still, since when, by whom and why."""
        what = self.model if self.model != EVERYWHERE else "All models"
        verb = "is" if self.model != EVERYWHERE else "are"
        return f"{what} {verb} frozen since {format_moment(self.frozen_at)}, by {self.frozen_by}: {self.reason}"


freezes = shared_table("freezes", Freeze, key=["freeze_id"])
Index(
    f"uq_{PREFIX}freezes_standing",
    freezes.c.model,
    unique=True,
    sqlite_where=freezes.c.lifted_at.is_(None),
    postgresql_where=freezes.c.lifted_at.is_(None),
)


def freeze(store: Store, model: str, *, reason: str, by: str, now: datetime) -> Freeze:
    """Freezes a model, or all (`EVERYWHERE`). Raises Refused where that freeze stands already."""
    begun = Freeze(0, model, reason, by, now)
    with store.write() as connection:
        number = insert_if_new(connection, freezes, as_row(begun), "model", where=freezes.c.lifted_at.is_(None))
        if number is None:
            raise Refused(standing(connection, model)[0].words, cure="It is lifted by: feedback-loop unfreeze.")
    return replace(begun, freeze_id=number)


def unfreeze(store: Store, model: str, *, reason: str, by: str, now: datetime) -> Freeze:
    """Lifts the freeze of a model, or that of all (`EVERYWHERE`). Raises Refused where it does not stand."""
    lifted = {"lifted_by": by, "lifted_at": now, "lifted_because": reason}
    with store.write() as connection:
        exact = many(connection, Freeze, model=model, lifted_at=None)
        if not exact:
            others = " ".join(f"{freeze.words}." for freeze in standing(connection, model))
            raise Refused(f"{model or 'The whole loop'} has no freeze of its own. {others}".rstrip())
        change(connection, Freeze, lifted, freeze_id=exact[0].freeze_id)
    return replace(exact[0], lifted_by=by, lifted_at=now, lifted_because=reason)


def standing(source: Source, model: str) -> list[Freeze]:
    """The freezes that hold a model now: its own, and that of all models."""
    holds = freezes.c.model.in_((model, EVERYWHERE))
    return many(source, Freeze, holds, lifted_at=None, order_by=freezes.c.model.desc())


def load_freezes(source: Source, model: str) -> list[Freeze]:
    """All freezes that there were of a model, those of all models among them, oldest first."""
    return many(source, Freeze, freezes.c.model.in_((model, EVERYWHERE)), order_by="freeze_id")


def held_by_freeze(source: Source, model: str) -> str:
    """Why nothing of a model may change now, in words; empty where it may."""
    return " ".join(f"{freeze.words.rstrip('.')}." for freeze in standing(source, model))


def refuse_frozen(source: Source, model: str) -> None:
    """Raises Refused while a model is frozen."""
    if words := held_by_freeze(source, model):
        raise Refused(words, cure="Lift it: feedback-loop unfreeze.")
