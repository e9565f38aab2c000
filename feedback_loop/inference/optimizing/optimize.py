"""Every variant of a model tried, and the fastest chosen that keeps within the budget."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from feedback_loop.inference.dense import PRECISIONS, quantized
from feedback_loop.inference.engines import Engine
from feedback_loop.inference.onnx import OnnxEngine, OnnxForm
from feedback_loop.inference.optimizing.measuring import Measured, measure
from feedback_loop.inference.optimizing.shrinking import variants
from feedback_loop.inference.providers import EngineOptions, is_onnx_installed, open_session
from feedback_loop.inference.trying import make_native
from feedback_loop.progress import Progress
from feedback_loop.registry import LoadedModel
from feedback_loop.schema import Contract

AS_IT_IS = "as it is"
_DENSE = {f"dense layers in {precision}": precision for precision in PRECISIONS}
"""Variants that exist in ONNX only."""

GAIN = 1.05
"""A variant has to be faster (or smaller) by so much to be worth a version of its own."""


@dataclass(frozen=True)
class Optimization:
    """What was tried, the model as it is first; `estimator` is that of the chosen one. `reason` says why none is.

    `precision` is that of the chosen one's dense layers (float32, float16, int8), empty where they stay as they are.
    """

    tried: tuple[Measured, ...]
    estimator: Any | None
    reason: str = ""
    precision: str = ""

    @property
    def chosen(self) -> Measured | None:
        """The variant to register, if any."""
        return next((each for each in self.tried if each.chosen), None)


def optimize(
    loaded: LoadedModel,
    contract: Contract,
    rows: pa.Table,
    budget: float,
    options: EngineOptions,
    progress: Progress,
    *,
    quantize: bool = False,
) -> Optimization:
    """Tries the variants on labelled rows (features and label by the model's names).

    Chosen is, of those whose score is at most `budget` below the model's own, the one that scores most rows a second;
    one with dense layers in fewer bits, which no scikit-learn can hold, only where `quantize` says so.
    """
    if loaded.estimator is None:
        return Optimization((), None, "it is no scikit-learn model: nothing can be left out of what can't be seen")
    ways, reason = variants(loaded.estimator)
    if reason:
        return Optimization((), None, reason)
    base = _measured(AS_IT_IS, loaded, contract, rows, options)
    tried, estimators = [base], dict.fromkeys(_DENSE, loaded.estimator) if quantize else {}
    with progress.track(f"optimize {loaded.version.model}", len(ways) + len(PRECISIONS)) as advance:
        for way in ways:
            estimators[way.name] = way.make()
            smaller = replace(loaded, estimator=estimators[way.name])
            tried.append(_measured(way.name, smaller, contract, rows, options))
            advance(1)
        for each in _in_fewer_bits(loaded, contract, rows, options):
            tried.append(each)
            advance(1)
    judged = [replace(each, within_budget=each.score >= base.score - budget) for each in tried]
    best = _best(judged, estimators)
    if best is None:
        return Optimization(tuple(judged), None, _why_none(judged, budget))
    chosen = tuple(replace(each, chosen=each is best) for each in judged)
    return Optimization(chosen, estimators[best.variant], precision=_DENSE.get(best.variant, ""))


def _best(judged: list[Measured], estimators: dict[str, Any]) -> Measured | None:
    base = judged[0]
    fit = [
        each
        for each in judged[1:]
        if each.within_budget
        and each.variant in estimators
        and (each.rows_per_second > base.rows_per_second * GAIN or each.size_bytes * GAIN < base.size_bytes)
    ]
    return max(fit, key=lambda each: each.rows_per_second, default=None)


def _why_none(judged: list[Measured], budget: float) -> str:
    if not any(each.within_budget for each in judged[1:]):
        return f"every variant loses more than the budget of {budget:g}"
    return f"no variant within the budget is smaller or faster by {GAIN - 1:.0%}"


def _measured(name: str, loaded: LoadedModel, contract: Contract, rows: pa.Table, options: EngineOptions) -> Measured:
    engine, kind, size = _engine(loaded, contract, options)
    return measure(name, engine, kind, size, contract, rows)


def _engine(loaded: LoadedModel, contract: Contract, options: EngineOptions) -> tuple[Engine, str, int]:
    """The fastest engine that can be made, not proven yet: that is done when a version is staged."""
    converted = _converted(loaded, contract)
    if converted is not None:
        content, form = converted
        return OnnxEngine(open_session(content, options), contract, form), "onnx", len(content)
    size = len(pickle.dumps(loaded.estimator))  # what it would be on disk; nothing is loaded from it
    return make_native(loaded, contract), "sklearn", size


def _converted(loaded: LoadedModel, contract: Contract) -> tuple[bytes, OnnxForm] | None:
    if not is_onnx_installed():
        return None
    from feedback_loop.inference.conversion import CantConvert, convert

    try:
        made = convert(loaded.estimator, contract.features)
    except CantConvert:
        return None
    return made.content, OnnxForm(made.layout, made.has_scores)


def _in_fewer_bits(
    loaded: LoadedModel, contract: Contract, rows: pa.Table, options: EngineOptions
) -> Iterator[Measured]:
    """Dense layers in fewer bits: measured in any case, so that it is seen what it would bring."""
    converted = _converted(loaded, contract)
    if converted is None:
        return
    content, form = converted
    for name, precision in _DENSE.items():
        smaller = quantized(content, precision)
        if smaller is not None:
            engine = OnnxEngine(open_session(smaller, options), contract, form)
            yield measure(name, engine, "onnx", len(smaller), contract, rows)
