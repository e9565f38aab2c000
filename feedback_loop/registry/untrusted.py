"""Models of a registry that is not trusted: only what was checked is loaded, and nothing in it can run as code.

This is a list of what is allowed. Whatever else a folder asks for (another flavor, loader, format, code path or
setting) is refused, since MLflow's own way of loading does what the file MLmodel says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import Refused
from feedback_loop.registry.soundness import unsound
from feedback_loop.registry.versions import ModelVersion

if TYPE_CHECKING:
    import pandas as pd

PYFUNC = "python_function"

PYFUNC_KEYS = {"code", "data", "env", "loader_module", "model_path", "predict_fn", "python_version", "streamable"}
"""What the flavor python_function may say; `code` must be empty."""

SKLEARN_KEYS = {"code", "pickled_model", "serialization_format", "skops_trusted_types", "sklearn_version"}
ONNX_KEYS = {"code", "data", "onnx_session_options", "onnx_version", "providers"}
FLAVOR_KEYS = {"sklearn": SKLEARN_KEYS, "onnx": ONNX_KEYS}
"""The flavors that are loaded, and what each may say. `skops_trusted_types` is not used."""

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")
"""What of an estimator may be called to answer."""


@dataclass(frozen=True)
class Parts:
    """What of a folder is in memory: an estimator of scikit-learn's, or something that answers frames."""

    estimator: Any | None
    pyfunc: Callable[[pd.DataFrame], Any] | None


def load_untrusted(path: Path, described: Any, version: ModelVersion) -> Parts:
    """The model in a folder, if it is ONNX, or scikit-learn kept by skops; raises Refused for all else."""
    try:
        flavor = _only_flavor(described.flavors)
        _refuse_links(path)
        if flavor == "sklearn":
            return Parts(_load_skops(path, described.flavors["sklearn"]), None)
        return Parts(None, _load_onnx(path, described.flavors))
    except _NotAllowed as error:
        raise Refused(
            f"{version} holds code or asks for some ({error}), and its registry is not trusted.",
            cure="Save it as skops or ONNX; or, if whoever writes to that registry may run code here, "
            "set registry.trusted = true.",
        ) from None


class _NotAllowed(Exception):
    """What a folder holds or asks for that is on no list."""


def _only_flavor(flavors: dict[str, dict[str, Any]]) -> str:
    """The one flavor to load; the only other one may be python_function, as MLflow writes it."""
    if any(flavor.get("code") for flavor in flavors.values()):
        raise _NotAllowed("modules of its own")
    others = [name for name in flavors if name not in FLAVOR_KEYS]
    if others not in ([], [PYFUNC]):
        raise _NotAllowed(f"the flavor {next(name for name in others if name != PYFUNC)}")
    names = [name for name in flavors if name in FLAVOR_KEYS]
    if len(names) != 1:
        raise _NotAllowed("more than one flavor" if names else f"the flavor {PYFUNC}")
    name = names[0]
    _refuse_other_keys(name, flavors[name], FLAVOR_KEYS[name])
    pyfunc = flavors.get(PYFUNC)
    if pyfunc is not None:
        _refuse_other_keys(PYFUNC, pyfunc, PYFUNC_KEYS)
        if pyfunc.get("loader_module") != f"mlflow.{name}":
            raise _NotAllowed(f"the loader {pyfunc.get('loader_module')}")
        if pyfunc.get("predict_fn", "predict") not in METHODS:
            raise _NotAllowed(f"the method {pyfunc['predict_fn']}")
    return name


def _refuse_other_keys(name: str, flavor: dict[str, Any], allowed: set[str]) -> None:
    others = sorted(key for key in flavor.keys() - allowed if flavor[key] is not None)
    if others:
        raise _NotAllowed(f"the setting {others[0]} of the flavor {name}")


def _refuse_links(path: Path) -> None:
    """A link may lead to a file that nobody meant to be read, or to one that changes after the check."""
    for file in path.rglob("*"):
        if file.is_symlink():
            raise _NotAllowed(f"the link {file.relative_to(path)}")


def _file_of(path: Path, name: object) -> Path:
    file = (path / str(name)).resolve()
    if not isinstance(name, str) or not file.is_relative_to(path.resolve()) or not file.is_file():
        raise _NotAllowed(f"the file {name!r}, which is none of its folder's")
    return file


def _load_skops(path: Path, flavor: dict[str, Any]) -> Any:
    """The same bytes are checked and loaded."""
    kind = flavor.get("serialization_format", "cloudpickle")
    if kind != "skops":
        raise _NotAllowed(f"the format {kind}")
    import skops.io

    from feedback_loop.registry.sklearn_model import asked_types, foreign_types

    content = _file_of(path, flavor.get("pickled_model")).read_bytes()
    asked = asked_types(content)
    if foreign := foreign_types(asked):
        raise _NotAllowed(f"the types {', '.join(foreign)}")
    loaded = skops.io.loads(content, trusted=asked)
    if cause := unsound(loaded):
        raise _NotAllowed(cause)
    return loaded


def _load_onnx(path: Path, flavors: dict[str, dict[str, Any]]) -> Callable[[pd.DataFrame], Any]:
    """By MLflow's own loader for ONNX. ONNX Runtime itself keeps weights in other files to the folder."""
    flavor = flavors["onnx"]
    _file_of(path, flavor.get("data"))
    if flavors.get(PYFUNC, {}).get("data") != flavor["data"]:
        raise _NotAllowed("another file for the flavor python_function")
    if (flavor.get("onnx_session_options") or {}).get("extra_session_config"):
        raise _NotAllowed("the setting extra_session_config of ONNX Runtime")
    providers = flavor.get("providers") or []
    if isinstance(providers, list) and not all(isinstance(provider, str) for provider in providers):
        raise _NotAllowed("options of ONNX Runtime's providers")
    import mlflow.pyfunc

    answer: Callable[[pd.DataFrame], Any] = mlflow.pyfunc.load_model(str(path)).predict
    return answer
