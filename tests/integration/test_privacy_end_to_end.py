"""Hashed, sampled, kept for a while and erased: the whole loop, with a real MLflow store."""

import json
from datetime import timedelta

import pandas as pd
import pyarrow.parquet as pq
import pytest

from feedback_loop.clock import Window
from feedback_loop.cycle import run_cycle
from feedback_loop.errors import BadInput, Refused
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection
from feedback_loop.store import predictions
from feedback_loop.store.conclusions import State
from tests.builders import churn_loop, customers, open_loop, play_days, prediction_rows, register_churn
from tests.integration.processes import call, free_port, running, wait_until

pytestmark = pytest.mark.usefixtures("warm_children")
DAY = timedelta(days=1)
FEATURES = ("customer", "month", "age", "plan")
LOG = "[models.churn.log]\n"


@pytest.fixture
def loop_of(tmp_path, clock):
    """Makes a loop whose configuration has more in it."""
    made = []

    def loop_of(more="", **options):
        made.append(churn_loop(tmp_path, clock, more=more, **options))
        return made[-1]

    yield loop_of
    for loop in made:
        loop.close()


def logged(loop, window=None):
    scorer = loop.scorer(loop.champion("churn"))
    whole = Window(loop.clock() - 100 * DAY, loop.clock() + DAY)
    return predictions.read_labelled(loop.store, scorer.logged, window or whole)


def holding(folder, text):
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_model_whose_columns_are_hashed_or_dropped_is_watched(loop_of, monkeypatch, clock, tmp_path):
    monkeypatch.setenv("FEEDBACK_LOOP_CAPTURE__HASH_KEY", "a long random text")
    more = LOG + 'columns = { customer = "hash", month = "hash", plan = "hash", age = "drop" }\n'
    loop = loop_of(more)
    play_days(loop, clock, 4)
    rows = logged(loop)
    assert (rows.num_rows, rows.column("churned").null_count) == (1200, 0)
    assert "age" not in rows.column_names
    assert {len(value) for value in rows.column("plan").to_pylist()} == {32}
    outcomes = {each.job: each for each in run_cycle(loop, "churn")}
    assert {each.state for each in outcomes.values()} == {"succeeded"}
    assert outcomes["decide"].result["state"] == State.OK
    evaluation = loop.evaluate("churn", Window(clock() - 4 * DAY, clock()))[0]
    assert {each.column for each in evaluation.drift} == {"plan", "prediction", "probability"}
    assert evaluation.drifted_share == 0  # hashes of the reference are compared with hashes of the log
    assert len({each.segment for each in evaluation.metrics}) == 4
    pages = loop.report("churn", Window(clock() - 4 * DAY, clock()), "x")
    words = pages[1].read_text()
    assert all(f'"{plan}"' not in words for plan in ("basic", "plus", "pro"))
    person = customers(1, 3, month="a-person-of-Ulm")
    loop.predict("churn", {name: person[name] for name in FEATURES})
    loop.record_outcomes("churn", {name: person[name] for name in ("customer", "month", "churned")})
    assert logged(loop).num_rows == 1201
    assert holding(tmp_path, "a-person-of-Ulm") == []


def test_a_reference_that_is_brought_is_kept_as_it_is_logged(loop_of, monkeypatch, clock):
    monkeypatch.setenv("FEEDBACK_LOOP_CAPTURE__HASH_KEY", "a long random text")
    loop = loop_of(LOG + 'columns = { plan = "hash", age = "drop" }\n')
    held = pd.DataFrame(customers(1500, 77))[["age", "plan", "churned"]]
    version = loop.models.register("churn", str(loop.registry.load(loop.champion("churn")).path), reference=held)
    kept = loop.registry.reference_rows(version)
    assert "age" not in kept.column_names
    assert {len(value) for value in kept.column("plan").to_pylist()} == {32}
    loop.promote("churn", version.version)
    play_days(loop, clock, 2)
    clock.set(clock() + DAY)
    assert loop.decide("churn").state is State.OK
    assert loop.evaluate("churn", Window(clock() - 3 * DAY, clock()))[0].drifted_share == 0


def test_what_is_not_logged_plain_can_not_be_learned_from(loop_of, clock):
    loop = loop_of(LOG + 'columns = { age = "drop" }\n')
    play_days(loop, clock, 2)
    with pytest.raises(Refused, match="can't be retrained") as caught:
        loop.retrain("churn")
    assert "models.churn.log.columns" in caught.value.cure
    clock.set(clock() + 40 * DAY)
    outcomes = {each.job: each for each in run_cycle(loop, "churn")}
    assert outcomes["retrain"].state == "succeeded"
    assert outcomes["retrain"].result["state"] == "refused"
    assert "Log them plain" in outcomes["retrain"].result["summary"]


def test_a_sample_is_logged_and_all_is_answered(loop_of, clock, tmp_path):
    loop = loop_of(LOG + "sample = 0.25\n")
    rows = customers(2000, 5)
    answers = loop.predict("churn", {name: rows[name] for name in FEATURES})
    assert answers.num_rows == 2000
    found = logged(loop)
    assert 380 < found.num_rows < 620
    assert set(found.column("sample_weight").to_pylist()) == {4.0}
    again = {**{name: rows[name] for name in FEATURES}, "prediction_id": answers.column("prediction_id").to_pylist()}
    loop.predict("churn", again)  # a retry is sampled alike
    assert logged(loop).column("prediction_id").equals(found.column("prediction_id"))
    pd.DataFrame(rows).drop(columns="churned").to_parquet(tmp_path / "in.parquet")
    result = loop.predict_file("churn", tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert (result.rows, pq.read_table(tmp_path / "out.parquet").num_rows) == (2000, 2000)
    assert result.logged == logged(loop).num_rows - found.num_rows
    assert 380 < result.logged < 620


def test_a_day_that_is_logged_at_two_rates_is_judged_as_it_was(loop_of, clock, tmp_path):
    """The morning at rate 1, the evening, in which the world has turned around, at a tenth."""
    plain = loop_of()
    morning, evening = customers(2000, 1, month="am"), customers(2000, 2, month="pm", harder=0.6)
    plain.predict("churn", {name: morning[name] for name in FEATURES})
    plain.close()
    loop = open_loop(tmp_path / "feedback_loop.toml", clock)
    (tmp_path / "feedback_loop.toml").write_text(
        (tmp_path / "feedback_loop.toml").read_text() + LOG + "sample = 0.1\n"
    )
    loop = open_loop(tmp_path / "feedback_loop.toml", clock)
    loop.predict("churn", {name: evening[name] for name in FEATURES})
    clock.set(clock() + DAY)
    for part in (morning, evening):
        loop.record_outcomes("churn", {name: part[name] for name in ("customer", "month", "churned")})
    scorer = loop.scorer(loop.champion("churn"))
    right = [
        (scorer.score(scorer.rows_of(pd.DataFrame(part))).outputs.column("prediction").to_numpy() == part["churned"])
        for part in (morning, evening)
    ]
    truth = (right[0].mean() + right[1].mean()) / 2
    found = loop.evaluate("churn", Window(clock() - 2 * DAY, clock()))[0]
    accuracy = next(each for each in found.metrics if each.metric == "accuracy" and not each.segment)
    assert abs(accuracy.value - truth) < 4 * accuracy.standard_error
    assert abs(right[0].mean() - truth) > 8 * accuracy.standard_error  # the morning alone says another thing
    assert found.coverage == 1.0
    loop.close()


def test_what_is_past_its_retention_goes_with_the_cycle_and_can_not_be_asked_again(loop_of, clock, run):
    loop = loop_of(LOG + 'retention = "5d"\n')
    play_days(loop, clock, 8)
    old = Window(clock() - 8 * DAY, clock() - 7 * DAY)
    before = loop.evaluate("churn", Window(clock() - 4 * DAY, clock() - 3 * DAY), clock())
    outcomes = {each.job: each for each in run_cycle(loop, "churn")}
    done = outcomes["retention"].result
    assert (outcomes["retention"].state, done["predictions"]) == ("succeeded", 900)
    assert logged(loop).num_rows == 1500
    assert loop.evaluate("churn", Window(clock() - 4 * DAY, clock() - 3 * DAY), clock()) == before
    with pytest.raises(Refused, match=r"models\.churn\.log\.retention"):
        loop.evaluate("churn", old, clock() - 6 * DAY)
    with pytest.raises(Refused, match="are gone"):
        loop.report("churn", old, "x")
    assert loop.evaluate("churn") == []  # what is gone is not due either
    loop.close()
    code, out, _ = run("db", "retain", "--json")  # by the real clock, years later
    assert (code, json.loads(out)[0]["predictions"]) == (0, 1500)
    code, out, _ = run("db", "retain", "churn")
    assert (code, "kept_since" in out) == (0, True)


def test_a_model_without_a_retention_keeps_everything(loop_of, clock):
    loop = loop_of()
    assert loop.retain("churn") is None
    result = {each.job: each.result for each in run_cycle(loop, "churn")}["retention"]
    assert result == {"kept_since": None, "job_runs": 0, "alerts": 0, "verdicts": 0}


@pytest.fixture
def lived(loop_of, clock):
    """A loop with a person in it: in the log, in outcomes, in reports, and in what a version is compared with."""
    loop = loop_of()
    play_days(loop, clock, 12, harder=0.3)
    person = customers(1, 3, first=4711, month="a-person-of-Ulm")
    features = {name: person[name] for name in FEATURES}
    (identifier,) = loop.predict("churn", features).column("prediction_id").to_pylist()
    loop.record_outcomes("churn", {name: person[name] for name in ("customer", "month", "churned")})
    clock.set(clock() + 2 * DAY)
    result = loop.retrain("churn", promotes=False)
    assert result.candidate == "2"
    window = Window(clock() - 3 * DAY, clock())
    loop.report("churn", window, "with", rows="full")
    loop.report("churn", Window(clock() - 12 * DAY, clock() - 9 * DAY), "without", rows=500)
    loop.report("churn", Window(clock() - 4 * DAY, clock()), "made")
    return loop, identifier


def test_a_person_is_erased_everywhere_and_what_was_removed_is_said(lived, clock, run, tmp_path):
    loop, identifier = lived
    candidate = loop.registry.versions("churn")[1]
    assert identifier in loop.registry.reference_rows(candidate).column("prediction_id").to_pylist()
    total = logged(loop).num_rows
    options = ["--key", "month=a-person-of-Ulm", "--key", "customer=4711"]
    loop.close()
    code, out, _ = run("erase", "churn", *options, "--dry-run", "--json")
    would = json.loads(out)
    assert (code, logged(loop).num_rows, holding(loop.reports, "with") != []) == (0, total, True)
    code, out, _ = run("erase", "churn", *options, "--yes", "--json")
    done = json.loads(out)
    assert code == 0
    assert {**would, "dry_run": False} == done
    assert (done["predictions"], done["outcomes"], done["reference_rows"]) == (1, 1, {"2": 1})
    names = ["with-drift.html", "with-drift.json", "with-validation.html", "with-validation.json"]
    removed = [path for path in done["reports"] if "/snapshots/" not in path]
    assert [path.rsplit("/", 1)[1] for path in removed] == names
    assert len(done["reports"]) == 6  # and a snapshot of each
    assert done["mlflow_reports"] == [f"churn version 1: reports/{name}" for name in names]
    assert done["undeleted"] == []
    assert all(
        any(place in each for each in done["stays"]) for place in ("evaluations", "*.damaged", "outcomes/refused")
    )
    assert (done["payloads"], done["unread_payloads"]) == (0, 0)
    assert identifier not in loop.registry.reference_rows(candidate).column("prediction_id").to_pylist()
    assert len(list(loop.reports.rglob("snapshots/*.json"))) == 4
    assert [path.name for path in sorted(loop.reports.glob("churn/*.html"))] == [
        "made-drift.html",
        "made-validation.html",
        "without-drift.html",
        "without-validation.html",
    ]
    assert logged(loop).num_rows == total - 1
    for text in ("a-person-of-Ulm", identifier):
        assert holding(tmp_path, text) == []
    late = "customer,month,churned,occurred_at\n4711,a-person-of-Ulm,true,2026-03-14\n"
    (tmp_path / "late.csv").write_text(late)
    code, out, _ = run("outcomes", "load", "churn", "late.csv")
    assert (code, "0 new" in out, "1 of erased keys not stored" in out) == (0, True, True)
    code, out, _ = run("erase", "churn", *options, "--yes")
    assert (code, "Removed 0 predictions" in out) == (0, True)


def test_copies_behind_an_mlflow_server_are_removed_too(mlflow_uri, warm, tmp_path, clock):
    port, log = free_port(), tmp_path / "mlflow.log"
    command = [warm / "mlflow", "server", "--port", port, "--backend-store-uri", mlflow_uri]
    command += ["--artifacts-destination", tmp_path / "served", "--workers", 1]
    with running([str(part) for part in command], log, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as process:
        wait_until(lambda: call(port, "GET", "/health")[0] == 200, process, log)
        registry = Registry(Connection(f"http://127.0.0.1:{port}", "", tmp_path, "feedback-loop"))
        version = register_churn(registry, clock(), rows=200, reference=200)
        page = tmp_path / "x-drift.json"
        page.write_text("{}")
        registry.lineage.log_files(version, [page], "reports", clock())
        rows = registry.reference_rows(version)
        registry.replace_reference(version, rows.slice(1))
        assert registry.reference_rows(version).num_rows == 199
        brought = tmp_path / "brought"
        brought.mkdir()
        registry.lineage.fetch_files(version, "reports", ".json", brought)
        assert [path.name for path in brought.glob("*.json")] == ["x-drift.json"]
        assert registry.lineage.delete_file(version, "reports/x-drift.json")
        assert [path for path in (tmp_path / "served").rglob("*") if path.name == "x-drift.json"] == []


def test_spools_of_this_host_are_emptied_of_erased_rows(lived, clock, tmp_path):
    loop, _ = lived
    contract = loop.scorer(loop.champion("churn")).logged
    rows = prediction_rows(contract, [clock()] * 3, month=["a-person-of-Ulm", "another", "a-person-of-Ulm"])
    spool = loop.context.new_spool()
    assert spool.append(contract, rows, clock()) == 3
    assert spool.append(contract, rows.slice(0, 1), clock()) == 1
    assert len(holding(tmp_path, "a-person-of-Ulm")) > 1
    done = loop.erase("churn", {"month": "a-person-of-Ulm"})
    assert (done.spooled, done.predictions) == (3, 1)
    assert holding(tmp_path, "a-person-of-Ulm") == []  # while the spool's owner lives
    before = logged(loop).num_rows
    loop.forward()
    assert logged(loop).num_rows == before + 1
    spool.close()
    (account,) = loop.predictions.local_accounts()
    assert (account.spooled, account.stored, account.waiting) == (4, 4, 0)
    assert holding(tmp_path, "a-person-of-Ulm") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--key", "custommer=1"], "The key of churn is customer, month."),
        (["--key", "age=1"], "The key of churn is customer, month."),
        (["--key", "customer=one"], "'one' does not fit the type long"),
        (["--key", "customer="], "customer: is missing"),
        (["--key", "customer"], "Write --key customer=123."),
        (["--key", "customer=1", "--key", "customer=2"], "names a column twice"),
    ],
)
def test_what_is_no_key_is_refused(loop_of, run, options, said):
    loop_of().close()
    code, out, err = run("erase", "churn", *options, "--yes")
    assert (code, out, said in err) == (1, "", True)


def test_nothing_is_erased_by_accident(loop_of):
    with pytest.raises(BadInput, match="is missing"):
        loop_of().erase("churn", {})
