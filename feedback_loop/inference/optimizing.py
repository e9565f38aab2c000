"""Smaller, faster versions of a model, tried against an accuracy budget: fewer trees or stages, or fewer bits."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feedback_loop.inference.dense import PRECISIONS, quantized
from feedback_loop.inference.engines import Engine
from feedback_loop.inference.onnx import OnnxEngine
from feedback_loop.inference.providers import EngineOptions, is_onnx_installed, open_session
from feedback_loop.inference.trying import make_native
from feedback_loop.progress import Progress
from feedback_loop.registry import LoadedModel
from feedback_loop.schema import Contract

if TYPE_CHECKING:
    from feedback_loop.inference.conversion import Converted

KEPT = (0.75, 0.5, 0.3, 0.2, 0.1)
"""The shares of trees or stages that are tried."""

FEWEST_ROWS = (0, 5, 20, 50)
"""A branch that fewer training rows went through is merged (0: only those whose leaves say the same)."""

CALLS, BATCH, ROUNDS, REPEATS = 200, 256, 7, 5
"""Rows asked alone; rows of a batch; how often all are measured in turn, and the best of how many calls counts."""

AS_IT_IS = "as it is"
_DENSE = {f"dense layers in {precision}": precision for precision in PRECISIONS}
"""Variants that exist in ONNX only."""

Smaller = list[tuple[str, Callable[[], Any]]]
"""Names of smaller estimators, which are still scikit-learn's, and how each is made."""


@dataclass(frozen=True)
class Measured:
    """A variant's figures. `score` is the share of right classes, for a regression R²; `size_bytes` the file's."""

    variant: str
    engine: str
    size_bytes: int
    p50_us: float
    p99_us: float
    rows_per_second: float
    score: float
    within_budget: bool = True
    chosen: bool = False


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
        return next((variant for variant in self.tried if variant.chosen), None)


@dataclass(frozen=True)
class _Variant:
    name: str
    estimator: Any
    engine: Engine
    size_bytes: int


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

    Chosen is the fastest of those that are faster than the model itself beyond doubt, and whose score is at most
    `budget` below its own; one with dense layers in fewer bits, which no scikit-learn can hold, only with `quantize`.
    """
    if loaded.estimator is None:
        return Optimization((), None, "it is no scikit-learn model: nothing can be left out of what can't be seen")
    smaller, reason = variants(loaded.estimator)
    if reason:
        return Optimization((), None, reason)
    tried = _variants(AS_IT_IS, loaded, contract, options, precisions=_DENSE)
    with progress.track(f"optimize {loaded.version.model}", len(smaller) + ROUNDS) as advance:
        for name, make in smaller:
            tried += _variants(name, replace(loaded, estimator=make()), contract, options)
            advance(1)
        seconds = np.array([_round(tried, rows, advance) for _ in range(ROUNDS)]).T
    measured = [
        _measured(variant, contract, rows, times.min()) for variant, times in zip(tried, seconds, strict=True)
    ]
    judged = [replace(figures, within_budget=figures.score >= measured[0].score - budget) for figures in measured]
    fit = [
        place
        for place, figures in enumerate(judged)
        if place
        and figures.within_budget
        and (quantize or figures.variant not in _DENSE)
        and is_faster(seconds[place], seconds[0])
    ]
    if not fit:
        is_any_within = any(figures.within_budget for figures in judged[1:])
        lossy = f"every variant loses more than the budget of {budget:g}"
        slow = "no variant within the budget is faster by more than two measurements of the model itself differ"
        return Optimization(tuple(judged), None, slow if is_any_within else lossy)
    best = min(fit, key=lambda place: seconds[place].min())
    judged[best] = replace(judged[best], chosen=True)
    return Optimization(tuple(judged), tried[best].estimator, precision=_DENSE.get(tried[best].name, ""))


def is_faster(seconds: np.ndarray[Any, Any], base: np.ndarray[Any, Any]) -> bool:
    """Whether each measurement of a variant is below each of the model's: by chance that is once in 3,432 times."""
    return bool(seconds.max() < base.min())


def score(engine: Engine, contract: Contract, rows: pa.Table) -> float:
    """Accuracy, or R² of a regression."""
    predicted = engine.score(rows).outputs.column(contract.outputs[0].stored)
    truth = rows.column(contract.label.name)
    if contract.task.is_classification:
        pairs = zip(predicted.to_pylist(), truth.to_pylist(), strict=True)
        return float(sum(one == other for one, other in pairs) / rows.num_rows)
    true, said = truth.to_numpy().astype(np.float64), predicted.to_numpy()
    spread = float(((true - true.mean()) ** 2).sum())
    return 1 - float(((true - said) ** 2).sum()) / spread if spread else 0.0


def _round(tried: Sequence[_Variant], rows: pa.Table, advance: Callable[[int], None]) -> list[float]:
    """How long each takes for a batch, all measured in turn: what slows the machine down meanwhile slows all."""
    batch = pa.concat_tables([rows] * -(-BATCH // rows.num_rows)).slice(0, BATCH).combine_chunks()
    times = [min(_seconds(variant.engine, batch) for _ in range(REPEATS)) for variant in tried]
    advance(1)
    return times


def _measured(variant: _Variant, contract: Contract, rows: pa.Table, fastest: float) -> Measured:
    engine, kind = variant.engine, "onnx" if isinstance(variant.engine, OnnxEngine) else "sklearn"
    times = [_seconds(engine, rows.slice(place % rows.num_rows, 1)) for place in range(CALLS)]
    p50, p99 = np.percentile(times, [50, 99]) * 1e6
    speed = float(BATCH / fastest)
    return Measured(
        variant.name, kind, variant.size_bytes, float(p50), float(p99), speed, score(engine, contract, rows)
    )


def _seconds(engine: Engine, rows: pa.Table) -> float:
    began = time.perf_counter()
    engine.score(rows)
    return time.perf_counter() - began


def _variants(
    name: str,
    loaded: LoadedModel,
    contract: Contract,
    options: EngineOptions,
    precisions: Mapping[str, str] = {},
) -> list[_Variant]:
    """The fastest engine that can be made; where it has dense layers, also with these in the precisions (by name).

    Nothing is proven yet: that is done when a version is staged.
    """
    converted = _converted(loaded, contract)
    if converted is None:
        size = len(pickle.dumps(loaded.estimator))  # what it would be on disk; nothing is loaded from it
        return [_Variant(name, loaded.estimator, make_native(loaded, contract), size)]
    graphs: dict[str, bytes | None] = {name: converted.content}
    graphs |= {variant: quantized(converted.content, precision) for variant, precision in precisions.items()}
    return [
        _Variant(
            variant, loaded.estimator, OnnxEngine(open_session(graph, options), contract, converted.form), len(graph)
        )
        for variant, graph in graphs.items()
        if graph is not None
    ]


def _converted(loaded: LoadedModel, contract: Contract) -> Converted | None:
    if not is_onnx_installed():
        return None
    from feedback_loop.inference.conversion import CantConvert, convert

    try:
        return convert(loaded.estimator, contract.features)
    except CantConvert:
        return None


def variants(estimator: Any) -> tuple[Smaller, str]:
    """The smaller estimators that can be made of one; or none, and why (of a network: none, without a reason)."""
    from sklearn import ensemble, neural_network, tree

    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    forests = (
        ensemble.RandomForestClassifier,
        ensemble.RandomForestRegressor,
        ensemble.ExtraTreesClassifier,
        ensemble.ExtraTreesRegressor,
    )
    boosted = (ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor)
    histograms = (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor)
    smaller: Smaller = []
    if isinstance(last, forests):
        smaller = _of_forest(last)
    elif isinstance(last, boosted):
        smaller = _fewer(last, "stages", "estimators_", "n_estimators", "n_estimators_")
    elif isinstance(last, histograms):
        smaller = _fewer(last, "stages", "_predictors", "max_iter")
    elif isinstance(last, tree.DecisionTreeClassifier | tree.DecisionTreeRegressor):
        smaller = [(_merged_name(rows), partial(_merged_tree, last, rows)) for rows in FEWEST_ROWS]
    elif not isinstance(last, neural_network.MLPClassifier | neural_network.MLPRegressor):
        return [], f"{type(last).__name__} has no trees, stages or layers of which some could be left out"
    return [(name, partial(_with_last, estimator, make)) for name, make in smaller], ""


def _of_forest(forest: Any) -> Smaller:
    merged: Smaller = [(_merged_name(rows), partial(_merged_forest, forest, rows)) for rows in FEWEST_ROWS]
    half = _first(forest, max(len(forest.estimators_) // 2, 1), "estimators_", "n_estimators")
    both = ("50% of the trees, " + _merged_name(20), partial(_merged_forest, half, 20))
    return [*_fewer(forest, "trees", "estimators_", "n_estimators"), *merged, both]


def _with_last(estimator: Any, make: Callable[[], Any]) -> Any:
    last = make()
    if not hasattr(estimator, "steps"):
        return last
    shorter = copy.copy(estimator)
    shorter.steps = [*estimator.steps[:-1], (estimator.steps[-1][0], last)]
    return shorter


def _fewer(last: Any, what: str, members: str, *counts: str) -> Smaller:
    count = len(getattr(last, members))
    shares = dict.fromkeys(max(round(count * share), 1) for share in KEPT)
    return [
        (f"{kept} of {count} {what}", partial(_first, last, kept, members, *counts))
        for kept in shares
        if kept < count
    ]


def _first(last: Any, kept: int, members: str, *counts: str) -> Any:
    """A copy with the first of its trees or stages, and their number in the attributes `counts`."""
    fewer = copy.copy(last)
    setattr(fewer, members, getattr(last, members)[:kept])
    for name in counts:
        setattr(fewer, name, kept)
    return fewer


def _merged_name(rows: int) -> str:
    return f"branches below {rows} rows merged" if rows else "branches that say the same merged"


def _merged_forest(forest: Any, rows: int) -> Any:
    merged = copy.copy(forest)
    merged.estimators_ = [_merged_tree(tree, rows) for tree in forest.estimators_]
    return merged


def _merged_tree(estimator: Any, rows: int) -> Any:
    merged = copy.deepcopy(estimator)
    tree = merged.tree_
    # A node's children come after it: from the last to the first, what is below a node is done before it.
    for node in range(tree.node_count - 1, -1, -1):
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0 or tree.children_left[left] >= 0 or tree.children_left[right] >= 0:
            continue
        same = np.array_equal(tree.value[left], tree.value[right])
        if same or tree.n_node_samples[node] < rows:
            tree.children_left[node] = tree.children_right[node] = -1
    return merged
