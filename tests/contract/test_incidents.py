"""Verdicts, incidents and their alerts, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import NotFound, Refused
from feedback_loop.store import conclusions, incidents
from feedback_loop.store.alerts import load_alerts, raise_alert, save_attempt
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.incidents import (
    Cause,
    Followed,
    close_incident,
    due_alerts,
    end_incident,
    load_incidents,
    open_incident,
    open_incidents,
    raise_incident,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def verdict(state=State.OK, day=0, version="1"):
    window = Window(START + day * DAY, START + (day + 1) * DAY)
    return Verdict("churn", version, START + (day + 2) * DAY, window, state, "words", {"n": 1}, {"state": None})


def opened(store, routes=("log", "ops")):
    return incidents.record_verdict(store, verdict(State.DEGRADED), routes)[1]


def follow(store, incident, day=1, closes=None, state=State.DEGRADED, recovery=None):
    followed = Followed(incident.incident_id, recovery, closes)
    return incidents.record_verdict(store, verdict(state, day), ("log", "ops"), followed)[0]


def send(store, now):
    """Sends all that is due; returns the subjects and routes."""
    found = due_alerts(store, now)
    for alert in found:
        save_attempt(store, replace(alert, state="sent", attempts=1), sent_at=now)
    return [(alert.subject, alert.route) for alert in found]


def states(store, incident):
    return {(alert.subject, alert.route): alert.state for alert in load_alerts(store, [incident.incident_id])}


def test_a_degraded_verdict_opens_one_incident_with_an_alert_on_each_route(store):
    saved, incident = incidents.record_verdict(store, verdict(State.DEGRADED), ["log", "ops"])
    assert incident.verdict_id == saved.verdict_id
    assert open_incident(store, "churn") == incident
    _, again = incidents.record_verdict(store, verdict(State.DEGRADED, day=1), ["log", "ops"])
    assert again is None
    alerts = due_alerts(store, START + 9 * DAY)
    assert [(alert.route, alert.incident_id, alert.body) for alert in alerts] == [
        ("log", incident.incident_id, "words"),
        ("ops", incident.incident_id, "words"),
    ]


@pytest.mark.parametrize("state", [State.OK, State.WARNING, State.INSUFFICIENT_DATA])
def test_other_verdicts_open_nothing(store, state):
    assert incidents.record_verdict(store, verdict(state), ["log"])[1] is None
    assert open_incident(store, "churn") is None


def test_a_cohort_is_judged_once(store):
    incidents.record_verdict(store, verdict())
    with pytest.raises(Refused, match="judged already"):
        incidents.record_verdict(store, verdict(State.DEGRADED), ["log"])
    assert open_incident(store, "churn") is None


def test_a_look_that_comes_second_changes_nothing_of_the_incident(store):
    incident = opened(store)
    follow(store, incident, recovery={"labels": 1})
    with pytest.raises(Refused, match="judged already"):
        follow(store, incident, recovery={"labels": 2}, closes="it has recovered")
    assert open_incident(store, "churn").recovery == {"labels": 1}
    assert len(states(store, incident)) == 2


def test_an_incident_knows_its_own_degraded_verdicts_and_no_others(store):
    incidents.record_verdict(store, verdict(day=9))
    incident = opened(store)
    for day, state in ((1, State.WARNING), (2, State.DEGRADED)):
        last = follow(store, incident, day=day, state=state)
    incidents.record_verdict(store, verdict(State.DEGRADED, day=3))
    assert conclusions.load_verdict(store, incident.verdict_id).window == verdict().window
    own = conclusions.degraded_verdicts(store, "churn", incident.verdict_id, last.verdict_id)
    assert [verdict.verdict_id for verdict in own] == [incident.verdict_id, last.verdict_id]
    assert len(conclusions.degraded_verdicts(store, "churn", incident.verdict_id, None)) == 3
    assert len(conclusions.verdict_moments(store, "churn")) == 5
    before = conclusions.load_verdicts(store, "churn", newest=1, until=verdict(day=1).decided_at)
    assert [past.window for past in before] == [verdict(day=1).window]


def test_a_closed_incident_stays_as_it_was_closed_and_another_may_open(store):
    first = opened(store)
    close_incident(store, first.incident_id, "we know", START + 3 * DAY)
    with pytest.raises(Refused, match=r"was closed on 2026-03-04: we know\..*incidents show 1"):
        close_incident(store, first.incident_id, "again", START + 4 * DAY)
    assert load_incidents(store, "churn")[0].closed_because == "we know"
    _, second = incidents.record_verdict(store, verdict(State.DEGRADED, day=1), [])
    assert second.incident_id != first.incident_id
    assert open_incident(store, "churn") == second


def test_an_incident_is_handed_over_by_another_acknowledgement(store):
    incident = opened(store)
    incidents.acknowledge(store, incident.incident_id, "ada", START)
    found = incidents.acknowledge(store, incident.incident_id, "bob", START + HOUR)
    assert (found.acknowledged_by, found.acknowledged_at) == ("bob", START + HOUR)
    events = [(event.kind, event.told, event.at) for event in incidents.load_events(store, incident.incident_id)]
    assert events == [("acknowledged", "by ada", START), ("acknowledged", "by bob", START + HOUR)]


@pytest.mark.parametrize(
    "change",
    [
        lambda store, number: incidents.acknowledge(store, number, "ada", START + 4 * DAY),
        lambda store, number: incidents.silence(store, number, START + 5 * DAY, START + 4 * DAY),
        lambda store, number: incidents.close_incident(store, number, "again", START + 4 * DAY),
    ],
)
def test_nothing_is_done_about_what_is_closed_or_was_never_there(store, change):
    incident = opened(store)
    follow(store, incident, closes="it has recovered")
    before, events = load_incidents(store, "churn"), incidents.load_events(store, incident.incident_id)
    with pytest.raises(Refused, match="it has recovered"):
        change(store, incident.incident_id)
    assert load_incidents(store, "churn") == before
    assert incidents.load_events(store, incident.incident_id) == events
    with pytest.raises(NotFound, match=r"no incident '99'.*incidents list"):
        change(store, 99)


def test_the_state_of_the_test_of_recovery_is_kept_with_the_verdict(store):
    incident = opened(store)
    saved = follow(store, incident, state=State.WARNING, recovery={"ordinal": 2})
    assert open_incident(store, "churn").recovery == {"ordinal": 2}
    assert incidents.ended_at(store, saved.verdict_id) is None


def test_recovery_is_told_once_on_each_route_and_ends_the_monitor(store):
    incident = opened(store)
    assert len(send(store, START + 3 * DAY)) == 2
    saved = follow(store, incident, closes="it has recovered: figures")
    [closed] = load_incidents(store, "churn")
    assert (closed.closed_at, closed.closed_because) == (saved.decided_at, "it has recovered: figures")
    subject = f"incident:{incident.incident_id}:recovered"
    assert send(store, START + 4 * DAY) == [(subject, "log"), (subject, "ops")]
    assert {alert.title for alert in load_alerts(store, [incident.incident_id])[2:]} == {"churn has recovered"}
    assert incidents.ended_at(store, saved.verdict_id) == incidents.Ended(saved.decided_at, by_hand=False)


def test_a_monitor_that_does_well_goes_on_when_an_incident_of_before_it_ends(store):
    incident = opened(store)
    follow(store, incident, state=State.OK, closes="version 2 has taken over")


def test_what_is_closed_by_hand_is_told_to_nobody(store):
    incident = opened(store)
    send(store, START + 3 * DAY)
    close_incident(store, incident.incident_id, "we know", START + 3 * DAY)
    assert send(store, START + 9 * DAY) == []


def test_a_silenced_incident_is_told_when_the_silence_ends(store):
    incident = opened(store)
    now = START + 2 * DAY
    incidents.silence(store, incident.incident_id, now + 8 * HOUR, now)
    assert send(store, now + 8 * HOUR - MINUTE) == []
    assert set(states(store, incident).values()) == {"pending"}
    assert len(send(store, now + 8 * HOUR)) == 2


def test_a_silence_may_be_lifted(store):
    incident = opened(store)
    now = START + 2 * DAY
    incidents.silence(store, incident.incident_id, now + 8 * HOUR, now)
    assert incidents.silence(store, incident.incident_id, None, now).silenced_until is None
    assert len(send(store, now)) == 2
    assert [event.told for event in incidents.load_events(store, incident.incident_id)] == [
        "until 2026-03-03T08:00Z",
        "no longer",
    ]


@pytest.mark.parametrize("by_hand", [True, False])
def test_what_was_held_back_of_an_incident_that_is_over_is_dropped_with_the_reason(store, by_hand):
    incident = opened(store)
    now = START + 2 * DAY
    incidents.silence(store, incident.incident_id, now + 9 * DAY, now)
    if by_hand:
        close_incident(store, incident.incident_id, "we know", now + HOUR)
    else:
        follow(store, incident, closes="it has recovered")
    found = load_alerts(store, [incident.incident_id])
    assert [(alert.state, alert.cause) for alert in found] == [
        ("dropped", "the incident was closed while it was silenced")
    ] * 2
    assert send(store, now + 20 * DAY) == []


def test_of_an_incident_that_was_told_the_recovery_is_told_after_the_silence(store):
    incident = opened(store)
    now = START + 2 * DAY
    send(store, now)
    incidents.silence(store, incident.incident_id, now + 5 * DAY, now)
    follow(store, incident, closes="it has recovered")
    assert send(store, now + 4 * DAY) == []
    assert len(send(store, now + 5 * DAY)) == 2


def test_silence_holds_back_nothing_but_the_incidents_own_alerts(store):
    incident = opened(store)
    incidents.silence(store, incident.incident_id, START + 9 * DAY, START + 2 * DAY)
    raise_alert(store, "drift:churn version 1:age", "title", "body", ["ops"], START)
    assert send(store, START + 2 * DAY) == [("drift:churn version 1:age", "ops")]


def test_closed_by_hand_just_before_a_look_is_kept_the_look_belongs_to_it(store):
    incident = opened(store)
    close_incident(store, incident.incident_id, "we know", START + 2 * DAY)
    saved = follow(store, incident, closes="it has recovered", recovery={"labels": 9})
    [closed] = load_incidents(store, "churn")
    assert (closed.closed_because, closed.recovery, closed.closed_verdict_id) == ("we know", None, saved.verdict_id)
    assert len(states(store, incident)) == 2


def test_a_clock_that_was_set_back_closes_the_incident_all_the_same(store):
    incident = opened(store)
    before = START - 30 * DAY
    assert close_incident(store, incident.incident_id, "we know", before).closed_at == before
    assert incidents.ended_at(store, incident.verdict_id) == incidents.Ended(before, by_hand=True)
    assert open_incident(store, "churn") is None


def test_an_alert_waits_for_its_next_attempt(store):
    incidents.record_verdict(store, verdict(State.DEGRADED), ["ops"])
    now = START + 2 * DAY
    alert = due_alerts(store, now)[0]
    tried = replace(alert, attempts=1, next_attempt_at=now + MINUTE, cause="refused")
    save_attempt(store, tried, sent_at=None)
    assert due_alerts(store, now) == []
    assert due_alerts(store, now + MINUTE) == [tried]
    save_attempt(store, replace(tried, state="sent"), sent_at=now)
    assert due_alerts(store, now + DAY) == []


def raised(store, cause=Cause.ADAPTER, routes=("log", "ops")):
    about = {"model": "churn", "version": "1", "title": "churn: its adapter is held", "summary": "by surprise"}
    return raise_incident(store, **about, cause=cause, evidence={"looks": 7}, routes=routes, now=START)


def test_an_incident_of_another_cause_stands_beside_one_by_a_verdict_and_opens_and_ends_once(store):
    by_verdict, held = opened(store), raised(store)
    assert (held.verdict_id, held.evidence) == (None, {"summary": "by surprise", "looks": 7})
    assert raised(store) is None
    assert open_incidents(store, "churn") == [by_verdict, held]
    assert (open_incident(store, "churn"), open_incident(store, "churn", Cause.ADAPTER)) == (by_verdict, held)
    ended = end_incident(store, "churn", Cause.ADAPTER, "it learns again", START + DAY)
    assert incidents.load_incident(store, held.incident_id) == ended
    assert end_incident(store, "churn", Cause.ADAPTER, "again", START + DAY) is None
    assert open_incidents(store, "churn") == [by_verdict]
    subject = f"incident:{held.incident_id}"
    assert {*states(store, held)} == {
        (name, route) for name in (subject, f"{subject}:recovered") for route in ("log", "ops")
    }
    assert raised(store).incident_id != held.incident_id


def test_a_window_knows_the_incidents_that_were_open_within_it_as_they_were_known_then(store):
    held = raised(store)
    end_incident(store, "churn", Cause.ADAPTER, "it learns again", START + DAY)

    def within(first_day, days, known=9):
        window = Window(START + first_day * DAY, START + (first_day + days) * DAY)
        return [
            incident.words for incident in incidents.incidents_within(store, "churn", window, START + known * DAY)
        ]

    words = f"Incident {held.incident_id}, since 2026-03-01: churn: its adapter is held."
    assert (within(0, 1), within(1, 1), within(-2, 2), within(0, 1, known=-1)) == ([words], [], [], [])


def test_to_close_one_of_another_cause_by_hand_leaves_the_monitor_as_it_is(store):
    saved, _ = incidents.record_verdict(store, verdict())
    held = raised(store)
    incidents.acknowledge(store, held.incident_id, "ada", START + HOUR)
    closed = close_incident(store, held.incident_id, "we know", START + DAY)
    assert (closed.closed_because, closed.closed_verdict_id) == ("we know", None)
    assert incidents.ended_at(store, saved.verdict_id) is None
    assert incidents.closed_by_hand(store, "churn") == []
