"""Which engine a version gets: ONNX where it converts and is proven, else the model as it is."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feedback_loop.errors import FeedbackLoopError
from feedback_loop.inference.dense import quantized
from feedback_loop.inference.onnx import OnnxEngine, OnnxForm
from feedback_loop.inference.providers import EngineOptions, is_onnx_installed, open_session
from feedback_loop.inference.proving import Limits, Proof, ask_refusals, label_follows, proof_rows, prove
from feedback_loop.inference.trying import categories_of, known_rows, make_native
from feedback_loop.registry import TAG, LoadedModel
from feedback_loop.schema import Contract

if TYPE_CHECKING:
    from feedback_loop.config import InferenceSettings


PRECISION, PARITY = TAG + "precision", TAG + "parity"
"""Tags of a version with dense layers in fewer bits: in which, and how far that takes it from its estimator."""

SLACK = 1.5
"""So many times what was measured when it was registered: another machine adds in another order."""


@dataclass(frozen=True)
class EngineChoice:
    """An ONNX file with its form and proof; or, without `content`, no such file. `reason` is why nothing faster."""

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
) -> EngineChoice:
    """Converts and proves, on as many threads as the options say; what is against it is a reason, not an error."""
    reason = "it predicts several labels" if contract.more_labels else _without_trying(loaded, settings)
    if reason:
        return EngineChoice(reason=reason)
    from feedback_loop.inference.conversion import CantConvert, convert

    try:
        converted = convert(loaded.estimator, contract.features)
    except CantConvert as error:
        return EngineChoice(reason=f"it can't be converted: {error}")
    rows = known_rows(loaded, contract, known)
    if rows is None or not rows.num_rows:
        return EngineChoice(reason="there are no rows to prove it on: neither reference rows nor an input example")
    form = OnnxForm(converted.layout, converted.has_scores)
    from threadpoolctl import threadpool_limits

    try:
        with warnings.catch_warnings(), threadpool_limits(options.threads):
            warnings.simplefilter("ignore")  # edges are meant to be where scikit-learn warns
            lost = ""
            if PRECISION in loaded.version.tags:
                made = _in_fewer_bits(loaded, contract, converted.content, form, rows, options)
                if made.content is not None:
                    return made
                lost = f"its dense layers are not in fewer bits: {made.reason}"
            limits = Limits(settings.tolerance)
            made = _proven(loaded, contract, converted.content, form, rows, limits, options)
            return replace(made, reason=made.reason or lost)
    except Exception as error:  # noqa: BLE001 (whatever goes wrong while it is proven, the model itself still answers)
        said = error.cause if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
        return EngineChoice(reason=f"it can't be proven: {said}")


def measure_parity(
    loaded: LoadedModel, contract: Contract, precision: str, known: pa.Table, options: EngineOptions
) -> Proof | None:
    """How far the model with its dense layers in fewer bits is from itself on all rows of a proof.

    None where it is too far for any limit: it has no such layers, or answers what the model refuses.
    """
    from feedback_loop.inference.conversion import convert

    converted = convert(loaded.estimator, contract.features)
    form = OnnxForm(converted.layout, converted.has_scores)
    rows = known_rows(loaded, contract, known)
    assert rows is not None  # some were given
    endless = Limits(sys.float_info.max, float("inf"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # edges are meant to be where scikit-learn warns
        smaller = quantized(converted.content, precision)
        made = (
            _proven(loaded, contract, smaller, form, rows, endless, options)
            if smaller is not None
            else EngineChoice()
        )
    return made.proof if made.content is not None else None


def _in_fewer_bits(
    loaded: LoadedModel,
    contract: Contract,
    content: bytes,
    form: OnnxForm,
    rows: pa.Table,
    options: EngineOptions,
) -> EngineChoice:
    """The variant that was registered, if it is as near to the estimator as it was then."""
    tags = loaded.version.tags
    if PARITY not in tags:
        return EngineChoice(reason="how far they were from the model when it was registered is not on record")
    difference, classes = map(float, tags[PARITY].split())
    smaller = quantized(content, tags[PRECISION])
    if smaller is None:
        return EngineChoice(reason="it has none")
    return _proven(loaded, contract, smaller, form, rows, Limits(difference * SLACK, classes), options)


def _without_trying(loaded: LoadedModel, settings: InferenceSettings) -> str:
    if loaded.estimator is None:
        return "it is no scikit-learn model"
    if loaded.answers_with not in ("predict", "predict_proba"):
        return f"it answers with {loaded.answers_with}, and no converted model does"
    if settings.engine == "native":
        return "the configuration wants the model as it is"
    return "" if is_onnx_installed() else "ONNX Runtime is not installed: pip install 'feedback-loop[onnx]'"


def _proven(
    loaded: LoadedModel,
    contract: Contract,
    content: bytes,
    form: OnnxForm,
    known: pa.Table,
    limits: Limits,
    options: EngineOptions,
) -> EngineChoice:
    try:
        session = open_session(content, options)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's own errors share no base; whatever it says is the reason)
        return EngineChoice(
            reason=f"ONNX Runtime refuses what it was converted to: {' '.join(str(error).split())[:300]}"
        )
    original = make_native(loaded, contract)
    refusals = ask_refusals(original, contract, known)
    rows = proof_rows(contract, known, refusals, _words(loaded.estimator))
    form = replace(form, refusals=refusals)
    told = [original.score(rows[kind]) for kind in ("reference", "random")]
    follows = all(label_follows(contract, each) for each in told)
    nested = not contract.task.is_classification and isinstance(told[0].answers[0], list)
    form = replace(form, label_follows=form.has_scores and follows, nested=nested)
    engine = OnnxEngine(session, contract, form, answers_with=loaded.answers_with)
    proof = replace(prove(original, engine, contract, rows, limits), versions=_versions())
    if not proof.holds:
        return EngineChoice(proof=proof, reason=f"the proof fails: {proof.reason}")
    return EngineChoice(content, form, proof)


def _words(estimator: Any) -> list[str]:
    """The categories that the encoders within an estimator know."""
    return list(dict.fromkeys(categories_of(estimator, lambda value: isinstance(value, str))))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("scikit-learn", "skl2onnx", "onnxruntime", "numpy")}
