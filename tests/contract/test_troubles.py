"""The loop looked after: jobs that fail, turns that are late or hang, retrainings in vain, and who hears of them."""

import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import pytest

from feedback_loop.alerts import ping
from feedback_loop.clock import ManualClock, Window
from feedback_loop.errors import ConfigError, Unavailable
from feedback_loop.scheduling import Chain, Job, Runner, find_troubles, parse_schedule, tell_helped
from feedback_loop.scheduling.metrics import LoopFigures, serve_figures
from feedback_loop.store import incidents
from feedback_loop.store.alerts import alert_recoveries, load_alerts, raise_alert
from feedback_loop.store.conclusions import State, Verdict

NOW = datetime(2026, 3, 2, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


class Life:
    """A model whose chain is run once a day."""

    def __init__(self, store):
        self.store, self.clock, self.results = store, ManualClock(NOW), {}
        self.runner = Runner(store, self.clock, MINUTE)
        jobs = [
            Job(name, lambda name=name: self.work(name)) for name in ("evaluate", "decide", "retrain", "retention")
        ]
        self.chain = Chain("churn", parse_schedule("1d", "cycle"), tuple(jobs))

    def work(self, name):
        result = self.results.get(name)
        if isinstance(result, Exception):
            raise result
        return result

    def turn(self, **results):
        self.results = results
        self.runner.run("churn", self.chain.jobs, self.clock())
        self.clock.set(self.clock() + DAY)

    def troubles(self, first_predicted=None):
        return find_troubles(self.store, "churn", [self.chain], first_predicted, HOUR, self.clock())


@pytest.fixture
def life(store):
    return Life(store)


def test_jobs_that_fail_are_told_together_and_once_until_they_succeed(life):
    life.turn()
    life.clock.set(life.clock() - 23 * HOUR)
    assert life.troubles() == []
    away = Unavailable("registry", "The registry does not answer.")
    life.clock.set(NOW + DAY)
    life.turn(evaluate=away, decide=away)
    life.clock.set(life.clock() - 23 * HOUR)
    [first] = life.troubles()
    assert first.title == "churn: jobs of the loop fail"
    assert first.body == "Since 2026-03-03: evaluate, decide: The registry does not answer."
    for _ in range(30):
        life.clock.set(life.clock() + DAY)
        life.turn(evaluate=away, decide=away)
        life.clock.set(life.clock() - DAY)
    assert [each.subject for each in life.troubles()] == [first.subject]
    life.clock.set(life.clock() + DAY)
    life.turn()
    life.clock.set(life.clock() - 23 * HOUR)
    assert life.troubles() == []


def test_what_is_over_is_told_once_where_it_was_told_and_again_when_it_comes_again(store):
    def subjects():
        return [(each.subject, each.route) for each in load_alerts(store, [], about="jobs:")]

    raise_alert(store, "jobs:churn:failed:1", "churn: jobs fail", "evaluate: away", ["log", "ops"], NOW)
    raise_alert(store, "jobs:price:failed:1", "price: jobs fail", "evaluate: away", ["log"], NOW)
    assert alert_recoveries(store, "jobs:churn:", {"jobs:churn:failed:1"}, NOW) == 0
    assert alert_recoveries(store, "jobs:churn:", set(), NOW) == 2
    assert alert_recoveries(store, "jobs:churn:", set(), NOW) == 0
    assert subjects()[3:] == [("jobs:churn:failed:1:recovered", route) for route in ("log", "ops")]
    raise_alert(store, "jobs:churn:failed:2", "churn: jobs fail", "join: away", ["log"], NOW)
    assert alert_recoveries(store, "jobs:churn:", {"jobs:churn:failed:2"}, NOW) == 0
    assert alert_recoveries(store, "jobs:churn:", set(), NOW) == 1


def test_a_turn_that_nobody_makes_is_late_and_so_is_one_that_hangs(life):
    assert life.troubles() == []  # nothing was ever predicted
    [never] = life.troubles(first_predicted=NOW - 2 * DAY)
    assert "none was ever made; no scheduler is at work" in never.body
    life.turn()
    life.clock.set(NOW + DAY + 59 * MINUTE)
    assert life.troubles() == []
    life.clock.set(NOW + DAY + 61 * MINUTE)
    [late] = life.troubles()
    assert late.title == "churn: the loop stands still"
    assert "no scheduler is at work" in late.body
    life.clock.set(NOW + 9 * DAY)
    assert [each.subject for each in life.troubles()] == [late.subject]  # the same standstill

    def hangs():
        life.clock.set(life.clock() + 2 * HOUR)
        told.extend(life.troubles())

    told = []
    life.runner.run("churn", [Job("evaluate", hangs)], life.clock())
    assert "its job evaluate has run for 7,200 seconds, in " in told[0].body


def test_retrainings_in_vain_are_told_after_three_and_after_ten_of_them(life):
    subjects = []
    for number in range(12):
        life.turn(retrain={"state": "refused", "summary": "trained_until lies after the newest label."})
        subjects += [each.subject for each in life.troubles() if each.subject.startswith("retraining:")]
        if number < 2:
            assert subjects == []
    assert len(set(subjects)) == 2
    [told] = [each for each in life.troubles() if each.subject.startswith("retraining:")]
    assert told.body.startswith("12 in a row brought no version, since 2026-03-02")
    assert "trained_until lies after" in told.body
    life.turn(retrain={"state": "promoted", "summary": ""})
    assert not [each for each in life.troubles() if each.subject.startswith("retraining:")]


def test_that_a_retraining_helped_is_told_once_where_it_was_told_that_none_does(life):
    def tell():
        for trouble in life.troubles():
            raise_alert(life.store, trouble.subject, trouble.title, trouble.body, ["log"], NOW)
        tell_helped(life.store, "churn", life.troubles(), NOW)
        return [alert.title for alert in load_alerts(life.store, [], about="retraining:churn:")]

    for state in ["candidate"] + ["refused"] * 11:
        life.turn(retrain={"state": state, "summary": "no better"})
        titles = tell()
    assert titles == ["churn: no retraining helps"] * 2  # after three, and after ten
    for state in ("candidate", "refused", "candidate"):
        life.turn(retrain={"state": state, "summary": ""})
        assert tell() == [*titles, "churn: no retraining helps: no more"]
    for _ in range(3):
        life.turn(retrain={"state": "refused", "summary": "no better"})
    assert len(tell()) == 4
    life.turn(retrain={"state": "promoted", "summary": ""})
    assert tell()[3:] == ["churn: no retraining helps", "churn: no retraining helps: no more"]


def test_a_scheduler_answers_prometheus(life, sqlite_store):
    life.turn()
    window = Window(NOW, NOW + DAY)
    incidents.record_verdict(
        life.store, Verdict("churn", "2", NOW, window, State.DEGRADED, "worse", {}, {"since": None}), ("log",)
    )
    server = serve_figures(LoopFigures(life.store, ["churn"], life.clock), "127.0.0.1:0")
    with urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
        text = answer.read().decode()
    server.shutdown()
    server.server_close()
    assert 'feedback_loop_cycle_age_seconds{model="churn"} 86400.0' in text
    assert 'feedback_loop_verdict{model="churn",state="degraded",version="2"} 1.0' in text
    assert 'feedback_loop_incident_open{model="churn"} 1.0' in text
    assert 'feedback_loop_jobs_failing{model="churn"} 0.0' in text
    assert "feedback_loop_store_up 1.0" in text
    with pytest.raises(ConfigError, match=r"scheduler\.metrics"):
        serve_figures(LoopFigures(life.store, [], life.clock), "nonsense")


def test_a_heartbeat_is_a_request_and_one_that_fails_is_only_logged(capsys):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/s3cr3t-uuid"
    assert ping("churn", url)
    server.shutdown()
    thread.join()
    server.server_close()
    assert asked == ["/s3cr3t-uuid"]
    assert not ping("churn", url)
    said = capsys.readouterr().out
    assert "heartbeat not sent" in said
    assert "s3cr3t" not in said
