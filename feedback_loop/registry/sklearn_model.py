"""scikit-learn models in MLflow's format: saved without code where that is possible, loaded as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from feedback_loop.registry.soundness import DATA_TYPES

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

NEEDED = ("scikit-learn", "skops", "numpy", "pandas", "scipy")
"""What a scikit-learn model needs to be loaded: stated, since MLflow's own inference of it takes 8 s."""

_log = structlog.get_logger(__name__)


def save_sklearn(
    estimator: Any,
    path: Path,
    *,
    signature: ModelSignature | None,
    answers_with: str,
    kind: dict[str, Any],
    example: pd.DataFrame | None = None,
    requirements: Sequence[str] = (),
    code: Sequence[Path] = (),
    metadata: dict[str, Any] | None = None,
    flavor: str = "sklearn",
) -> None:
    """Writes a fitted estimator to a folder in MLflow's format, in one of its `serializations`.

    `code` are modules that it needs. `flavor` is MLflow's, of those that take such estimators. The registry does not
    know of it yet.
    """
    kind = {**kind, "pyfunc_predict_fn": answers_with} if flavor == "sklearn" else kind
    import_module(f"mlflow.{flavor}").save_model(
        estimator,
        str(path),
        signature=signature,
        input_example=example,
        pip_requirements=list(requirements) or [f"{package}=={version(package)}" for package in NEEDED],
        code_paths=[str(module) for module in code] or None,
        metadata=metadata,
        **kind,
    )


def write_estimator(estimator: Any, path: Path) -> None:
    """Writes a fitted estimator to a folder in MLflow's format, in the best way that it can be kept."""
    kind = next(iter(serializations(estimator)))
    save_sklearn(estimator, path, signature=None, answers_with="predict", kind=kind)


def load_sklearn(path: Path) -> Any:
    """The estimator that lies in a folder in MLflow's format."""
    import mlflow.sklearn

    return mlflow.sklearn.load_model(str(path))


def serializations(estimator: Any) -> Iterator[dict[str, Any]]:
    """In what an estimator can be kept, the best first: skops, which holds no code, where it can; then cloudpickle.

    The types that skops asks about are trusted: they come from an object that is in this process already.
    """
    import skops.io as skops

    try:
        data = skops.dumps(estimator)
        types = skops.get_untrusted_types(data=data)
        skops.loads(data, trusted=types)
    except Exception as error:  # noqa: BLE001 (skops raises whatever a foreign class raises while it is taken apart)
        _log.debug("not_in_skops", cause=repr(error))
    else:
        yield {"serialization_format": "skops", "skops_trusted_types": types}
    yield {"serialization_format": "cloudpickle"}


def asked_types(content: bytes) -> list[str]:
    """What a skops file asks to be trusted."""
    import skops.io as skops

    return list(skops.get_untrusted_types(data=content))


def foreign_types(asked: Iterable[str]) -> list[str]:
    """What of that is neither an estimator nor a loss of scikit-learn's, nor data whose contents are checked."""
    return [name for name in asked if not _is_harmless(name)]


def _is_harmless(name: str) -> bool:
    """Functions are not (but for two that are listed), since one that a package holds by chance may run anything."""
    if name in DATA_TYPES:
        return True
    module, _, kind = name.rpartition(".")
    if module.split(".")[0] != "sklearn":
        return False
    from sklearn.base import BaseEstimator

    defined = getattr(sys.modules.get(module) or import_module(module), kind, None)
    return isinstance(defined, type) and (issubclass(defined, BaseEstimator) or module.startswith("sklearn._loss"))
