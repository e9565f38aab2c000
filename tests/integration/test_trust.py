"""Pickles are programs: they are loaded only from a registry that is trusted."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from sklearn.linear_model import LinearRegression, LogisticRegression

from benchmarks.pipelines import fitted as fitted_pipeline
from benchmarks.pipelines import kinds
from feedback_loop.config import ModelSettings, RegistrySettings, Settings
from feedback_loop.errors import Refused
from feedback_loop.inference import open_bundle, write_bundle
from feedback_loop.registry import ModelVersion, Registry, load_folder
from feedback_loop.registry.client import Connection
from feedback_loop.registry.registry import _file_name, _version
from feedback_loop.registry.soundness import DATA_TYPES
from tests.unit.test_soundness import broken

AVERAGE = next(kind for kind in kinds() if kind.name == "average of three kinds, binary")


def connected(uri, tmp_path, *, trusted=None):
    return Connection(uri, "", tmp_path / "mlartifacts", "feedback-loop", trusted=trusted)


@pytest.mark.parametrize(
    ("uri", "is_trusted"),
    [
        ("sqlite:///mlflow.db", True),
        ("file:///var/models", True),
        ("mlruns", True),
        ("http://127.0.0.1:5000", True),
        ("http://localhost:5000", True),
        ("https://mlflow.example.org", False),
        ("http://10.0.0.7:5000", False),
        ("postgresql://db.example.org/mlflow", False),
        ("databricks", False),
        ("databricks-uc", False),
    ],
)
def test_a_registry_on_this_host_is_trusted_and_one_elsewhere_is_not(uri, is_trusted, tmp_path):
    assert connected(uri, tmp_path).is_trusted is is_trusted
    assert connected(uri, tmp_path, trusted=not is_trusted).is_trusted is not is_trusted


def test_the_configuration_says_whom_to_trust(tmp_path):
    settings = Settings(
        registry=RegistrySettings(tracking_uri="https://mlflow.example.org", trusted=True), home=tmp_path
    )
    assert Registry.of(settings)._mlflow.is_trusted


@pytest.fixture
def adopted(registry, tmp_path):
    """Versions of models that were saved so."""
    import mlflow

    def adopted(model, name, **options):
        mlflow.sklearn.save_model(model, str(tmp_path / name), pip_requirements=[], **options)
        return registry.adopt(name, str(tmp_path / name))

    return adopted


@pytest.fixture
def untrusted(mlflow_uri, tmp_path):
    return Registry(connected(mlflow_uri, tmp_path, trusted=False))


def test_a_pickle_is_refused_with_its_cure_where_the_registry_is_not_trusted(registry, untrusted, adopted):
    version = adopted(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), "pickled", serialization_format="cloudpickle")
    with pytest.raises(Refused, match="the format cloudpickle") as refused:
        untrusted.load(version)
    assert "registry.trusted = true" in refused.value.cure
    assert registry.load(version).estimator is not None


def test_code_that_comes_as_a_python_model_is_refused(untrusted, registry, tmp_path):
    import mlflow

    class Doubler(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return model_input

    mlflow.pyfunc.save_model(str(tmp_path / "code"), python_model=Doubler(), pip_requirements=[])
    with pytest.raises(Refused, match="the flavor python_function"):
        untrusted.load(registry.adopt("code", str(tmp_path / "code")))


def test_skops_is_loaded_from_anywhere_as_far_as_it_holds_estimators_and_sound_data(untrusted, adopted, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # MLflow's own way takes none then
    linear = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    assert untrusted.load(adopted(linear, "linear", serialization_format="skops")).estimator is not None
    average = fitted_pipeline(AVERAGE)[0].estimator
    types = {"skops_trusted_types": sorted(DATA_TYPES)}
    version = adopted(average, "average", serialization_format="skops", **types)
    assert untrusted.load(version).estimator.estimators_[2] is not None
    average.estimators_[2][-1].estimators_[0].tree_ = broken("tree: feature=9").tree_
    with pytest.raises(Refused, match="a tree of other features than its estimator"):
        untrusted.load(adopted(average, "broken", serialization_format="skops", **types))


class Touch:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def linear_onnx(tmp_path):
    """A folder with an ONNX model in MLflow's format, and its flavors as they were written."""
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from skl2onnx import to_onnx

    folder = tmp_path / "linear"
    content = to_onnx(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), np.zeros((1, 1), dtype=np.float32))
    signature = ModelSignature(Schema([ColSpec("float", "a")]), Schema([ColSpec("float")]))
    mlflow.onnx.save_model(content, str(folder), signature=signature, pip_requirements=[])
    return folder, yaml.safe_load((folder / "MLmodel").read_text())["flavors"]


def described_by(folder, flavors):
    said = yaml.safe_load((folder / "MLmodel").read_text()) if (folder / "MLmodel").exists() else {}
    (folder / "MLmodel").write_text(yaml.safe_dump(said | {"flavors": flavors}))
    return folder


def load(folder, now, *, trusted=False):
    return load_folder(folder, ModelVersion("m", "1", None, now, (), {}), trusted=trusted)


def test_onnx_is_loaded_from_anywhere(linear_onnx, now):
    import pandas as pd

    answers = load(linear_onnx[0], now).pyfunc(pd.DataFrame({"a": np.array([0.0, 9.0], dtype=np.float32)}))
    assert answers.iloc[:, 0].tolist() == pytest.approx([0, 9], abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        (
            {"python_function": {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"}},
            "setting",
        ),
        ({"python_function": {"loader_module": "mlflow.pyfunc.model"}}, r"the loader mlflow\.pyfunc\.model"),
        ({"python_function": {"loader_module": "os"}}, "the loader os"),
        ({"python_function": {"code": "code"}}, "modules of its own"),
        ({"python_function": {"config": {"a": 1}}}, "the setting config"),
        ({"python_function": {"predict_fn": "__reduce__"}}, "the method __reduce__"),
        ({"python_function": {"data": "python_model.pkl"}}, "another file"),
        ({"onnx": {"code": "code"}}, "modules of its own"),
        ({"onnx": {"data": "../python_model.pkl"}}, "none of its folder's"),
        ({"onnx": {"data": "/etc/passwd"}}, "none of its folder's"),
        ({"onnx": {"requirements": "x"}}, "the setting requirements"),
        ({"onnx": {"onnx_session_options": {"extra_session_config": {"a": "b"}}}}, "extra_session_config"),
        ({"onnx": {"providers": [["CPUExecutionProvider", {"library": "x.so"}]]}}, "providers"),
        ({"xgboost": {"data": "model.onnx"}}, "the flavor xgboost"),
        ({"sklearn": {"serialization_format": "skops", "pickled_model": "python_model.pkl"}}, "more than one"),
    ],
)
def test_what_was_checked_is_what_is_loaded(linear_onnx, now, tmp_path, changed, cause):
    """Whatever else the file MLmodel asks for is refused, and no pickle is executed."""
    folder, flavors = linear_onnx
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    merged = {name: {**flavors.get(name, {}), **changed.get(name, {})} for name in flavors | changed}
    with pytest.raises(Refused, match=cause):
        load(described_by(folder, merged), now)
    assert not (tmp_path / "executed").exists()


def test_a_link_in_a_model_is_refused(linear_onnx, now, tmp_path):
    (tmp_path / "elsewhere").write_text("x")
    (linear_onnx[0] / "notes").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="the link notes"):
        load(linear_onnx[0], now)


def test_a_bundle_from_when_the_registry_was_trusted_asks_again_when_it_is_opened(now, tmp_path):
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature

    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0]})
    fitted = LogisticRegression().fit(frame, [0, 0, 1, 1])
    signature = infer_signature(frame, fitted.predict(frame))
    path, settings = tmp_path / "model", ModelSettings(task="binary", label="y", inference={"engine": "native"})
    mlflow.sklearn.save_model(
        fitted, str(path), signature=signature, serialization_format="cloudpickle", pip_requirements=[]
    )
    write_bundle(load(path, now, trusted=True), settings, tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle", settings, trusted=True).loaded.estimator is not None
    with pytest.raises(Refused, match="the format cloudpickle"):
        open_bundle(tmp_path / "bundle", settings, trusted=False)


def test_names_that_a_registry_gives_are_no_paths(now):
    for name in ("../../authorized_keys", "/etc/passwd", "..", "a\\b"):
        with pytest.raises(Refused, match="no file's name"):
            _file_name(name)
    said = SimpleNamespace(name="m", version="../1", creation_timestamp=0, run_id="", aliases=(), tags={})
    with pytest.raises(Refused, match="which is no number"):
        _version(said)
