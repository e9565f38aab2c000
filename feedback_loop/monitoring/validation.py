"""Validation: the metrics of labelled predictions, from their profile, and what bounds them whatever is not known.

Each metric has its sampling error, the rows that it is of, and the coverage. `least` and `most`, of means and of
ratios of one class, are what it could be over all predictions, for any outcome of those that have none: 60% coverage
can't look like 100%.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.monitoring.arrays import BEYOND_DOUBLES
from feedback_loop.monitoring.confusion import Ratio, confusion_of
from feedback_loop.monitoring.finite import finite
from feedback_loop.monitoring.losses import CLIP
from feedback_loop.monitoring.profiles.blocks import Block, Loss, Rows
from feedback_loop.monitoring.profiles.fold import Cell, fold, judged_cells
from feedback_loop.monitoring.profiles.layout import Layout
from feedback_loop.monitoring.profiles.profile import Mean, Profile
from feedback_loop.monitoring.profiles.tally import Tally
from feedback_loop.monitoring.scores import areas, binary_metrics, score_bins_of, unlabelled_losses
from feedback_loop.schema import Contract, Task
from feedback_loop.store.evaluations import ALL_ROWS, MetricValue

QUANTILES = (0.1, 0.5, 0.9)
"""The levels of the quantile losses."""

Bounds = tuple[float | None, float | None]
UNBOUNDED: Bounds = (None, None)


def validation_metrics(contract: Contract, labelled: pa.Table) -> tuple[MetricValue, ...]:
    """The metrics of a table of rows with outcomes, in all and by segment; none at all where none has one."""
    layout = Layout(contract).with_segments_of(labelled)
    return metrics_of(layout, judged_cells(layout, fold(layout, labelled)))


@BEYOND_DOUBLES
def metrics_of(layout: Layout, cells: Mapping[Cell, Tally]) -> tuple[MetricValue, ...]:
    """The metrics of all rows, and the means of each segment. Rows count for the predictions that they stand for.

    One that is undefined (no row, one class only) is left out, never made up.
    """
    values = list(_of_all(Profile.of(layout, cells), profile_metrics))
    segments = {cell.segment for cell in cells} - {ALL_ROWS}
    profiles = {segment: Profile.of(layout, cells, segment) for segment in segments}
    labelled = {segment: profile.rows(Rows.LABELLED) for segment, profile in profiles.items()}
    for segment in sorted(segments, key=lambda name: (-labelled[name], name)):
        if labelled[segment]:
            values += _of_all(profiles[segment], partial(_means, segment=segment))
    return finite(values)


def profile_metrics(profile: Profile) -> Iterator[MetricValue]:
    """The metrics of one profile.

    Binary: accuracy, brier, log_loss, precision, recall, f1 (at the threshold of the model's answers), roc_auc,
    pr_auc (average precision), calibration_error (10 bins), lift (of the tenth with the highest scores),
    outcome_rate, prediction_rate. Multiclass: accuracy, brier, log_loss, f1, precision and recall of each class
    (`f1[a]`), their means over classes (`f1_macro`) and over rows (`f1_weighted`), roc_auc of each class against
    all others and its mean. Regression: mae, rmse, mape, r2, bias, quantile losses.

    Where no classes are known, the accuracy alone.
    """
    if not profile.rows(Rows.LABELLED):
        return
    yield from _means(profile, ALL_ROWS)
    contract = profile.layout.contract
    if contract.task is Task.REGRESSION:
        yield from _regression(profile)
    elif contract.task is Task.BINARY and contract.positive is not None:
        yield from _binary(profile)
    elif contract.task is Task.MULTICLASS and contract.classes:
        yield from _multiclass(profile)


def unlabelled(profile: Profile) -> float:
    """The weight of the predictions whose answer is known and whose outcome is not."""
    answered = float(profile.slots(Block.ANSWERS)[1].sum())
    return max(answered - profile.weight(_comparable(profile)), 0.0)


def _comparable(profile: Profile) -> Rows:
    """The rows whose answer and outcome can be compared: infinite answers of a regression can't."""
    return Rows.SCORED if profile.layout.contract.task is Task.REGRESSION else Rows.LABELLED


def _of_all(profile: Profile, of_one: Callable[[Profile], Iterator[MetricValue]]) -> Iterator[MetricValue]:
    """Means over labels of the metrics that all labels have, and then those of each label (`mae[price]`).

    The means of a regression's metrics and of losses have their names, others are `_macro`. Of yes and no, also
    `subset_accuracy` (all labels of a row are right) and `hamming_loss`. The labels are of the same rows: the
    standard error of their mean is at most the mean of theirs.
    """
    contract = profile.layout.contract
    if not contract.more_labels:
        yield from of_one(profile)
        return
    of_labels = [list(of_one(profile.target(place))) for place in range(len(contract.labels))]
    by_name: dict[str, list[MetricValue]] = {}
    for value in chain(*of_labels):
        by_name.setdefault(value.metric, []).append(value)
    for name, values in by_name.items():
        if len(values) == len(contract.labels):
            is_plain = contract.task is Task.REGRESSION or name in ("log_loss", "brier")
            mean = _mean_of(name if is_plain else f"{name}_macro", values)
            if name == "accuracy":
                yield from _of_yes_and_no(profile, mean)
            yield mean
    for label, values in zip(contract.labels, of_labels, strict=True):
        yield from (replace(value, metric=f"{value.metric}[{label.name}]") for value in values)


def _mean_of(name: str, values: list[MetricValue]) -> MetricValue:
    fields: dict[str, Any] = {
        field: float(np.mean(numbers)) if None not in numbers else None
        for field in ("value", "standard_error", "least", "most")
        for numbers in [[getattr(value, field) for value in values]]
    }
    return replace(values[0], metric=name, rows=min(value.rows for value in values), **fields)


def _of_yes_and_no(profile: Profile, accuracy: MetricValue) -> Iterator[MetricValue]:
    least, most = (1 - bound if bound is not None else None for bound in (accuracy.most, accuracy.least))
    yield replace(accuracy, metric="hamming_loss", value=1 - accuracy.value, least=least, most=most)
    right, gap = profile.share(Rows.RIGHT, Rows.LABELLED), unlabelled(profile.target(0))
    bounds = mixed(right, profile.weight(Rows.LABELLED), gap, 0.0, 1.0)
    yield metric_value("subset_accuracy", right, profile, bounds, accuracy.segment)


def _means(profile: Profile, segment: str) -> Iterator[MetricValue]:
    gap = unlabelled(profile)
    if profile.layout.contract.task is Task.REGRESSION:
        if profile.rows(Rows.SCORED):
            mae = profile.mean(Block.LOSSES, Loss.ABSOLUTE, Loss.SQUARED, Rows.SCORED)
            yield metric_value("mae", mae, profile, mixed(mae, profile.weight(Rows.SCORED), gap, 0.0, None), segment)
        return
    right = profile.share(Rows.RIGHT, Rows.LABELLED)
    yield metric_value(
        "accuracy", right, profile, mixed(right, profile.weight(Rows.LABELLED), gap, 0.0, 1.0), segment
    )
    if not profile.rows(Rows.SCORED):
        return
    scored = profile.weight(Rows.SCORED)
    worst = {"brier": (0.0, 1.0), "log_loss": (0.0, float(-np.log(CLIP)))}
    if profile.layout.contract.task is Task.BINARY and profile.layout.scored_classes:
        gap, worst = unlabelled_losses(score_bins_of(profile))
    for name, ordinal in (("brier", Loss.BRIER), ("log_loss", Loss.LOG_LOSS)):
        mean = profile.mean(Block.LOSSES, ordinal, ordinal + 1, Rows.SCORED)
        yield metric_value(name, mean, profile, mixed(mean, scored, gap, *worst[name]), segment)


def mixed(mean: Mean, weight: float, gap: float, least: float | None, most: float | None) -> Bounds:
    """Bounds of a mean over further rows too, of weight `gap`, whose own mean is between `least` and `most`."""
    if not gap:
        return mean.value, mean.value
    below, above = (
        (mean.value * weight + bound * gap) / (weight + gap) if bound is not None else None for bound in (least, most)
    )
    return below, above


def metric_value(
    name: str, mean: Mean, profile: Profile, bounds: Bounds = UNBOUNDED, segment: str = ALL_ROWS
) -> MetricValue:
    """A metric of a profile's labelled rows."""
    covered = profile.weight(_comparable(profile)) / profile.weight()
    return MetricValue(name, mean.value, mean.rows, mean.standard_error, segment, covered, *bounds)


def _binary(profile: Profile) -> Iterator[MetricValue]:
    table = confusion_of(profile)
    bins = score_bins_of(profile) if profile.layout.scored_classes else None
    bounds: dict[str, Bounds] = {}
    for ratio in Ratio:
        least, most = table.bounds(ratio)
        bounds[ratio.name] = float(least[1]), float(most[1])
    answers = table.answers + table.unlabelled
    bounds["prediction_rate"] = (float(answers[1] / answers.sum()),) * 2
    for name, mean in binary_metrics(table, bins).items():
        if name == "outcome_rate":
            bounds[name] = mixed(mean, float(table.table.sum()), unlabelled(profile), 0.0, 1.0)
        yield metric_value(name, mean, profile, bounds.get(name, UNBOUNDED))


def _multiclass(profile: Profile) -> Iterator[MetricValue]:
    table, classes = confusion_of(profile), profile.layout.contract.classes
    for ratio in Ratio:
        yield metric_value(f"{ratio.name}_macro", table.macro(ratio), profile)
        yield metric_value(f"{ratio.name}_weighted", table.weighted(ratio), profile)
        least, most = table.bounds(ratio)
        for place, number in enumerate(table.places):
            mean = table.ratio(ratio, place)
            if mean is not None and number < len(classes):
                bounds = float(least[place]), float(most[place])
                yield metric_value(f"{ratio.name}[{classes[number]}]", mean, profile, bounds)
    scored = range(profile.layout.scored_classes)
    for name, area in areas({str(classes[number]): score_bins_of(profile, number) for number in scored}).items():
        yield metric_value(name, area, profile)


def _regression(profile: Profile) -> Iterator[MetricValue]:
    rows = profile.rows(Rows.SCORED)
    if not rows:
        return
    weight, gap = profile.weight(Rows.SCORED), unlabelled(profile)
    squared = profile.mean(Block.LOSSES, Loss.SQUARED, Loss.FOURTH, Rows.SCORED)
    rmse = float(np.sqrt(squared.value))
    error = squared.standard_error / (2 * rmse) if squared.standard_error is not None and rmse else None
    least = float(np.sqrt(squared.value * weight / (weight + gap)))
    yield metric_value("rmse", Mean(rmse, rows, error), profile, (least, None if gap else rmse))
    bias = profile.mean(Block.LOSSES, Loss.ERROR, Loss.SQUARED, Rows.SCORED)
    yield metric_value("bias", bias, profile, UNBOUNDED if gap else (bias.value, bias.value))
    share = profile.mean(Block.LOSSES, Loss.PERCENTAGE, Loss.PERCENTAGE_SQUARED, Rows.SCORED)
    for name, mean in {"mape": share, **_quantile_losses(profile, bias)}.items():
        yield metric_value(name, mean, profile, mixed(mean, weight, gap, 0.0, None))
    outcomes = profile.outcomes
    spread = outcomes.second - outcomes.first**2 / weight
    if rows > 1 and spread > outcomes.second * 1e-13:
        unexplained = squared.value * weight / spread
        # By the delta method, as if errors and outcomes were independent and outcomes normal.
        part = (squared.standard_error or 0.0) / squared.value if squared.value else 0.0
        error = unexplained * float(np.sqrt(part**2 + 2 / profile.effective(weight)))
        bounds = (None, 1.0) if gap else (1 - unexplained, 1 - unexplained)
        yield metric_value("r2", Mean(1 - unexplained, rows, error), profile, bounds)


def _quantile_losses(profile: Profile, bias: Mean) -> dict[str, Mean]:
    """Of e = answer - outcome the pinball loss is ((1 - 2q) e + |e|) / 2 (Koenker and Bassett 1978)."""
    weight = profile.weight(Rows.SCORED)
    absolute, signed = (profile.sum(Block.LOSSES, moment) / weight for moment in (Loss.ABSOLUTE, Loss.SIGNED_SQUARE))
    squared = profile.sum(Block.LOSSES, Loss.SQUARED) / weight
    losses = {}
    for level in QUANTILES:
        tilt = 1 - 2 * level
        value = (tilt * bias.value + absolute) / 2
        variance = ((tilt**2 + 1) * squared + 2 * tilt * signed) / 4 - value**2
        rows = profile.effective(weight)
        error = float(np.sqrt(max(variance, 0.0) / (rows - 1))) if rows > 1 else None
        losses[f"quantile_loss_{level}"] = Mean(value, bias.rows, error)
    return losses
