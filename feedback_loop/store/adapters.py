"""Revisions of adapters: what each was fed, what it made of it, and its coefficients and state as bytes.

Rows are only ever added, but for the states: of those the newest few stay, and one of so many, from which the others
can be had again by replay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, LargeBinary, select, update

from feedback_loop.errors import Refused
from feedback_loop.store.engine import Store
from feedback_loop.store.records import Source, as_row, insert_new, many
from feedback_loop.store.schema import shared_table

STATES_KEPT = 4
"""So many of the newest revisions keep their state."""

CHECKPOINT = 30
"""So does one of so many, and each that an adapter was begun by."""


class RevisionKind(StrEnum):
    """What made a revision. One that `SKIPPED` a cohort has no coefficients of its own: nothing changed.

    From one that `STOPPED` it on the model answers alone, until another adapter has `BEGUN`.
    """

    BEGUN = "begun"
    LEARNED = "learned"
    HELD = "held"
    SKIPPED = "skipped"
    PROMOTED = "promoted"
    HOLD = "hold"
    RELEASE = "release"
    STOPPED = "stopped"


@dataclass(frozen=True)
class AdapterRevision:
    """One state of a model's adapter, immutable. `adapter` counts adapters: a new one begins with nothing learned.

    `version` is the champion's. The cohort is that of predictions from `cohort_start` to `cohort_end`; of its
    `predicted` rows so many were `labelled` as of `known_until`. `held_by` names the guards that hold it, or `hand`.
    """

    model: str
    revision: int
    adapter: int
    kind: RevisionKind
    made_at: datetime
    version: str
    cohort_start: datetime | None = None
    cohort_end: datetime | None = None
    known_until: datetime | None = None
    predicted: int = 0
    labelled: int = 0
    held_by: tuple[str, ...] = ()
    digest: str = ""  # of the coefficients; empty: it has none of its own
    details: dict[str, Any] = field(default_factory=dict)


adapter_revisions = shared_table(
    "adapter_revisions",
    AdapterRevision,
    Column("coefficients", LargeBinary),
    Column("state", LargeBinary),
    key=["model", "revision"],
)
_table = adapter_revisions.c


def newest_served(source: Source, model: str) -> AdapterRevision | None:
    """The revision whose coefficients are to be served now; None where the model has no adapter, or it is stopped."""
    says = (_table.digest != "") | (_table.kind == RevisionKind.STOPPED)
    newest = many(source, AdapterRevision, says, model=model, order_by=_table.revision.desc(), newest=1)
    return newest[0] if newest and newest[0].kind is not RevisionKind.STOPPED else None


def load_revisions(source: Source, model: str, newest: int | None = None) -> list[AdapterRevision]:
    """All revisions (or the newest so many), newest first."""
    return many(source, AdapterRevision, model=model, order_by=_table.revision.desc(), newest=newest)


def load_coefficients(store: Store, model: str, revision: int) -> bytes | None:
    """The coefficients of a revision as bytes; None where it has none, or there is no such revision."""
    return _bytes(store, "coefficients", model, revision)


def load_state(store: Store, model: str, revision: int) -> bytes | None:
    """The state of a revision as bytes; None where it was not kept."""
    return _bytes(store, "state", model, revision)


def _bytes(store: Store, name: str, model: str, revision: int) -> bytes | None:
    chosen = select(_table[name]).where(_table.model == model, _table.revision == revision)
    with store.read() as connection:
        content = connection.execute(chosen).scalar_one_or_none()
    return bytes(content) if content is not None else None


def add_revision(
    store: Store, revision: AdapterRevision, *, coefficients: bytes | None = None, state: bytes | None = None
) -> AdapterRevision:
    """Stores the revision that follows `revision.revision`; states that are needed no more go.

    Raises Refused where somebody else has added one meanwhile: a state has one successor.
    """
    added = replace(revision, revision=revision.revision + 1)
    with store.write() as connection:
        row = {**as_row(added), "coefficients": coefficients, "state": state}
        if not insert_new(connection, adapter_revisions, row):
            raise Refused(
                f"The adapter of {added.model} has a revision {added.revision} already.",
                cure="Another process has fed, held or released it meanwhile: look again.",
            )
        if state is None:
            return added
        gone = update(adapter_revisions).where(
            _table.model == added.model,
            _table.revision <= added.revision - STATES_KEPT,
            _table.revision % CHECKPOINT != 0,
            _table.kind != RevisionKind.BEGUN,
            _table.state.is_not(None),
        )
        connection.execute(gone.values(state=None))
    return added
