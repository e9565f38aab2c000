"""A server's processes: workers that answer from bundles, the stager that makes them; swaps, traffic, kills."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import psutil
import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.schema import derived_bits, moment_of, prediction_id
from feedback_loop.serving.places import places_of
from feedback_loop.serving.traffic import bucket
from feedback_loop.store import predictions, serving_state
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.serving_state import TrafficPlan
from tests.builders import add_revision, churn_loop, flat_coefficients, register_churn
from tests.integration.processes import call, end, is_alive, server, wait_until

SHARED = "known to MLflow and to the server"
SETTINGS = {
    "FEEDBACK_LOOP_SERVING__POLL_ALIAS": "1h",  # what happens sooner, a hint made happen
    "FEEDBACK_LOOP_SERVING__WEBHOOK_SECRET": SHARED,
    "FEEDBACK_LOOP_SERVING__MAX_ROWS": "5000",
}
RECORD = {"age": 20.0, "plan": "pro", "month": "2026-03"}
MOST_BYTES = 250 * 2**20
ADAPTED = "SELECT prediction_id, adapter_revision, role, raw_probability, probability, age, plan FROM "


class Served:
    """A server of two workers; versions 1 and 2 of its model never agree on this record."""

    def __init__(self, loop, port, process, log):
        self.loop, self.port, self.process, self.log = loop, port, process, log

    def ask(self, customer=1, **record):
        body = {"dataframe_records": [RECORD | {"customer": customer} | record]}
        return call(self.port, "POST", "/invocations", body)

    def ask_many(self, customers, **record):
        records = [RECORD | {"customer": each} | record for each in range(customers)]
        return call(self.port, "POST", "/invocations", {"dataframe_records": records})

    def metrics(self):
        return call(self.port, "GET", "/metrics")[1]

    def wait(self, condition, seconds=60):
        return wait_until(condition, self.process, self.log, seconds)

    def hint(self, key=SHARED, age=0, delivery=None):
        """What MLflow sends when an alias was set."""
        delivery = delivery or uuid.uuid4().hex
        body = json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": "churn"}})
        sent = str(int(time.time()) - age)
        signed = hmac.new(key.encode(), f"{delivery}.{sent}.{body}".encode(), hashlib.sha256).digest()
        headers = {
            "x-mlflow-signature": f"v1,{base64.b64encode(signed).decode()}",
            "x-mlflow-timestamp": sent,
            "x-mlflow-delivery-id": delivery,
        }
        return call(self.port, "POST", "/webhooks/mlflow", body, headers)[0]

    def promote(self, version):
        self.loop.registry.set_alias("churn", "champion", version)
        assert self.hint() == 202
        self.wait(lambda: {self.ask()[1]["model_version"] for _ in range(8)} == {version})

    @property
    def processes(self):
        """The workers, and the stager."""
        children = [each for each in psutil.Process(self.process.pid).children() if is_alive(each.pid)]
        stagers = [each for each in children if "stage" in each.cmdline()]
        return [each for each in children if each not in stagers], stagers


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    clock = ManualClock(datetime.now(UTC))
    loop = churn_loop(folder, clock, more='[models.churn.adapter]\nmode = "on"\n')
    register_churn(loop.registry, clock(), seed=4, turned=True)
    log = folder / "server.log"
    with server(folder / "feedback_loop.toml", "--workers", "2", log=log, **SETTINGS) as (port, process):
        served = Served(loop, port, process, log)
        assert served.ask()[0] == 200
        served.wait(lambda: predictions.count_predictions(loop.store, "churn"))  # its table is there for every test
        yield served
        ends_with_its_server(served)
    loop.close()


def ends_with_its_server(served):
    """Workers and stager of a server that is killed end by themselves."""
    children = [each for some in served.processes for each in some]
    os.kill(served.process.pid, signal.SIGKILL)
    served.process.wait()
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert (len(gone), alive) == (3, [])


@contextmanager
def asking(served, callers, check, rows=1):
    """Callers that ask of so many rows over their own connections until the block ends; `check` gets each answer."""
    stop = threading.Event()

    def work(number):
        with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
            body = json.dumps({"dataframe_records": [RECORD | {"customer": number + row} for row in range(rows)]})
            while not stop.is_set():
                try:
                    connection.request("POST", "/invocations", body, {"content-type": "application/json"})
                    response = connection.getresponse()
                    check(response.status, json.loads(response.read()))
                except OSError as error:
                    connection.close()
                    check(None, error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_workers_hold_neither_mlflow_nor_pandas_nor_scikit_learn(served):
    assert served.ask()[0] == 200
    workers, stagers = served.processes
    assert (len(workers), len(stagers)) == (2, 1)
    for worker in workers:
        mapped = {each.path for each in worker.memory_maps()}
        assert any("onnxruntime" in path for path in mapped)
        for library in ("pandas", "sklearn", "scipy"):  # MLflow has no binary of its own, but it loads pandas
            assert not [path for path in mapped if f"/{library}/" in path]
        assert worker.memory_info().rss <= MOST_BYTES


@pytest.mark.parametrize("swaps", [20, pytest.param(100, marks=pytest.mark.statistics)])
def test_hot_swaps_under_load_fail_nobody_and_every_answer_names_its_version(served, swaps):
    served.promote("1")
    expected = {"1": served.ask()[1]["predictions"]}
    served.promote("2")
    expected["2"] = served.ask()[1]["predictions"]
    assert expected["1"] != expected["2"]
    wrong, seen = [], Counter()

    def check(status, answer):
        if status != 200 or answer["predictions"] != expected[answer["model_version"]]:
            wrong.append((status, answer))
        else:
            seen[answer["model_version"]] += 1

    with asking(served, 4, check):
        for number in range(swaps):
            served.loop.registry.set_alias("churn", "champion", "1" if number % 2 == 0 else "2")
            assert served.hint() == 202
            now = "1" if number % 2 == 0 else "2"
            served.wait(lambda now=now: served.ask()[1]["model_version"] == now)
    assert wrong == []
    assert min(seen.values()) > swaps
    served.loop.forward()
    logged = predictions.count_predictions(served.loop.store, "churn")
    assert logged["1", "champion", "online"] > seen["1"]


def test_only_a_webhook_that_mlflow_signed_just_now_is_a_hint(served):
    assert served.hint(delivery="1") == 202
    assert [served.hint(delivery="1") for _ in range(4)] == [401] * 4  # whichever worker it comes to
    assert served.hint(key="guessed") == 401
    assert served.hint(age=3600) == 401
    assert call(served.port, "POST", "/webhooks/mlflow", b"{}")[0] == 401


def test_a_canary_answers_the_same_keys_always_and_its_share_changes_without_a_restart(served):
    loop = served.loop
    served.promote("1")
    loop.registry.set_alias("churn", "challenger", "2")
    try:
        for share in (0.3, 0.8):
            loop.models.route("churn", TrafficPlan(canary="challenger", share=share))
            wanted = {customer: "2" if bucket(f"{customer}\0canary") < share else "1" for customer in range(40)}

            def versions(wanted=wanted):
                return {each: served.ask(each, month="canary")[1]["model_version"] for each in wanted}

            served.wait(lambda wanted=wanted: versions() == versions() == wanted)
            assert len(set(wanted.values())) == 2
        status, answer, _ = served.ask_many(40, month="canary")
        assert (status, answer["model_versions"]) == (200, list(wanted.values()))
        loop.forward()
        with loop.store.read() as connection:
            sides = connection.exec_driver_sql(
                "SELECT DISTINCT role, model_version FROM predictions_churn WHERE month = 'canary'"
            ).all()
        assert set(map(tuple, sides)) == {("champion", "1"), ("canary", "2")}
    finally:
        loop.models.route("churn", TrafficPlan())
    served.wait(lambda: {served.ask(each)[1]["model_version"] for each in range(40)} == {"1"})


def test_a_shadow_scores_what_was_answered_and_only_the_log_knows(served):
    loop = served.loop
    served.promote("1")
    loop.registry.set_alias("churn", "challenger", "2")
    loop.models.route("churn", TrafficPlan(shadows=("challenger",)))

    def logged():
        loop.forward()
        with loop.store.read() as connection:
            rows = connection.exec_driver_sql(
                "SELECT prediction_id, prediction FROM predictions_churn WHERE month = 'shadow' AND role = 'shadow'"
            ).all()
        return dict(map(tuple, rows))

    try:
        both = b'version_in_service{model="churn",role="shadow",version="2"} 2.0'
        served.wait(lambda: both in served.metrics())  # a worker that has not swapped yet shadows nothing
        for answer in [served.ask(month="shadow")[1] for _ in range(5)]:
            (answered,) = answer["prediction_ids"]
            own = prediction_id(moment_of(answered), derived_bits(f"{answered}:2"))
            served.wait(lambda own=own: own in logged())
            assert answer["model_version"] == "1"
            assert bool(logged()[own]) is not answer["predictions"][0]
    finally:
        loop.models.route("churn", TrafficPlan())


def test_a_revision_of_the_adapter_changes_between_requests_and_none_is_answered_by_two(served):
    loop = served.loop
    shifts, contract = {1: -9, 2: 9, 3: -9, 4: 9, 5: 0}, loop.context.contract("churn")
    revisions = {number: flat_coefficients(contract, shift) for number, shift in shifts.items()}
    served.promote("1")
    (raw,) = served.ask()[1]["predictions"]
    for alias in ("challenger", "onlooker"):
        loop.registry.set_alias("churn", alias, "2")
    loop.models.route("churn", TrafficPlan(("onlooker",), "challenger", 0.5))

    def become(number, answers):
        add_revision(loop.store, number, revisions[number], loop.clock())
        assert served.hint() == 202
        served.wait(lambda: {served.ask(each)[1]["predictions"][0] for each in range(16)} == answers)

    wrong, requests = [], []

    def check(status, answer):
        if status == 200 and len(set(answer["predictions"])) == 1 and len(set(answer["model_versions"])) == 2:
            requests.append(answer["prediction_ids"])
        else:
            wrong.append((status, answer))

    try:
        become(1, {False})  # without it the canary's answers are never the champion's
        served.wait(lambda: all("model_versions" in served.ask_many(12)[1] for _ in range(8)))
        with asking(served, 2, check, rows=12):
            for number in (2, 3, 4):
                become(number, {number % 2 == 0})
    finally:
        loop.models.route("churn", TrafficPlan())
        become(5, {raw})
    assert wrong == []
    served.wait(lambda: not not_in_the_store(loop, [each for ids in requests for each in ids]))
    with loop.store.read() as connection:
        rows = connection.exec_driver_sql(ADAPTED + "predictions_churn").all()
    revision_of = {row[0]: row[1] for row in rows}
    assert {len({revision_of[each] for each in ids}) for ids in requests} == {1}
    for number in range(1, 5):
        roles, raws, answers, ages, plans = zip(*(row[2:] for row in rows if row[1] == number), strict=True)
        assert set(roles) == {"champion", "canary", "shadow"}
        assert revisions[number].apply(raws, {"age": ages, "plan": plans}).tolist() == list(answers)


def test_a_version_that_can_not_be_loaded_leaves_the_old_one_and_an_incident(served):
    loop = served.loop
    served.promote("1")
    broken = register_churn(loop.registry, loop.clock(), seed=9)
    for file in loop.registry.load(broken).path.glob("model.*"):
        file.unlink()
    loop.registry.set_alias("churn", "champion", broken.version)
    assert served.hint() == 202
    served.wait(lambda: serving_state.find_load_incidents(loop.store, "churn"))
    assert served.ask()[1]["model_version"] == "1"
    (incident,) = serving_state.find_load_incidents(loop.store, "churn")
    assert (incident.version, incident.closed_at) == (broken.version, None)
    served.wait(lambda: load_alerts(loop.store, [], about="serving:")[0].state == "sent")  # no scheduler runs
    (alert,) = load_alerts(loop.store, [], about="serving:")
    assert alert.title == f"churn version {broken.version} can't be served"
    served.promote("2")
    served.wait(lambda: serving_state.find_load_incidents(loop.store, "churn")[0].closed_at)


def test_a_published_bundle_that_breaks_on_disk_is_told_of_and_made_anew_while_it_is_answered_from(served):
    loop, version = served.loop, served.ask()[1]["model_version"]
    place = places_of(loop.settings, ["churn"])["churn"]
    model = place.bundle(place.bundle_name(version)) / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-10])
    assert served.hint() == 202
    about = f"serving:churn:{version}:damaged:"
    served.wait(lambda: load_alerts(loop.store, [], about=about))
    (alert,) = load_alerts(loop.store, [], about=about)
    assert "model.onnx is not what was written" in alert.body
    served.wait(lambda: model.exists() and model.stat().st_size == len(whole))
    assert (served.ask()[0], served.ask()[1]["model_version"]) == (200, version)


def test_what_is_over_the_limit_of_rows_is_refused(served):
    rows = [RECORD | {"customer": 1}] * 5001
    status, answer, _ = call(served.port, "POST", "/invocations", {"dataframe_records": rows})
    assert (status, answer["error_code"]) == (413, "REQUEST_LIMIT_EXCEEDED")
    assert call(served.port, "POST", "/invocations", {"dataframe_records": rows[:-1]})[0] == 200


def not_in_the_store(loop, identifiers):
    with loop.store.read() as connection:
        rows = connection.exec_driver_sql("SELECT prediction_id FROM predictions_churn").all()
    return set(identifiers) - {row[0] for row in rows}


def test_a_killed_stager_comes_back_and_forwards_what_was_answered_meanwhile(served):
    served.promote("1")
    (stager,) = served.processes[1]
    stager.kill()
    answered = [served.ask()[1]["prediction_ids"][0] for _ in range(20)]
    served.wait(lambda: [each for each in served.processes[1] if each.pid != stager.pid])
    served.wait(lambda: not not_in_the_store(served.loop, answered))
    served.promote("2")


def test_a_killed_worker_loses_nothing_that_was_acknowledged_and_comes_back(served):
    acknowledged, failed = [], []

    def check(status, answer):
        if status == 200:
            acknowledged.extend(answer["prediction_ids"])
        else:
            failed.append(answer)

    with asking(served, 6, check):
        served.wait(lambda: len(acknowledged) > 50)
        killed = served.processes[0][0]
        killed.kill()
        before = len(acknowledged)
        served.wait(lambda: len(acknowledged) > before + 50)
        served.wait(lambda: len(served.processes[0]) == 2)
    assert len(failed) <= 12  # the connections that it held, and that the system had queued for it
    assert all(isinstance(error, OSError) for error in failed)
    served.wait(lambda: not not_in_the_store(served.loop, acknowledged))  # the stager has drained its spool


def test_a_server_begins_with_what_it_has_and_leaves_no_process_behind(served, tmp_path):
    folder = served.log.parent
    shutil.copy(folder / "feedback_loop.toml", tmp_path / "feedback_loop.toml")
    with closing(sqlite3.connect(folder / "store.db")) as old, closing(sqlite3.connect(tmp_path / "store.db")) as new:
        old.backup(new)  # much of it may be in its log still
    shutil.copytree(folder / "models", tmp_path / "models", ignore=shutil.ignore_patterns("figures-*"))
    log = tmp_path / "server.log"  # and there is no registry
    with server(tmp_path / "feedback_loop.toml", "--workers", "2", log=log) as (port, process):
        second = Served(served.loop, port, process, log)
        status, answer, _ = second.ask()
        assert status == 200
        children = [each for some in second.processes for each in some]
        assert len(children) == 3
        assert end(process) == 0
        assert not [each for each in children if is_alive(each.pid)]
    assert not list((tmp_path / "spool").glob("*.spool"))  # the last thing the stager does is to empty them
    with closing(sqlite3.connect(tmp_path / "store.db")) as store:
        found = store.execute(
            "SELECT count(*) FROM predictions_churn WHERE prediction_id = ?", answer["prediction_ids"]
        )
        assert found.fetchone() == (1,)


def test_a_worker_that_has_enough_to_do_asks_callers_to_come_again(served, warm, tmp_path):
    limit = {"FEEDBACK_LOOP_SERVING__MAX_IN_FLIGHT": "2"}
    config = served.log.parent / "feedback_loop.toml"
    with server(config, log=tmp_path / "log", warm=warm, **limit) as (port, _):
        rows = json.dumps({"dataframe_records": [RECORD | {"customer": 1}] * 1000})
        with ThreadPoolExecutor(12) as callers:
            found = list(callers.map(lambda _: call(port, "POST", "/invocations", rows), range(24)))
    assert {status for status, _, _ in found} == {200, 429}
    assert {headers.get("retry-after") for status, _, headers in found if status == 429} == {"1"}
