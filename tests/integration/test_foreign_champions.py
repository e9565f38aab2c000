"""Champions that are no scikit-learn models: what can follow them, by a search or by a trainer of people's own."""

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature

from feedback_loop.errors import Refused
from feedback_loop.loop import FeedbackLoop
from tests.integration.test_retraining import play

pytestmark = pytest.mark.usefixtures("warm_children")

RANDOM = np.random.default_rng(3)


class Logistic(mlflow.pyfunc.PythonModel):
    """What another library might have made: it answers probabilities of yes, or of both classes, or a number."""

    def __init__(self, weights, answers="yes"):
        self.weights, self.answers = weights, answers

    def predict(self, context, model_input, params=None):
        del context, params
        chance = 1 / (1 + np.exp(-(model_input[["a", "b"]].to_numpy() @ self.weights)))
        if self.answers == "both":
            return np.column_stack([1 - chance, chance])
        return chance if self.answers == "yes" else (chance > 0.5).astype("int64")


def drifted(count):
    frame = pd.DataFrame({"a": RANDOM.normal(size=count), "b": RANDOM.normal(size=count)})
    return frame, (2 * frame.b - frame.a + RANDOM.normal(size=count) > 0).to_numpy().astype("int64")


@pytest.fixture
def house(empty_mlflow, tmp_path, clock):
    """Opens a loop around a PythonModel, its version 1, promoted; with what more is configured."""
    import shutil

    opened = []

    def make(model, more="", *, task="binary", settings="", features=None):
        shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
        (tmp_path / "feedback_loop.toml").write_text(
            '[store]\nurl = "sqlite:///store.db"\n[registry]\ntracking_uri = "sqlite:///mlflow.db"\n'
            f'[models.m]\ntask = "{task}"\nlabel = "y"\nkey = ["id"]\nkey_types = {{ id = "long" }}\n{settings}\n'
            f'[models.m.retraining]\nrecent = "10d"\nmin_rows = 100\n{more}\n'
        )
        loop = FeedbackLoop.open(tmp_path / "feedback_loop.toml", clock=clock)
        opened.append(loop)
        frame, _ = drifted(20) if features is None else (features, None)
        signature = infer_signature(frame, model.predict(None, frame))
        mlflow.pyfunc.save_model(
            str(tmp_path / "model"),
            python_model=model,
            signature=signature,
            input_example=frame.head(3),
            pip_requirements=["numpy"],
        )
        version = loop.models.register("m", str(tmp_path / "model"))
        loop.registry.tag(version, {"trained_until": clock().isoformat()})
        loop.promote("m", version.version)
        return loop

    yield make
    for loop in opened:
        loop.close()


PROBABILITY = '[models.m.inference]\nanswers = "probability"'


def test_other_kinds_follow_a_model_that_can_not_be_fitted_again(house, clock):
    loop = house(Logistic(np.array([2.0, 0.0]), "both"), settings=PROBABILITY)
    play(loop, clock, 12, drifted)
    outlined = loop.outline_retraining("m")
    assert {trial.recipe for trial in outlined.trials} == {"boosting", "linear", "trees"}
    assert any("none of its versions is a pipeline of scikit-learn's" in note for note in outlined.notes)
    result = loop.retrain("m")
    assert result.state == "promoted", result.summary
    version = loop.champion("m")
    asked, label = drifted(200)
    frame = loop.predict("m", {"id": np.arange(200), **{name: asked[name].to_numpy() for name in asked}})
    served = frame.column("probability").to_numpy()
    assert ((served > 0.5) == label).mean() > 0.75
    made = loop.registry.load(version)
    elsewhere = mlflow.pyfunc.load_model(str(made.path))
    assert elsewhere.predict(asked)[:, 1] == pytest.approx(served, abs=1e-6)
    assert elsewhere.metadata.signature.outputs is not None
    assert any(line.startswith("scikit-learn==") for line in made.requirements)  # the one before needed none
    play(loop, clock, 8, drifted)
    again = loop.outline_retraining("m")  # an average is no pipeline of its own either
    assert {trial.recipe for trial in again.trials} == {"boosting", "linear", "trees"}


def test_a_regression_is_followed_too(house, clock):
    class Linear(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            del context, params
            return model_input["a"].to_numpy(dtype=float)

    def numbers(count):
        frame, _ = drifted(count)
        return frame, (3 * frame.b - frame.a + RANDOM.normal(size=count)).to_numpy()

    loop = house(Linear(), task="regression")
    play(loop, clock, 12, numbers)
    result = loop.retrain("m")
    assert result.state == "promoted", result.summary
    assert result.gate.candidate < 0.6 * result.gate.champion


@pytest.mark.parametrize(
    ("model", "more", "settings", "cause"),
    [
        (Logistic(np.array([2.0, 0.0]), "label"), "", "", "the champion tells no probabilities"),
        (Logistic(np.array([2.0, 0.0])), 'search = "own"', PROBABILITY, "none of its versions is a pipeline"),
    ],
)
def test_where_no_kind_can_follow_it_is_said_with_what_can_be_done(house, clock, model, more, settings, cause):
    loop = house(model, more, settings=settings)
    play(loop, clock, 12, drifted)
    with pytest.raises(Refused, match=cause) as error:
        loop.outline_retraining("m")
    assert "retraining.trainer" in error.value.cure
    result = loop.retrain("m")
    assert (result.state, loop.champion("m").version) == ("refused", "1")
    assert cause in result.summary


FUNCTION = """
import mlflow.pyfunc
import numpy as np

class Fitted(mlflow.pyfunc.PythonModel):
    def __init__(self, weights):
        self.weights = weights

    def predict(self, context, model_input, params=None):
        return 1 / (1 + np.exp(-(model_input[["a", "b"]].to_numpy() @ self.weights)))

def train(dataset, params):
    x, y, weights = dataset.features[["a", "b"]].to_numpy(), np.asarray(dataset.outcome), np.zeros(2)
    for _ in range(200):
        weights += 0.5 * x.T @ (y - 1 / (1 + np.exp(-(x @ weights)))) / len(y)
    return Fitted(weights)
"""

COMMAND = """
import sys
import mlflow.pyfunc, pandas
from mlflow.models import infer_signature
import own_training
class Data: pass
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rows = pandas.read_parquet(arguments["--data"])
data = Data()
data.features, data.outcome = rows[["a", "b"]], rows["y"]
model = own_training.train(data, {})
signature = infer_signature(data.features, model.predict(None, data.features))
more = {"code_paths": ["own_training.py"], "pip_requirements": ["numpy"]}
mlflow.pyfunc.save_model(arguments["--model"], python_model=model, signature=signature, **more)
"""


@pytest.mark.parametrize("trainer", ['"own_training:train"', '["python", "train.py"]'])
def test_a_trainers_model_of_any_library_is_gated_promoted_and_loads_elsewhere(house, clock, tmp_path, trainer):
    (tmp_path / "own_training.py").write_text(FUNCTION)
    (tmp_path / "train.py").write_text(COMMAND)
    loop = house(Logistic(np.array([2.0, 0.0])), f"trainer = {trainer}", settings=PROBABILITY)
    play(loop, clock, 12, drifted)
    result = loop.retrain("m")
    assert result.state == "promoted", result.summary
    assert [check.name for check in result.gates if check.passed][-1] == "parity"
    version = loop.champion("m")
    loaded = loop.registry.load(version)
    assert loaded.estimator is None
    asked, label = drifted(200)
    served = loop.predict("m", {"id": np.arange(200), **{name: asked[name].to_numpy() for name in asked}})
    assert ((served.column("probability").to_numpy() > 0.5) == label).mean() > 0.75
    assert loop.registry.lineage.origin_of(version)["recipe"] == "trainer"
