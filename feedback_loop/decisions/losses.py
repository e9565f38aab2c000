"""The losses that monitors are fed: of all rows and of segments, of the reference and of each cohort."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import PolicySettings
from feedback_loop.errors import ConfigError
from feedback_loop.monitoring import Floats, is_untimed, row_losses, window_numbers
from feedback_loop.schema import Contract, Task, most_frequent, segment_name
from feedback_loop.store.evaluations import ALL_ROWS

Mask = npt.NDArray[np.bool_]

Coded = tuple[Mapping[str, int], npt.NDArray[np.int64]]
"""The places of a column's values, and for each row the place of its own (-1: it has none)."""

LATELY = 1000
"""The newest labels of which a mean is said, in whole cohorts."""

MOST_KEPT = 200
"""So many cohorts are remembered apart; of the older half two become one, whenever there are more."""

BOUNDED = ("error", "brier")
"""Losses that lie in [0, 1] as they are; others are measured by the reference's 99% quantile."""


@dataclass(frozen=True)
class Watched:
    """A loss of all rows, or of those of a segment, with its share of alpha."""

    loss: str
    segment: str = ALL_ROWS
    share: float = 1.0

    @property
    def name(self) -> str:
        """How it is called in a verdict."""
        return f"{self.loss} of {self.segment}" if self.segment else self.loss


@dataclass(frozen=True)
class Losses:
    """Losses of labelled rows by name, and which rows are of which segment (`origin=JFK`).

    `members` are of the largest segments. `columns` hold the values of all rows: any other segment is found by them.
    """

    by_loss: Mapping[str, Floats]
    members: Mapping[str, Mask] = field(default_factory=dict)
    columns: Mapping[str, Coded] = field(default_factory=dict)

    def rows_of(self, segment: str) -> Mask | None:
        """Which rows are of a segment; None where its column is not known."""
        name, _, value = segment.partition("=")
        if segment in self.members or name not in self.columns:
            return self.members.get(segment)
        places, own = self.columns[name]
        return np.asarray(own == places.get(value, len(places)), dtype=np.bool_)

    def of(self, watched: Watched) -> Floats:
        """Those that are watched, in the order of the rows."""
        losses = self.by_loss.get(watched.loss, np.empty(0))
        if not watched.segment:
            return losses
        rows = self.rows_of(watched.segment)
        return losses[rows] if rows is not None else losses[:0]


@dataclass(frozen=True)
class Cohort:
    """The matured predictions of one window: their losses in the monitor's order, and how many there were."""

    window: Window
    losses: Losses
    predictions: int

    @property
    def place(self) -> int:
        """The number of its window, counted from 1970."""
        return int(self.window.start.timestamp() // (self.window.end - self.window.start).total_seconds())


@dataclass(frozen=True)
class Baseline:
    """What a version is held against: its reference rows' losses in the order of time, with their windows' numbers.

    `until` is where rows of the log that serve as the reference end: none of them is judged.
    """

    watched: tuple[Watched, ...]
    losses: Losses
    windows: npt.NDArray[np.int64]
    until: datetime | None = None

    def raw(self, watched: Watched) -> Floats:
        """The reference's losses, as they are."""
        return self.losses.of(watched)

    def scaled(self, watched: Watched, values: Floats | None = None) -> Floats:
        """Losses (default: the reference's own) in [0, 1], for monitors to bet on; what is no number is the worst."""
        values = self.raw(watched) if values is None else values
        values = np.where(np.isnan(values), np.inf, values)
        if watched.loss in BOUNDED:
            return np.minimum(values, 1.0)
        known = self.raw(watched)
        known = known[np.isfinite(known)]
        scale = float(np.quantile(known, 0.99)) if len(known) else 1.0
        return np.minimum(values / scale, 1.0) if scale > 0 else np.minimum(values, 1.0)

    def scaled_cohorts(self, watched: Watched, cohorts: Sequence[Cohort]) -> list[Floats]:
        """The losses in [0, 1] of each cohort: the scale is the same for all, and asked for once."""
        losses = [cohort.losses.of(watched) for cohort in cohorts]
        ends = np.cumsum([len(each) for each in losses])
        return np.split(self.scaled(watched, np.concatenate(losses)), ends[:-1])

    def windows_of(self, watched: Watched) -> npt.NDArray[np.int64]:
        """The windows of what is watched."""
        if not watched.segment:
            return self.windows
        members = self.losses.rows_of(watched.segment)
        return self.windows[members] if members is not None else self.windows[:0]


@dataclass(frozen=True)
class Part:
    """One cohort, or several older ones: since when, how many labels, the sum of their losses."""

    since: str
    labels: int
    total: float


@dataclass(frozen=True)
class Seen:
    """What was taken in since the start, part by part."""

    parts: tuple[Part, ...] = ()

    def plus(self, since: Sequence[datetime], cohorts: Sequence[Floats]) -> Seen:
        """More cohorts, with when each began."""
        parts = list(self.parts)
        for begun, losses in zip(since, cohorts, strict=True):
            if not len(losses):
                continue
            parts.append(Part(begun.isoformat(), len(losses), float(losses.sum())))
            if len(parts) > MOST_KEPT:
                older = parts[: MOST_KEPT // 2]
                pairs = zip(older[::2], older[1::2], strict=True)
                merged = [Part(one.since, one.labels + two.labels, one.total + two.total) for one, two in pairs]
                parts = [*merged, *parts[len(older) :]]
        return Seen(tuple(parts))

    @property
    def labels(self) -> int:
        """All of them."""
        return sum(part.labels for part in self.parts)

    @property
    def mean(self) -> float | None:
        """The mean loss since the start."""
        return mean_of(self.parts)

    @property
    def mean_lately(self) -> float | None:
        """The mean loss of the newest cohorts."""
        first, labels = len(self.parts), 0
        while first and labels < LATELY:
            first -= 1
            labels += self.parts[first].labels
        return mean_of(self.parts[first:])

    def change(self, reference: float, rows: int) -> int | None:
        """Since which part losses have most likely been higher: None where they have not.

        The split that is likeliest for one step of the mean of a normal distribution, the reference before it
        (Hinkley 1970, section 2).
        """
        best, found = 0.0, None
        labels, total = rows, reference * rows
        all_labels, all_total = self.labels + rows, sum(part.total for part in self.parts) + total
        for place, part in enumerate(self.parts):
            after = all_labels - labels
            gap = (all_total - total) / after - total / labels
            score = labels * after / all_labels * gap**2
            if gap > 0 and score > best:
                best, found = score, place
            labels, total = labels + part.labels, total + part.total
        return found


def mean_of(parts: tuple[Part, ...]) -> float | None:
    """The mean loss of all labels of these parts."""
    labels = sum(part.labels for part in parts)
    return sum(part.total for part in parts) / labels if labels else None


def watched_of(contract: Contract, settings: PolicySettings) -> tuple[Watched, ...]:
    """The loss of all rows, and whatever else is watched, with their shares of alpha: they sum to 1.

    Raises ConfigError for a loss that a model's answers do not tell.
    """
    pairs = [(monitored_loss(contract, settings.loss), ALL_ROWS, 1.0)]
    pairs += [(monitored_loss(contract, each.loss), each.segment, each.weight) for each in settings.watch]
    total = sum(weight for _, _, weight in pairs)
    return tuple(Watched(loss, segment, weight / total) for loss, segment, weight in pairs)


def monitored_loss(contract: Contract, wanted: str) -> str:
    """The loss that is watched: the configured one, or the one that fits the task."""
    known = ["absolute_error", "squared_error"]
    if contract.task is not Task.REGRESSION:
        told = all(each.probabilities for each in contract.targets)
        known = ["brier", "error", "log_loss"] if told else ["error"]
    if wanted == "auto":
        return known[0]
    if wanted not in known:
        raise ConfigError(
            f"{contract.model} has no loss {wanted!r}: its answers tell {', '.join(known)}.",
            cure="Mend policy.loss or policy.watch.",
            key=f"models.{contract.model}.policy",
        )
    return wanted


def losses_of(contract: Contract, rows: pa.Table) -> Losses:
    """The losses of labelled rows, in their order, and who is of which segment."""
    columns: dict[str, Coded] = {}
    for name in contract.segments:
        stored = contract.column(name).stored
        if stored in rows.column_names:
            coded = rows.column(stored).combine_chunks().dictionary_encode()
            places = {str(value): place for place, value in enumerate(coded.dictionary.to_pylist())}
            columns[name] = places, coded.indices.fill_null(-1).to_numpy().astype(np.int64)
    return Losses(row_losses(contract, rows), largest_segments(columns, contract.segment_values), columns)


def split_losses(losses: Losses, ends: Sequence[int], most: int) -> Iterator[Losses]:
    """Those of the rows up to each of these ends, as if `losses_of` had been asked for each part alone."""
    for first, last in pairwise((0, *ends)):
        part = slice(first, last)
        columns = {name: (places, own[part]) for name, (places, own) in losses.columns.items()}
        by_loss = {name: values[part] for name, values in losses.by_loss.items()}
        yield Losses(by_loss, largest_segments(columns, most), columns)


def largest_segments(columns: Mapping[str, Coded], most: int) -> dict[str, Mask]:
    """The rows of the segments that have the most of them, at most so many of each column."""
    members: dict[str, Mask] = {}
    for name, (places, own) in columns.items():
        rows = np.bincount(own[own >= 0], minlength=len(places)).tolist()
        counts = {value: count for value, count in zip(places, rows, strict=True) if count}
        for value in most_frequent(counts, most):
            members[segment_name(name, value)] = own == places[value]
    return members


def baseline_of(contract: Contract, rows: pa.Table, settings: ModelSettings) -> Baseline:
    """What a version is held against, of its reference rows in the order of time (fewer than wanted, or none)."""
    watched = watched_of(contract, settings.policy)
    if not rows.num_rows:
        return Baseline(watched, Losses({}), np.empty(0, dtype=np.int64))
    times = rows.column("predicted_at")
    is_whole = rows.num_rows >= settings.policy.reference  # a smaller one judges nothing
    until = times[-1].as_py() if is_whole and not is_untimed(rows) else None
    return Baseline(watched, losses_of(contract, rows), window_numbers(times, settings.window), until)
