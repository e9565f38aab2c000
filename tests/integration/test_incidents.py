"""An incident from its opening to its end, through the loop and the command line."""

import json
from datetime import timedelta

import pytest

from feedback_loop.clock import Window, format_moment, system_clock
from feedback_loop.cycle import cycle, run_cycle
from feedback_loop.errors import BadInput, NotFound, Refused
from feedback_loop.store import conclusions, incidents
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.conclusions import Diagnosis, State, Verdict
from feedback_loop.store.incidents import Followed, load_incidents, open_incident
from feedback_loop.store.retrainings import finish_retraining, note_retraining, start_retraining
from feedback_loop.views.incident import incident_story
from tests.builders import play_days

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def tolerant(monkeypatch):
    """So much is tolerated that a recovery needs no tens of thousands of predictions."""
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__POLICY__TOLERANCE", "0.03")


@pytest.fixture
def loop(tolerant, loop):
    return loop


@pytest.fixture
def command(loop, run):
    """Commands about the loop's model."""
    return run


def look(loop, day=0, state=State.DEGRADED, closes=None):
    """A look of so many days later, that finds the model degraded, and what it says about the open incident."""
    now = system_clock() - 9 * DAY + day * DAY
    window = Window(now - 2 * DAY, now - DAY)
    verdict = Verdict("churn", "1", now, window, state, f"brier .1 → .{day + 2}", {"acts": ["brier"]}, {})
    incident = open_incident(loop.store, "churn")
    followed = Followed(incident.incident_id, None, closes) if incident is not None else None
    return incidents.record_verdict(loop.store, verdict, ["log"], followed)


def worse(loop, clock):
    """The churn model has become worse, and its incident is open; nothing is retrained."""
    play_days(loop, clock, 4)
    run(loop)
    play_days(loop, clock, 6, harder=0.45, seed=100)
    run(loop)
    return open_incident(loop.store, "churn")


def run(loop):
    """A cycle without retraining."""
    for job in cycle(loop, "churn"):
        if job.name in ("join", "evaluate", "decide"):
            job.run()
    loop.deliver_alerts()
    return conclusions.latest_verdict(loop.store, "churn")


def test_a_feed_that_is_repaired_ends_the_incident_once_there_is_evidence_and_the_monitor_starts_anew(loop, clock):
    assert worse(loop, clock) is not None
    play_days(loop, clock, 2, seed=200, per_day=300)
    run(loop)
    assert open_incident(loop.store, "churn") is not None  # one good window, and one of before, are none
    play_days(loop, clock, 9, seed=300, per_day=600)
    alarmed = run(loop)
    [closed] = load_incidents(loop.store, "churn")
    assert closed.closed_because.startswith("it has recovered: brier 0.1")
    assert closed.closed_verdict_id == alarmed.verdict_id
    assert [each.title for each in load_alerts(loop.store, [closed.incident_id])] == [
        "churn version 1 has become worse",
        "churn has recovered",
    ]
    # The alarm of before is over with its incident: what comes is watched by a new monitor, with its share of alpha.
    play_days(loop, clock, 3, seed=400)
    fresh = run(loop)
    assert fresh.state is not State.DEGRADED
    assert fresh.evidence["watched"][0]["labels"] == 600 + 2 * 300
    assert fresh.monitor["pairs"][0]["alpha"] == pytest.approx(alarmed.monitor["pairs"][0]["alpha"] / 3)
    assert open_incident(loop.store, "churn") is None
    # And it finds the next change.
    play_days(loop, clock, 6, harder=0.45, seed=500)
    run(loop)
    assert [each.closed_at is None for each in load_incidents(loop.store, "churn")] == [False, True]


def test_who_knows_better_closes_it_and_nothing_is_retrained_nor_opened_again(loop, clock):
    incident = worse(loop, clock)
    assert loop.retrain_reason("churn") == "alarm"
    loop.incidents.close("churn", "its feed was broken, and is not any more")
    assert loop.retrain_reason("churn") is None
    # Of the day that was bad and has not matured, nothing is judged any more: the cause is known.
    play_days(loop, clock, 3, seed=600)
    verdict = run(loop)
    assert verdict.state is not State.DEGRADED
    assert verdict.evidence["watched"][0]["labels"] == 300
    assert [each.incident_id for each in load_incidents(loop.store, "churn")] == [incident.incident_id]


def test_what_closes_while_a_retraining_runs_stays_linked_to_it(loop, clock):
    _, incident = look(loop)
    number = start_retraining(
        loop.store, "churn", reason="alarm", champion="1", incident_id=incident.incident_id, now=clock()
    )
    loop.incidents.close("churn", "we know")
    note_retraining(loop.store, number, candidate="2")
    finish_retraining(loop.store, number, state="passed", now=clock(), cause="brier .3 → .2")
    found, story = incident_story(loop, "1")
    assert found.closed_because == "we know"
    assert [each.words for each in story if each.what == "retrained"] == [
        "(alarm) passed, candidate version 2: brier .3 → .2"
    ]


def test_a_clock_that_is_set_back_neither_reopens_nor_loses_anything(loop, clock):
    worse(loop, clock)
    now = clock()
    clock.set(now - 3 * HOUR)
    loop.incidents.ack("churn", "ada")
    closed = loop.incidents.close("churn", "we know")
    assert closed.closed_at == now - 3 * HOUR
    assert run(loop).state is State.DEGRADED  # the verdict of before: there is nothing new to judge
    clock.set(now)
    play_days(loop, clock, 3, seed=600)
    assert run(loop).state is not State.DEGRADED
    assert len(load_incidents(loop.store, "churn")) == 1
    _, story = incident_story(loop, "churn")
    assert {each.what for each in story} >= {"opened", "acknowledged", "closed", "alert"}


def test_the_whole_story_is_told_in_order(loop, command):
    _, incident = look(loop)
    look(loop, day=1)
    loop.clock.set(system_clock() - 7 * DAY)
    loop.incidents.ack("churn", "ada")
    loop.incidents.silence("churn", system_clock() - 6 * DAY, "bob")
    number = start_retraining(
        loop.store, "churn", reason="alarm", champion="1", incident_id=incident.incident_id, now=loop.clock() + HOUR
    )
    gate = {"passed": True, "summary": "brier 0.2 against 0.3"}
    note_retraining(loop.store, number, candidate="2", gate=gate)
    finish_retraining(loop.store, number, state="promoted", now=loop.clock() + HOUR)
    made = conclusions.record_diagnosis(
        loop.store,
        Diagnosis(
            model="churn",
            version="1",
            incident_id=incident.incident_id,
            window=Window(incident.opened_at - DAY, incident.opened_at),
            as_of=incident.opened_at + HOUR,
            recommendation="repair",
            summary="age went missing.",
            evidence={"missing": 0.4},
        ),
    )
    conclusions.save_judgement(loop.store, made.diagnosis_id, right=True, because="brier fell")
    look(loop, day=4, state=State.WARNING, closes="it has recovered: figures")
    loop.clock.set(system_clock())
    loop.deliver_alerts()
    command("incidents", "list")  # and what was logged until now is off the screen
    code, out, _ = command("incidents", "show", "1")
    assert code == 0
    lines = [line.split("  ", 2)[-1] for line in out.splitlines()[1:]]
    assert lines == [
        "opened: version 1: brier .1 → .2",
        "diagnosed: age went missing. Recommended: repair; that was right (brier fell)",
        "degraded: version 1: brier .1 → .3",
        "acknowledged: by ada",
        f"silenced: until {format_moment(incidents_of(loop)[0].silenced_until)}, by bob",
        "retrained: (alarm) promoted, candidate version 2: brier 0.2 against 0.3",
        "closed: it has recovered: figures",
        "alert: “churn version 1 has become worse” on log: sent",
        "alert: “churn has recovered” on log: sent",
    ]
    code, out, _ = command("incidents", "show", "churn", "--json")
    told = json.loads(out)
    assert (told["state"], told["acknowledged_by"], len(told["story"])) == ("closed", "ada", 9)
    assert told["story"][0]["figures"] == {"acts": ["brier"]}


def incidents_of(loop):
    return load_incidents(loop.store, "churn")


def test_incidents_are_listed_acknowledged_silenced_and_closed_by_command(loop, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # in a narrow terminal words are folded
    assert command("incidents", "list")[:2] == (0, "No incident is open.\n")
    look(loop)
    code, out, _ = command("incidents", "list", "churn")
    assert (code, "churn version 1 has become worse" in out) == (0, True)
    assert command("incidents", "ack", "churn", "--by", "ada")[1] == "Incident 1 of churn is acknowledged by ada.\n"
    code, out, _ = command("incidents", "silence", "1", "--for", "8h", "--json")
    until = json.loads(out)["silenced_until"]
    assert until == format_moment(incidents_of(loop)[0].silenced_until)
    assert (
        f"since {format_moment(incidents_of(loop)[0].opened_at)}, acknowledged by ada, silenced until {until}"
        in (command("status")[1])
    )
    code, out, _ = command("status", "churn", "--json")
    [model] = json.loads(out)["models"].values()
    assert model["incident"]["acknowledged_by"] == "ada"
    assert model["undelivered_alerts"] == [
        {"alert": 1, "route": "log", "state": "pending", "cause": f"silenced until {until}"}
    ]
    assert command("incidents", "close", "churn", "--because", "we know")[1] == "Incident 1 of churn is closed.\n"
    assert command("incidents", "list")[1] == "No incident is open.\n"
    assert "dropped: the incident was closed while it was silenced" in command("incidents", "show", "1")[1]
    code, out, _ = command("incidents", "list", "--all", "--json")
    assert [(each["state"], each["closed_because"]) for each in json.loads(out)] == [("closed", "we know")]
    assert json.loads(command("status", "--json")[1])["models"]["churn"]["undelivered_alerts"] == []


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["ack", "1"], "Incident 1 of churn was closed on"),
        (["ack", "churn"], "churn has no open incident"),
        (["silence", "1", "--for", "8h"], "incidents show 1"),
        (["close", "1", "--because", "again"], "we know"),
        (["show", "7"], "There is no incident '7'. List them"),
        (["show", "chrun"], "Known: churn"),
        (["silence", "1"], "Give one of --until, --for and --off"),
        (["silence", "1", "--for", "8h", "--off"], "Give one of --until, --for and --off"),
        (["silence", "1", "--until", "2020-01-01"], "2020-01-01 is past. Give a later one, or --off"),
        (["silence", "1", "--until", "noon"], "'noon' is not ISO 8601"),
        (["silence", "1", "--for", "long"], "'long' is not a duration"),
        (["close", "1", "--because", " "], "because: is empty"),
        (["ack", "1", "--by", ""], "by: is empty"),
    ],
)
def test_what_can_not_be_done_says_why_and_what_can(loop, command, arguments, cause):
    look(loop)
    loop.incidents.close("1", "we know")
    code, out, complaint = command("incidents", *arguments)
    assert (code, out) == (1, "")
    assert cause in complaint
    code, out, _ = command("incidents", *arguments, "--json")
    assert code == 1
    assert json.loads(out)["cure"]


def test_the_facade_says_the_same(loop):
    with pytest.raises(Refused, match="no open incident"):
        loop.incidents.ack("churn", "ada")
    with pytest.raises(Refused, match=r"churn has no incident\."):
        incident_story(loop, "churn")
    with pytest.raises(NotFound):
        incident_story(loop, "9")
    look(loop)
    with pytest.raises(BadInput, match="is past"):
        loop.incidents.silence("churn", loop.clock())
    assert loop.incidents.silence("churn", None).silenced_until is None
    assert [each.incident_id for each in loop.incidents.list()] == [1]


def test_a_cycle_tells_of_the_recovery_in_its_own_run(loop, clock):
    worse(loop, clock)
    play_days(loop, clock, 9, seed=300, per_day=600)
    outcomes = {each.job: each for each in run_cycle(loop, "churn")}
    assert outcomes["explain"].result == {"reports": []}
    assert loop.deliver_alerts().sent >= 1
    assert {each.state for each in load_alerts(loop.store, [1])} == {"sent"}
