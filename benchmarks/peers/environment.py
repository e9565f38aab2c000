"""What is made once and used by every run: the peers' own environment, and the models."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
REQUIREMENTS = FOLDER / "requirements.txt"

SHARED = ("scikit-learn", "numpy", "scipy", "pandas", "joblib")
"""Of these the peers have what the project has: other arithmetic would be another model."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "true",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Nobody is to call home while it is measured."""


def peers_folder() -> Path:
    """The folder of programs of an environment with BentoML and FastAPI; made if it isn't there (about a minute)."""
    return _environment("peers", REQUIREMENTS, [f"{package}=={version(package)}" for package in SHARED])


def monitors_folder() -> Path:
    """The same with NannyML and whylogs, which need an older NumPy than the project has."""
    return _environment("monitors", FOLDER / "monitors" / "requirements.txt", [])


def _environment(name: str, requirements: Path, wanted: Sequence[str]) -> Path:
    digest = _digest([sys.version, requirements.read_text(), *wanted])

    def make(folder: Path) -> None:
        uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        python = folder / "bin" / "python"
        if uv:
            _run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)])
            install = [uv, "pip", "install", "--quiet", "--python", str(python)]
        else:
            venv.create(folder, with_pip=True)
            install = [str(python), "-m", "pip", "install", "--quiet"]
        _run([*install, "--requirement", str(requirements), *wanted])

    return _made(f"{name}-{digest}", make) / "bin"


def models_folder() -> Path:
    """A folder with a registry, its models and requests for them; made if it isn't there (about half a minute)."""
    versions = [f"{package}=={version(package)}" for package in ("mlflow", "skops", *SHARED)]
    digest = _digest([sys.version, (FOLDER / "models.py").read_text(), *versions])

    def make(folder: Path) -> None:
        _run([sys.executable, "-m", "benchmarks.peers.models", str(folder)])

    return _made(f"models-{digest}", make)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, whole: what another run makes is waited for, a torn one made again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "feedback-loop-benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".ready").exists():
            print(f"Making {folder}, once.", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / ".ready").touch()
    return folder


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **QUIET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
