"""Features that look broken by their values alone, with their values broken and mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.comparison import Comparison, Mask
from feedback_loop.decisions.diagnosis.parts import SHIFTED, Part, distance, parts_off
from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import floats
from feedback_loop.schema import Column, arrow_type

LEAST_RISE = 0.05
"""The least share of rows that froze or have another word."""

LEAST_MISSING = LEAST_BEYOND = 0.01
"""The least share of rows that went missing, or beyond the reference's range: as in data quality."""

SAME = 0.8
"""Where one value makes up this share of those beyond the range, it is a code (-999, 1e20)."""

CERTAIN_RISE = 0.5
"""From this share on it is a fault at any cost: no real change empties or freezes half of a column."""

SURE = 4.0
"""The least rise of a share, in standard errors."""

ALIGNED, OF_SHIFT = 0.06, 0.25
"""The distance allowed after a unit is undone: absolute, and as a share of the distance before."""

FACTORS = "1e6 3600 1000 100 60 24 12 10 7 4.184 3.785 3.6 3.281 2.54 2.237 2.205 1.944 1.852 1.8 1.609"
"""Common factors between units: the nearest is taken where it fits about as well."""

LEVELS = np.arange(0.02, 0.981, 0.02)


@dataclass(frozen=True, eq=False)
class Suspect:
    """A feature that looks broken in a `share` of rows: of which kind, and in words (`what`).

    `broken` is the reference's column with the same fault, `mended` the current one without it, which is unknown for
    missing or frozen values.
    """

    column: Column
    kind: Literal["missing", "frozen", "units", "vocabulary"]
    share: float
    what: str
    broken: pa.Array
    mended: pa.Array | None = None

    @property
    def is_certain(self) -> bool:
        """Whether the values alone prove it. A single word may be all that comes, and values may really grow."""
        alone = self.kind in ("missing", "vocabulary") or (self.kind == "frozen" and self.column.type.is_numeric)
        return alone and self.share >= CERTAIN_RISE


def suspects(compared: Comparison) -> list[Suspect]:
    """The features whose values look broken, each with its most certain kind of fault."""
    first = (next(_of_column(column, compared), None) for column in compared.features)
    return [suspect for suspect in first if suspect is not None]


def with_column(rows: pa.Table, column: Column, values: Any) -> pa.Table:
    """The rows with other values of a column."""
    place = rows.column_names.index(column.stored)
    return rows.set_column(place, rows.schema.field(place), values)


def _of_column(column: Column, compared: Comparison) -> Iterator[Suspect]:
    before, now = (rows.column(column.stored) for rows in (compared.reference, compared.current))
    absent, absent_now = _absent(column, before), _absent(column, now)
    rise = _risen(absent, absent_now)
    if rise > LEAST_MISSING:
        what = f"missing in {absent_now.mean():.0%} of rows, {absent.mean():.0%} in the reference"
        yield Suspect(column, "missing", rise, what, _replaced(before, None, _drawn(compared, rise)))
    if absent.all() or absent_now.all():
        return
    yield from _frozen(column, before, now, ~absent, ~absent_now, compared)
    if column.type.is_numeric:
        yield from _units(column, before, now, compared)
    else:
        yield from _renamed(column, before, now, compared)


def _absent(column: Column, values: pa.ChunkedArray) -> Mask:
    """Which values are missing: nulls, and numbers that are not finite."""
    if column.type.is_numeric:
        return ~np.isfinite(floats(values))
    return np.asarray(values.is_null().to_numpy(), dtype=np.bool_)


def _risen(before: Mask, now: Mask) -> float:
    """By how much the share of marked rows has risen, of those not marked before; 0 if that may be chance."""
    share, share_now, rows = before.mean(), now.mean(), len(before) + len(now)
    pooled = (before.sum() + now.sum() + 1) / (rows + 2)
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(before) + 1 / len(now)))
    return float((share_now - share) / (1 - share)) if share_now - share > SURE * error else 0.0


def _drawn(compared: Comparison, share: float) -> Mask:
    """A random share of the reference's rows."""
    return np.random.default_rng([compared.seed, 1]).random(compared.before) < share


def _replaced(values: pa.ChunkedArray, value: Any, rows: Mask) -> pa.Array:
    return pc.if_else(pa.array(rows), pa.scalar(value, values.type), values)


def _frozen(
    column: Column,
    before: pa.ChunkedArray,
    now: pa.ChunkedArray,
    present: Mask,
    present_now: Mask,
    compared: Comparison,
) -> Iterator[Suspect]:
    """A single value in the place of many: a stuck feed, or a filler for missing values."""
    old, new = before.filter(pa.array(present)), now.filter(pa.array(present_now))
    counts = pc.value_counts(new).to_pylist()
    value = max(counts, key=lambda count: (count["counts"], str(count["values"])))["values"]
    same, same_now = (
        np.asarray(pc.equal(values, pa.scalar(value, values.type)), dtype=np.bool_) for values in (old, new)
    )
    rise, distinct = _risen(same, same_now), len(pc.unique(old))
    # One of few values may really become frequent; a column of many values does not freeze by itself.
    can_freeze = distinct > 20 and column.type.is_numeric and rise > 2 * LEAST_RISE
    if can_freeze or (distinct > 2 and same_now.all() and rise > LEAST_RISE):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        broken = _replaced(before, value, _drawn(compared, rise))
        yield Suspect(column, "frozen", rise, f"{text} in {same_now.mean():.0%} of rows", broken)


def _units(column: Column, before: pa.ChunkedArray, now: pa.ChunkedArray, compared: Comparison) -> Iterator[Suspect]:
    """Values that have the reference's distribution after division by a factor and a shift.

    In all rows, or in a part of them while the others are unchanged. A repeated value beyond the reference's range is
    taken to be a code.
    """
    old, new = floats(before), floats(now)
    finite, finite_now = np.isfinite(old), np.isfinite(new)
    for part in parts_off(old, new, compared):
        affected = new[part.now & finite_now]
        share = len(affected) / finite_now.sum()
        done = part.before if part.before is not None else _drawn(compared, share)
        if part.is_beyond:
            if not _risen(np.zeros(finite.sum(), bool), part.now[finite_now]) > LEAST_BEYOND:
                continue
            values, counts = np.unique(affected, return_counts=True)
            if counts.max() > SAME * len(affected):
                value = pa.scalar(values[counts.argmax()]).cast(arrow_type(column.type), safe=False).as_py()
                what = f"{value:g} in {share:.0%} of rows{part.what}"
                yield Suspect(column, "frozen", share, what, _replaced(before, value, done))
                continue
        scale = _scale(old[finite & part.before] if part.before is not None else old[finite], affected, part)
        if scale is None:
            continue
        factor, offset = scale
        what = f"{factor:.4g} times what it was" + (f", and {offset:+.4g}" if offset else "")
        what += "" if share == 1 else f", in {share:.0%} of rows{part.what}"
        broken = pc.if_else(pa.array(done), _numbers(column, old * factor + offset), before)
        mended = pc.if_else(pa.array(part.now), _numbers(column, (new - offset) / factor), now)
        yield Suspect(column, "units", share, what, broken, mended)


def _scale(before: Floats, now: Floats, part: Part) -> tuple[float, float] | None:
    """The factor and the offset that make the values of before those of now, if any do.

    A common factor, and no offset, count as a better fit: they seldom occur by chance.
    """
    if min(len(np.unique(before)), len(np.unique(now))) < 3:
        return None
    shifted = distance(before, now)
    old, new = np.quantile(before, LEVELS), np.quantile(now, LEVELS)
    if shifted < SHIFTED or old.std() == 0 or new.std() == 0:
        return None
    factor = float(new.std() / old.std())
    factors = [float(text) for text in FACTORS.split()]
    near = min([*factors, *(1 / scale for scale in factors)], key=lambda scale: abs(np.log(scale / factor)))
    best, factor, offset = min(
        (distance(before, (now - offset) / scale) - credit - more, scale, offset)
        for scale, credit in ((factor, 0.0), (near, 0.02))
        for offset, more in ((float(new.mean() - scale * old.mean()), 0.0), (0.0, 0.02))
    )
    # Real values beyond the range look like the whole distribution too, but less so.
    most = ALIGNED + 1 / np.sqrt(len(now)) if part.is_beyond else max(ALIGNED, OF_SHIFT * shifted)
    return (factor, offset) if best <= most else None


def _numbers(column: Column, values: Floats) -> pa.Array:
    """Numbers in the column's type; NaN becomes null."""
    kind = arrow_type(column.type)
    if pa.types.is_integer(kind):
        values = np.rint(np.clip(values, -(2.0**31), 2.0**31 - 1)) if kind == pa.int32() else np.rint(values)
    return pa.array(values, from_pandas=True).cast(kind, safe=False)


def _renamed(
    column: Column, before: pa.ChunkedArray, now: pa.ChunkedArray, compared: Comparison
) -> Iterator[Suspect]:
    """New words in the place of words of the reference that no longer come."""
    old, new = (_shares(values.cast(pa.string())) for values in (before, now))
    unknown = {word: share for word, share in new.items() if word not in old}
    if sum(unknown.values()) < LEAST_RISE:
        return
    rows = len(now) - now.null_count
    gone = [word for word, share in old.items() if new.get(word, 0.0) < 0.05 * share and share * rows > 10]
    spelled = {_plain(word): word for word in reversed(old)}
    pairs = {spelled[_plain(word)]: word for word in unknown if _plain(word) in spelled}  # the new spelling of each
    back = {word: spelled[_plain(word)] for word in unknown if _plain(word) in spelled}
    unpaired = sorted((word for word in gone if word not in pairs), key=lambda word: -old[word])
    rest = sorted((word for word in unknown if word not in back), key=lambda word: -unknown[word])
    alike = [pair for pair in zip(unpaired, rest, strict=False) if 0.67 < old[pair[0]] / unknown[pair[1]] < 1.5]
    pairs, back = pairs | dict(alike), back | {other: word for word, other in alike}
    share = sum(new[other] for other in back)
    if not pairs or share < LEAST_RISE:
        return
    share = min(share / sum(old[word] for word in pairs), 1.0)
    renamings = ", ".join(f"{word} is {other} now" for other, word in list(back.items())[:3])
    done = pc.if_else(pa.array(_drawn(compared, share)), _mapped(before, pairs), before)
    yield Suspect(column, "vocabulary", share, renamings + (", …" if len(back) > 3 else ""), done, _mapped(now, back))


def _plain(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())


def _shares(words: pa.ChunkedArray) -> dict[str, float]:
    """The share of each word among the rows that have one."""
    counted = pc.value_counts(words.drop_null()).to_pylist()
    return {count["values"]: count["counts"] / (len(words) - words.null_count) for count in counted}


def _mapped(values: pa.ChunkedArray, renamed: dict[str, str]) -> pa.ChunkedArray:
    places = pc.index_in(values.cast(pa.string()), pa.array(list(renamed), pa.string()))
    return pc.coalesce(pc.take(pa.array(list(renamed.values()), pa.string()), places), values)
