"""Alerts over real HTTP: sent once, tried again, given up, and never with a secret in them."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from feedback_loop.alerts import alert_routes, deliver_alerts, delivery
from feedback_loop.alerts.delivery import Delivery
from feedback_loop.alerts.quiet_hours import quiet_until
from feedback_loop.alerts.sending import with_fields
from feedback_loop.clock import ManualClock, Window, parse_hours
from feedback_loop.config import AlertSettings
from feedback_loop.cycle import delivering, run_cycle, watch_jobs
from feedback_loop.errors import Unavailable
from feedback_loop.store import incidents
from feedback_loop.store.alerts import load_alerts, raise_alert
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.leases import drop_lease, take_lease
from feedback_loop.store.ledger import load_runs
from tests.builders import churn_loop

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def routes(receiver):
    return AlertSettings(routes={"ops": f"json://127.0.0.1:{receiver.server_port}/s3cr3t-t0ken"}, attempts=3)


@pytest.fixture
def incident(sqlite_store, routes):
    window = Window(START - timedelta(days=1), START)
    verdict = Verdict("churn", "1", START, window, State.DEGRADED, "brier 0.1 → 0.3", {}, {"state": None})
    return incidents.record_verdict(sqlite_store, verdict, alert_routes(routes))[1]


def alerts(store, incident):
    return {alert.route: alert for alert in load_alerts(store, [incident.incident_id])}


def test_an_incident_is_told_once_on_every_route_and_in_the_log(sqlite_store, routes, receiver, incident):
    assert deliver_alerts(sqlite_store, routes, START) == Delivery(sent=2)
    assert deliver_alerts(sqlite_store, routes, START + MINUTE) == Delivery()
    (message,) = receiver.received
    assert message["title"] == "churn version 1 has become worse"
    assert message["message"] == "brier 0.1 → 0.3"
    assert {alert.state for alert in alerts(sqlite_store, incident).values()} == {"sent"}


def test_a_webhook_gets_fields_for_programs_and_people_a_link(sqlite_store, routes, receiver, incident):
    linked = routes.model_copy(update={"link": "https://loop.example/{model}/{incident}"})
    deliver_alerts(sqlite_store, linked, START)
    [sent] = receiver.received
    told = {name: sent[name] for name in ("model", "model_version", "incident", "link")}
    assert told == {"model": "churn", "model_version": "1", "incident": "1", "link": "https://loop.example/churn/1"}
    assert sent["message"] == "brier 0.1 → 0.3\nhttps://loop.example/churn/1"
    assert with_fields("slack://a/b/c", told) == "slack://a/b/c"


def test_deliveries_at_once_send_each_alert_once(store, routes, receiver):
    receiver.pause = 0.02
    for number in range(6):
        raise_alert(store, f"drift:churn:{number}", f"{number}", "words", ["ops"], START)
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(deliver_alerts, store, routes, START) for _ in range(4)]
        assert sum(each.result().sent for each in done) == 6
    assert sorted(message["title"] for message in receiver.received) == list("012345")


def test_a_delivery_that_was_killed_is_followed_by_another(sqlite_store, routes, receiver, incident):
    lease = take_lease(sqlite_store, "alerts", "a process that died", HOUR)
    assert deliver_alerts(sqlite_store, routes, START) == Delivery()
    drop_lease(sqlite_store, lease)  # as time does
    assert deliver_alerts(sqlite_store, routes, START) == Delivery(sent=2)


def test_a_route_that_fails_is_tried_again_ever_later_and_does_not_stop_the_others(
    sqlite_store, routes, receiver, incident
):
    receiver.status = 503
    assert deliver_alerts(sqlite_store, routes, START) == Delivery(sent=1, failed=1)
    alert = alerts(sqlite_store, incident)["ops"]
    assert (alert.attempts, alert.next_attempt_at) == (1, START + MINUTE)
    assert "503" in alert.cause
    assert deliver_alerts(sqlite_store, routes, START + MINUTE / 2) == Delivery()
    deliver_alerts(sqlite_store, routes, START + MINUTE)
    assert alerts(sqlite_store, incident)["ops"].next_attempt_at == START + 3 * MINUTE
    receiver.status = 200
    assert deliver_alerts(sqlite_store, routes, START + 3 * MINUTE) == Delivery(sent=1)
    assert alerts(sqlite_store, incident)["ops"].state == "sent"


def test_a_route_that_never_answers_is_given_up_and_stays_visible(sqlite_store, routes, receiver, incident):
    receiver.status = 500
    found = [deliver_alerts(sqlite_store, routes, START + step * timedelta(hours=1)) for step in range(4)]
    assert found[2:] == [Delivery(given_up=1), Delivery()]
    assert alerts(sqlite_store, incident)["ops"].state == "given_up"


def test_no_secret_of_a_route_is_stored(sqlite_store, receiver, incident, routes):
    away = AlertSettings(routes={"ops": "json://user:pa55word@127.0.0.1:1/s3cr3t-t0ken"})
    deliver_alerts(sqlite_store, away, START)
    with sqlite_store.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM fl_alerts").all()
    everything = str(rows)
    assert "s3cr3t-t0ken" not in everything
    assert "pa55word" not in everything
    assert alerts(sqlite_store, incident)["ops"].cause


@pytest.mark.parametrize("url", ["nonsense", "unknown://somewhere"])
def test_a_route_that_can_not_be_read_is_a_recorded_failure(sqlite_store, incident, url):
    assert deliver_alerts(sqlite_store, AlertSettings(routes={"ops": url}), START) == Delivery(sent=1, failed=1)
    assert "none that Apprise knows" in alerts(sqlite_store, incident)["ops"].cause


def test_alerts_wait_for_the_end_of_the_quiet_hours_and_are_due_then(sqlite_store, routes, receiver, incident):
    quiet = routes.model_copy(update={"quiet": parse_hours("22:00-07:00", ZoneInfo("Europe/Zurich"))})
    waiting = alerts(sqlite_store, incident)
    assert deliver_alerts(sqlite_store, quiet, START) == Delivery()
    assert alerts(sqlite_store, incident) == waiting  # an attempt that was not made counts for nothing
    assert receiver.received == []
    assert quiet_until(waiting["ops"], quiet, START) == START + 6 * HOUR
    assert deliver_alerts(sqlite_store, quiet, START + 6 * HOUR - MINUTE) == Delivery()
    assert deliver_alerts(sqlite_store, quiet, START + 6 * HOUR) == Delivery(sent=2)
    assert quiet_until(waiting["ops"], quiet, START + 6 * HOUR) is None


def test_what_is_excepted_is_told_in_quiet_hours_too(sqlite_store, routes, receiver, incident):
    raise_alert(sqlite_store, "drift:churn version 1:age", "age has drifted", "words", ["ops"], START)
    hours = parse_hours("22:00-07:00", ZoneInfo("UTC"))
    quiet = routes.model_copy(update={"quiet": hours, "quiet_except": ("incident",)})
    assert deliver_alerts(sqlite_store, quiet, START) == Delivery(sent=2)
    assert deliver_alerts(sqlite_store, quiet, START + 7 * HOUR) == Delivery(sent=1)
    assert [each["title"] for each in receiver.received] == ["churn version 1 has become worse", "age has drifted"]


def test_a_silenced_incident_reaches_no_route_before_its_time(sqlite_store, routes, receiver, incident):
    incidents.silence(sqlite_store, incident.incident_id, START + 8 * HOUR, START)
    assert deliver_alerts(sqlite_store, routes, START + 7 * HOUR) == Delivery()
    assert deliver_alerts(sqlite_store, routes, START + 8 * HOUR) == Delivery(sent=2)
    assert len(receiver.received) == 1


def test_a_recovery_is_told_as_good_news(sqlite_store, routes, receiver, incident):
    deliver_alerts(sqlite_store, routes, START)
    window = Window(START, START + timedelta(days=1))
    verdict = Verdict("churn", "1", START + timedelta(days=2), window, State.OK, "words", {}, {"state": None})
    followed = incidents.Followed(incident.incident_id, None, "it has recovered: figures")
    incidents.record_verdict(sqlite_store, verdict, alert_routes(routes), followed)
    assert deliver_alerts(sqlite_store, routes, verdict.decided_at) == Delivery(sent=2)
    message = receiver.received[-1]
    told = (message["type"], message["title"], message["message"])
    assert told == ("success", "churn has recovered", "it has recovered: figures.")


def test_a_route_that_was_removed_is_a_recorded_failure(sqlite_store, incident):
    deliver_alerts(sqlite_store, AlertSettings(), START)
    assert "no route 'ops'" in alerts(sqlite_store, incident)["ops"].cause


def test_alerts_go_out_while_a_cycle_runs_and_not_after_it(tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(delivery, "EVERY_SECONDS", 0.01)
    more = f'[alerts.routes]\nops = "json://127.0.0.1:{receiver.server_port}"\n'
    loop = churn_loop(tmp_path, ManualClock(START), more=more)
    with closing(loop):
        deliver, errors = loop.deliver_alerts, [ValueError("none of ours"), Unavailable("database", "It is away.")]

        def sometimes():
            if errors:
                raise errors.pop()
            return deliver()

        loop.deliver_alerts = sometimes
        with delivering(loop) as deliveries:
            raise_alert(loop.store, "subject", "title", "body", alert_routes(loop.settings.alerts), START)
            until = time.monotonic() + 120
            while not receiver.received:  # a fit that takes an hour
                assert time.monotonic() < until
                time.sleep(0.01)
            raise_alert(loop.store, "last", "title", "body", alert_routes(loop.settings.alerts), START)
        assert len(receiver.received) == 2
        assert sum(each.sent for each in deliveries) == 4  # each on its route and in the log


def test_a_job_that_failed_is_told_of_once_and_once_more_when_it_is_well_and_no_failed_cycle_pings(
    tmp_path, receiver
):
    clock, home = ManualClock(START), tmp_path / "elsewhere.db"
    pinged = []
    receiver.asked = lambda: pinged.append(load_runs(loop.store, "churn", newest=1)[0])
    more = f"""
[models.churn.schedule]
heartbeat = "http://127.0.0.1:{receiver.server_port}/alive"
[models.churn.outcomes.sql]
url = "sqlite:///{home}"
query = "SELECT * FROM truth WHERE at > :watermark"
watermark = "at"
"""  # noqa: S608 (no statement is made of it)
    loop = churn_loop(tmp_path, clock, more=more)

    def turn():
        clock.set(clock() + timedelta(days=1))
        outcomes = run_cycle(loop, "churn")
        for _ in range(2):
            watch_jobs(loop)
        alerts = [each for each in load_alerts(loop.store, [], about="jobs:churn:") if each.route == "log"]
        return [each.job for each in outcomes if each.state == "failed"], alerts

    for _ in range(2):
        failed, alerts = turn()
        assert failed == ["outcomes"]
        assert [each.title for each in alerts] == ["churn: jobs of the loop fail"]
    assert pinged == []
    with closing(sqlite3.connect(home)) as other, other:
        other.execute("CREATE TABLE truth (customer INTEGER, month TEXT, churned INTEGER, at TEXT)")
    for pings in (1, 2):
        failed, (first, second) = turn()
        assert failed == []
        assert (second.subject, second.route) == (f"{first.subject}:recovered", first.route)
        assert "It is well again" in second.body
        assert "outcomes: " in second.body
        assert len(pinged) == pings
    assert {(run.job, run.state) for run in pinged} == {
        ("retention", "succeeded")
    }  # the whole cycle was done by then
    loop.close()
