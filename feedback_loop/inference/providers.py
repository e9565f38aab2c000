"""Hardware that ONNX Runtime can compute on: execution providers by name, checked against what is installed."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
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


_WHEELS = {
    "CUDA": "onnxruntime-gpu",
    "TensorRT": "onnxruntime-gpu",
    "OpenVINO": "onnxruntime-openvino",
    "DirectML": "onnxruntime-directml",
    "QNN": "onnxruntime-qnn",
}
"""What is installed in the place of `onnxruntime` for a provider; for the others a build of one's own."""

_SMALLEST = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""A model in ONNX that answers one number with itself."""


@dataclass(frozen=True)
class EngineOptions:
    """On what an engine computes: providers by short name, the preferred first, and so many threads at most."""

    providers: tuple[str, ...] = ("CPU",)
    threads: int = 1


def is_onnx_installed() -> bool:
    """Whether ONNX Runtime is there at all (it comes with the extra `onnx`), from whichever of its wheels."""
    return find_spec("onnxruntime") is not None


def available() -> list[str]:
    """The providers that the installed ONNX Runtime offers, by our names; empty where there is none."""
    if not is_onnx_installed():
        return []
    from onnxruntime import get_available_providers

    offered = get_available_providers()
    return [name for name, theirs in PROVIDERS.items() if theirs in offered]


def describe_hardware() -> str:
    """What this machine offers to compute on, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{cores} cores ({platform.processor() or platform.machine()})"
    if not is_onnx_installed():
        return f"{machine}; ONNX Runtime is not installed: models are scored by scikit-learn (the extra `onnx`)"
    import onnxruntime

    return f"{machine}; ONNX Runtime {onnxruntime.__version__} computes on {', '.join(available())}"


def check_providers(wanted: Sequence[str], key: str) -> None:
    """Raises ConfigError for a provider that nobody knows, that is not installed, or whose hardware is not there.

    Nothing fails without it: models are computed on the next provider, CPU at last, and slower than was wanted.
    """
    offered = available()
    chosen(wanted, key)
    for name in wanted:
        if name == "CPU":
            continue
        fallback = f"or set {key} to what there is: {', '.join(offered) or 'CPU'}."
        if not offered:
            cause, cure = "ONNX Runtime is not installed", f"pip install 'feedback-loop[onnx]', {fallback}"
        elif name not in offered:
            wheel = _WHEELS.get(name)
            cause = f"the installed ONNX Runtime computes on {', '.join(offered)}"
            first = f"Install {wheel} in the place of onnxruntime" if wheel else "Install a build of it that has it"
            cure = f"{first}, {fallback}"
        elif why := _trouble(name):
            cause = f"ONNX Runtime has it, but it does not work here ({why})"
            cure = f"Look for the hardware, its driver and libraries, {fallback}"
        else:
            continue
        raise ConfigError(f"{key} wants {name}, on which nothing is computed: {cause}.", cure=cure, key=key)


def _trouble(provider: str) -> str:
    """Why a provider that is offered can't be used; empty if it can."""
    from onnxruntime import InferenceSession

    try:
        used = InferenceSession(_SMALLEST, providers=[PROVIDERS[provider], PROVIDERS["CPU"]]).get_providers()
    except Exception as error:  # noqa: BLE001 (providers raise what their drivers do)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "" if PROVIDERS[provider] in used else "it gives way to CPU: no such device, driver or library"


def chosen(wanted: Sequence[str], key: str = "serving.providers") -> list[str]:
    """The wanted providers that are there, and CPU at the end; warns of those that are not. Raises ConfigError."""
    offered = available()
    for name in wanted:
        if name not in PROVIDERS:
            cure = f"Known: {', '.join(PROVIDERS)}."
            raise ConfigError(f"There is no execution provider {name!r}.", cure=cure, key=key)
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
