"""Hardware that ONNX Runtime can compute on: execution providers by name, checked against what is installed."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import structlog

from feedback_loop.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from onnxruntime import InferenceSession

_log = structlog.get_logger(__name__)

PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "TensorRT": "TensorrtExecutionProvider",
    "OpenVINO": "OpenVINOExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "MIGraphX": "MIGraphXExecutionProvider",
    "ROCm": "ROCMExecutionProvider",
    "oneDNN": "DnnlExecutionProvider",
    "QNN": "QNNExecutionProvider",
    "XNNPACK": "XnnpackExecutionProvider",
}
"""Our short names, and ONNX Runtime's."""


@dataclass(frozen=True)
class EngineOptions:
    """On what an engine computes: providers by short name, the preferred first, and so many threads at most."""

    providers: tuple[str, ...] = ("CPU",)
    threads: int = 1


def is_onnx_installed() -> bool:
    """Whether ONNX Runtime is there at all (it comes with the extra `onnx`)."""
    try:
        version("onnxruntime")
    except PackageNotFoundError:
        return False
    return True


def available() -> list[str]:
    """The providers that the installed ONNX Runtime offers, by our names; empty where there is none."""
    if not is_onnx_installed():
        return []
    from onnxruntime import get_available_providers

    offered = get_available_providers()
    return [name for name, theirs in PROVIDERS.items() if theirs in offered]


def describe_hardware(wanted: Sequence[str]) -> str:
    """What this machine offers to compute on, in words; with a warning for each wanted provider that is not there."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{cores} cores ({platform.processor() or platform.machine()})"
    if not is_onnx_installed():
        return f"{machine}; ONNX Runtime is not installed: models are scored by scikit-learn (the extra `onnx`)"
    offered = available()
    missing = [name for name in wanted if name not in offered]
    lost = f"; not there, though configured: {', '.join(missing)}" if missing else ""
    return f"{machine}; ONNX Runtime {version('onnxruntime')} computes on {', '.join(offered)}{lost}"


def chosen(wanted: Sequence[str]) -> list[str]:
    """The wanted providers that are there, and CPU at the end; warns of those that are not. Raises ConfigError."""
    offered = available()
    for name in wanted:
        if name not in PROVIDERS:
            cure = f"Known: {', '.join(PROVIDERS)}."
            raise ConfigError(f"There is no execution provider {name!r}.", cure=cure, key="serving.providers")
        if name not in offered:
            _log.warning("provider_missing", wanted=name, offered=offered, falls_back_to="the next, CPU at last")
    return [*(name for name in wanted if name in offered and name != "CPU"), "CPU"]


def open_session(model: Path | bytes, options: EngineOptions) -> InferenceSession:
    """A session of that file (or of its content), with bounded threads that don't spin while they wait."""
    from onnxruntime import InferenceSession, SessionOptions

    wanted = SessionOptions()
    wanted.intra_op_num_threads = options.threads
    wanted.inter_op_num_threads = 1
    wanted.log_severity_level = 3
    wanted.add_session_config_entry("session.intra_op.allow_spinning", "0")
    names = chosen(options.providers)
    content = model if isinstance(model, bytes) else str(model)
    session = InferenceSession(content, wanted, providers=[PROVIDERS[name] for name in names])
    used = session.get_providers()
    lost = [name for name in names if PROVIDERS[name] not in used]
    if lost:  # it is installed, but its hardware or driver is not there
        _log.warning("provider_failed", wanted=lost, used=used)
    return session
