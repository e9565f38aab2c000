"""Conditions: a user's own line on any value of an evaluation, beyond which so many windows may not lie.

They are thresholds: they state no error rate, and stand beside verdicts, never in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from feedback_loop.clock import Window
from feedback_loop.config_policy import ConditionSettings
from feedback_loop.store import Store
from feedback_loop.store.evaluations import Evaluation, load_evaluations, newest_evaluations

ESTIMATED = "estimated_"
"""So begins what is an estimate of a metric before outcomes tell it."""


@dataclass(frozen=True)
class ConditionState:
    """How a condition stands: whether its line has been crossed for so many windows, by the newest one's value.

    `unknown`: no window has such a value; `known` says which there are.
    """

    condition: ConditionSettings
    state: Literal["within", "crossed", "unknown"]
    window: Window | None = None
    value: float | None = None
    since: Window | None = None  # the first of the windows beyond the line, where it is crossed
    known: tuple[str, ...] = ()


def load_condition_states(
    store: Store, model: str, version: str, conditions: Sequence[ConditionSettings]
) -> list[ConditionState]:
    """How each condition stands by the evaluations of a version that are stored."""
    if not conditions:
        return []
    newest = _TIMES * max(each.windows for each in conditions)
    kept = {  # what outcomes tell may be known of windows long before those that are evaluated now
        each.evaluation_id: each
        for matured in (True, False)
        for each in load_evaluations(store, model, version=version, matured=matured, newest=newest)
    }
    of_windows = newest_evaluations(sorted(kept.values(), key=lambda each: (each.window.end, each.as_of)))
    return [judge_condition(each, of_windows) for each in conditions]


_TIMES = 20
"""So many evaluations are read for each window that a condition needs: some are of one window, some say nothing."""


def judge_condition(condition: ConditionSettings, evaluations: Sequence[Evaluation]) -> ConditionState:
    """Judges evaluations of one version, the oldest window first, one of each window.

    A window without the value (nothing predicted, no outcome yet) neither counts nor interrupts.
    """
    values = [(each.window, value) for each in evaluations if (value := value_of(condition, each)) is not None]
    if not values:
        return ConditionState(
            condition, "unknown", known=tuple(sorted({name for e in evaluations for name in names_of(e)}))
        )
    window, value = values[-1]
    beyond: list[Window] = []
    for each, number in reversed(values):
        if not condition.is_beyond(number):
            break
        beyond.append(each)
    crossed = len(beyond) >= condition.windows
    return ConditionState(
        condition, "crossed" if crossed else "within", window, value, beyond[-1] if crossed else None
    )


def value_of(condition: ConditionSettings, evaluation: Evaluation) -> float | None:
    """What the evaluation says of the condition's metric: of its column, or its segment; None: nothing."""
    metric, segment = condition.metric, condition.segment
    checks = [each.value for each in evaluation.quality if (each.column, each.check) == (condition.column, metric)]
    if metric == "drift" and condition.column:
        checks = [each.value for each in evaluation.drift if each.column == condition.column and each.decides]
    if condition.column or (checks and not segment):
        return checks[0] if checks else None
    if metric.startswith(ESTIMATED):
        name = metric.removeprefix(ESTIMATED)
        return next((e.value for e in evaluation.estimates if (e.metric, e.segment) == (name, segment)), None)
    if not segment and metric == "drifted_share":
        return evaluation.drifted_share
    if not evaluation.matured:  # outcomes are still to come
        return None
    return evaluation.coverage if metric == "coverage" and not segment else evaluation.metric(metric, segment)


def names_of(evaluation: Evaluation) -> set[str]:
    """What a condition may be on in an evaluation, but for columns and segments."""
    shares = {"coverage", "drifted_share"} if evaluation.predictions else set()
    checks = {each.check for each in evaluation.quality} | ({"drift"} if evaluation.drift else set())
    estimates = {f"{ESTIMATED}{each.metric}" for each in evaluation.estimates}
    return shares | checks | estimates | {each.metric for each in evaluation.metrics}
