"""From labelled rows to what is watched of them, and what a version is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions.watched import Baseline, Coded, Losses, Mask, Watched
from feedback_loop.errors import ConfigError
from feedback_loop.monitoring import is_untimed, row_losses, window_numbers
from feedback_loop.schema import Contract, Task, most_frequent, segment_name
from feedback_loop.store.evaluations import ALL_ROWS


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
