"""Diagnosis in the whole loop: asked of the log, kept with the incident, and held against what followed."""

import json
import re
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from feedback_loop.cli import app
from feedback_loop.clock import Window
from feedback_loop.cycle import chains, make_scheduler, run_cycle
from feedback_loop.errors import NotFound, Refused
from feedback_loop.store import incidents, retrainings
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.conclusions import load_diagnoses
from feedback_loop.store.ledger import load_runs
from feedback_loop.views.status import model_status
from tests.builders import churn_loop, customers, play_days
from tests.integration.processes import Answers

DAY = timedelta(days=1)

pytestmark = pytest.mark.usefixtures("warm_children")


def play_broken(loop, clock, days, *, seed, change):
    """Days on which the feed gives other features than those that outcomes come of."""
    for day in range(days):
        rows = customers(300, seed + day, month=f"{clock():%Y-%m-%d}")
        sent = change({name: rows[name] for name in ("customer", "month", "age", "plan")})
        loop.predict("churn", sent)
        clock.set(clock() + DAY)
        loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})


def in_months(rows):
    return {**rows, "age": 12 * np.asarray(rows["age"])}


def cycled(loop):
    return {each.job: each for each in run_cycle(loop, "churn")}


def test_a_feed_that_broke_is_to_be_repaired_and_nothing_is_learned_from_it(loop, clock, run, monkeypatch):
    play_days(loop, clock, 4)
    cycled(loop)
    play_broken(loop, clock, 6, seed=100, change=in_months)
    done = cycled(loop)
    assert {each.state for each in done.values()} == {"succeeded"}
    assert done["decide"].result["state"] == "degraded"
    assert done["diagnose"].result["recommendation"] == "repair"
    assert "age is 12 times what it was" in done["diagnose"].result["summary"]
    assert loop.retrain_reason("churn") is None
    assert retrainings.load_retrainings(loop.store, "churn") == []
    [told] = [each for each in load_alerts(loop.store, [1]) if ":diagnosis:" in each.subject and each.route == "log"]
    assert told.title == "churn version 1: repair the feed, do not retrain"
    assert "age is 12 times what it was" in told.body
    assert told.fields == {"model": "churn", "model_version": "1", "incident": "1", "recommendation": "repair"}
    assert "Data quality: age out_of_range" in done["diagnose"].result["summary"]
    (made,) = load_diagnoses(loop.store, "churn")
    assert (made.incident_id, made.version, made.was_right) == (1, "1", None)
    assert made.evidence["faults"][0]["kind"] == "units"
    # Nothing new has been judged: nothing is diagnosed again.
    assert loop.diagnose_incident("churn") is None
    # The feed is right again: days that were broken are still in the incident's window, and hold retraining back.
    play_days(loop, clock, 4, seed=200)
    done = cycled(loop)
    assert done["diagnose"].result["recommendation"] == "repair"
    assert "in 67% of rows" in done["diagnose"].result["summary"]
    assert done["retrain"].result["held"].startswith("The feed is to be repaired")
    # By hand it asks: a program by a parameter, a person at a terminal, a script by --yes.
    with pytest.raises(Refused, match=r"nothing is learned from broken rows\. .*despite_diagnosis=True"):
        loop.retrain("churn")
    by_hand, asked = ("retrain", "churn", "--no-promote"), "Search all the same? [y/N]"
    code, out, err = run(*by_hand)
    assert (code, asked in out, "retrain --yes" in err) == (1, False, True)
    monkeypatch.setattr("sys.stdin", Answers("n\n"))
    code, out, err = run(*by_hand)
    assert (code, asked in out, "The feed is to be repaired" in out) == (1, True, True)
    monkeypatch.setattr("sys.stdin", Answers("y\n"))
    code, _, _ = run(*by_hand, "--json")  # a program is not asked
    assert code == 1
    assert retrainings.load_retrainings(loop.store, "churn") == []
    code, out, _ = run(*by_hand)
    assert (code, asked in out, len(retrainings.load_retrainings(loop.store, "churn"))) == (0, True, 1)
    code, out, _ = run(*by_hand, "--yes")
    assert (code, asked in out) == (0, False)
    incidents.close_incident(loop.store, made.incident_id, "the feed is right again", clock())
    assert loop.judge_diagnoses("churn") == 2
    last = load_diagnoses(loop.store, "churn")[0]
    assert (last.was_right, last.judged_because) == (True, "The incident ended without another version.")


def test_a_search_by_policy_waits_for_a_diagnosis_that_could_be_made(loop, clock):
    play_days(loop, clock, 4)
    cycled(loop)
    play_days(loop, clock, 1, harder=0.9, seed=100)
    while (done := cycled(loop))["decide"].result["state"] != "degraded":
        play_days(loop, clock, 1, harder=0.9, seed=int(clock().timestamp()))
    assert done["diagnose"].result["recommendation"] == "insufficient_data"
    assert done["retrain"].result["held"].startswith("The cause is not known yet")
    assert retrainings.load_retrainings(loop.store, "churn") == []
    while done["diagnose"].result["recommendation"] in (None, "insufficient_data"):
        assert retrainings.load_retrainings(loop.store, "churn") == []
        play_days(loop, clock, 1, harder=0.9, seed=int(clock().timestamp()))
        done = cycled(loop)
    assert done["diagnose"].result["recommendation"] == "recent"
    assert len(retrainings.load_retrainings(loop.store, "churn")) == 1


def test_another_relation_is_to_be_learned_from_recent_data_and_that_is_recorded(loop, clock):
    play_days(loop, clock, 4)
    cycled(loop)
    play_days(loop, clock, 12, harder=0.45, seed=100)
    done = cycled(loop)
    assert done["diagnose"].result["recommendation"] == "recent"
    (search,) = retrainings.load_retrainings(loop.store, "churn")
    assert search.state == "promoted"
    assert loop.champion("churn").tags["feedback_loop.diagnosis"] == "recent"
    loop.judge_diagnoses("churn")
    (made,) = load_diagnoses(loop.store, "churn")
    assert made.was_right is True
    assert "did best" in made.judged_because
    relation = made.evidence["split"]["relation"]
    assert relation["value"] > 3 * relation["error"]


def test_a_diagnosis_as_of_then_is_the_same_to_the_bit(loop, clock):
    play_days(loop, clock, 4)
    play_broken(loop, clock, 4, seed=100, change=in_months)
    window, then = Window(clock() - 4 * DAY, clock() - DAY), clock()
    first = loop.diagnose("churn", window, then)
    play_days(loop, clock, 3, seed=300)
    rows = customers(300, 101, month=f"{then - 3 * DAY:%Y-%m-%d}")
    turned = {name: rows[name] for name in ("customer", "month")} | {"churned": ~rows["churned"]}
    loop.record_outcomes("churn", turned)
    again = loop.diagnose("churn", window, then)
    assert (again.evidence, again.summary, again.version) == (first.evidence, first.summary, first.version)
    assert loop.diagnose("churn", window).evidence != first.evidence


def test_what_can_not_be_diagnosed_is_refused_with_a_cure(tmp_path, clock):
    hidden = churn_loop(tmp_path, clock, more='[models.churn.log]\ncolumns = { age = "drop" }\n')
    window = Window(clock() - DAY, clock())
    with pytest.raises(Refused, match=r"hashed or not at all\. Log them plain"):
        hidden.diagnose("churn", window)
    hidden.close()


def test_a_model_that_can_not_be_diagnosed_fails_no_look(tmp_path, clock):
    hidden = churn_loop(tmp_path, clock, more='[models.churn.log]\ncolumns = { age = "drop" }\n')
    play_days(hidden, clock, 8, harder=0.45)
    done = cycled(hidden)
    assert done["decide"].result["state"] == "degraded"
    assert (done["diagnose"].state, done["diagnose"].result["recommendation"]) == ("succeeded", None)
    assert "Log them plain" in done["diagnose"].result["summary"]
    hidden.close()


def test_a_diagnosis_that_fails_is_told_holds_only_retraining_back_and_is_made_at_the_next_look(
    loop, clock, monkeypatch
):
    play_days(loop, clock, 4)
    play_broken(loop, clock, 6, seed=100, change=in_months)
    with monkeypatch.context() as patch:
        patch.setattr("feedback_loop.loop.diagnosing.find_causes", _out_of_memory)
        done = cycled(loop)
    assert (done["diagnose"].state, done["diagnose"].cause) == ("failed", "MemoryError: 6 GiB")
    assert {each.state for name, each in done.items() if name != "diagnose"} == {"succeeded"}
    assert done["decide"].result["state"] == "degraded"
    assert loop.deliver_alerts().sent == 2  # of the data, of the incident
    assert done["retrain"].result["proposed"] is None  # nobody knows yet that the feed is to be repaired
    assert done["retrain"].result["held"].endswith("MemoryError: 6 GiB")
    assert retrainings.load_retrainings(loop.store, "churn") == []
    [failed] = model_status(loop, "churn")["failed_jobs"]
    assert (failed["job"], failed["cause"]) == ("diagnose", "MemoryError: 6 GiB")
    clock.set(clock() + timedelta(hours=1))  # nothing new has matured, but the diagnosis is still owed
    done = cycled(loop)
    assert done["decide"].result["state"] is None
    assert done["diagnose"].result["recommendation"] == "repair"
    assert done["retrain"].result["proposed"] is None
    assert model_status(loop, "churn")["failed_jobs"] == []


def _out_of_memory(*_args, **_options):
    raise MemoryError("6 GiB")


def test_the_scheduler_goes_on_past_a_diagnosis_that_fails_and_makes_it_at_its_next_round(loop, clock, capsys):
    """The table of diagnoses is away: what was decided stands, nothing is learned from a feed that nobody judged."""
    scheduler, cycle = make_scheduler(loop), chains(loop, "churn")[0]
    play_days(loop, clock, 4)
    play_broken(loop, clock, 6, seed=100, change=in_months)
    rename(loop, "fl_diagnoses", "away")
    scheduler.fire(cycle)
    rename(loop, "away", "fl_diagnoses")
    first = {each.job: each for each in load_runs(loop.store, "churn")}
    assert {name for name, each in first.items() if each.state != "succeeded"} == {"diagnose", "retrain"}
    assert first["decide"].result["state"] == "degraded"
    assert "no such table: fl_diagnoses" in first["diagnose"].cause
    assert retrainings.load_retrainings(loop.store, "churn") == []
    assert re.search(r"job failed +.*job=diagnose", capsys.readouterr().out)
    told = {each["job"]: each["cause"] for each in model_status(loop, "churn")["failed_jobs"]}
    assert told["diagnose"] == first["diagnose"].cause
    scheduler.fire(cycle)  # that round was made, good or bad
    assert len(load_runs(loop.store, "churn")) == len(first)
    clock.set(clock() + DAY)
    scheduler.fire(cycle)
    again = {each.job: each for each in load_runs(loop.store, "churn")[: len(first)]}
    assert {each.state for each in again.values()} == {"succeeded"}
    assert again["diagnose"].result["recommendation"] == "repair"
    assert again["retrain"].result["proposed"] is None
    assert model_status(loop, "churn")["failed_jobs"] == []


def rename(loop, old, new):
    with loop.store.write() as connection:
        connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


def test_without_a_reference_there_is_nothing_to_compare_with(loop, clock):
    bare = loop.models.register("churn", str(loop.registry.load(loop.champion("churn")).path))
    loop.promote("churn", bare.version)
    with pytest.raises(Refused, match="has no reference"):
        loop.diagnose("churn", Window(clock() - DAY, clock()))


def test_too_few_labels_are_said(loop, clock):
    play_days(loop, clock, 1)
    made = loop.diagnose("churn", Window(clock() - DAY, clock() + DAY))
    assert (made.recommendation, made.evidence["rows_now"], made.evidence["split"]) == (
        "insufficient_data",
        300,
        None,
    )
    with pytest.raises(NotFound, match="--window"):
        loop.diagnose("churn")


def test_the_command_tells_parts_in_words_and_in_json(loop, clock, tmp_path):
    play_days(loop, clock, 3)
    play_broken(loop, clock, 4, seed=100, change=in_months)
    given = ["--window", f"{clock() - 4 * DAY:%Y-%m-%d}/{clock() + DAY:%Y-%m-%d}", "--config"]
    given.append(str(tmp_path / "feedback_loop.toml"))
    told = CliRunner().invoke(app, ["diagnose", "churn", *given])
    assert told.exit_code == 0, told.output
    assert told.output.startswith("repair: Repair the feed, do not retrain: age is 12 times what it was.")
    assert pd.Series(["broken features", "inputs", "relation"]).map(told.output.count).min() >= 1
    plain = json.loads(CliRunner().invoke(app, ["diagnose", "churn", *given, "--json"]).stdout)
    assert (plain["recommendation"], plain["evidence"]["feature"]) == ("repair", "age")
    listed = CliRunner().invoke(app, ["diagnose", "churn", "--list", *given[2:]]).output
    assert listed.count("not known yet") == 2
