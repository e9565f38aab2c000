"""Looks whose process is killed, or that two schedulers make at once: an incident opens and closes whole, or not."""

import signal
import subprocess
import threading
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import Refused
from feedback_loop.store import Store, conclusions, incidents
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.incidents import Followed, load_incidents

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def verdict(day, state=State.DEGRADED):
    window = Window(START + day * DAY, START + (day + 1) * DAY)
    return Verdict("churn", "1", START + (day + 2) * DAY, window, state, "words", {}, {})


def url_of(store):
    return store.url.render_as_string(hide_password=False)


def killed(warm, store, what, point):
    command = [warm / "python", "-m", "tests.fault.look", url_of(store), what, point]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL


def record(store):
    """How many verdicts, incidents, and alerts there are, and what is closed."""
    found = load_incidents(store, "churn")
    alerts = load_alerts(store, [each.incident_id for each in found])
    return len(conclusions.load_verdicts(store, "churn")), [each.closed_at is not None for each in found], len(alerts)


@pytest.mark.parametrize("point", ["verdict", "incident", "alerts", "committed"])
def test_an_incident_is_opened_whole_or_not_at_all(warm, store, point):
    killed(warm, store, "opening", point)
    if point == "committed":
        assert record(store) == (1, [False], 2)
        with pytest.raises(Refused, match="judged already"):
            incidents.record_verdict(store, verdict(0), ("log", "ops"))
    else:
        assert record(store) == (0, [], 0)
        incidents.record_verdict(store, verdict(0), ("log", "ops"))  # the next run looks again
    assert record(store) == (1, [False], 2)


@pytest.mark.parametrize("point", ["verdict", "update", "ends", "committed"])
def test_an_incident_is_closed_whole_or_not_at_all(warm, store, point):
    _, incident = incidents.record_verdict(store, verdict(0), ("log", "ops"))
    followed = Followed(incident.incident_id, {"labels": 1}, "it has recovered")
    killed(warm, store, "closing", point)
    if point == "committed":
        with pytest.raises(Refused, match="judged already"):
            incidents.record_verdict(store, verdict(1), ("log", "ops"), followed)
    else:
        assert record(store) == (1, [False], 2)
        incidents.record_verdict(store, verdict(1), ("log", "ops"), followed)
    assert record(store) == (2, [True], 4)
    assert load_incidents(store, "churn")[0].recovery == {"labels": 1}


def at_once(store, *acts):
    """Runs each with a store of its own, all at once; returns what they raised (None: nothing)."""
    raised, together = [], threading.Barrier(len(acts))

    def run(act):
        own = Store(url_of(store))
        together.wait()
        try:
            act(own)
            raised.append(None)
        except Refused as error:
            raised.append(error)
        own.close()

    threads = [threading.Thread(target=run, args=[act]) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_of_schedulers_that_look_at_once_one_opens_the_incident(store):
    raised = at_once(store, *[lambda own: incidents.record_verdict(own, verdict(0), ("log", "ops"))] * 4)
    assert raised.count(None) == 1
    assert record(store) == (1, [False], 2)


def test_of_schedulers_that_look_at_once_one_closes_it(store):
    _, incident = incidents.record_verdict(store, verdict(0), ("log", "ops"))
    followed = Followed(incident.incident_id, {"labels": 1}, "it has recovered")
    raised = at_once(store, *[lambda own: incidents.record_verdict(own, verdict(1), ("log", "ops"), followed)] * 4)
    assert raised.count(None) == 1
    assert record(store) == (2, [True], 4)


@pytest.mark.parametrize("_round", range(5))
def test_closed_by_hand_and_by_a_look_at_once_it_is_closed_once(store, _round):
    _, incident = incidents.record_verdict(store, verdict(0), ("log", "ops"))
    followed = Followed(incident.incident_id, {"labels": 1}, "it has recovered")
    raised = at_once(
        store,
        lambda own: incidents.record_verdict(own, verdict(1), ("log", "ops"), followed),
        lambda own: incidents.close_incident(own, incident.incident_id, "we know", START + 3 * DAY),
        lambda own: incidents.close_incident(own, incident.incident_id, "we know", START + 3 * DAY),
    )
    [closed] = load_incidents(store, "churn")
    by_hand = closed.closed_because == "we know"
    assert raised.count(None) == (2 if by_hand else 1)
    assert record(store) == (2, [True], 2 if by_hand else 4)
    # Whoever came first: the look is the last that is about this incident, so its monitor starts anew.
    assert closed.closed_verdict_id == conclusions.latest_verdict(store, "churn").verdict_id
