"""Features that may be broken: what each check sees in the values alone, and how to do the same to the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.partial import SHIFTED, Part, apart, has_words, parts_off
from feedback_loop.decisions.diagnosis.sides import Ints, Mask, Sides
from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import floats
from feedback_loop.schema import Column, arrow_type

LEAST_RISE = 0.05
"""A smaller share of rows that froze or have another word is not looked at."""

LEAST_MISSING = LEAST_BEYOND = 0.01
"""Nor a smaller one that went missing, or beyond the reference's range: those that data quality tells are."""

SAME = 0.8
"""Of the values beyond the reference's range so many are one: it stands for something else (-999, 1e20)."""

CERTAIN_RISE = 0.5
"""From this share on it is a fault, whatever it costs: no real change empties or freezes half of a column."""

SURE = 4.0
"""Standard errors by which a share has risen."""

ALIGNED, OF_SHIFT = 0.06, 0.25
"""How far they may be once that is undone: so far at least, and so large a share of how far they were."""

KNOWN = (
    1e6,
    3600,
    1000,
    100,
    60,
    24,
    12,
    10,
    7,
    4.184,
    3.785,
    3.6,
    3.281,
    2.54,
    2.237,
    2.205,
    1.944,
    1.852,
    1.8,
    1.609,
)
"""Factors between units that people use, to three decimals: the nearest is taken where it fits as well."""

LEVELS = np.arange(0.02, 0.981, 0.02)

ALL = Part()
"""No row is left out."""


@dataclass(frozen=True)
class Suspect:
    """One feature that looks broken: by what, in how large a `share` of rows, and how the same is done and undone.

    Of units: current = factor · reference + offset, in a `part` of the rows. Of words:
    `renamed` says what each became. Of a column that is `frozen` or `missing` there is only a doing.
    """

    column: Column
    kind: str  # missing | frozen | units | vocabulary
    share: float
    what: str
    factor: float = 1.0
    offset: float = 0.0
    value: Any = None
    renamed: tuple[tuple[str, str], ...] = ()
    part: Part = ALL

    @property
    def is_certain(self) -> bool:
        """Whether the values alone say so. One word may really be all that comes, and values may really grow."""
        alone = self.kind in ("missing", "vocabulary") or (self.kind == "frozen" and self.column.type.is_numeric)
        return alone and self.share >= CERTAIN_RISE

    def done(self, rows: pa.Table, seed: int) -> pa.Table:
        """The rows with the same fault (in so large a share of them, drawn with the seed)."""
        values = rows.column(self.column.stored)
        if self.part.words:
            broken = pa.array(has_words(rows, self.part.beside, self.part.words))
        else:
            broken = pa.array(np.random.default_rng([seed, 1]).random(len(values)) < self.share)
        if self.kind == "units":
            worse = _numbers(self.column, floats(values) * self.factor + self.offset)
        elif self.kind == "vocabulary":
            worse = _mapped(values, dict(self.renamed))
        else:
            worse = pa.scalar(self.value, values.type)
        return with_column(rows, self.column, pc.if_else(broken, worse, values))

    def undone(self, rows: pa.Table, windows: Ints) -> pa.Table:
        """The rows, each of the window with that number, with the values that were meant."""
        values = rows.column(self.column.stored)
        if self.kind == "vocabulary":
            return with_column(rows, self.column, _mapped(values, {new: old for old, new in self.renamed}))
        numbers = floats(values)
        meant = _numbers(self.column, (numbers - self.offset) / self.factor)
        is_off = pa.array(self.part.of(rows, numbers, windows))
        return with_column(rows, self.column, pc.if_else(is_off, meant, values))


def suspects(sides: Sides) -> list[Suspect]:
    """The features whose values alone look broken, one suspicion each, the most certain kind first."""
    found = []
    for column in sides.features:
        found += list(_looked_at(column, sides))[:1]
    return found


def _looked_at(column: Column, sides: Sides) -> Iterator[Suspect]:
    tables = sides.reference, sides.current
    absent = [_absent(column, table.column(column.stored)) for table in tables]
    rows, rows_now = len(absent[0]), len(absent[1])
    rise = _risen(int(absent[0].sum()), rows, int(absent[1].sum()), rows_now)
    if rise > LEAST_MISSING:
        was = f", {absent[0].mean():.0%} in the reference"
        yield Suspect(column, "missing", rise, f"missing in {absent[1].mean():.0%} of rows{was}")
    tables = tables[0].filter(pa.array(~absent[0])), tables[1].filter(pa.array(~absent[1]))
    before, now = (table.column(column.stored) for table in tables)
    if not len(before) or not len(now):
        return
    yield from _frozen(column, before, now)
    if column.type.is_numeric:
        yield from _units(column, tables, sides)
    else:
        yield from _renamed(column, before.cast(pa.string()), now.cast(pa.string()))


def _absent(column: Column, values: pa.ChunkedArray) -> Mask:
    """Which values are not there: a number that is none is none."""
    if column.type.is_numeric:
        return ~np.isfinite(floats(values))
    return np.asarray(values.is_null().to_numpy(), dtype=np.bool_)


def _risen(count: int, rows: int, count_now: int, rows_now: int) -> float:
    """The share of those rows which were not so before and are so now; 0 if that may be chance."""
    share, now = count / rows, count_now / rows_now
    pooled = (count + count_now + 1) / (rows + rows_now + 2)
    error = np.sqrt(pooled * (1 - pooled) * (1 / rows + 1 / rows_now))
    return (now - share) / (1 - share) if now - share > SURE * error else 0.0


def _frozen(column: Column, before: pa.ChunkedArray, now: pa.ChunkedArray) -> Iterator[Suspect]:
    """One value that has taken the place of many: stuck, or filled in where nothing came."""
    counted = max(pc.value_counts(now).to_pylist(), key=lambda each: (each["counts"], str(each["values"])))
    value = counted["values"]
    same = pc.sum(pc.equal(before, pa.scalar(value, before.type))).as_py() or 0
    rise = _risen(same, len(before), counted["counts"], len(now))
    distinct, share = len(pc.unique(before)), counted["counts"] / len(now)
    # Of few values one may really become frequent: only a column of many can't stop moving by itself.
    can_freeze = distinct > 20 and column.type.is_numeric and rise > 2 * LEAST_RISE
    if can_freeze or (distinct > 2 and share == 1 and rise > LEAST_RISE):
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        yield Suspect(column, "frozen", rise, f"{shown} in {share:.0%} of rows", value=value)


def _units(column: Column, tables: tuple[pa.Table, pa.Table], sides: Sides) -> Iterator[Suspect]:
    """Values that have the reference's distribution once they are divided by a factor and moved.

    In all rows, or in a part of them where the others' are as they were. One value beyond the reference's range that
    comes again and again stands for something else.
    """
    before, now = (floats(table.column(column.stored)) for table in tables)
    words = [each for each in sides.features if not each.type.is_numeric]
    numbers = sides.numbers(tables[1])
    for part in parts_off(before, now, numbers, tables, words):
        was = before[part.of(tables[0], before, numbers)] if part.words else before
        own = now[part.of(tables[1], now, numbers)]
        if part.within is not None and not _risen(0, len(before), len(own), len(now)) > LEAST_BEYOND:
            continue
        share = len(own) / len(now)
        values, counts = np.unique(own, return_counts=True)
        if part.within is not None and counts.max() > SAME * len(own):
            value = pa.scalar(values[counts.argmax()]).cast(arrow_type(column.type), safe=False).as_py()
            what = f"{value:g} in {share:.0%} of rows{part.what}"
            yield Suspect(column, "frozen", share, what, value=value)
            continue
        yield from _aligned(column, was, own, part, share)


def _aligned(column: Column, before: Floats, now: Floats, part: Part, share: float) -> Iterator[Suspect]:
    if min(len(np.unique(before)), len(np.unique(now))) < 3:
        return
    shifted = apart(before, now)
    old, new = np.quantile(before, LEVELS), np.quantile(now, LEVELS)
    if shifted < SHIFTED or old.std() == 0 or new.std() == 0:
        return
    factor = float(new.std() / old.std())
    left, factor, offset = min(_scales(before, now, factor, float(new.mean()), float(old.mean())))
    # A tail of rows that are really beyond the range looks like all of them too, but not that much.
    if left > (ALIGNED + 1 / np.sqrt(len(now)) if part.within is not None else max(ALIGNED, OF_SHIFT * shifted)):
        return
    what = f"{factor:.4g} times what it was" + (f", and {offset:+.4g}" if offset else "")
    what += "" if part.is_all else f", in {share:.0%} of rows{part.what}"
    yield Suspect(column, "units", share, what, factor=factor, offset=offset, part=part)


def _scales(
    before: Floats, now: Floats, factor: float, new: float, old: float
) -> Iterator[tuple[float, float, float]]:
    """Ways to undo a change of units, each with how far it leaves the values from the reference's.

    What is known, or moves nothing, counts as nearer: it is seldom so by chance.
    """
    near = min((each for known in KNOWN for each in (known, 1 / known)), key=lambda each: abs(np.log(each / factor)))
    for each, credit in [(factor, 0.0), (near, 0.02)]:
        for offset, more in ((new - each * old, 0.0), (0.0, 0.02)):
            yield apart(before, (now - offset) / each) - credit - more, each, offset


def _renamed(column: Column, before: pa.ChunkedArray, now: pa.ChunkedArray) -> Iterator[Suspect]:
    """Words that the reference does not know, in the place of some that it knows and that come no more."""
    old, new = (_shares(words) for words in (before, now))
    unknown = {word: share for word, share in new.items() if word not in old}
    if sum(unknown.values()) < LEAST_RISE:
        return
    gone = {word: share for word, share in old.items() if new.get(word, 0.0) < 0.05 * share and share * len(now) > 10}
    spelled: dict[str, str] = {}
    for word in old:
        spelled.setdefault(_plain(word), word)
    pairs = [(spelled[_plain(word)], word) for word in unknown if _plain(word) in spelled]
    same = {word for _, word in pairs}
    taken = {word for word, _ in pairs}
    left = sorted((word for word in gone if word not in taken), key=lambda word: -gone[word])
    rest = sorted((word for word in unknown if word not in same), key=lambda word: -unknown[word])
    pairs += [(word, other) for word, other in zip(left, rest, strict=False) if _alike(gone[word], unknown[other])]
    if not pairs:
        return
    share = sum(new[word] for _, word in pairs)
    if share < LEAST_RISE:
        return
    whole = sum(old[word] for word in {word for word, _ in pairs})
    shown = ", ".join(f"{one} is {other} now" for one, other in pairs[:3]) + (", …" if len(pairs) > 3 else "")
    yield Suspect(column, "vocabulary", min(share / max(whole, 1e-9), 1.0), shown, renamed=tuple(pairs))


def _alike(one: float, other: float) -> bool:
    return 0.67 < one / other < 1.5


def _plain(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())


def _shares(words: pa.ChunkedArray) -> dict[str, float]:
    return {each["values"]: each["counts"] / len(words) for each in pc.value_counts(words).to_pylist()}


def _mapped(values: pa.ChunkedArray, renamed: dict[str, str]) -> pa.ChunkedArray:
    known = pa.array(list(renamed), pa.string())
    places = pc.index_in(values.cast(pa.string()), known)
    return pc.coalesce(pc.take(pa.array(list(renamed.values()), pa.string()), places), values)


def _numbers(column: Column, values: Floats) -> pa.Array:
    """Numbers in the column's type; what is no number is missing."""
    kind = arrow_type(column.type)
    if pa.types.is_integer(kind):
        values = np.rint(np.clip(values, -(2.0**31), 2.0**31 - 1)) if kind == pa.int32() else np.rint(values)
    return pa.array(values, from_pandas=True).cast(kind, safe=False)


def with_column(rows: pa.Table, column: Column, values: Any) -> pa.Table:
    """The rows with other values of a column."""
    place = rows.column_names.index(column.stored)
    return rows.set_column(place, rows.schema.field(place), values)
