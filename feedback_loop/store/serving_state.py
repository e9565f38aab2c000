"""What all servers of a model must agree on: its traffic, what its versions are called, and which can't be loaded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, String, UniqueConstraint, select

from feedback_loop.errors import BadInput
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_row, change, dialect_insert, many, one, put, upsert
from feedback_loop.store.schema import Moment, shared_table


@dataclass(frozen=True)
class TrafficPlan:
    """Aliases of a model's shadows, and the alias of its canary with the share (0 … 1) of callers that it answers."""

    shadows: tuple[str, ...] = ()
    canary: str | None = None
    share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise BadInput.of("share", f"is {self.share}", cure="Give a number from 0 to 1.")
        if (self.canary is None) != (self.share == 0):
            raise BadInput.of("canary", "has no share, or the share has no canary", cure="Give both, or neither.")
        if self.canary in self.shadows:
            raise BadInput.of("canary", f"{self.canary!r} is a shadow too", cure="An alias has one role.")


traffic = shared_table(
    "traffic", TrafficPlan, Column("model", String), Column("changed_at", Moment, nullable=False), key=["model"]
)


@dataclass(frozen=True)
class LoadIncident:
    """A version that a server was to answer with and could not load, from the first attempt to its end."""

    model: str
    version: str
    cause: str
    opened_at: datetime
    closed_at: datetime | None = None
    closed_because: str | None = None


load_incidents = shared_table("load_incidents", LoadIncident, key=["model", "version"])


def save_traffic(store: Store, model: str, wanted: TrafficPlan, now: datetime) -> None:
    """Replaces a model's traffic; servers notice within `serving.poll_alias`."""
    put(store, wanted, model=model, changed_at=now)


def load_traffic(store: Store, model: str) -> TrafficPlan:
    """A model's traffic; of one that nobody has set: the champion alone."""
    return one(store, TrafficPlan, model=model) or TrafficPlan()


def open_load_incident(store: Store, model: str, version: str, cause: str, now: datetime) -> bool:
    """Opens an incident of a version that can't be loaded, anew if it was closed; False where it is open already."""
    row = as_row(LoadIncident(model, version, cause, now))
    with store.write() as connection:
        return bool(
            upsert(connection, load_incidents, [row], where=lambda _: load_incidents.c.closed_at.is_not(None))
        )


def close_load_incidents(store: Store, model: str, now: datetime, because: str, failing: Collection[str] = ()) -> int:
    """Closes a model's open ones, but those of versions that are wanted and fail still; returns how many."""
    others = load_incidents.c.version.not_in(failing)
    if not many(store, LoadIncident, others, model=model, closed_at=None):  # mostly: nothing to be written
        return 0
    closed = {"closed_at": now, "closed_because": because}
    return change(store, LoadIncident, closed, others, model=model, closed_at=None)


def find_load_incidents(store: Store, model: str) -> list[LoadIncident]:
    """All of a model's, oldest first."""
    return many(store, LoadIncident, model=model, order_by=("opened_at", "version"))


model_versions = shared_table(
    "model_versions",
    None,
    Column("model", String, primary_key=True),
    # As it is called here: its number, `1.2` for the second that bore it.
    Column("version", String, primary_key=True),
    Column("number", String, nullable=False),  # in MLflow, where a registered model that is made anew counts from 1
    Column("created_at", Moment, nullable=False),  # in MLflow
    UniqueConstraint("model", "number", "created_at"),
)


class VersionNames:
    """Names of versions by their number and when they were made: `1`, and `1.2` for the second that bore it.

    By these names everything is kept: bundles, rows, figures, promotions. Thread-safe; what is known is remembered.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str, datetime], str] = {}

    def name(self, model: str, number: str, created_at: datetime) -> str:
        """The name of a version, which it has from its first look on. Raises Unavailable."""
        key = (model, number, created_at)
        while key not in self._known:
            self._look(model)
            if key not in self._known:
                before = sum(1 for known in self._known if known[:2] == (model, number))
                self._take(key, f"{number}.{before + 1}" if before else number)
                self._look(model)  # somebody else may have been faster
        return self._known[key]

    def _look(self, model: str) -> None:
        table = model_versions
        with self._store.read() as connection:
            for row in connection.execute(select(table).where(table.c.model == model)):
                self._known[model, row.number, row.created_at] = row.version

    def _take(self, key: tuple[str, str, datetime], name: str) -> None:
        model, number, created_at = key
        values = {"model": model, "version": name, "number": number, "created_at": created_at}
        with self._store.write() as connection:
            insert = dialect_insert(connection, model_versions)
            connection.execute(insert.values(**values).on_conflict_do_nothing())
