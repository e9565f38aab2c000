"""Which engine a version gets: ONNX where it converts and is proven, else the model as it is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feedback_loop.errors import FeedbackLoopError
from feedback_loop.inference.onnx import OnnxEngine, OnnxForm
from feedback_loop.inference.providers import EngineOptions, is_onnx_installed, open_session
from feedback_loop.inference.proving import Proof, ask_refusals, label_follows, proof_rows, prove
from feedback_loop.inference.scorer import make_native
from feedback_loop.registry import LoadedModel, input_example
from feedback_loop.schema import Contract, coerce

if TYPE_CHECKING:
    from feedback_loop.config import InferenceSettings


@dataclass(frozen=True)
class Made:
    """An ONNX file with its form and proof; or, without `content`, the reason why there is none."""

    content: bytes | None = None
    form: OnnxForm | None = None
    proof: Proof | None = None
    reason: str = ""


def make_engine(
    loaded: LoadedModel,
    contract: Contract,
    settings: InferenceSettings,
    known: pa.Table | None,
    options: EngineOptions,
) -> Made:
    """Converts and proves, on as many threads as the options say; what is against it is a reason, not an error."""
    reason = _without_trying(loaded, settings)
    if reason:
        return Made(reason=reason)
    from feedback_loop.inference.conversion import CantConvert, convert

    try:
        converted = convert(loaded.estimator, contract.features)
    except CantConvert as error:
        return Made(reason=f"it can't be converted: {error}")
    rows = known_rows(loaded, contract, known)
    if rows is None or not rows.num_rows:
        return Made(reason="there are no rows to prove it on: neither reference rows nor an input example")
    form = OnnxForm(converted.layout, converted.has_scores)
    from threadpoolctl import threadpool_limits

    try:
        with warnings.catch_warnings(), threadpool_limits(options.threads):
            warnings.simplefilter("ignore")  # edges are meant to be where scikit-learn warns
            return _proven(loaded, contract, converted.content, form, rows, settings.tolerance, options)
    except Exception as error:  # noqa: BLE001 (whatever goes wrong while it is proven, the model itself still answers)
        said = error.cause if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
        return Made(reason=f"it can't be proven: {said}")


def _without_trying(loaded: LoadedModel, settings: InferenceSettings) -> str:
    if loaded.estimator is None:
        return "it is no scikit-learn model"
    if settings.engine == "native":
        return "the configuration wants the model as it is"
    return "" if is_onnx_installed() else "ONNX Runtime is not installed (the extra `onnx`)"


def _proven(
    loaded: LoadedModel,
    contract: Contract,
    content: bytes,
    form: OnnxForm,
    known: pa.Table,
    tolerance: float,
    options: EngineOptions,
) -> Made:
    try:
        session = open_session(content, options)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's own errors share no base; whatever it says is the reason)
        return Made(reason=f"ONNX Runtime refuses what it was converted to: {' '.join(str(error).split())[:300]}")
    original = make_native(loaded, contract)
    refusals = ask_refusals(original, contract, known)
    rows = proof_rows(contract, known, refusals, _words(loaded.estimator))
    form = replace(form, refusals=refusals)
    follows = all(label_follows(contract, original.score(rows[kind])) for kind in ("reference", "random"))
    form = replace(form, label_follows=form.has_scores and follows)
    engine = OnnxEngine(session, contract, form, answers_with=loaded.answers_with)
    proof = replace(prove(original, engine, contract, rows, tolerance), versions=_versions())
    if not proof.holds:
        return Made(proof=proof, reason=f"the proof fails: {proof.reason}")
    return Made(content, form, proof)


def known_rows(loaded: LoadedModel, contract: Contract, known: pa.Table | None) -> pa.Table | None:
    """Features of rows that the version is known to take: its reference rows, else its input example."""
    if known is not None:
        names = known.column_names
        known = known.rename_columns([_named(contract, name) for name in names])
    else:
        known = input_example(loaded, [column.name for column in contract.features])
    return None if known is None else coerce(known, contract.features).combine_chunks()


def _named(contract: Contract, stored: str) -> str:
    return next((column.name for column in contract.features if column.stored == stored), stored)


def _words(estimator: Any) -> list[str]:
    """The categories that the encoders within an estimator know."""
    found: dict[str, None] = {}
    waiting, seen = [estimator], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        for categories in getattr(each, "categories_", ()):
            found |= {word: None for word in np.asarray(categories).ravel().tolist() if isinstance(word, str)}
        for name in ("steps", "transformers_", "estimators_"):
            parts = getattr(each, name, None)
            waiting += [part[1] for part in parts if isinstance(part, tuple)] if isinstance(parts, list) else []
    return list(found)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("scikit-learn", "skl2onnx", "onnxruntime", "numpy")}
