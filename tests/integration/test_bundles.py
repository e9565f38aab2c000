"""Versions made ready for servers: the engine chosen, its proof kept, the bundle whole or refused."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from structlog.testing import capture_logs

from feedback_loop.config import ModelSettings
from feedback_loop.errors import BadInput, Refused
from feedback_loop.inference import (
    DamagedBundle,
    EngineKind,
    SklearnEngine,
    make_scorer,
    open_bundle,
    stage,
    write_bundle,
)
from feedback_loop.inference.onnx import OnnxEngine
from feedback_loop.registry import Reference
from tests.builders import customers, register_churn
from tests.warm import FRESH

CHURN = ModelSettings(task="binary", label="churned", key=("customer",), key_types={"customer": "long"})


@pytest.fixture
def version(registry, now):
    return register_churn(registry, now, rows=400, reference=200)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "bundles" / "1"


def test_a_version_is_staged_as_proven_onnx_and_answers_as_the_model_itself(registry, version, folder, now):
    bundle = stage(registry, version, CHURN, folder, now)
    assert (bundle.engine, bundle.reason) == (EngineKind.ONNX, "")
    assert bundle.proof.holds
    assert bundle.proof.rows["reference"] == 200
    assert bundle.proof.max_difference < 1e-12
    opened, native = open_bundle(folder, CHURN, trusted=True), make_scorer(registry.load(version), CHURN)
    assert isinstance(opened.engine, OnnxEngine)
    assert opened.contract == native.contract
    rows = opened.rows_of(customers(50, 7))
    ours, theirs = opened.score(rows), native.score(rows)
    assert ours.answers == theirs.answers
    assert ours.outputs.column("prediction") == theirs.outputs.column("prediction")
    assert np.allclose(ours.outputs.column("probability"), theirs.outputs.column("probability"), rtol=0, atol=1e-12)
    with pytest.raises(Refused, match="not in memory"):
        _ = opened.loaded


def test_a_proof_is_kept_with_the_version_as_tags_and_as_an_artifact(registry, version, folder, now, tmp_path):
    stage(registry, version, CHURN, folder, now)
    tags = registry.find(Reference("churn", version=version.version)).tags
    assert (tags["feedback_loop.engine"], tags["feedback_loop.proof"]) == ("onnx", "holds")
    registry.lineage.fetch_files(version, "feedback_loop", ".json", tmp_path)
    proof = json.loads((tmp_path / "proof-1.json").read_text())
    assert proof["holds"]
    assert proof["rows"]["random"] > 1000


OPEN = """
import json, sys
from pathlib import Path
import pyarrow as pa
from feedback_loop.config import ModelSettings
from feedback_loop.inference import open_bundle
scorer = open_bundle(Path(sys.argv[1]), ModelSettings(task="binary", label="churned"), trusted=True)
rows = pa.table({"age": pa.array([40.0, 70.0]), "plan": pa.array(["pro", None])})
scored = scorer.score(rows)
pa.array(["a"])
print(json.dumps([scored.answers, sorted(sys.modules)]))
"""


def test_an_onnx_bundle_opens_without_mlflow_scikit_learn_or_pandas(registry, version, folder, now):
    stage(registry, version, CHURN, folder, now)
    done = subprocess.run([FRESH, "-c", OPEN, str(folder)], capture_output=True, text=True, check=True, timeout=200)
    answers, modules = json.loads(done.stdout)
    assert len(answers) == 2
    heavy = {"mlflow", "sklearn", "pandas", "scipy", "skops", "skl2onnx", "onnx"}
    assert not heavy & {name.split(".")[0] for name in modules}


def test_a_torn_bundle_is_refused_and_staged_anew(registry, version, folder, now):
    stage(registry, version, CHURN, folder, now)
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-10])
    with pytest.raises(DamagedBundle, match="is not what was written"):
        open_bundle(folder, CHURN, trusted=True)
    causes = []
    stage(registry, version, CHURN, folder, now, damaged=causes.append)
    assert len(causes) == 1
    assert "model.onnx is not what was written" in causes[0]
    stage(registry, version, CHURN, folder, now, damaged=causes.append)
    assert len(causes) == 1
    assert (
        open_bundle(folder, CHURN, trusted=True)
        .score(open_bundle(folder, CHURN, trusted=True).rows_of(customers(1, 3)))
        .answers
    )
    (folder / "bundle.json").write_text("{")
    with pytest.raises(DamagedBundle, match="can't be read"):
        open_bundle(folder, CHURN, trusted=True)


def test_a_whole_bundle_is_not_made_again(registry, version, folder, now):
    stage(registry, version, CHURN, folder, now)
    before = (folder / "bundle.json").stat().st_ino
    stage(registry, version, CHURN, folder, now)
    assert (folder / "bundle.json").stat().st_ino == before


def test_what_the_model_refuses_its_bundle_refuses_too(registry, version, folder, now):
    stage(registry, version, CHURN, folder, now)
    opened = open_bundle(folder, CHURN, trusted=True)
    with pytest.raises(BadInput, match="row 1: age: is missing"):
        opened.score(opened.rows_of({"age": [30.0, None], "plan": ["pro", "pro"], "customer": [1, 2]}))
    with pytest.raises(BadInput, match="row 0: age: is larger"):
        opened.score(opened.rows_of({"age": [float("inf")], "plan": ["pro"], "customer": [1]}))


def test_without_a_proof_the_model_itself_answers_and_the_reason_is_told(registry, version, folder):
    strict = CHURN.model_copy(update={"inference": CHURN.inference.model_copy(update={"tolerance": 1e-300})})
    bundle = write_bundle(registry.load(version), strict, folder, known=registry.reference_rows(version))
    assert bundle.engine is EngineKind.SKLEARN
    assert "differ by up to" in bundle.reason
    assert not bundle.proof.holds
    opened = open_bundle(folder, strict, trusted=True)
    assert isinstance(opened.engine, SklearnEngine)
    assert len(opened.score(opened.rows_of(customers(5, 1))).answers) == 5


def test_settings_that_changed_since_hold_for_a_bundle_that_is_opened(registry, version, folder, now):
    stage(registry, version, CHURN, folder, now)
    changed = CHURN.model_copy(update={"positive": False, "segments": ("plan",)})
    opened = open_bundle(folder, changed, trusted=True)
    assert opened.contract.segments == ("plan",)
    rows = opened.rows_of(customers(20, 2))
    before = open_bundle(folder, CHURN, trusted=True).score(rows).outputs.column("probability").to_numpy()
    assert np.allclose(opened.score(rows).outputs.column("probability").to_numpy(), 1 - before)


def test_the_input_example_proves_a_version_that_has_no_reference(registry, tmp_path, folder):
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame({"x": [1.0, 2.0, 3.5], "n": [1.0, 2.0, 3.0]})
    model = LinearRegression().fit(frame, [1.0, 2.0, 4.0])
    signature = infer_signature(frame, model.predict(frame))
    mlflow.sklearn.save_model(
        model, str(tmp_path / "m"), signature=signature, input_example=frame, pip_requirements=[]
    )
    loaded = registry.load(registry.adopt("m", str(tmp_path / "m")))
    bundle = write_bundle(loaded, ModelSettings(task="regression", label="y"), folder)
    assert bundle.engine is EngineKind.ONNX
    assert bundle.proof.rows["reference"] == 3


def test_what_is_no_scikit_learn_model_is_served_by_mlflow_and_the_log_says_why(registry, tmp_path, folder):
    import mlflow
    from mlflow.models import infer_signature

    class Doubler(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return (model_input["x"] * 2).to_numpy()

    frame = pd.DataFrame({"x": [1.0, 2.0]})
    signature = infer_signature(frame, np.array([2.0]))
    place = str(tmp_path / "m")
    mlflow.pyfunc.save_model(
        place, python_model=Doubler(), signature=signature, input_example=frame, pip_requirements=[]
    )
    settings = ModelSettings(task="regression", label="y")
    with capture_logs() as logs:
        bundle = write_bundle(registry.load(registry.adopt("m", str(tmp_path / "m"))), settings, folder)
    assert bundle.engine is EngineKind.PYFUNC
    assert [(each["event"], each["reason"]) for each in logs] == [("engine_fallback", "it is no scikit-learn model")]
    opened = open_bundle(folder, settings, trusted=True)
    assert opened.score(opened.rows_of({"x": [1.5, 4.0]})).answers == [3.0, 8.0]
