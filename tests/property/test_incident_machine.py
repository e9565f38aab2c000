"""The life of incidents in any order: looks, people, routes that fail, and a clock that goes back."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from feedback_loop.clock import Window
from feedback_loop.errors import Refused
from feedback_loop.store import alerts, conclusions, incidents
from feedback_loop.store.alerts import RECOVERED, load_alerts, save_attempt
from feedback_loop.store.conclusions import State, Verdict, load_verdicts
from feedback_loop.store.incidents import Followed, due_alerts, load_incidents, open_incident, record_verdict
from tests.streams import examples

MODEL, ROUTES = "churn", ("log", "ops")
START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_the_record_of_incidents_is_sound_whatever_happens(sqlite_store):  # noqa: C901 (one machine)
    store = sqlite_store

    class Machine(RuleBasedStateMachine):
        @initialize()
        def begin(self):
            with store.write() as connection:
                for table in (alerts.alerts, incidents.incident_events, incidents.incidents, conclusions.verdicts):
                    connection.execute(table.delete())
            self.now, self.looks, self.opened = START, 0, 0
            self.closed = {}
            self.sent = Counter()

        def alerts(self):
            return load_alerts(store, [each.incident_id for each in load_incidents(store, MODEL)])

        def verdict(self, state):
            window = Window(START + self.looks * HOUR, START + (self.looks + 1) * HOUR)
            return Verdict(MODEL, "1", self.now, window, state, "words", {}, {})

        @rule(hours=st.integers(-30, 30))
        def time_passes_or_the_clock_is_set_back(self, hours):
            self.now += hours * HOUR

        @rule(state=st.sampled_from(State), recovers=st.booleans(), second=st.booleans())
        def a_look(self, state, recovers, second):
            before = open_incident(store, MODEL)
            closes = "it has recovered" if before is not None and recovers else None
            followed = Followed(before.incident_id if before is not None else None, {"looks": self.looks}, closes)
            _, opened = record_verdict(store, self.verdict(state), ROUTES, followed)
            assert (opened is not None) == (before is None and state is State.DEGRADED)
            self.opened += opened is not None
            after = open_incident(store, MODEL)
            assert (after is None) == (opened is None and (before is None or closes is not None))
            if after is not None:
                assert after.recovery == {"looks": self.looks}
            if second:
                everything = (load_incidents(store, MODEL), self.alerts(), load_verdicts(store, MODEL))
                with pytest.raises(Refused):
                    record_verdict(store, self.verdict(State.DEGRADED), ROUTES, followed)
                assert (load_incidents(store, MODEL), self.alerts(), load_verdicts(store, MODEL)) == everything
            self.looks += 1

        @rule(
            number=st.integers(0, 3),
            act=st.sampled_from(["acknowledge", "silence", "lift", "close"]),
            hours=st.integers(1, 20),
        )
        def somebody_acts(self, number, act, hours):
            found = load_incidents(store, MODEL)
            if not found:
                return
            incident = found[-1 - number % len(found)]
            doing = {
                "acknowledge": lambda: incidents.acknowledge(store, incident.incident_id, "ada", self.now),
                "silence": lambda: incidents.silence(store, incident.incident_id, self.now + hours * HOUR, self.now),
                "lift": lambda: incidents.silence(store, incident.incident_id, None, self.now),
                "close": lambda: incidents.close_incident(store, incident.incident_id, "we know", self.now),
            }[act]
            if incident.closed_at is None:
                doing()
            else:
                events = incidents.load_events(store, incident.incident_id)
                with pytest.raises(Refused):
                    doing()
                assert incidents.load_events(store, incident.incident_id) == events

        @rule(fails=st.sets(st.sampled_from(ROUTES)))
        def alerts_are_sent(self, fails):
            by_id = {each.incident_id: each for each in load_incidents(store, MODEL)}
            for alert in due_alerts(store, self.now):
                until = by_id[alert.incident_id].silenced_until
                assert until is None or until <= self.now
                if alert.route in fails:
                    tried = replace(alert, attempts=alert.attempts + 1, next_attempt_at=self.now + HOUR, cause="503")
                    save_attempt(store, tried, sent_at=None)
                else:
                    save_attempt(store, replace(alert, state="sent"), sent_at=self.now)
                    self.sent[alert.subject, alert.route] += 1

        @invariant()
        def at_most_one_is_open_and_each_was_opened_by_a_verdict(self):
            if hasattr(self, "now"):
                found = load_incidents(store, MODEL)
                assert [each.closed_at is None for each in found].count(True) <= 1
                assert len(found) == self.opened

        @invariant()
        def what_is_closed_stays_as_it_was(self):
            if hasattr(self, "now"):
                for each in load_incidents(store, MODEL):
                    if each.closed_at is not None:
                        assert self.closed.setdefault(each.incident_id, each) == each

        @invariant()
        def each_is_told_once_on_each_route_and_its_recovery_only_where_it_was_told(self):
            if not hasattr(self, "now"):
                return
            assert all(count == 1 for count in self.sent.values())
            by_key = {(each.subject, each.route): each for each in self.alerts()}
            assert len(by_key) == len(self.alerts())
            closed = {each.incident_id for each in load_incidents(store, MODEL) if each.closed_at is not None}
            for (subject, route), alert in by_key.items():
                if subject.endswith(RECOVERED):
                    assert alert.incident_id in closed
                    assert by_key[subject.removesuffix(RECOVERED), route].state in ("sent", "pending")
                if alert.state == "dropped":
                    assert alert.incident_id in closed
                    assert alert.cause

    run_state_machine_as_test(
        Machine,
        settings=examples(10, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )
