"""`policy suggest` on a log that was lived: what comes out is what the log was made of."""

import json
import tomllib
from datetime import timedelta

import numpy as np
import pytest

from feedback_loop.cli import main
from feedback_loop.clock import parse_duration
from feedback_loop.errors import NotFound
from tests.builders import churn_loop, customers


@pytest.fixture
def loop(tmp_path, clock):
    return churn_loop(tmp_path, clock)


@pytest.fixture
def run_cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["feedback-loop", *arguments])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def live(loop, clock, days, *, late_days=0, swing=0.0, per_day=300):
    """Days of predictions; each outcome comes a day after, those of wrong predictions `late_days` later still."""
    waiting = []
    for day in range(days):
        rows = customers(per_day, 50 + day, harder=0.02 + swing * (day % 7 >= 5), month=f"{clock():%Y-%m-%d}")
        answered = loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        wrong = np.asarray(answered["prediction"]) != rows["churned"]
        outcomes = {name: rows[name] for name in ("customer", "month", "churned")}
        for late, which in ((0, ~wrong), (late_days, wrong)):
            waiting.append((day + late, {name: values[which] for name, values in outcomes.items()}))
        clock.set(clock() + timedelta(days=1))
        for _, frame in [each for each in waiting if each[0] <= day and len(each[1]["month"])]:
            loop.record_outcomes("churn", frame)
        waiting = [each for each in waiting if each[0] > day]


def suggested(loop):
    return {each.setting: each for each in loop.suggest_policy("churn")}


def test_weekends_and_late_bad_outcomes_of_a_log_are_suggested_for(loop, clock):
    live(loop, clock, 40, late_days=6, swing=0.3)
    found = suggested(loop)
    assert found["cycle"].value == 7
    assert found["unit"].value == "label"
    assert "33 windows" in found["unit"].reason  # those that have matured by then
    assert found["tolerance"].value > 0.01
    assert parse_duration(found["maturity"].value) == timedelta(days=7)
    assert "bad predictions come later" in found["maturity"].reason


def test_an_even_log_is_counted_label_by_label_without_a_cycle(loop, clock):
    live(loop, clock, 32)
    found = suggested(loop)
    assert found["cycle"].value == 1
    assert found["unit"].value == "label"
    assert found["tolerance"].value == 0
    assert parse_duration(found["maturity"].value) == timedelta(days=1)
    assert "32 windows" in found["unit"].reason or "31 windows" in found["unit"].reason


def test_a_young_version_is_advised_by_its_reference(loop, clock):
    live(loop, clock, 3)
    assert "the 5 windows (400 labels each)" in suggested(loop)["unit"].reason


def test_a_correction_does_not_pass_for_a_late_outcome(loop, clock):
    live(loop, clock, 12)
    month = f"{clock() - timedelta(days=10):%Y-%m-%d}"
    rows = customers(300, 52, harder=0.02, month=month)
    loop.record_outcomes("churn", {"customer": rows["customer"], "month": rows["month"], "churned": ~rows["churned"]})
    assert parse_duration(suggested(loop)["maturity"].value) == timedelta(days=1)


def test_without_a_log_there_is_nothing_to_suggest_from(loop):
    with pytest.raises(NotFound, match="predict and load outcomes first"):
        loop.suggest_policy("churn")


def test_the_command_prints_what_the_configuration_takes(loop, clock, run_cli):
    live(loop, clock, 12)
    loop.close()
    code, out, _ = run_cli("policy", "suggest", "churn")
    assert code == 0
    table = tomllib.loads(out)["models"]["churn"]
    assert parse_duration(table["maturity"]) == timedelta(days=1)
    assert set(table["policy"]) == {"unit", "cycle", "tolerance", "reference"}
    assert table["adapter"] == {"mode": "off"}
    code, out, _ = run_cli("policy", "suggest", "churn", "--json")
    told = json.loads(out)
    assert (code, told["model"]) == (0, "churn")
    assert {each["setting"] for each in told["suggestions"]} == {
        "maturity",
        "unit",
        "cycle",
        "tolerance",
        "reference",
        "mode",
    }
    assert all(each["reason"] for each in told["suggestions"])
    assert run_cli("policy", "suggest", "churns")[0] == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_history_that_is_loaded_at_once_does_not_say_how_long_outcomes_take(loop, clock, told):
    frames = []
    for day in range(20):
        rows = customers(50, day, month=f"{clock():%Y-%m-%d}")
        loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        occurred = {"occurred_at": [clock() + timedelta(hours=6)] * 50} if told else {}
        frames.append({name: rows[name] for name in ("customer", "month", "churned")} | occurred)
        clock.set(clock() + timedelta(days=1))
    loop.record_outcomes("churn", {name: np.concatenate([frame[name] for frame in frames]) for name in frames[0]})
    maturity = suggested(loop)["maturity"]
    assert "loaded at once" in maturity.reason
    assert maturity.value is None if not told else parse_duration(maturity.value) == timedelta(hours=6)
