"""A user's own metrics of a window: from their stored sums or, in an audit, from all labelled rows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from feedback_loop.monitoring.arrays import BEYOND_DOUBLES
from feedback_loop.monitoring.profiles.blocks import OWN_FAILED, OWN_ROWS, Block, Rows
from feedback_loop.monitoring.profiles.custom_sums import MetricFailed, SumMetric, find_metric, own_table
from feedback_loop.monitoring.profiles.profile import Mean, Profile
from feedback_loop.monitoring.validation import metric_value, mixed, unlabelled
from feedback_loop.schema import Column, ColumnType, Contract
from feedback_loop.store.evaluations import MetricValue, QualityValue

FAILED = "own_metric"
"""The check of data quality that reports a failed metric, with the share of rows that it failed for."""

PREDICTED_AT = Column("predicted_at", ColumnType.DATETIME)

CustomResult = MetricValue | QualityValue

_log = structlog.get_logger(__name__)


@BEYOND_DOUBLES
def metrics_by_sums(profile: Profile) -> list[CustomResult]:
    """The values of the metrics that are made of sums; a failed check for each that fails."""
    contract, labelled = profile.layout.contract, profile.rows(Rows.LABELLED)
    places = {sums.metric.name: place for place, sums in enumerate(profile.layout.own)}
    values: list[CustomResult] = []
    for own in contract.own_metrics if labelled else ():
        try:
            metric = find_metric(own)
            if not isinstance(metric, SumMetric):
                continue
            place = places.get(own.name)
            failed = profile.rows(OWN_FAILED + place) if place is not None else labelled
            if place is None or failed:
                values.append(_fault(own.name, failed / labelled, labelled))
            elif profile.rows(OWN_ROWS + place):
                values += _by_sums(profile, place, metric)
        except MetricFailed:  # the cause is logged where it is imported first
            values.append(_fault(own.name, 1.0, labelled))
        except Exception as error:  # noqa: BLE001 (a user's code: whatever it raises is recorded)
            _log.warning("own_metric_failed", metric=own.name, model=contract.model, cause=repr(error))
            values.append(_fault(own.name, 1.0, labelled))
    return values


def metrics_by_rows(contract: Contract, rows: pa.Table) -> list[CustomResult]:
    """The values of the metrics that are functions of all labelled rows; a failed check for each that fails."""
    needed = (*contract.labels, *contract.predictions)
    is_labelled = reduce(pc.and_, (pc.is_valid(rows.column(column.stored)) for column in needed))
    labelled = rows.filter(is_labelled)
    columns = (*contract.features, *contract.extra_key, PREDICTED_AT)
    values: list[CustomResult] = []
    for own in contract.own_metrics if labelled.num_rows else ():
        try:
            metric = find_metric(own)
            if not isinstance(metric, SumMetric):
                value = float(metric(own_table(contract, labelled, columns)))
                covered = labelled.num_rows / rows.num_rows
                values += (
                    [MetricValue(own.name, value, labelled.num_rows, coverage=covered)] if np.isfinite(value) else []
                )
        except MetricFailed:
            continue  # `metrics_by_sums` reports it
        except Exception as error:  # noqa: BLE001 (as above)
            _log.warning("own_metric_failed", metric=own.name, model=contract.model, cause=repr(error))
            values.append(_fault(own.name, 1.0, labelled.num_rows))
    return values


def with_custom_metrics(
    metrics: Iterable[MetricValue], more: Iterable[CustomResult]
) -> tuple[list[MetricValue], list[QualityValue]]:
    """The user's metrics before the others, and the failed checks; a metric whose name is taken fails too."""
    others, added, faults = list(metrics), [], []
    names = {other.metric for other in others}
    for result in more:
        if isinstance(result, QualityValue):
            faults.append(result)
        elif result.metric in names:
            _log.warning("own_metric_failed", metric=result.metric, cause="a metric of that name is there already")
            faults.append(_fault(result.metric, 1.0, result.rows))
        else:
            names.add(result.metric)
            added.append(result)
    return [*added, *others], faults


def _by_sums(profile: Profile, place: int, metric: SumMetric) -> list[CustomResult]:
    own, block, kind = profile.layout.own[place], Block.OWN.of(place), OWN_ROWS + place
    if metric.value is None:
        mean = profile.mean(block, 0, 1, kind)
        bounds = mixed(mean, profile.weight(kind), unlabelled(profile), metric.least, metric.most)
        return [metric_value(own.metric.name, mean, profile, bounds)]
    sums = {name: profile.sum(block, ordinal) for ordinal, name in enumerate(own.sums)}
    value = float(metric.value(sums, profile.weight(kind)))
    mean = Mean(value, profile.rows(kind), None)
    return [metric_value(own.metric.name, mean, profile)] if np.isfinite(value) else []


def _fault(name: str, share: float, rows: int) -> QualityValue:
    return QualityValue(name, FAILED, share, 0.0, failed=True, rows=rows)
