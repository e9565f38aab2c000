"""What all servers of a model share: its traffic, the names of its versions, and versions that can't be loaded."""

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
    """The aliases of a model's shadows, and its canary's alias with the share (0 … 1) of callers that it answers."""

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
    """A version that a server was to answer with and could not load, from the first attempt until it is over."""

    model: str
    version: str
    cause: str
    opened_at: datetime
    closed_at: datetime | None = None
    closed_because: str | None = None


load_incidents = shared_table("load_incidents", LoadIncident, key=["model", "version"])


def save_traffic(store: Store, model: str, plan: TrafficPlan, now: datetime) -> None:
    """Replaces a model's traffic; servers notice within `serving.poll_alias`."""
    put(store, plan, model=model, changed_at=now)


def load_traffic(store: Store, model: str) -> TrafficPlan:
    """A model's traffic; by default the champion alone."""
    return one(store, TrafficPlan, model=model) or TrafficPlan()


def open_load_incident(store: Store, model: str, version: str, cause: str, now: datetime) -> bool:
    """Opens the incident of a version that can't be loaded, again if it was closed; False if it is open already."""
    row = as_row(LoadIncident(model, version, cause, now))
    with store.write() as connection:
        return bool(
            upsert(connection, load_incidents, [row], where=lambda _: load_incidents.c.closed_at.is_not(None))
        )


def close_load_incidents(store: Store, model: str, now: datetime, because: str, failing: Collection[str] = ()) -> int:
    """Closes a model's open load incidents except those of versions that still fail; returns how many."""
    others = load_incidents.c.version.not_in(failing)
    if not many(store, LoadIncident, others, model=model, closed_at=None):  # as usual: nothing is to be written
        return 0
    closed = {"closed_at": now, "closed_because": because}
    return change(store, LoadIncident, closed, others, model=model, closed_at=None)


def find_load_incidents(store: Store, model: str) -> list[LoadIncident]:
    """All load incidents of a model, oldest first."""
    return many(store, LoadIncident, model=model, order_by=("opened_at", "version"))


model_versions = shared_table(
    "model_versions",
    None,
    Column("model", String, primary_key=True),
    # Its name here: the number, or `1.2` for the second version with the number 1.
    Column("version", String, primary_key=True),
    # In MLflow, where a registered model that is deleted and created again counts from 1.
    Column("number", String, nullable=False),
    Column("created_at", Moment, nullable=False),  # in MLflow
    UniqueConstraint("model", "number", "created_at"),
)


class VersionNames:
    """Names of versions by their number and when they were created: `1`, and `1.2` for the second with that number.

    Everything is stored under these names: bundles, rows, figures, promotions. Thread-safe; names are cached.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: dict[tuple[str, str, datetime], str] = {}

    def name(self, model: str, number: str, created_at: datetime) -> str:
        """The name of a version; it is given on first use and never changes. Raises Unavailable."""
        key = (model, number, created_at)
        while key not in self._names:
            self._load(model)
            if key not in self._names:
                before = sum(1 for other in self._names if other[:2] == (model, number))
                self._insert(key, f"{number}.{before + 1}" if before else number)
                self._load(model)  # another process may have been faster
        return self._names[key]

    def _load(self, model: str) -> None:
        table = model_versions
        with self._store.read() as connection:
            for row in connection.execute(select(table).where(table.c.model == model)):
                self._names[model, row.number, row.created_at] = row.version

    def _insert(self, key: tuple[str, str, datetime], name: str) -> None:
        model, number, created_at = key
        values = {"model": model, "version": name, "number": number, "created_at": created_at}
        with self._store.write() as connection:
            insert = dialect_insert(connection, model_versions)
            connection.execute(insert.values(**values).on_conflict_do_nothing())
