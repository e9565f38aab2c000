"""What ONNX Runtime computes on: by configuration, checked, falling back aloud."""

import importlib.metadata

import onnxruntime
import pytest
from structlog.testing import capture_logs

from benchmarks.pipelines import fitted, kinds
from feedback_loop.errors import ConfigError
from feedback_loop.inference import EngineOptions, check_providers, describe_hardware, providers
from feedback_loop.inference.conversion import convert
from feedback_loop.inference.providers import PROVIDERS, available, chosen, is_onnx_installed, open_session
from feedback_loop.inference.scorer import contract_of


def test_a_provider_that_is_not_installed_is_told_and_passed_over():
    with capture_logs() as logs:
        assert chosen(["TensorRT", "CPU"]) == ["CPU"]
    assert [(each["event"], each["wanted"]) for each in logs] == [("provider_missing", "TensorRT")]


def test_a_provider_that_nobody_knows_is_a_mistake():
    with pytest.raises(ConfigError, match="no execution provider 'GPU'") as wrong:
        chosen(["GPU"])
    assert "CUDA" in wrong.value.cure


def test_a_session_computes_on_what_there_is_with_bounded_threads():
    loaded, settings, _ = fitted(next(kind for kind in kinds() if kind.name == "ridge regression"))
    content = convert(loaded.estimator, contract_of(loaded, settings).features).content
    with capture_logs():
        session = open_session(content, EngineOptions(("CUDA",), threads=1))
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_session_options().intra_op_num_threads == 1


def test_what_this_machine_offers_is_told_in_words():
    assert "CPU" in available()
    told = describe_hardware()
    assert "cores" in told
    assert "computes on CPU" in told


@pytest.mark.filterwarnings("ignore:Specified provider")  # ONNX Runtime's own words
def test_a_provider_whose_hardware_is_not_there_is_told(monkeypatch):
    check_providers(["CPU"], "serving.providers")
    offered = [PROVIDERS["CUDA"], PROVIDERS["CPU"]]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)  # a wheel with CUDA, no GPU
    with pytest.raises(ConfigError, match=r"wants CUDA.*does not work here") as wrong:
        check_providers(["CPU", "CUDA"], "serving.providers")
    assert "driver" in wrong.value.cure


def test_without_onnx_runtime_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(providers, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="not installed") as wrong:
        check_providers(["CUDA"], "serving.providers")
    assert "feedback-loop[onnx]" in wrong.value.cure


def test_any_wheel_of_onnx_runtime_counts_as_installed(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)  # its name is onnxruntime-gpu, say
    assert is_onnx_installed()
    assert "computes on CPU" in describe_hardware()
