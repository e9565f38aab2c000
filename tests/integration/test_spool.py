"""A server's spool as its operator sees it: metrics, status, alerts, and what is done after a crash."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from feedback_loop.clock import ManualClock
from feedback_loop.cycle import cycle
from feedback_loop.store import keys, predictions
from feedback_loop.store.incidents import due_alerts
from feedback_loop.views.status import loop_status
from tests.builders import customers
from tests.integration.processes import call, kill_all, server, wait_until

RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}
LATER = {"FEEDBACK_LOOP_CAPTURE__FORWARD_EVERY": "1h"}


@pytest.fixture
def clock():
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def command(run):
    """Runs `feedback-loop …`, which goes well; returns what it printed, with `--json` decoded."""

    def command(*arguments):
        code, printed, _ = run(*arguments)
        assert code == 0
        return json.loads(printed) if "--json" in arguments else printed

    return command


def figures(port, **options):
    status, body, headers = call(port, "GET", "/metrics", **options)
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    families = text_string_to_metric_families(body.decode())
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_metrics_count_requests_and_every_row_and_need_a_key(loop, tmp_path, clock, warm):
    key = {"authorization": f"Bearer {keys.create_key(loop.store, 'prometheus', clock(), [*keys.Scope])}"}
    settings = {"FEEDBACK_LOOP_SERVING__REQUIRE_KEY": "always"}
    with server(tmp_path / "feedback_loop.toml", log=tmp_path / "server.log", warm=warm, **settings) as (
        port,
        process,
    ):
        assert call(port, "GET", "/metrics")[0] == 401
        first = figures(port, headers=key)
        assert first["feedback_loop_oldest_waiting_seconds",] == 0
        assert not [name for name in first if name[0] == "feedback_loop_rows_answered_total"]
        call(port, "POST", "/invocations", {"dataframe_records": [RECORD] * 3}, key)
        call(port, "POST", "/invocations", {"dataframe_records": [{"age": 1.0}]}, key)
        stored = ("feedback_loop_rows_stored_total", "churn")
        wait_until(lambda: figures(port, headers=key).get(stored) == 3, process, tmp_path / "server.log")
        found = figures(port, headers=key)
        for name in ("answered_total", "spooled_total", "stored_total"):
            assert found[f"feedback_loop_rows_{name}", "churn"] == 3
        for name in ("refused_total", "dropped_total", "unsampled_total", "waiting", "rejected", "missing"):
            assert found[f"feedback_loop_rows_{name}", "churn"] == 0
        assert found["feedback_loop_requests_total", "invocations", "200"] == 1
        assert found["feedback_loop_requests_total", "invocations", "400"] == 1
        assert found["feedback_loop_requests_total", "metrics", "401"] == 1
        assert found["feedback_loop_request_seconds_count", "invocations"] == 2


def test_what_a_crash_left_is_shown_drained_and_accounted_for(loop, command, tmp_path, warm):
    with server(tmp_path / "feedback_loop.toml", log=tmp_path / "server.log", warm=warm, **LATER) as (port, process):
        for _ in range(3):
            assert call(port, "POST", "/invocations", {"dataframe_records": [RECORD] * 2})[0] == 200
        found = figures(port)
        assert found["feedback_loop_rows_waiting", "churn"] == 6
        kill_all(process, tmp_path / "server.log")
    state = command("spool", "status", "--json")
    assert (state["spooled"], state["waiting"], state["stored"], state["differences"]) == (6, 6, 0, [])
    assert state["answered"] <= 6
    assert command("status", "--json")["models"]["churn"]["capture"]["waiting"] == 6
    assert "6 spooled, 0 stored, 6 waiting" in command("status", "churn")
    done = command("spool", "drain", "--json")
    assert (done["stored"], done["rejected"], len(done["ended"]), done["damaged"]) == (6, 0, 1, [])
    assert sum(predictions.count_predictions(loop.store, "churn").values()) == 6
    assert "1 ended" not in command("spool", "drain")
    (process,) = command("spool", "status", "--json")["processes"]
    assert (process["state"], process["spooled"], process["stored"], process["waiting"]) == ("ended", 6, 6, 0)
    assert "ended" in command("spool", "status")


def test_the_spools_of_this_host_are_shown_without_the_store(loop, command, tmp_path, warm):
    with server(tmp_path / "feedback_loop.toml", log=tmp_path / "server.log", warm=warm, **LATER) as (port, process):
        assert call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})[0] == 200
        kill_all(process, tmp_path / "server.log")
    config = tmp_path / "feedback_loop.toml"
    config.write_text(config.read_text().replace("sqlite:///store.db", "postgresql://nobody@127.0.0.1:1/nothing"))
    state = command("spool", "status", "--json")
    assert state["store"].startswith("away")
    assert (state["spooled"], state["waiting"]) == (1, 1)


def test_the_loops_cycle_forwards_first_and_tells_what_has_waited_too_long(loop, tmp_path, clock, warm):
    with server(tmp_path / "feedback_loop.toml", log=tmp_path / "server.log", warm=warm, **LATER) as (port, process):
        rows = customers(5, 1, month="cycle")
        records = [
            {name: rows[name][place].item() for name in ("age", "plan", "customer", "month")} for place in range(5)
        ]
        assert call(port, "POST", "/invocations", {"dataframe_records": records})[0] == 200
        clock.set(clock() + timedelta(hours=1))
        assert loop.predictions.watch_accounts("churn") == 1
        assert loop.predictions.watch_accounts("churn") == 0
        (alert,) = due_alerts(loop.store, clock())
        assert "5 rows have not reached the store" in alert.body
        (difference,) = loop_status(loop)["models"]["churn"]["capture"]["differences"]
        assert "5 rows have not reached the store" in difference
        ran = {each.job: each for each in loop.runner.run("churn", cycle(loop, "churn"), clock())}
        assert next(iter(ran)) == "forward"
        assert (ran["forward"].state, ran["forward"].result["stored"], ran["forward"].result["alerts"]) == (
            "succeeded",
            5,
            0,
        )
        assert loop.deliver_alerts().sent == 1
        assert process.poll() is None
    (account,) = loop.accounts("churn")
    assert (account.state, account.answered, account.stored, account.missing) == ("ended", 5, 5, 0)


def test_a_full_spool_is_a_503_until_there_is_room_or_goes_on_where_that_is_wanted(loop, tmp_path, warm):
    small = {"FEEDBACK_LOOP_CAPTURE__MAX_BYTES": "150000", "FEEDBACK_LOOP_CAPTURE__FORWARD_EVERY": "4s"}
    body = {"dataframe_records": [{**RECORD, "customer": number} for number in range(500)]}
    for on_full, refusal in (("refuse", 503), ("drop", 200)):
        settings = {**small, "FEEDBACK_LOOP_MODELS__CHURN__LOG__ON_FULL": on_full}
        log = tmp_path / f"{on_full}.log"
        with server(tmp_path / "feedback_loop.toml", log=log, warm=warm, **settings) as (port, process):
            statuses = [call(port, "POST", "/invocations", body)[0] for _ in range(40)]
            assert set(statuses) == {200, refusal}
            wait_until(lambda: call(port, "POST", "/invocations", body)[0] == 200, process, log)
            wait_until(lambda: figures(port)["feedback_loop_rows_stored_total", "churn"] > 0, process, log)
            assert call(port, "POST", "/invocations", body)[0] == 200
    refused, dropped = sorted(loop.accounts("churn"), key=lambda each: each.dropped)
    assert (refused.refused > 0, refused.dropped, refused.answered) == (True, 0, refused.spooled)
    assert (dropped.refused, dropped.answered) == (0, dropped.spooled + dropped.dropped)
    assert {refused.missing, dropped.missing, refused.waiting, dropped.waiting} == {0}
    told = [words.split(": ")[1] for words in loop_status(loop)["models"]["churn"]["capture"]["differences"]]
    assert sorted(told) == sorted(
        [
            f"{dropped.dropped:,} rows were answered without being logged",
            f"{refused.refused:,} rows were not answered, since they could not be logged",
        ]
    )
