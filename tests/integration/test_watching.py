"""Drift and data quality through the whole loop: each window is taken in once, and told in the same transaction."""

import subprocess
import threading
from datetime import timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.cycle import run_cycle
from feedback_loop.store import conclusions
from feedback_loop.store.alerts import Message, load_alerts
from feedback_loop.store.evaluations import load_evaluations
from feedback_loop.views.status import loop_status
from tests.builders import churn_loop, customers, open_loop, play_days, register_churn

DAY = timedelta(days=1)


@pytest.fixture
def loop(loop_on_each):
    return loop_on_each


def play(loop, clock, days, *, older=0.0, plan=None, seed=500):
    """So many days of predictions, of customers who are older than those of the reference."""
    for day in range(days):
        rows = customers(300, seed + day, month=f"{clock():%Y-%m-%d}")
        rows |= {"age": rows["age"] + older} | ({"plan": [plan] * 300} if plan else {})
        loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        clock.set(clock() + DAY)


def state(loop):
    return conclusions.load_monitor(loop.store, "churn", "1")


def told(loop, about):
    return [alert for alert in load_alerts(loop.store, [], about=about) if alert.route == "log"]


def test_a_small_reference_is_one_by_itself_and_what_is_judged_is_never_put_into_it(loop, clock):
    loop.promote("churn", register_churn(loop.registry, clock(), reference=400).version, reason="less was held back")
    play(loop, clock, 8, plan="a word that nobody knew")
    loop.evaluate("churn")
    loop.watch_drift("churn")
    [drift] = told(loop, "drift:churn version 2")
    assert "plan" in drift.body
    assert load_evaluations(loop.store, "churn")[-1].notes == ()


def test_each_closed_window_is_taken_in_once_and_a_shift_is_told_once(loop, clock):
    assert loop.watch_drift("churn") == 0
    assert state(loop) is None
    play(loop, clock, 6)
    assert loop.watch_drift("churn") == 0
    first = state(loop)
    assert first.state["rule"] == "windows"
    assert first.state["windows"] == 5  # not the day in which it became champion
    assert loop.watch_drift("churn") == 0
    assert state(loop) == first
    play(loop, clock, 14, older=30)
    assert sum(loop.watch_drift("churn") for _ in range(3)) >= 1
    bodies = " ".join(alert.body for alert in told(loop, "drift:churn version 1:"))
    assert bodies.count("age: ") == 1
    assert "mean +1." in bodies
    assert state(loop).state["windows"] == 19


def test_stopped_and_started_in_between_it_says_the_same_to_the_bit(loop, clock, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    start = clock()
    at_once = churn_loop(other, clock)
    play(at_once, clock, 9, older=20)
    at_once.watch_drift("churn")
    clock.set(start)
    for _ in range(9):
        play(loop, clock, 1, older=20, seed=500 + round((clock() - start) / DAY))
        loop.watch_drift("churn")
    assert (state(loop).until, state(loop).state) == (state(at_once).until, state(at_once).state)
    assert [(each.subject, each.body) for each in told(loop, "drift:")] == [
        (each.subject, each.body) for each in told(at_once, "drift:")
    ]
    at_once.close()


@pytest.mark.parametrize("loop_on_each", ["sqlite", "postgresql"], indirect=True)
def test_two_at_once_take_each_window_in_once(loop, clock, tmp_path):
    play(loop, clock, 16, older=30)
    loop.evaluate("churn")
    others = [open_loop(tmp_path / "feedback_loop.toml", clock) for _ in range(2)]
    counts, failures = [], []

    def work(other):
        try:
            counts.append(other.watch_drift("churn"))
        except Exception as error:  # noqa: BLE001 (told below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    loop.watch_drift("churn")
    assert state(loop).state["windows"] == 15
    assert sum(counts) == len(told(loop, "drift:")) + len(told(loop, "quality:")) >= 2
    for other in others:
        other.close()


def test_whoever_comes_second_changes_and_tells_nothing(store, now):
    def advance(day, before, windows):
        after = conclusions.DriftMonitor("churn", "1", now + day * DAY, {"windows": windows})
        message = Message(f"drift:{windows}", "title", "body")
        return conclusions.advance_monitor(store, after, before, [message], ["log", "ops"], now)

    assert advance(1, None, 1) == 2
    assert advance(1, None, 9) is None
    assert advance(2, now + DAY, 2) == 2
    assert advance(2, now + DAY, 9) is None
    assert conclusions.load_monitor(store, "churn", "1").state == {"windows": 2}
    assert {each.subject for each in load_alerts(store, [], about="drift:")} == {"drift:1", "drift:2"}


def test_a_failed_check_of_the_data_is_told_until_it_has_recovered(loop, clock):
    play(loop, clock, 3)
    run_cycle(loop, "churn")
    assert told(loop, "quality:") == []
    play(loop, clock, 2, plan="gold")
    loop.watch_drift("churn")
    [alert] = told(loop, "quality:churn version 1:")
    assert "plan: new_categories 100.0%, 0.0% expected" in alert.body
    shown = loop_status(loop)["models"]["churn"]["drift"]
    assert (shown["rule"], shown["windows"], shown["columns"]) == ("windows", 4, [])
    assert {each["check"] for each in shown["failing"]} == {"plan: new_categories"}
    assert shown["unjudged"] == []
    play(loop, clock, 1)
    loop.watch_drift("churn")
    assert loop_status(loop)["models"]["churn"]["drift"]["failing"] == []
    play(loop, clock, 1, plan="gold")
    loop.watch_drift("churn")
    assert len(told(loop, "quality:")) == 2


def test_windows_that_the_reference_is_made_of_are_not_compared_with_it(tmp_path, clock):
    loop = churn_loop(tmp_path, clock)
    loop.promote("churn", register_churn(loop.registry, clock(), reference=50).version)
    play_days(loop, clock, 2)
    loop.evaluate("churn")
    assert loop.watch_drift("churn") == 0
    assert conclusions.load_monitor(loop.store, "churn", "2") is None  # its reference lacks rows
    play_days(loop, clock, 4, seed=80)
    loop.evaluate("churn")
    loop.watch_drift("churn")
    found = conclusions.load_monitor(loop.store, "churn", "2")
    # The reference ends on the fourth of six days.
    assert found.state["windows"] == 2
    loop.close()


def test_another_rule_begins_another_watch_over_the_windows_that_come(loop, clock, tmp_path, monkeypatch):
    play(loop, clock, 4)
    loop.watch_drift("churn")
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__DRIFT__RULE", "rows")
    other = open_loop(tmp_path / "feedback_loop.toml", clock)
    play(other, clock, 2, older=30)
    assert other.watch_drift("churn") >= 1
    assert (state(other).state["rule"], state(other).state["windows"]) == ("rows", 2)
    assert "age" in state(other).state["told"]
    other.close()


def test_what_only_rows_can_say_is_the_same_by_both_ways_and_for_ever(loop, clock):
    start = clock()
    play_days(loop, clock, 4)
    clock.set(clock() + DAY)
    window = Window(start - timedelta(hours=4), start + 3 * DAY - timedelta(hours=4))
    [found] = loop.evaluate("churn", window, multivariate=True, slices=True)
    together = {each.method: each for each in found.drift if not each.column}
    assert together.keys() == {"classifier_auc"}
    assert not any(each.drifted for each in together.values())
    assert found.slices  # losses are the greatest where the classes meet
    assert "age" in found.slices[0].segment
    again = [loop.evaluate("churn", window, found.as_of, multivariate=True, slices=True, from_log=True)]
    corrected = customers(300, 10, month=f"{start:%Y-%m-%d}")
    clock.set(clock() + DAY)
    turned = {**{name: corrected[name] for name in ("customer", "month")}, "churned": ~corrected["churned"]}
    loop.record_outcomes("churn", turned)
    again.append(loop.evaluate("churn", window, found.as_of, multivariate=True, slices=True))
    assert again == [[found], [found]]
    [now] = loop.evaluate("churn", window, multivariate=True, slices=True)
    assert now.slices != found.slices
    assert [each for each in now.drift if not each.column] == list(together.values())
    [stored] = [each for each in load_evaluations(loop.store, "churn") if each.as_of == found.as_of]
    assert set(stored.slices) == set(found.slices)
    [plain] = loop.evaluate("churn", window)
    assert (plain.slices, [each for each in plain.drift if not each.column]) == ((), [])


DIES = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from feedback_loop.clock import ManualClock
from feedback_loop.loop import FeedbackLoop
from feedback_loop.store import conclusions

where, config, now = sys.argv[1:4]
raise_in, advance, done = conclusions.raise_in, conclusions.advance_monitor, []

def dying(*args):
    if where == "before the commit":
        raise_in(*args)
        os.kill(os.getpid(), signal.SIGKILL)
    return raise_in(*args)

def counting(*args):
    done.append(advance(*args))
    if where == "after the commit" and len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return done[-1]

conclusions.raise_in, conclusions.advance_monitor = dying, counting
loop = FeedbackLoop.open(Path(config), clock=ManualClock(datetime.fromisoformat(now)))
loop.watch_drift("churn")
"""


@pytest.mark.parametrize("loop_on_each", ["sqlite"], indirect=True)
@pytest.mark.parametrize("where", ["before the commit", "after the commit"])
def test_killed_at_any_point_it_counts_and_tells_nothing_twice(loop, clock, warm, tmp_path, where):
    play(loop, clock, 12, plan="gold")
    loop.evaluate("churn")
    command = [warm / "python", "-c", DIES, where, str(tmp_path / "feedback_loop.toml"), clock().isoformat()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr[-2000:]
    if where == "before the commit":
        assert state(loop) is None
        assert told(loop, "quality:") == []
    else:
        assert state(loop).state["windows"] == 3
        assert len(told(loop, "quality:")) == 1
    loop.watch_drift("churn")
    assert state(loop).state["windows"] == 11
    assert len(told(loop, "quality:")) == 1


def test_a_line_of_the_users_own_alerts_in_a_real_run(tmp_path, clock, run):
    more = '\n[[models.churn.conditions]]\nmetric = "recall"\nbelow = 0.7\nfor = "2 windows"\n'
    loop = churn_loop(tmp_path, clock, more=more)
    play_days(loop, clock, 2)
    run_cycle(loop, "churn")
    assert told(loop, "condition:") == []
    play_days(loop, clock, 3, harder=0.6, seed=20)
    run_cycle(loop, "churn")
    run_cycle(loop, "churn")
    [alert] = told(loop, "condition:")
    assert alert.title == "churn: recall below 0.7 for 2 windows"
    [standing] = loop_status(loop)["models"]["churn"]["conditions"]
    assert (standing["state"], standing["condition"]) == ("crossed", "recall below 0.7 for 2 windows")
    loop.close()
    assert "CONDITION     recall below 0.7 for 2 windows: " in run("status")[1]
