"""Figures as a store can hold them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from feedback_loop.store.evaluations import DriftValue, EstimateValue, MetricValue, QualityValue

V = TypeVar("V", MetricValue, DriftValue, QualityValue, EstimateValue)


def finite(values: Iterable[V]) -> tuple[V, ...]:
    """The values with plain finite numbers, which databases and JSON can hold.

    A NaN value is left out, and an infinite one becomes the largest double; an error or a bound that is not finite
    becomes None.
    """
    kept: list[V] = []
    for value in values:
        plain: dict[str, Any] = {n: v.item() if isinstance(v, np.generic) else v for n, v in vars(value).items()}
        odd: dict[str, float | None] = {
            name: None for name, v in plain.items() if isinstance(v, float) and not math.isfinite(v)
        }
        if "value" in odd:
            odd["value"] = math.copysign(sys.float_info.max, plain["value"])
        if not math.isnan(plain["value"]):
            kept.append(type(value)(**{**plain, **odd}))
    return tuple(kept)
