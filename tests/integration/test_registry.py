"""The registry against a real MLflow store."""

import importlib
import shutil
import sqlite3
import sys
import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from feedback_loop.errors import BadInput, NotFound, Refused, Unavailable
from feedback_loop.loop.showing import Shown
from feedback_loop.registry import LoadedModel, Origin, Proven, Reference, Registry
from feedback_loop.registry.client import Connection
from tests.builders import churn_pipeline, customers, register_churn, register_model


@pytest.fixture
def version(registry, now):
    return register_churn(registry, now, rows=500, reference=300)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("churn", Reference("churn", alias="champion")),
        ("churn@shadow", Reference("churn", alias="shadow")),
        ("churn/7", Reference("churn", version="7")),
        ("models:/churn@champion", Reference("churn", alias="champion")),
        ("models:/churn/7", Reference("churn", version="7")),
    ],
)
def test_versions_are_named_as_people_write_them(text, expected):
    assert Reference.parse(text) == expected


@pytest.mark.parametrize("text", ["", "@champion", "churn@", "a/b", "/3"])
def test_what_names_no_version_is_refused(text):
    with pytest.raises(BadInput):
        Reference.parse(text)


def test_a_registered_version_is_found_by_number_and_by_alias(registry, version):
    assert registry.find(Reference("churn", version="1")).version == "1"
    assert registry.champion("churn", "champion") is None
    registry.set_alias("churn", "champion", "1")
    assert registry.champion("churn", "champion").version == "1"
    assert registry.models() == ["churn"]
    assert [each.aliases for each in registry.versions("churn")] == [("champion",)]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html><body><h1>404 Not Found</h1></body></html>"),
        ("application/json", b'{"message": "no Route matched, not found"}'),
        ("application/json", b'{"error_code": 404, "message": "not found"}'),
    ],
)
def test_a_gateway_that_finds_no_server_is_no_registry_without_the_version(tmp_path, kind, body):
    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        thread = threading.Thread(target=gateway.serve_forever)
        thread.start()
        registry = Registry(Connection(f"http://127.0.0.1:{gateway.server_port}", "", tmp_path, "e"))
        for look in (
            lambda: registry.champion("churn", "champion"),
            lambda: registry.find(Reference("churn", version="1")),
            lambda: registry.versions("churn"),
        ):
            with pytest.raises(Unavailable):
                look()
        gateway.shutdown()
        thread.join()


def test_a_loaded_version_answers_as_the_one_that_was_registered(registry, version):
    loaded = registry.load(version)
    known = pd.DataFrame(customers(500, 0))
    expected = churn_pipeline().fit(known[["age", "plan"]], known["churned"]).predict_proba(known[["age", "plan"]])
    assert np.allclose(loaded.estimator.predict_proba(known[["age", "plan"]]), expected)
    assert loaded.answers_with == "predict"
    assert any(line.startswith("scikit-learn") for line in loaded.requirements)


def test_a_model_has_any_name_that_mlflow_takes(registry, now):
    name = 'churn 2.0 (EU), 50% "new", it\'s'
    version = register_churn(registry, now, rows=200, reference=100, name=name)
    registry.set_alias(name, "champion", version.version)
    assert [each.aliases for each in registry.versions(name)] == [("champion",)]
    assert registry.load(registry.champion(name, "champion")).estimator is not None
    assert registry.reference_rows(version).num_rows == 100


def test_a_version_carries_its_lineage(registry, version, now):
    client = registry._mlflow.client
    run = client.get_run(version.run_id)
    assert run.data.metrics == {"holdout_log_loss": 0.5}
    assert run.inputs.dataset_inputs[0].dataset.source_type == "feedback-loop"
    assert run.info.status == "FINISHED"
    assert registry.find(Reference("churn", version="1")).trained_until == now - timedelta(days=5)
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert model.name == "churn"


def test_the_reference_rows_stay_with_their_version(registry, version, now):
    rows = registry.reference_rows(version)
    assert rows.num_rows == 300
    assert set(rows.column_names) == {"age", "plan", "churned", "prediction", "probability", "predicted_at"}
    other = register_churn(registry, now, rows=200, reference=100, seed=5)
    assert registry.reference_rows(other).num_rows == 100
    assert registry.reference_rows(version).num_rows == 300


def test_the_model_is_saved_without_code_where_that_is_possible(registry, version):
    loaded = registry.load(version)
    assert (loaded.path / "model.skops").exists()


def test_what_is_not_there_is_not_found(registry, version):
    for reference in ("churn/9", "churn@shadow", "other/1", "other"):
        with pytest.raises(NotFound):
            registry.find(Reference.parse(reference))
    with pytest.raises(NotFound):
        registry.adopt("churn", "runs:/0123456789abcdef0123456789abcdef/model")
    with pytest.raises(NotFound):
        registry.adopt("churn", "no/such/folder")
    with pytest.raises(NotFound):
        registry.adopt("churn", "models:/churn/9")


def test_a_model_that_was_logged_elsewhere_is_adopted_with_its_own_reference(registry, version, now):
    run = registry._mlflow.client.get_run(version.run_id)
    model_id = run.outputs.model_outputs[0].model_id
    registry.set_alias("churn", "best", version.version)
    sources = (
        f"runs:/{version.run_id}/churn",
        f"models:/{model_id}",
        f"models:/churn/{version.version}",
        "models:/churn@best",
        str(registry.load(version).path),
        "models:/copy/5",  # itself a version that was registered from a folder
    )
    for source in sources:
        adopted = registry.adopt("copy", source)
        assert registry.load(adopted).estimator is not None
        assert registry.reference_rows(adopted) is None
        registry.keep_reference(adopted, pa.table({"age": [1.0]}), now)
        assert registry.reference_rows(adopted).num_rows == 1
    assert len(registry.versions("copy")) == len(sources)


def test_a_windows_metrics_and_reports_are_in_the_versions_monitoring_run(registry, version, now, tmp_path):
    registry.lineage.log_metrics(version, {"log_loss": 0.5}, now, now)
    registry.lineage.log_metrics(version, {"log_loss": 0.6}, now + timedelta(days=1), now)
    page = tmp_path / "page.html"
    page.write_text("<p>report</p>")
    registry.lineage.log_files(version, [page], "reports", now)
    client = registry._mlflow.client
    (run,) = client.search_runs([registry._mlflow.experiment_id], "tags.`feedback_loop.kind` = 'monitoring'")
    history = client.get_metric_history(run.info.run_id, "log_loss")
    assert [each.value for each in history] == [0.5, 0.6]
    assert [each.path for each in client.list_artifacts(run.info.run_id, "reports")] == ["reports/page.html"]


def test_metrics_of_a_class_are_kept_whatever_it_is_called(registry, version, now):
    names = ["f1[a]", "f1[<b> & ü]", "f1[.]", "f1[a/../b]", "f1[[x]]", "roc_auc_macro", "ndcg@10", "x" * 300]
    names += ["f1[]", "f1[%]", "recall[50%]", "recall[50#]"]  # an empty one, and two that MLflow can't tell apart
    registry.lineage.log_metrics(version, dict.fromkeys(names, 0.5), now, now)
    (run,) = registry._mlflow.client.search_runs([registry._mlflow.experiment_id], "metrics.roc_auc_macro > 0")
    named = {"f1/a", "f1/_b_ _ ü", "f1/_", "f1/a____b", "f1/_x_", "roc_auc_macro", "ndcg_10", "x" * 250}
    named |= {"f1/__2", "f1/__3", "recall/50_", "recall/50__2"}
    assert set(run.data.metrics) == named


def test_the_users_own_mlflow_settings_are_left_alone(registry, version, tmp_path):
    import mlflow

    before = mlflow.get_tracking_uri()
    registry.load(version)
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None
    assert not (tmp_path / "mlruns").exists()


def test_a_registry_that_is_away_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Registry(Connection("http://127.0.0.1:1", "", tmp_path, "e"))
    with pytest.raises(Unavailable) as caught:
        away.find(Reference("churn"))
    assert caught.value.service == "registry"
    with pytest.raises(Unavailable):
        away.champion("churn", "champion")


def test_a_reference_of_a_classifier_has_its_probabilities(registry, now):
    rows = pd.DataFrame(customers(50, 3))
    model = churn_pipeline().fit(rows[["age", "plan"]], rows["churned"])
    reference = rows[["age", "plan", "churned"]].assign(prediction=model.predict(rows[["age", "plan"]]))
    options = {"now": now, "trained_until": now}
    with pytest.raises(BadInput, match=r"reference: has no probabilities, only age, plan, churned, prediction"):
        register_model(registry, "churn", model, rows[["age", "plan"]], reference, **options)


def followed_by(registry, version, now, estimator, **changes):
    """A version that follows another, as retraining and optimization register it."""
    rows = pd.DataFrame(customers(50, 3))[["age", "plan"]]
    loaded = replace(version if isinstance(version, LoadedModel) else registry.load(version), **changes)
    reference, metrics = pa.table({"age": rows["age"]}), {"holdout_f1[50% (new)]": 0.5}
    origin = Origin("tests", 50, now, reference, metrics, {}, tags={"retraining": "7"})
    return registry.register_candidate(Proven(loaded, estimator, rows), origin, now)


# This one is proved by a fresh interpreter, the others by one that has imported the libraries.
def test_a_candidate_follows_its_predecessor_in_all_but_what_it_has_learned(registry, version, now):
    parent = registry.load(version)
    old = ("scikit-learn==1.4.2", 'numpy[all]>=1; python_version >= "3"', "no-such-package==3", "-c constraints.txt")
    made = followed_by(registry, version, now, parent.estimator, requirements=old, answers_with="predict_proba")
    loaded, client = registry.load(made), registry._mlflow.client
    assert (loaded.signature, loaded.answers_with) == (parent.signature, "predict_proba")
    assert set(loaded.requirements) == {
        f"mlflow=={metadata.version('mlflow')}",
        f"scikit-learn=={metadata.version('scikit-learn')}",
        f'numpy[all]=={metadata.version("numpy")}; python_version >= "3"',
        "no-such-package==3",
        f"skops=={metadata.version('skops')}",
    }
    run = client.get_run(made.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"holdout_f1/50_ _new_": 0.5})
    assert made.tags["feedback_loop.retraining"] == "7"
    assert registry.reference_rows(made).num_rows == 50
    assert registry.end_abandoned("churn", now) == []
    assert client.get_run(made.run_id).info.status == "FINISHED"


MODULE = """
from sklearn.linear_model import LogisticRegression
class Stubborn(LogisticRegression):
    pass
"""


def stubborn(folder, monkeypatch):
    """An estimator whose class this process knows, of a module that no other process finds."""
    (folder / "house_models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "house_models", raising=False)
    pipeline = churn_pipeline()
    pipeline.steps[-1] = ("model", importlib.import_module("house_models").Stubborn())
    known = pd.DataFrame(customers(200, 0))
    return pipeline.fit(known[["age", "plan"]], known["churned"])


def test_the_modules_beside_a_model_lie_beside_the_one_that_follows_it(
    registry, version, now, warm_children, tmp_path, monkeypatch
):
    import mlflow.sklearn

    estimator = stubborn(tmp_path, monkeypatch)
    with pytest.raises(Refused, match="No module named 'house_models'"):
        followed_by(registry, version, now, estimator)
    assert len(registry.versions("churn")) == 1
    signature = ModelSignature.from_dict(registry.load(version).signature)
    code = [str(tmp_path / "house_models.py")]
    path = tmp_path / "with its module"
    mlflow.sklearn.save_model(
        estimator, str(path), signature=signature, code_paths=code, serialization_format="cloudpickle"
    )
    adopted = registry.adopt("churn", str(path))
    first = followed_by(registry, adopted, now, estimator)
    second = followed_by(registry, first, now, estimator)
    (kept,) = (registry.load(second).path / "code").glob("*.py")
    assert kept.read_text() == MODULE


def test_what_was_written_in_a_notebook_follows_in_a_format_that_loads_elsewhere(
    registry, version, now, warm_children, monkeypatch
):
    notebook = sys.modules["__main__"]
    monkeypatch.setattr(
        notebook, "Doubled", type("Doubled", (FunctionTransformer,), {"__module__": "__main__"}), raising=False
    )
    known = pd.DataFrame(customers(200, 0))
    pipeline = make_pipeline(notebook.Doubled(), churn_pipeline()).fit(known[["age", "plan"]], known["churned"])
    made = followed_by(registry, version, now, pipeline)
    assert (registry.load(made).path / "model.pkl").exists()


def refusing(uri, table, event):
    """Has a table of the registry's database refuse, as a disk does that is full."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection, connection:
        fails = "SELECT RAISE(ABORT, 'database or disk is full')"
        connection.execute(f"CREATE TRIGGER full BEFORE {event} ON {table} BEGIN {fails}; END")


def relieved(uri):
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("DROP TRIGGER full")


def left_open(registry):
    """The runs that look as if they went on, and the models that look as if they were being made."""
    client, place = registry._mlflow.client, [registry._mlflow.experiment_id]
    runs = [each for each in client.search_runs(place) if each.info.status == "RUNNING"]
    return runs, [each for each in client.search_logged_models(place) if each.status == "PENDING"]


@pytest.mark.parametrize(
    ("table", "event", "cleans_up"),
    [
        ("model_versions", "INSERT", True),
        ("logged_models", "UPDATE", False),
        pytest.param("logged_models", "INSERT", True, marks=pytest.mark.statistics),
        pytest.param("latest_metrics", "INSERT", True, marks=pytest.mark.statistics),
        pytest.param("runs", "UPDATE", False, marks=pytest.mark.statistics),
    ],
)
def test_a_disk_that_is_full_while_a_version_is_registered_leaves_none(
    registry, version, now, mlflow_uri, warm_children, table, event, cleans_up
):
    estimator = registry.load(version).estimator
    refusing(mlflow_uri, table, event)
    with pytest.raises(Unavailable):
        followed_by(registry, version, now, estimator)
    assert len(registry.versions("churn")) == 1
    if cleans_up:
        assert left_open(registry) == ([], [])
    relieved(mlflow_uri)
    registry.end_abandoned("churn", now)  # what could not be ended then
    assert left_open(registry) == ([], [])
    assert followed_by(registry, version, now, estimator).version == "2"


def test_files_that_find_no_room_leave_no_version(registry, version, now, warm_children):
    loaded, place = registry.load(version), registry._mlflow._artifact_root / "feedback-loop"
    kept = shutil.copytree(loaded.path, place.with_name("kept"))
    moved = place.rename(place.with_name("moved"))
    place.write_text("no folder")
    with pytest.raises(Unavailable):
        followed_by(registry, replace(loaded, path=kept), now, loaded.estimator)
    place.unlink()
    moved.rename(place)
    assert left_open(registry) == ([], [])
    assert len(registry.versions("churn")) == 1


def test_a_model_may_be_called_what_mlflow_lets_models_be_called(registry, version, now, warm_children):
    name = 'churn v1.2 (50% "new")'
    adopted = registry.adopt(name, str(registry.load(version).path))
    assert followed_by(registry, adopted, now, registry.load(version).estimator).model == name


def test_a_version_has_a_page_in_mlflows_server_and_what_mlflow_shows_leads_back(registry, tmp_path):
    server = Registry(Connection("https://ada:password@mlflow/x/", "", tmp_path, "x"))
    assert server.page_of("a b", "12.2") == "https://mlflow/x/#/models/a%20b/versions/12"
    assert server.page_of_run("ab12") == "https://mlflow/x/#/runs/ab12"
    assert (registry.page_of("a b", "12"), registry.page_of_run("ab12"), server.page_of_run(None)) == ("", "", "")
    shown = Shown(registry, "https://loop.example.org/", lambda *_: None)
    assert shown._note("why", "/incidents/3") == "why\n\n[In the loop's pages](https://loop.example.org/incidents/3)"
