"""The losses that monitors are fed: of all rows and of segments, of the reference and of each cohort."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import PolicySettings
from feedback_loop.errors import ConfigError
from feedback_loop.monitoring import Floats, is_untimed, row_losses, window_numbers, with_raw_answers
from feedback_loop.schema import Contract, Task, most_frequent, segment_name
from feedback_loop.store.evaluations import ALL_ROWS

Mask = npt.NDArray[np.bool_]

Coded = tuple[Mapping[str, int], npt.NDArray[np.int64]]
"""The places of a column's values, and for each row the place of its value (-1: it has none)."""

LATELY = 1000
"""The recent mean is of so many newest labels, in whole cohorts."""

MOST_KEPT = 200
"""The most parts of a history; when there are more, the older half is merged in pairs."""

RAW = "raw "
"""Begins the names of losses of the model's own answers."""

BOUNDED = ("error", "brier")
"""Losses that lie in [0, 1]; others are divided by the reference's 99% quantile."""


@dataclass(frozen=True)
class Watched:
    """A loss of all rows, or of those of a segment, with its share of alpha.

    It is that of what was served; one that `is_raw`, that of the model's own answers below an adapter.
    """

    loss: str
    segment: str = ALL_ROWS
    share: float = 1.0
    is_raw: bool = False

    @property
    def name(self) -> str:
        """How it is called in a verdict."""
        loss = f"{RAW}{self.loss}" if self.is_raw else self.loss
        return f"{loss} of {self.segment}" if self.segment else loss


@dataclass(frozen=True)
class Losses:
    """Losses of labelled rows by name, and which rows are of which segment (`origin=JFK`).

    Those of the model's own answers are called `raw …`, where an adapter has changed any; else they are the same.
    `members` are of the largest segments. `columns` hold the values of all rows: others are selected by them.
    """

    by_loss: Mapping[str, Floats]
    members: Mapping[str, Mask] = field(default_factory=dict)
    columns: Mapping[str, Coded] = field(default_factory=dict)

    def rows_of(self, segment: str) -> Mask | None:
        """Which rows are of a segment; None where its column is not known."""
        name, _, value = segment.partition("=")
        if segment in self.members or name not in self.columns:
            return self.members.get(segment)
        places, codes = self.columns[name]
        return np.asarray(codes == places.get(value, len(places)), dtype=np.bool_)

    def of(self, watched: Watched) -> Floats:
        """The watched losses, in the order of the rows."""
        losses = self.by_loss.get(watched.loss, np.empty(0))
        if watched.is_raw:
            losses = self.by_loss.get(f"{RAW}{watched.loss}", losses)
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
    """What a version is compared with: its reference rows' losses in the order of time, with their windows' numbers.

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
        """Losses (default: the reference's own) in [0, 1], as monitors take them; NaN counts as 1."""
        values = self.raw(watched) if values is None else values
        values = np.where(np.isnan(values), np.inf, values)
        if watched.loss in BOUNDED:
            return np.minimum(values, 1.0)
        reference = self.raw(watched)
        reference = reference[np.isfinite(reference)]
        scale = float(np.quantile(reference, 0.99)) if len(reference) else 1.0
        return np.minimum(values / scale, 1.0) if scale > 0 else np.minimum(values, 1.0)

    def scaled_cohorts(self, watched: Watched, cohorts: Sequence[Cohort]) -> list[Floats]:
        """The losses in [0, 1] of each cohort; their common scale is computed once."""
        losses = [cohort.losses.of(watched) for cohort in cohorts]
        ends = np.cumsum([len(of_cohort) for of_cohort in losses])
        return np.split(self.scaled(watched, np.concatenate(losses)), ends[:-1])

    def windows_of(self, watched: Watched) -> npt.NDArray[np.int64]:
        """The window numbers of the watched losses."""
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
class LossHistory:
    """The losses since the start, summed in parts."""

    parts: tuple[Part, ...] = ()

    def plus(self, since: Sequence[datetime], cohorts: Sequence[Floats]) -> LossHistory:
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
        return LossHistory(tuple(parts))

    @property
    def labels(self) -> int:
        """The number of labels since the start."""
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
        """The part since which losses have most likely been higher; None where they have not.

        The split that is likeliest for one step of the mean of a normal distribution, the reference before it
        (Hinkley 1970, section 2).
        """
        best, split = 0.0, None
        labels, total = rows, reference * rows
        all_labels, all_total = self.labels + rows, sum(part.total for part in self.parts) + total
        for place, part in enumerate(self.parts):
            after = all_labels - labels
            gap = (all_total - total) / after - total / labels
            score = labels * after / all_labels * gap**2
            if gap > 0 and score > best:
                best, split = score, place
            labels, total = labels + part.labels, total + part.total
        return split


def mean_of(parts: tuple[Part, ...]) -> float | None:
    """The mean loss of all labels of these parts."""
    labels = sum(part.labels for part in parts)
    return sum(part.total for part in parts) / labels if labels else None


def watched_of(contract: Contract, settings: PolicySettings, *, is_adapted: bool = False) -> tuple[Watched, ...]:
    """The loss of all rows and the other watched losses, with their shares of alpha, which sum to 1.

    Where answers are adapted each is watched twice, with half of its share: as served, which is what callers get, and
    raw, which says whether the model below has gone stale. Raises ConfigError for a loss that the model's answers do
    not give.
    """
    pairs = [(monitored_loss(contract, settings.loss), ALL_ROWS, 1.0)]
    pairs += [(monitored_loss(contract, watch.loss), watch.segment, watch.weight) for watch in settings.watch]
    total = sum(weight for _, _, weight in pairs)
    watched = tuple(Watched(loss, segment, weight / total) for loss, segment, weight in pairs)
    if not is_adapted or not contract.raw_outputs:
        return watched
    served = tuple(replace(each, share=each.share / 2) for each in watched)
    return (*served, *(replace(each, is_raw=True) for each in served))


def monitored_loss(contract: Contract, wanted: str) -> str:
    """The loss that is watched: the configured one, or the one that fits the task."""
    losses = ["absolute_error", "squared_error"]
    if contract.task is not Task.REGRESSION:
        has_probabilities = all(target.probabilities for target in contract.targets)
        losses = ["brier", "error", "log_loss"] if has_probabilities else ["error"]
    if wanted == "auto":
        return losses[0]
    if wanted not in losses:
        raise ConfigError(
            f"{contract.model} has no loss {wanted!r}: its answers tell {', '.join(losses)}.",
            cure="Mend policy.loss or policy.watch.",
            key=f"models.{contract.model}.policy",
        )
    return wanted


def losses_of(contract: Contract, rows: pa.Table) -> Losses:
    """The losses of labelled rows, in their order, and which rows are of which segment."""
    columns: dict[str, Coded] = {}
    for name in contract.segments:
        stored = contract.column(name).stored
        if stored in rows.column_names:
            coded = rows.column(stored).combine_chunks().dictionary_encode()
            places = {str(value): place for place, value in enumerate(coded.dictionary.to_pylist())}
            columns[name] = places, coded.indices.fill_null(-1).to_numpy().astype(np.int64)
    by_loss, raw = row_losses(contract, rows), with_raw_answers(contract, rows)
    if raw is not rows:
        by_loss |= {f"{RAW}{name}": losses for name, losses in row_losses(contract, raw).items()}
    return Losses(by_loss, largest_segments(columns, contract.segment_values), columns)


def split_losses(losses: Losses, ends: Sequence[int], most: int) -> Iterator[Losses]:
    """The losses of the parts that end at each of `ends`, as `losses_of` would give them for each part."""
    for first, last in pairwise((0, *ends)):
        part = slice(first, last)
        columns = {name: (places, codes[part]) for name, (places, codes) in losses.columns.items()}
        by_loss = {name: values[part] for name, values in losses.by_loss.items()}
        yield Losses(by_loss, largest_segments(columns, most), columns)


def largest_segments(columns: Mapping[str, Coded], most: int) -> dict[str, Mask]:
    """Which rows are of the largest segments, at most `most` of each column."""
    members: dict[str, Mask] = {}
    for name, (places, codes) in columns.items():
        rows = np.bincount(codes[codes >= 0], minlength=len(places)).tolist()
        counts = {value: count for value, count in zip(places, rows, strict=True) if count}
        for value in most_frequent(counts, most):
            members[segment_name(name, value)] = codes == places[value]
    return members


def baseline_of(contract: Contract, rows: pa.Table, settings: ModelSettings) -> Baseline:
    """The baseline of a version, from its reference rows in the order of time (fewer than wanted, or none)."""
    watched = watched_of(contract, settings.policy, is_adapted=settings.adapter.mode == "on")
    if not rows.num_rows:
        return Baseline(watched, Losses({}), np.empty(0, dtype=np.int64))
    times = rows.column("predicted_at")
    is_whole = rows.num_rows >= settings.policy.reference  # a smaller one judges nothing
    until = times[-1].as_py() if is_whole and not is_untimed(rows) else None
    return Baseline(watched, losses_of(contract, rows), window_numbers(times, settings.window), until)
