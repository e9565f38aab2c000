"""What MLflow's runs tell of evaluations and verdicts: charts, tags, files and links."""

import json
import re
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import mlflow
import pytest
from starlette.testclient import TestClient

from feedback_loop.clock import format_moment
from feedback_loop.cycle import run_cycle
from feedback_loop.dashboard import create_app
from feedback_loop.loop import judging
from feedback_loop.store import incidents
from feedback_loop.store.conclusions import load_verdicts
from feedback_loop.store.evaluations import load_evaluations, newest_evaluations
from tests.builders import churn_loop, open_loop, play_days

DAY = timedelta(days=1)

pytestmark = pytest.mark.usefixtures("warm_children")


@pytest.fixture
def observed(tmp_path, clock, monkeypatch):
    """A loop that judges and does nothing about it; people reach its pages at an address."""
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__POLICY__MODE", "observe")
    monkeypatch.setenv("FEEDBACK_LOOP_DASHBOARD__URL", "https://loop.example.org")
    made = churn_loop(tmp_path, clock)
    yield made
    made.close()


def runs_of(loop, kind):
    """The loop's runs of a kind in MLflow, oldest first."""
    connection = loop.registry._mlflow
    wanted = f"tags.`feedback_loop.kind` = '{kind}'"
    return connection.client.search_runs([connection.experiment_id], wanted, order_by=["attributes.start_time ASC"])


def file_of(loop, run, name):
    return json.loads(Path(loop.registry._mlflow.client.download_artifacts(run.info.run_id, name)).read_text())


def test_a_verdict_that_says_something_new_is_a_run_within_its_versions_monitoring_run(observed, clock):
    play_days(observed, clock, 4)
    run_cycle(observed, "churn")
    play_days(observed, clock, 1, seed=60)
    run_cycle(observed, "churn")  # says the same again
    [first] = runs_of(observed, "verdict")
    assert first.info.run_name == "ok churn version 1"
    assert [first.data.tags[f"feedback_loop.{name}"] for name in ("verdict_before", "incident")] == ["none", "none"]

    play_days(observed, clock, 12, harder=0.45, seed=100)
    run_cycle(observed, "churn")
    _, worse = runs_of(observed, "verdict")
    [incident], [monitoring] = incidents.load_incidents(observed.store, "churn"), runs_of(observed, "monitoring")
    newest = load_verdicts(observed.store, "churn")[0]
    tags, ours = worse.data.tags, "feedback_loop."
    assert tags["mlflow.parentRunId"] == monitoring.info.run_id
    assert (tags[ours + "verdict"], tags[ours + "verdict_before"]) == ("degraded", "ok")
    assert (tags[ours + "incident"], tags[ours + "verdict_id"]) == (str(incident.incident_id), str(newest.verdict_id))
    assert f"(https://loop.example.org/incidents/{incident.incident_id})" in tags["mlflow.note.content"]
    judged = newest_evaluations(load_evaluations(observed.store, "churn", within=newest.window, matured=True))
    assert tags[ours + "evaluation"] == ",".join(str(each.evaluation_id) for each in judged)
    assert worse.data.metrics["verdict"] == 2
    assert worse.data.metrics["brier"] > worse.data.metrics["brier_reference"]
    told = file_of(observed, worse, "verdict.json")
    assert (told["summary"], "monitor" in told) == (newest.summary, False)
    assert [each["evaluation_id"] for each in told["evaluations"]] == [each.evaluation_id for each in judged]
    assert "plan=" not in json.dumps(told["evaluations"])  # an erasure takes segments out of our store, and not there

    assert [verdict.run_id for verdict in load_verdicts(observed.store, "churn")] == [
        *[worse.info.run_id] * (len(load_verdicts(observed.store, "churn")) - 2),
        *[first.info.run_id] * 2,
    ]
    incidents.close_incident(observed.store, incident.incident_id, "by hand", clock())
    assert {run.info.status for run in (first, worse, monitoring)} == {"FINISHED"}


def test_pages_lead_to_the_run_of_a_verdict_where_mlflow_is_a_server(observed, clock, tmp_path, monkeypatch):
    play_days(observed, clock, 12, harder=0.45, seed=100)
    run_cycle(observed, "churn")
    [incident], newest = incidents.load_incidents(observed.store, "churn"), load_verdicts(observed.store, "churn")[0]
    places = "/models/churn", f"/incidents/{incident.incident_id}"

    def shown(loop):
        """The addresses in MLflow of both pages, and of the API."""
        with TestClient(create_app(loop, host="127.0.0.1"), base_url="http://127.0.0.1") as client:
            links = [re.findall('href="(https?://mlflow[^"]+)"', client.get(place).text) for place in places]
            model, of_incident = (client.get(f"/api/models/churn{place}").json() for place in ("", places[1]))
        return *links, model["verdict"]["in_mlflow"], of_incident["in_mlflow"]

    assert shown(observed) == ([], [], "", "")
    monkeypatch.setenv("FEEDBACK_LOOP_REGISTRY__TRACKING_URI", "https://ada:secret@mlflow.example.org/x")
    with closing(open_loop(tmp_path / "feedback_loop.toml", clock)) as server:  # which is away: pages don't ask it
        page = f"https://mlflow.example.org/x/#/runs/{newest.run_id}"
        assert shown(server) == ([page], [page], page, page)


def test_windows_are_drawn_with_bands_and_drift_in_one_call_for_all_of_them(observed, clock, monkeypatch):
    calls, log_batch = Counter(), mlflow.MlflowClient.log_batch
    play_days(observed, clock, 6)

    def counted(client, *arguments, **options):
        calls["log_batch"] += 1
        return log_batch(client, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    evaluations = observed.evaluate("churn")
    assert (len(evaluations) > 5, calls["log_batch"]) == (True, 1)
    [run] = runs_of(observed, "monitoring")
    names = set(run.data.metrics)
    assert {"brier", "band/brier_lower", "band/brier_upper", "drift/age", "drift/plan"} <= names
    assert {"drifted_share", "predictions", "coverage", "estimated_accuracy"} <= names
    client = observed.registry._mlflow.client
    drawn = {point.timestamp: point.value for point in client.get_metric_history(run.info.run_id, "band/brier_lower")}
    matured = {each.window.start: each for each in evaluations if each.matured}
    assert set(drawn) == {int(start.timestamp() * 1000) for start in matured}
    for start, evaluation in matured.items():
        brier = next(each for each in evaluation.metrics if (each.metric, each.segment) == ("brier", ""))
        assert drawn[int(start.timestamp() * 1000)] == pytest.approx(brier.value - 1.96 * brier.standard_error)
    newest = file_of(observed, run, "evaluation.json")
    assert newest["evaluation_id"] == max(evaluations, key=lambda each: (each.window.end, each.as_of)).evaluation_id


METRIC = """
import mlflow

def by_hand(rows):
    with mlflow.start_run(run_name="by hand"):
        return 1.0
"""


def test_a_run_begun_by_hand_within_an_evaluation_or_a_decision_says_of_which(tmp_path, clock, monkeypatch):
    (tmp_path / "handmade.py").write_text(METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    loop = churn_loop(tmp_path, clock, more='[models.churn.metrics]\nby_hand = "handmade:by_hand"\n')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", loop.registry._mlflow.tracking_uri)
    decide = judging.decide

    def decided(*arguments, **options):  # as a loss of one's own would
        with mlflow.start_run(run_name="decision"):
            return decide(*arguments, **options)

    monkeypatch.setattr(judging, "decide", decided)
    play_days(loop, clock, 4)
    loop.evaluate("churn")
    [evaluation] = loop.evaluate("churn", judging.Window(clock() - 3 * DAY, clock() - 2 * DAY), from_log=True)
    loop.decide("churn")
    runs = {
        run.info.run_name: run.data.tags
        for run in mlflow.search_runs(search_all_experiments=True, output_format="list")
    }
    made, decision = runs["by hand"], runs["decision"]
    assert made["feedback_loop.model"] == decision["feedback_loop.model"] == "churn"
    assert made["feedback_loop.window"] == str(evaluation.window)
    assert made["feedback_loop.as_of"] == format_moment(evaluation.as_of)
    newest = load_evaluations(loop.store, "churn", matured=True, newest=1)[0]
    assert decision["feedback_loop.evaluation"] == str(newest.evaluation_id)
    loop.close()
