"""A candidate on disk, with its predecessor's code and true requirements, proven by a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from feedback_loop.errors import Refused
from feedback_loop.registry.boosting import PICKLED, flavor_of, keeps
from feedback_loop.registry.sklearn_model import NEEDED, save_sklearn, serializations
from feedback_loop.registry.versions import LoadedModel

PROOF_SECONDS = 600
"""So long may a process take to load a candidate and to answer a few rows."""

_FRESH = """
import sys
import mlflow.pyfunc, pandas
folder, inputs, answers, way, *methods = sys.argv[1:]
try:
    model = mlflow.pyfunc.load_model(folder, suppress_warnings=True)
    model = model.get_raw_model() if way == "raw" else model
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
try:
    rows = pandas.read_pickle(inputs)
    pandas.to_pickle([getattr(model, method)(rows) for method in methods], answers)
except Exception as error:  # its words may be of the rows
    sys.exit(f"{type(error).__name__}, when it is asked")
"""


@dataclass(frozen=True)
class Proven:
    """What is to follow a version, and a few rows (as it takes them) that it is tried on: a fitted estimator, or what
    was loaded from a folder in MLflow's format.
    """

    parent: LoadedModel
    estimator: Any
    inputs: Any


def write_candidate(candidate: Proven, folder: Path) -> Path:
    """Writes the candidate into a folder in MLflow's format; returns where it is.

    It is written without code where that is possible, and so that a fresh process, by MLflow alone, loads it and
    gives the same answers. What lies in a folder is taken as it is. Raises Refused where no way has that.
    """
    cause = ""
    for path in _written(candidate, folder):
        cause = _what_fails_elsewhere(path, candidate, folder)
        if not cause:
            return path
    version = candidate.parent.version
    raise Refused(
        f"What was fitted to follow {version} can't be loaded by a fresh process: {cause.rstrip('.')}.",
        cure="Log the model with its modules (code_paths=[…]), or install them wherever it is served.",
    )


def _written(candidate: Proven, folder: Path) -> Iterator[Path]:
    """The ways in which it can be kept, the best first."""
    from mlflow.models import Model

    if isinstance(candidate.estimator, LoadedModel):
        yield shutil.copytree(candidate.estimator.path, folder / "model")
        return
    parent = candidate.parent.followed_by(candidate.estimator)
    described, is_alike = Model.load(str(parent.path)), candidate.parent.estimator is not None
    flavor = flavor_of(described)
    flavor = flavor if keeps(flavor, candidate.estimator) else "sklearn"
    has_format = flavor != "sklearn" and flavor not in PICKLED
    for kind in [{}] if has_format else serializations(candidate.estimator):
        needed = [kind["serialization_format"]] if kind else []
        path = folder / "_".join(["model", *needed])
        save_sklearn(
            candidate.estimator,
            path,
            signature=_signature(candidate, parent),
            answers_with=parent.answers_with,
            kind=kind,
            requirements=fitted_with(parent.requirements if is_alike else NEEDED, *needed),
            code=_code_paths(described, parent.path) if is_alike else (),
            metadata=described.metadata,
            flavor=flavor,
        )
        yield path


def _signature(candidate: Proven, parent: LoadedModel) -> Any:
    """The predecessor's; the answers of an estimator that follows what is none are other ones."""
    from mlflow.models import ModelSignature, infer_signature

    if parent.signature is None:
        return None
    before = ModelSignature.from_dict(parent.signature)
    if candidate.parent.estimator is not None:
        return before
    answers = getattr(candidate.estimator, parent.answers_with)(candidate.inputs)
    return ModelSignature(inputs=before.inputs, outputs=infer_signature(answers).inputs, params=before.params)


def fitted_with(requirements: Iterable[str], *needed: str) -> list[str]:
    """A predecessor's requirements, each package of the version that is installed here: it was fitted with that.

    What is not installed here, has a place of its own (a URL) or is an option of pip's stays as it is. `needed` are
    packages that are added where nobody names them.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    lines: dict[str, str] = {}
    for line in requirements:
        if line.startswith(("-c", "-r", "--constraint", "--requirement")):
            continue  # files of other lines, which the new version does not have
        try:
            wanted = Requirement(line.partition(" #")[0])
        except InvalidRequirement:
            lines[line] = line
            continue
        installed = _installed(wanted.name)
        if installed and wanted.url is None:
            extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
            marker = f"; {wanted.marker}" if wanted.marker is not None else ""
            line = f"{wanted.name}{extras}=={installed}{marker}"  # noqa: PLW2901 (it is the line, made true)
        lines[str(canonicalize_name(wanted.name))] = line
    for name in needed:
        if installed := _installed(name):
            lines.setdefault(name, f"{name}=={installed}")
    return list(lines.values())


def _installed(name: str) -> str:
    """A package's version as an index knows it; empty where it is not installed."""
    from packaging.version import Version

    try:
        return Version(version(name)).public
    except PackageNotFoundError:
        return ""


def _code_paths(described: Any, path: Path) -> list[Path]:
    """The modules that were logged with a model."""
    folders = {flavor["code"] for flavor in described.flavors.values() if flavor.get("code")}
    return sorted(file for name in folders for file in (path / name).iterdir() if file.name != "__pycache__")


def _what_fails_elsewhere(path: Path, candidate: Proven, folder: Path) -> str:
    """Why a process that knows nothing of this one does not answer as the estimator does here; empty: it does."""
    import pandas as pd

    inputs, answers = folder / "inputs.pickle", folder / "answers.pickle"
    loaded, asked, way = candidate.estimator, candidate.estimator, "raw"
    if isinstance(loaded, LoadedModel):  # by what MLflow makes of it, since what that wraps may be anything
        asked, way = SimpleNamespace(predict=loaded.pyfunc), "pyfunc"
    methods = [name for name in ("predict", "predict_proba") if hasattr(asked, name)]
    pd.to_pickle(candidate.inputs, inputs)
    command = [sys.executable, "-c", _FRESH, *map(str, (path, inputs, answers)), way, *methods]
    own = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}  # what it loads was written here just now
    try:
        done = subprocess.run(  # noqa: S603 (our own program)
            command, cwd=folder, env=own, capture_output=True, text=True, timeout=PROOF_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it has not answered within {PROOF_SECONDS} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
    here = [getattr(asked, method)(candidate.inputs) for method in methods]
    there = pd.read_pickle(answers)  # noqa: S301 (our own process has written it)
    same = all(_agree(one, other) for one, other in zip(here, there, strict=True))
    return "" if same else "it answers otherwise there than here"


def _agree(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape:
        return False
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9, equal_nan=True))
    return bool(np.array_equal(one, other))
