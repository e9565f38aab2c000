"""One evaluation: validation, coverage and drift of one version's predictions in one window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import reduce
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import EPOCH, Window, format_moment
from feedback_loop.monitoring.arrays import Mask
from feedback_loop.monitoring.custom_metrics import CustomResult, metrics_by_sums, with_custom_metrics
from feedback_loop.monitoring.drift import LEAST_ROWS, drift_values
from feedback_loop.monitoring.estimates import estimate_values
from feedback_loop.monitoring.finite import finite
from feedback_loop.monitoring.profiles.blocks import Block, Rows
from feedback_loop.monitoring.profiles.fold import (
    TIME,
    Cell,
    fold_held_out,
    fold_labelled,
    fold_predictions,
    fold_words,
    judged_cells,
    merge,
)
from feedback_loop.monitoring.profiles.layout import Layout, choosing_half, make_layout, profiled_columns, word_layout
from feedback_loop.monitoring.profiles.profile import Profile, Swings
from feedback_loop.monitoring.profiles.tally import Tally, total
from feedback_loop.monitoring.quality import quality_values, usual_name
from feedback_loop.monitoring.validation import metrics_of
from feedback_loop.schema import OTHER, Contract, Task, segment_name, shown_names
from feedback_loop.store.evaluations import (
    ALL_ROWS,
    COVERAGE,
    EFFECTIVE,
    INSUFFICIENT,
    Evaluation,
    MetricValue,
)


def profile_of_reference(contract: Contract, rows: pa.Table, length: timedelta) -> Profile:
    """The profile of a version's reference rows, the measure of all its windows (which are so long)."""
    layout = make_layout(contract, rows)
    folded = fold_predictions(layout, rows), fold_labelled(layout, rows), fold_held_out(layout, rows)
    cells = merge(folded)
    profile = Profile.of(layout, cells)
    if TIME not in rows.column_names:
        return profile
    numbers = window_numbers(rows.column(TIME), length)
    whole, counted = _by_weight(cells), replace(layout, words=(), tree=None)

    choosing = choosing_half(rows.num_rows)

    def window_and_rest(number: np.int64) -> Iterator[tuple[Profile, Profile]]:
        is_inside = numbers == number
        window = rows.filter(pa.array(is_inside))
        in_window = _by_weight(fold_predictions(counted, window))
        rest = [*whole, *((weight, -tally) for weight, tally in in_window)]
        yield Profile.joined(counted, in_window), Profile.joined(counted, rest)
        if layout.words:  # a window's words must be as new to the rest as later words are to the whole reference
            yield _words_apart(layout, window, rows.filter(pa.array(~is_inside)), choosing[~is_inside])

    return with_swings(profile, chain.from_iterable(map(window_and_rest, np.unique(numbers))))


def _words_apart(layout: Layout, window: pa.Table, rest: pa.Table, choosing: Mask) -> tuple[Profile, Profile]:
    """A window and the rest of the reference, by the words of the rest.

    The words are chosen by the same rows as for the whole reference. With another choice for each window, some would
    by chance be nearer, and later windows would seem farther.
    """
    chosen = (word_layout(word.column, rest, like=word, choosing=choosing) for word in layout.words)
    words = Layout(layout.contract, words=tuple(chosen))
    rest_cells = merge([fold_words(words, rest), fold_held_out(words, rest, choosing)])
    return Profile.of(words, fold_words(words, window)), Profile.of(words, rest_cells)


def with_swings(reference: Profile, windows: Iterable[tuple[Profile, Profile]]) -> Profile:
    """The reference with the distances of its own windows from the rest of it, where that has a window's rows.

    A window is compared with rows that exclude it, as every later window is; else it would seem nearer. The values of
    its checks of data quality are kept too.
    """
    swings: dict[str, list[tuple[float, int]]] = {}
    for window, rest in windows:
        for value in drift_values(rest, window):
            if value.decides:
                swings.setdefault(value.column, []).append((value.value, value.rows))
        for check in quality_values(rest, window):
            if check.column or not rest.layout.words:  # rows as such are looked at with the numbers
                swings.setdefault(usual_name(check.column, check.check), []).append((check.value, check.rows))
    kept_swings = {
        name: Swings(tuple(value for value, _ in distances), max(rows for _, rows in distances))
        for name, distances in swings.items()
        if any(value for value, _ in distances)
    }
    return replace(reference, swings=kept_swings)


def _by_weight(cells: Mapping[Cell, Tally]) -> list[tuple[float, Tally]]:
    by_weight: dict[float, list[Tally]] = {}
    for cell, tally in cells.items():
        if cell.segment == ALL_ROWS:
            by_weight.setdefault(cell.weight, []).append(tally)
    return [(weight, total(tallies)) for weight, tallies in by_weight.items()]


def window_numbers(times: pa.ChunkedArray, length: timedelta) -> npt.NDArray[np.int64]:
    """The number (counted from 1970) of the window that each moment is in."""
    microseconds = times.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return np.asarray(microseconds // int(length.total_seconds() * 1e6), dtype=np.int64)


def evaluate_cells(
    layout: Layout,
    cells: Mapping[Cell, Tally],
    reference: Profile | None,
    *,
    version: str,
    window: Window,
    as_of: datetime,
    matured: bool,
    more: Sequence[CustomResult] = (),
    calibration: Profile | None = None,
) -> Evaluation:
    """Evaluates one version's rows of a window by their tallies, which hold all but `more` metrics.

    The same tallies give the same numbers, whenever they are asked. Without a reference there is no drift.

    A window whose rows are part of the reference is not judged by it, and without known classes there are no metrics
    of classes: `notes` say so.

    Estimates are calibrated on the reference and on `calibration`, a profile of earlier labelled rows.

    Counts are of rows that were logged, metrics of the predictions that they stand for. With fewer than 100 outcomes
    the metrics say how many are missing. Where outcomes need an action there is the effective sample size too, and
    with less than 100 of that no metric at all.
    """
    profile, judged = Profile.of(layout, cells), judged_cells(layout, cells)
    outcomes = profile if judged is cells else Profile.of(layout, judged)
    predictions, labelled = profile.rows(), outcomes.rows(Rows.LABELLED)
    all_metrics, faults = with_custom_metrics(metrics_of(layout, judged), [*more, *metrics_by_sums(outcomes)])
    metrics, enough = finite(all_metrics), float(labelled)
    if layout.contract.join.needs_action:
        enough = effective_rows(outcomes)
        metrics = metrics if enough >= LEAST_ROWS else ()
        metrics = (*metrics, MetricValue(EFFECTIVE, enough, labelled))
    is_plain = len(outcomes.parts) == 1 and not layout.contract.join.needs_action  # the plain coverage says it
    if outcomes.rows() and not is_plain:
        covered = outcomes.weight(Rows.LABELLED) / outcomes.weight()
        metrics = (*metrics, MetricValue(COVERAGE, covered, outcomes.rows(), coverage=covered))
    notes: list[str] = []
    until = reference.until if reference is not None else None
    if until is not None and window.start <= (last := EPOCH + timedelta(microseconds=until)):
        cause = f"the reference is made of predictions up to {format_moment(last)}"
        notes.append(f"Drift, data quality and estimates are not judged: {cause}.")
        reference = None
    notes += _about_classes(layout)
    notes += _about_segments(layout.contract, cells)
    is_estimated = not layout.contract.more_labels and (until is None or reference is not None)
    if predictions and enough < LEAST_ROWS:
        metrics = (*metrics, MetricValue(INSUFFICIENT, float(np.ceil(LEAST_ROWS - enough)), labelled))
    drift = drift_values(reference, profile) if reference is not None and predictions else ()
    names = {"": ""} | shown_names(profiled_columns(layout.contract))
    return Evaluation(
        model=layout.contract.model,
        version=version,
        window=window,
        as_of=as_of,
        matured=matured,
        predictions=predictions,
        labelled=labelled,
        metrics=metrics,
        drift=tuple(replace(value, column=names[value.column]) for value in drift),
        quality=(
            *(replace(value, column=names[value.column]) for value in quality_values(reference, profile)),
            *faults,
        ),
        estimates=estimate_values(profile, reference, calibration) if is_estimated else (),
        notes=tuple(notes),
    )


def effective_rows(profile: Profile) -> float:
    """How many rows of equal weight say as much as the labelled ones (Kish 1965, section 11.7)."""
    weights = np.array([weight for weight, _ in profile.parts])
    rows = profile.rows_by_weight(Block.ROWS, Rows.LABELLED)
    return float((weights @ rows) ** 2 / (weights**2 @ rows)) if rows.any() else 0.0


def _about_classes(layout: Layout) -> list[str]:
    contract = layout.contract
    cure = f" models.{contract.model}.positive says which one counts." if contract.task is Task.BINARY else ""
    if layout.are_learned:
        counts = f", of which {contract.positive!r} counts" if contract.positive is not None else ""
        return [f"The classes {', '.join(map(repr, contract.classes))}{counts} are learned from outcomes.{cure}"]
    if contract.task.is_classification and not contract.classes and contract.positive is None:
        return [f"No class is told from others: the model says none, and no reference has shown them yet.{cure}"]
    return []


def _about_segments(contract: Contract, cells: Mapping[Cell, Tally]) -> list[str]:
    rows = Counter[str]()
    for cell, tally in cells.items():
        rows[cell.segment] += tally.at(Block.ROWS, Rows.PREDICTED)
    return [
        f"{name!r} has more values than models.{contract.model}.segment_values ({contract.segment_values}) allows:"
        f" {rows[segment]:,} rows with others are told together as {segment!r}."
        for name in contract.segments
        if rows[segment := segment_name(name, OTHER)]
    ]


def labelled_only(contract: Contract, rows: pa.Table) -> pa.Table:
    """The rows whose outcome is known (and whose prediction is: a model may have answered with nothing)."""
    columns = (*contract.labels, *contract.outputs)
    return rows.filter(reduce(pc.and_, (pc.is_valid(rows.column(column.stored)) for column in columns)))
