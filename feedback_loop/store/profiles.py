"""Profiles as they are kept: packed tallies by version, role, segment and bucket of time, and versions' references.

What a tally says is not known here: `monitoring` packs and adds them. They are as of the join's watermark, and are
changed in the transactions that move it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Column, ColumnElement, Connection, Double, Integer, LargeBinary, String, and_, or_, select

from feedback_loop.clock import Window, floor_moment
from feedback_loop.store.coverage import joins
from feedback_loop.store.engine import Store
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.records import one, put, upsert
from feedback_loop.store.schema import Moment, shared_table

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True)
class Bucket:
    """What one tally is of: predictions of that segment in that time, which stand for `weight` each.

    What they say as such and what they say together with their outcomes are apart (`part`): an outcome that comes
    late changes the little that is of outcomes.
    """

    part: str
    segment: str
    start: datetime
    length: timedelta
    weight: float


LAYOUT = 2
"""Of what profiles and tallies hold: raised with every change by which the same rows are counted otherwise."""


@dataclass(frozen=True)
class KeptReference:
    """A version's reference profile, and since when (of an `as_of`) it is the one that counts."""

    known_since: datetime
    digest: str  # of what the profile holds, whatever has packed it
    profile: bytes  # with the layout that the version's tallies are made by


shared_table(
    "reference_profiles",
    KeptReference,
    Column("model", String),
    Column("version", String),
    Column("layout", Integer, nullable=False),
    key=["model", "version"],
)

profiles = shared_table(
    "profiles",
    None,
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("role", String, primary_key=True),
    Column("part", String, primary_key=True),  # predictions | outcomes
    Column("segment", String, primary_key=True),  # empty: all rows
    Column("bucket_start", Moment, primary_key=True),  # of predicted_at
    Column("bucket_seconds", Integer, primary_key=True),  # an hour; a day, which is the sum of its hours
    Column("weight", Double, primary_key=True),  # how many predictions each row stands for
    Column("tally", LargeBinary, nullable=False),  # as of the join's watermark
)


@dataclass(frozen=True)
class Kept:
    """What is kept of a window in one snapshot: the watermark, the reference, and tallies by segment and weight."""

    watermark: datetime | None
    reference: KeptReference | None
    tallies: list[tuple[str, float, bytes]]


def load_reference(connection: Connection, model: str, version: str) -> KeptReference | None:
    """The reference that a version's tallies are made by; without one (by today's LAYOUT) it has no tallies."""
    return one(connection, KeptReference, model=model, version=version, layout=LAYOUT)


def joined_until(connection: Connection, model: str, *, held: bool = False) -> datetime | None:
    """The join's watermark (None: nothing is joined yet); `held`, it stays where it is until the transaction ends."""
    mine = select(joins.c.watermark).where(joins.c.model == model)
    watermark: datetime | None = connection.execute(mine.with_for_update() if held else mine).scalar_one_or_none()
    return watermark


def save_reference(connection: Connection, model: str, version: str, reference: KeptReference) -> None:
    """Keeps another reference and removes the tallies that were made by the one before."""
    connection.execute(profiles.delete().where(profiles.c.model == model, profiles.c.version == version))
    put(connection, reference, model=model, version=version, layout=LAYOUT)


def load_tallies(
    connection: Connection, model: str, version: str, role: str, part: str, starts: Iterable[datetime]
) -> dict[Bucket, bytes]:
    """The tallies of all buckets of a part that begin at one of these moments."""
    table, found = profiles, {}
    moments = sorted(set(starts))
    columns = (table.c.segment, table.c.bucket_start, table.c.bucket_seconds, table.c.weight, table.c.tally)
    mine = and_(_of(model, version, role), table.c.part == part)
    for first in range(0, len(moments), 500):  # both databases bound a statement's parameters
        chosen = select(*columns).where(mine, table.c.bucket_start.in_(moments[first : first + 500]))
        for segment, start, seconds, weight, tally in connection.execute(chosen):
            found[Bucket(part, segment, start, timedelta(seconds=seconds), weight)] = tally
    return found


def save_tallies(
    connection: Connection, model: str, version: str, role: str, tallies: Mapping[Bucket, bytes], empty: bytes
) -> None:
    """Keeps tallies in the place of those of the same buckets; of one that is `empty` nothing is kept."""
    rows = [
        {
            "model": model,
            "version": version,
            "role": role,
            "part": bucket.part,
            "segment": bucket.segment,
            "bucket_start": bucket.start,
            "bucket_seconds": int(bucket.length.total_seconds()),
            "weight": bucket.weight,
            "tally": tally,
        }
        for bucket, tally in tallies.items()
    ]
    upsert(connection, profiles, rows)
    if empty in tallies.values():
        connection.execute(profiles.delete().where(_of(model, version, role), profiles.c.tally == empty))


def load_window(store: Store, model: str, version: str, role: str, window: Window) -> Kept:
    """The tallies that together are of a window of whole hours: of its whole days, and of the hours that are left."""
    table = profiles
    columns = (table.c.segment, table.c.weight, table.c.tally)
    with store.read() as connection:
        watermark = joined_until(connection, model)
        reference = load_reference(connection, model, version)
        chosen = select(*columns).where(_of(model, version, role), _within(window))
        return Kept(watermark, reference, [(row[0], row[1], row[2]) for row in connection.execute(chosen)])


def load_windows(
    store: Store, model: str, version: str, role: str, part: str, windows: Sequence[Window]
) -> tuple[datetime | None, list[list[tuple[str, float, bytes]]]]:
    """The watermark, and one part's tallies of all rows of each of these windows of whole hours, in one snapshot."""
    table = profiles
    columns = (table.c.bucket_start, table.c.segment, table.c.weight, table.c.tally)
    mine = and_(_of(model, version, role), table.c.part == part, table.c.segment == ALL_ROWS)
    with store.read() as connection:
        watermark = joined_until(connection, model)
        rows = connection.execute(select(*columns).where(mine, or_(*map(_within, windows)))).all()
    return watermark, [[(row[1], row[2], row[3]) for row in rows if row[0] in window] for window in windows]


def is_whole_hours(window: Window) -> bool:
    """Whether the window is made of whole buckets."""
    return all(floor_moment(end, HOUR) == end for end in (window.start, window.end))


def _of(model: str, version: str, role: str) -> ColumnElement[bool]:
    table = profiles.c
    return and_(table.model == model, table.version == version, table.role == role)


def _within(window: Window) -> ColumnElement[bool]:
    start, seconds = profiles.c.bucket_start, profiles.c.bucket_seconds
    first, last = floor_moment(window.start + DAY - timedelta.resolution, DAY), floor_moment(window.end, DAY)
    hours = seconds == int(HOUR.total_seconds())
    if first >= last:
        return and_(hours, start >= window.start, start < window.end)
    return or_(
        and_(seconds == int(DAY.total_seconds()), start >= first, start < last),
        and_(hours, start >= window.start, start < first),
        and_(hours, start >= last, start < window.end),
    )
