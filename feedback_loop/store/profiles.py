"""Stored profiles: tallies as bytes, by version, role, segment and bucket of time, and the versions' references.

`monitoring` packs and adds tallies; here they are only bytes. They are as of the join's watermark and change in the
transactions that move it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Column, ColumnElement, Connection, Double, Integer, LargeBinary, String, and_, or_, select

from feedback_loop.clock import Window, floor_moment
from feedback_loop.store.coverage import joins
from feedback_loop.store.engine import Store
from feedback_loop.store.records import one, pages, put, upsert
from feedback_loop.store.schema import Moment, shared_table

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True)
class Bucket:
    """What one tally counts: the predictions of a segment in a time, of which each row stands for `weight`.

    `part` is "predictions" or "outcomes": what needs no outcome is counted apart, so that a late outcome changes only
    the smaller part.
    """

    part: str
    segment: str
    start: datetime
    length: timedelta
    weight: float


LAYOUT = 2
"""The version of the contents of profiles and tallies; to be raised with each change of what is counted."""


@dataclass(frozen=True)
class StoredReference:
    """A version's reference profile, and from which `as_of` on it is used."""

    known_since: datetime
    digest: str  # of the profile's contents before they are packed
    profile: bytes  # with the layout of the version's tallies


shared_table(
    "reference_profiles",
    StoredReference,
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
    Column("weight", Double, primary_key=True),  # predictions that each row stands for
    Column("tally", LargeBinary, nullable=False),  # as of the join's watermark
)


@dataclass(frozen=True)
class StoredWindow:
    """What is stored of a window, in one snapshot: watermark, reference, and tallies by segment and weight."""

    watermark: datetime | None
    reference: StoredReference | None
    tallies: list[tuple[str, float, bytes]]


def load_reference(connection: Connection, model: str, version: str) -> StoredReference | None:
    """The reference of a version's tallies; None, if there is none of this LAYOUT: then it has no tallies."""
    return one(connection, StoredReference, model=model, version=version, layout=LAYOUT)


def joined_until(connection: Connection, model: str, *, lock: bool = False) -> datetime | None:
    """The join's watermark (None: nothing is joined yet); with `lock` it is locked until the transaction ends."""
    select_watermark = select(joins.c.watermark).where(joins.c.model == model)
    statement = select_watermark.with_for_update() if lock else select_watermark
    watermark: datetime | None = connection.execute(statement).scalar_one_or_none()
    return watermark


def save_reference(connection: Connection, model: str, version: str, reference: StoredReference) -> None:
    """Stores a reference and removes the tallies of the one before."""
    connection.execute(profiles.delete().where(profiles.c.model == model, profiles.c.version == version))
    put(connection, reference, model=model, version=version, layout=LAYOUT)


def load_tallies(
    connection: Connection, model: str, version: str, role: str, part: str, starts: Iterable[datetime]
) -> dict[Bucket, bytes]:
    """The tallies of all buckets of a part that begin at one of these moments."""
    table, tallies = profiles, {}
    columns = (table.c.segment, table.c.bucket_start, table.c.bucket_seconds, table.c.weight, table.c.tally)
    of_part = and_(_of(model, version, role), table.c.part == part)
    for page in pages(sorted(set(starts))):
        of_page = select(*columns).where(of_part, table.c.bucket_start.in_(page))
        for segment, start, seconds, weight, tally in connection.execute(of_page):
            tallies[Bucket(part, segment, start, timedelta(seconds=seconds), weight)] = tally
    return tallies


def save_tallies(
    connection: Connection, model: str, version: str, role: str, tallies: Mapping[Bucket, bytes], empty: bytes
) -> None:
    """Stores tallies in place of those of the same buckets; those equal to `empty` are removed."""
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


def load_window(store: Store, model: str, version: str, role: str, window: Window) -> StoredWindow:
    """The tallies that add up to a window of whole hours: those of its whole days and of the remaining hours."""
    table = profiles
    columns = (table.c.segment, table.c.weight, table.c.tally)
    with store.read() as connection:
        watermark = joined_until(connection, model)
        reference = load_reference(connection, model, version)
        tallies = connection.execute(select(*columns).where(_of(model, version, role), _within(window)))
        return StoredWindow(watermark, reference, [(row[0], row[1], row[2]) for row in tallies])


def load_windows(
    store: Store, model: str, version: str, role: str, part: str, segment: str, windows: Sequence[Window]
) -> tuple[datetime | None, list[list[tuple[str, float, bytes]]]]:
    """The watermark, and the tallies of one part and segment for each window of whole hours, in one snapshot."""
    table = profiles
    columns = (table.c.bucket_start, table.c.segment, table.c.weight, table.c.tally)
    of_part = and_(_of(model, version, role), table.c.part == part, table.c.segment == segment)
    with store.read() as connection:
        watermark = joined_until(connection, model)
        rows = connection.execute(select(*columns).where(of_part, or_(*map(_within, windows)))).all()
    return watermark, [[(row[1], row[2], row[3]) for row in rows if row[0] in window] for window in windows]


def is_whole_hours(window: Window) -> bool:
    """Whether a window begins and ends at whole hours."""
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
