"""Which engine a version gets: ONNX where it converts and is proven, else the model as it is."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feedback_loop.errors import FeedbackLoopError
from feedback_loop.inference.categories import categories_of
from feedback_loop.inference.dense import quantized
from feedback_loop.inference.engines import Engine
from feedback_loop.inference.onnx import OnnxEngine, OnnxForm
from feedback_loop.inference.providers import EngineOptions, is_onnx_installed, open_session
from feedback_loop.inference.proving import Limits, Proof, ask_refusals, label_follows, proof_rows, prove
from feedback_loop.inference.trying import known_rows, make_native
from feedback_loop.registry import TAG, LoadedModel
from feedback_loop.schema import Contract

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

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
    from threadpoolctl import threadpool_limits

    attempt = _Attempt(loaded, contract, converted.form, rows, options)
    try:
        with threadpool_limits(options.threads):
            return _choose(attempt, converted.content, settings.tolerance)
    except Exception as error:  # noqa: BLE001 (whatever goes wrong while it is proven, the model itself still answers)
        cause = error.cause if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
        return EngineChoice(reason=f"it can't be proven: {cause}")


def served_engine(
    loaded: LoadedModel, contract: Contract, engine: Engine, settings: InferenceSettings, known: pa.Table
) -> tuple[Engine, str]:
    """What a server would answer by, made in memory: converted and proven on `known` rows, or else `engine` itself.

    With the reason why it is not converted; empty where it is.
    """
    options = EngineOptions()
    choice = make_engine(loaded, contract, settings, known, options)
    if choice.content is None or choice.form is None:
        return engine, choice.reason
    session = open_session(choice.content, options)
    return OnnxEngine(session, contract, choice.form, answers_with=loaded.answers_with), ""


def measure_parity(
    loaded: LoadedModel, contract: Contract, precision: str, known: pa.Table, options: EngineOptions
) -> Proof | None:
    """How far the model with its dense layers in fewer bits is from itself on all rows of a proof.

    None where it is too far for any limit: it has no such layers, or answers what the model refuses.
    """
    from feedback_loop.inference.conversion import convert

    converted = convert(loaded.estimator, contract.features)
    rows = known_rows(loaded, contract, known)
    assert rows is not None  # some were given
    smaller = quantized(converted.content, precision)
    if smaller is None:
        return None
    no_limits = Limits(sys.float_info.max, float("inf"))
    choice = _Attempt(loaded, contract, converted.form, rows, options).prove(smaller, no_limits)
    return choice.proof if choice.content is not None else None


def _choose(attempt: _Attempt, content: bytes, tolerance: float) -> EngineChoice:
    """Dense layers in fewer bits where the version was registered so and still is as near, else all as they are."""
    if PRECISION not in attempt.loaded.version.tags:
        return attempt.prove(content, Limits(tolerance))
    smaller = _in_fewer_bits(attempt, content)
    if smaller.content is not None:
        return smaller
    choice = attempt.prove(content, Limits(tolerance))
    return replace(choice, reason=choice.reason or f"its dense layers are not in fewer bits: {smaller.reason}")


def _in_fewer_bits(attempt: _Attempt, content: bytes) -> EngineChoice:
    """The variant that was registered, if it is as near to the estimator as it was then."""
    tags = attempt.loaded.version.tags
    if PARITY not in tags:
        return EngineChoice(reason="how far they were from the model when it was registered is not on record")
    difference, classes = map(float, tags[PARITY].split())
    smaller = quantized(content, tags[PRECISION])
    if smaller is None:
        return EngineChoice(reason="it has none")
    return attempt.prove(smaller, Limits(difference * SLACK, classes))


def _without_trying(loaded: LoadedModel, settings: InferenceSettings) -> str:
    if loaded.estimator is None:
        return "it is no scikit-learn model"
    if loaded.answers_with not in ("predict", "predict_proba"):
        return f"it answers with {loaded.answers_with}, and no converted model does"
    if settings.engine == "native":
        return "the configuration wants the model as it is"
    return "" if is_onnx_installed() else "ONNX Runtime is not installed: pip install 'feedback-loop[onnx]'"


@dataclass(frozen=True)
class _Attempt:
    """A model whose converted forms are tried: what they are compared with, on which rows."""

    loaded: LoadedModel
    contract: Contract
    form: OnnxForm
    known: pa.Table
    options: EngineOptions

    def prove(self, content: bytes, limits: Limits) -> EngineChoice:
        """The converted model, if it answers as the original does."""
        try:
            session = open_session(content, self.options)
        except Exception as error:  # noqa: BLE001 (ONNX Runtime's own errors share no base; whatever it says is the reason)
            cause = " ".join(str(error).split())[:300]
            return EngineChoice(reason=f"ONNX Runtime refuses what it was converted to: {cause}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # edges are meant to be where scikit-learn warns
            form, proof = self._compared(session, limits)
        if not proof.holds:
            return EngineChoice(proof=proof, reason=f"the proof fails: {proof.reason}")
        return EngineChoice(content, form, proof)

    def _compared(self, session: InferenceSession, limits: Limits) -> tuple[OnnxForm, Proof]:
        contract, original = self.contract, make_native(self.loaded, self.contract)
        refusals = ask_refusals(original, contract, self.known)
        rows = proof_rows(contract, self.known, refusals, _words(self.loaded.estimator))
        scored = [original.score(rows[kind]) for kind in ("reference", "random")]
        form = replace(
            self.form,
            refusals=refusals,
            label_follows=self.form.has_scores and all(label_follows(contract, answers) for answers in scored),
            nested=not contract.task.is_classification and isinstance(scored[0].answers[0], list),
        )
        engine = OnnxEngine(session, contract, form, answers_with=self.loaded.answers_with)
        return form, replace(prove(original, engine, contract, rows, limits), versions=_versions())


def _words(estimator: Any) -> list[str]:
    """The categories that the encoders within an estimator know."""
    return list(dict.fromkeys(categories_of(estimator, lambda value: isinstance(value, str))))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("scikit-learn", "skl2onnx", "onnxruntime", "numpy")}
