"""Pickles are programs: they are loaded only from a registry that is trusted."""

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from feedback_loop.config import RegistrySettings, Settings
from feedback_loop.errors import Refused
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection


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


def test_skops_is_loaded_from_anywhere_as_far_as_it_holds_estimators_only(untrusted, adopted):
    linear = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    assert untrusted.load(adopted(linear, "linear", serialization_format="skops")).estimator is not None
    tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    version = adopted(tree, "tree", serialization_format="skops", skops_trusted_types=["sklearn.tree._tree.Tree"])
    with pytest.raises(Refused, match=r"the types sklearn\.tree\._tree\.Tree"):
        untrusted.load(version)
