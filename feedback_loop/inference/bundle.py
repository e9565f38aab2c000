"""Bundles: a version made ready on local disk, so that a server needs neither MLflow nor (for ONNX) scikit-learn.

A bundle is a folder with `bundle.json` and the engine's files. It is written under another name and renamed, so that
it is there whole or not at all; digests of its files show damage.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import structlog

from feedback_loop.config import ModelSettings
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.inference.choosing import EngineChoice, make_engine
from feedback_loop.inference.engines import Engine
from feedback_loop.inference.exploring import exploring_of
from feedback_loop.inference.onnx import OnnxEngine, OnnxForm
from feedback_loop.inference.providers import EngineOptions, open_session
from feedback_loop.inference.proving import Proof
from feedback_loop.inference.scorer import Scorer, contract_of, gives_probabilities, remade_contract
from feedback_loop.inference.trying import check_model, known_rows, make_native, why_alone
from feedback_loop.private import OTHERS, new_folder, private_files
from feedback_loop.registry import LoadedModel, ModelVersion, Registry, load_folder
from feedback_loop.schema import Contract, make_redaction

_log = structlog.get_logger(__name__)

FILE = "bundle.json"
MODEL = "model.onnx"
NATIVE = "model"
"""The folder of an MLflow model within a bundle."""

FORMAT = 2
"""What this version of the package writes, and the only one that it reads: a bundle is made anew at any time."""


class EngineKind(StrEnum):
    """What a bundle is scored by, fastest first."""

    ONNX = "onnx"
    SKLEARN = "sklearn"
    PYFUNC = "pyfunc"


class DamagedBundle(Refused):
    """A bundle that is not what was written, or was made by or for another version or configuration."""


@dataclass(frozen=True)
class Bundle:
    """What `bundle.json` holds."""

    version: ModelVersion
    contract: Contract
    has_probabilities: bool
    signature: dict[str, Any] | None
    engine: EngineKind
    reason: str  # why nothing faster was taken
    answers_with: str
    requirements: tuple[str, ...]
    form: OnnxForm | None = None
    proof: Proof | None = None
    none: tuple[str, ...] = ()  # columns of text in which a missing value is None to the model, not NaN
    alone: str = ""  # why requests are not answered together, where they are not
    digests: dict[str, str] = field(default_factory=dict)  # of the engine's files, by path in the bundle
    format: int = FORMAT

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs in the log."""
        return tuple(column.stored for column in self.contract.outputs)


def stage(
    registry: Registry,
    version: ModelVersion,
    settings: ModelSettings,
    folder: Path,
    now: datetime,
    *,
    options: EngineOptions | None = None,
    hash_key: bytes = b"",
    damaged: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """The version's bundle in that folder: the one that is there if it is whole, else a new one.

    `damaged` is told the cause where the one that is there is no longer what was written.

    The proof of a new one is kept with the version in the registry, if that can be written to. Raises what loading
    and `write_bundle` raise.
    """
    if folder.exists():
        try:
            bundle = read_bundle(folder)
            remade_contract(bundle.contract, settings, has_probabilities=bundle.has_probabilities)
        except FeedbackLoopError as error:
            _log.warning("bundle_staged_anew", folder=str(folder), cause=str(error))
            if isinstance(error, DamagedBundle):
                damaged(error.cause)
        else:
            staged = bundle.version
            if (staged.model, staged.version, staged.created_at) == (
                version.model,
                version.version,
                version.created_at,
            ):
                _warn_of_fallback(bundle, folder)
                return bundle
    loaded = registry.load(version)
    known = None
    if not make_redaction(contract_of(loaded, settings), settings.log.columns, hash_key).hides_features:
        known = registry.reference_rows(version)
    bundle = write_bundle(loaded, settings, folder, known=known, options=options)
    if bundle.proof is not None:
        try:
            registry.keep_proof(version, bundle.proof.to_json(), engine=bundle.engine, now=now)
        except FeedbackLoopError as error:  # the bundle holds it too; a server may only read its registry
            _log.warning("proof_not_kept", version=str(version), cause=str(error))
    return bundle


def write_bundle(
    loaded: LoadedModel,
    settings: ModelSettings,
    folder: Path,
    *,
    known: pa.Table | None = None,
    options: EngineOptions | None = None,
) -> Bundle:
    """Checks the model, converts, proves, chooses the engine and writes the bundle; what was in `folder` is replaced.

    `known` rows (reference rows, by the model's or the log's names) are what the proof begins with; without, the
    model's input example. Raises ContractError, ConfigError, and Refused or ModelFault for what is no good model.
    """
    contract = contract_of(loaded, settings)
    native, rows = make_native(loaded, contract), known_rows(loaded, contract, known)
    check_model(loaded, contract, native, rows)
    choice = make_engine(loaded, contract, settings.inference, known, options or EngineOptions())
    engine = EngineKind.ONNX if choice.content is not None else EngineKind.SKLEARN
    if engine is EngineKind.SKLEARN and loaded.estimator is None:
        engine = EngineKind.PYFUNC
    alone = "the configuration wants it" if settings.inference.batching == "off" else ""
    if not alone and engine is not EngineKind.ONNX:  # what is converted has no operator that looks at other rows
        alone = why_alone(native, contract, rows)
    with private_files(), _replaced(folder) as new:
        _write_files(loaded, choice, new)
        bundle = Bundle(
            version=loaded.version,
            contract=contract,
            has_probabilities=gives_probabilities(loaded, settings),
            signature=loaded.signature,
            engine=engine,
            reason=choice.reason,
            answers_with=loaded.answers_with,
            requirements=loaded.requirements,
            form=choice.form,
            proof=choice.proof,
            none=native.inputs.none,
            alone=alone,
            digests={str(path.relative_to(new)): _digest(path) for path in _files(new)},
        )
        (new / FILE).write_bytes(msgspec.json.encode(bundle))
        _sync(new)
    _warn_of_fallback(bundle, folder)
    return bundle


def read_bundle(folder: Path, *, checks_files: bool = True) -> Bundle:
    """What a bundle says of itself, its files read and checked where they are to be used; raises DamagedBundle."""
    try:
        bundle = msgspec.json.decode((folder / FILE).read_bytes(), type=Bundle)
    except (OSError, msgspec.DecodeError) as error:
        raise _damaged(folder, f"{FILE} can't be read: {error}") from error
    if bundle.format != FORMAT:
        raise _damaged(folder, f"its format is {bundle.format}, not {FORMAT}")
    for name, digest in bundle.digests.items() if checks_files else ():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            raise _damaged(folder, f"{name} is not what was written")
    return bundle


def open_bundle(
    folder: Path,
    settings: ModelSettings,
    hash_key: bytes = b"",
    options: EngineOptions | None = None,
    *,
    trusted: bool,
) -> Scorer:
    """A scorer of what lies in the folder. Of an ONNX bundle, nothing of MLflow, scikit-learn or pandas is imported.

    `trusted`: whether its registry is trusted now; a bundle may be from a time when it was. Raises DamagedBundle,
    Refused, ConfigError and ContractError.
    """
    bundle = read_bundle(folder)
    contract = remade_contract(bundle.contract, settings, has_probabilities=bundle.has_probabilities)
    engine: Engine
    loaded = None
    if bundle.engine is EngineKind.ONNX:
        assert bundle.form is not None  # written together
        _spare_pandas()
        session = open_session(folder / MODEL, options or EngineOptions())
        engine = OnnxEngine(session, contract, bundle.form, answers_with=bundle.answers_with)
    else:
        loaded = load_folder(folder / NATIVE, bundle.version, trusted=trusted)
        engine = make_native(loaded, contract, bundle.none)
    redaction = make_redaction(contract, settings.log.columns, hash_key)
    return Scorer(
        bundle.version,
        contract,
        engine,
        redaction,
        settings.log.sample,
        loaded,
        is_alone=bool(bundle.alone),
        exploring=exploring_of(contract, settings),
        has_intervals=settings.adapter.intervals is not None,
    )


_warned: set[tuple[Path, str]] = set()
"""The bundles that this process has logged a warning of: one is enough, however often they are opened."""


def _warn_of_fallback(bundle: Bundle, folder: Path) -> None:
    warning = (folder, f"{bundle.version.created_at} {bundle.reason} {bundle.alone}")
    if warning in _warned:
        return
    _warned.add(warning)
    if bundle.reason:
        _log.warning("engine_fallback", version=str(bundle.version), engine=str(bundle.engine), reason=bundle.reason)
    if bundle.alone:
        _log.warning("batching_off", version=str(bundle.version), reason=bundle.alone)


def _write_files(loaded: LoadedModel, choice: EngineChoice, folder: Path) -> None:
    if choice.content is not None:
        (folder / MODEL).write_bytes(choice.content)
    else:
        shutil.copytree(loaded.path, folder / NATIVE, copy_function=_link)
        for path in (folder / NATIVE, *(folder / NATIVE).rglob("*")):
            path.chmod(path.stat().st_mode & ~OTHERS)


def _link(source: str, target: str) -> None:
    """A hard link where that is possible, which takes no space; else a copy.

    A copy too where others may read the file: a link has the same mode.
    """
    if Path(source).stat().st_mode & OTHERS:
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A new folder, which takes the place of `folder` when all went well."""
    new_folder(folder.parent)
    new, old = (folder.with_name(f".{folder.name}.{what}-{os.getpid()}") for what in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        if folder.exists():
            folder.replace(old)
        new.replace(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in (*_files(folder), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damaged(folder: Path, cause: str) -> DamagedBundle:
    return DamagedBundle(f"The bundle {folder} is damaged: {cause}.", cure="Delete it: it is staged anew.")


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Says that pandas is not there."""
        del path, target
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is left out while Arrow looks for it", name=fullname)


def _spare_pandas() -> None:
    """Keeps Arrow from importing pandas (1 s, 60 MiB) at its first `pa.array`, only to see if it is given a frame.

    Arrow looks once in the life of a process and remembers that there is none; a conversion to pandas that is asked
    for imports it all the same. Does nothing where pandas is imported already.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
