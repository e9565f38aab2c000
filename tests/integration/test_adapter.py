"""An adapter in the loop: fed by turns, held and released, replayed from the log."""

import json
from datetime import timedelta

import pandas as pd
import pytest
from sklearn.model_selection import FixedThresholdClassifier
from typer.testing import CliRunner

from feedback_loop.adaptation import FED
from feedback_loop.cli import app
from feedback_loop.clock import Window
from feedback_loop.cycle import run_cycle
from feedback_loop.errors import Refused
from feedback_loop.inference import Coefficients
from feedback_loop.store import adapters
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.conclusions import latest_verdict
from feedback_loop.store.incidents import load_incidents
from tests.builders import churn_loop, churn_pipeline, customers, play_days, register_model

ON = """
[models.churn.adapter]
mode = "on"
[alerts.routes]
team = "json://127.0.0.1:9"
"""


@pytest.fixture
def loop(tmp_path, clock):
    loop = churn_loop(tmp_path, clock, more=ON)
    yield loop
    loop.close()


def fed(loop, clock, days, **options):
    """So many days, each with a turn of the adapter; the last turn."""
    turn = None
    for day in range(days):
        play_days(loop, clock, 1, seed=int(clock().timestamp()) % 2**31 + day, **options)
        loop.join("churn")
        turn = loop.adapter.run("churn")
    return turn


def titles(loop):
    """Of the alerts about the adapter, in order, on whichever routes."""
    return list(dict.fromkeys(alert.title for alert in load_alerts(loop.store, [], about="adapter:churn:")))


def test_it_is_fed_by_turns_and_its_revisions_are_replayed_bit_for_bit(loop, clock):
    turn = loop.adapter.run("churn")
    assert (turn.revision, turn.fed) == (1, ())
    first = Coefficients.from_bytes(adapters.load_coefficients(loop.store, "churn", 1))
    assert first.is_identity
    turn = fed(loop, clock, 6, harder=0.3)
    assert len(turn.fed) == 1
    history = loop.adapter.history("churn")
    assert [revision.kind for revision in history] == ["learned"] * 6 + ["begun"]
    assert {revision.labelled for revision in history[:6]} == {300}
    assert history[0].cohort_end == history[0].cohort_start + timedelta(days=1)
    gain = loop.adapter.gain("churn")
    assert (gain["revision"], gain["looks"], gain["rows"]) == (7, 6, 1800)
    served = adapters.newest_served(loop.store, "churn")
    newest = Coefficients.from_bytes(adapters.load_coefficients(loop.store, "churn", served.revision))
    assert newest.digest == served.digest
    assert not newest.is_identity
    replayed = loop.adapter.replay("churn")
    assert (replayed.revisions, replayed.same, replayed.differs, replayed.gaps) == (6, 6, None, ())
    assert loop.adapter.run("churn").fed == ()  # a cohort is fed once


def test_where_rows_were_erased_it_is_replayed_from_the_next_state_that_was_kept(loop, clock):
    fed(loop, clock, 7)
    month = f"{loop.adapter.history('churn')[4].cohort_start:%Y-%m-%d}"
    loop.erase("churn", {"customer": 7, "month": month})
    replayed = loop.adapter.replay("churn")
    kept = loop.adapter.history("churn")[3]
    assert (replayed.gaps, replayed.differs) == ((4, kept.revision), None)
    assert replayed.since == kept.made_at
    assert replayed.same == replayed.revisions == 8 - kept.revision


def test_a_model_that_had_none_is_fed_what_is_in_its_log(loop, clock):
    play_days(loop, clock, 4)
    loop.join("churn")
    assert len(loop.adapter.run("churn").fed) == 4
    looks = [revision.details for revision in loop.adapter.history("churn") if revision.kind in FED]
    assert [look["loss_served"] == look["loss_raw"] for look in looks] == [True] * 4  # nothing was adapted then
    replayed = loop.adapter.replay("churn")
    assert (replayed.same, replayed.differs) == (4, None)


def test_a_cohort_whose_outcomes_stay_away_is_never_fed_and_that_is_noted(loop, clock):
    loop.adapter.run("churn")
    rows = customers(200, 5, month="2026-03-02")
    loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
    clock.set(clock() + timedelta(days=1))
    loop.record_outcomes("churn", {name: rows[name][:100] for name in ("customer", "month", "churned")})
    loop.join("churn")
    assert loop.adapter.run("churn").skipped == ()
    clock.set(clock() + timedelta(days=3))
    loop.join("churn")
    turn = loop.adapter.run("churn")
    assert len(turn.skipped) == 1
    assert [(each.kind, each.labelled) for each in loop.adapter.history("churn")] == [("skipped", 100), ("begun", 0)]
    assert loop.adapter.run("churn").skipped == ()


def test_wrong_outcomes_hold_it_that_is_told_and_so_is_the_end(loop, clock):
    fed(loop, clock, 7)
    before = adapters.newest_served(loop.store, "churn")
    for _ in range(9):
        rows = customers(300, int(clock().timestamp()) % 2**31, month=f"{clock():%Y-%m-%d}")
        loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        clock.set(clock() + timedelta(days=1))
        rows["churned"][:] = True
        loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})
        loop.join("churn")
        turn = loop.adapter.run("churn")
    assert turn.held_by == ("surprise",)
    held = adapters.newest_served(loop.store, "churn")
    assert (held.digest, held.details["held_looks"]) == (before.digest, 7)
    assert titles(loop) == ["churn: its adapter is held"]
    (incident,) = loop.incidents.list("churn")
    assert incident.title == "churn: its adapter has been held for 7 looks"
    assert (incident.cause, incident.evidence["held_by"]) == ("adapter", ["surprise"])
    assert loop.adapter.release("churn", reason="mended").held_by == ()
    assert [title.endswith("no more") for title in titles(loop)] == [False, True]
    (closed,) = loop.incidents.list("churn", closed=True)
    assert closed.closed_because == "It is not held any more."
    fed(loop, clock, 1)
    assert loop.adapter.replay("churn").same == loop.adapter.replay("churn").revisions == 18


def test_a_champion_with_a_threshold_of_its_own_stops_it_before_it_answers_and_the_next_one_begins_another(
    loop, clock, run
):
    fed(loop, clock, 3)
    known = pd.DataFrame(customers(500, 0))
    own = FixedThresholdClassifier(churn_pipeline(), threshold=0.2).fit(known[["age", "plan"]], known["churned"])
    reference = known.assign(prediction=own.predict(known), probability=own.predict_proba(known)[:, 1])
    reference["predicted_at"] = pd.Timestamp(clock() - timedelta(days=10)).as_unit("us")
    version = register_model(
        loop.registry,
        "churn",
        own,
        known[["age", "plan"]],
        reference[["age", "plan", "churned", "prediction", "probability", "predicted_at"]],
        now=clock(),
        trained_until=clock() - timedelta(days=5),
    )
    loop.promote("churn", version.version)
    stopped = loop.adapter.history("churn", 1)[0]
    assert (stopped.kind, stopped.version) == ("stopped", version.version)
    assert adapters.newest_served(loop.store, "churn") is None
    rows = pd.DataFrame(customers(200, 3)).assign(month="2026-04-01")
    answers = loop.predict("churn", rows[["customer", "month", "age", "plan"]]).column("prediction").to_pylist()
    assert answers == list(own.predict(rows[["age", "plan"]]))
    assert "threshold of its own" in loop.adapter.run("churn").because
    assert "adapter       STOPPED at revision" in run("status")[1]
    assert "churn: its adapter is stopped" in titles(loop)
    loop.rollback("churn")
    assert loop.adapter.run("churn").because == ""
    assert (loop.adapter.history("churn", 1)[0].adapter, stopped.adapter) == (2, 1)
    assert adapters.newest_served(loop.store, "churn") is not None


def test_people_hold_release_and_reset_it_and_a_freeze_stops_it(loop, clock):
    with pytest.raises(Refused, match="has no adapter"):
        loop.adapter.hold("churn", reason="r")
    fed(loop, clock, 2)
    loop.adapter.hold("churn", reason="a look", by="ada")
    assert fed(loop, clock, 1).held_by == ("hand",)
    loop.freeze("churn", reason="audit", by="bo")
    assert "frozen" in fed(loop, clock, 1).because
    with pytest.raises(Refused, match="frozen"):
        loop.adapter.release("churn", reason="r")
    loop.unfreeze("churn")
    loop.adapter.release("churn", reason="fine", by="ada")
    assert len(fed(loop, clock, 1).fed) == 2
    reset = loop.adapter.reset("churn", reason="poisoned", by="ada")
    assert (reset.adapter, reset.details["by"]) == (2, "ada")
    assert Coefficients.from_bytes(adapters.load_coefficients(loop.store, "churn", reset.revision)).is_identity
    assert loop.adapter.run("churn").fed == ()  # nothing of what was predicted before
    fed(loop, clock, 1)  # the day on which it was begun is none of its own
    assert len(fed(loop, clock, 1).fed) == 1


def test_commands_and_status_say_what_it_does(loop, clock, tmp_path):
    fed(loop, clock, 3)
    config = str(tmp_path / "feedback_loop.toml")

    def run(*words):
        result = CliRunner().invoke(app, [*words, "--config", config])
        assert result.exit_code == 0, result.output
        return result.output

    assert "learned" in run("adapter", "history", "churn")
    assert json.loads(run("adapter", "history", "churn", "--json"))[0]["kind"] == "learned"
    assert "3 of 3 revisions come out the same" in run("adapter", "replay", "churn")
    assert "is held: revision 5" in run("adapter", "hold", "churn", "--reason", "why", "--by", "ada")
    assert json.loads(run("adapter", "release", "churn", "--reason", "so", "--json"))["kind"] == "release"
    assert "begins anew" in run("adapter", "reset", "churn", "--reason", "so")
    assert "adapter       revision 7; loss of the last 3 looks" in run("status")


def test_the_scheduler_feeds_it_in_each_turn(loop, clock):
    play_days(loop, clock, 2)
    outcomes = {outcome.job: outcome for outcome in run_cycle(loop, "churn")}
    assert outcomes["adapt"].result == {"revision": 3, "fed": 2}


def test_what_it_would_have_gained_is_said_before_it_is_turned_on(tmp_path, clock):
    loop = churn_loop(tmp_path, clock)
    play_days(loop, clock, 25, harder=0.25, per_day=100)
    gained = loop.adapter.what_if("churn")
    raw, adapted = gained.means
    assert adapted < raw - 0.02
    assert gained.is_gain
    assert len(gained.ids) == 2500
    suggested = loop.suggest_policy("churn")[-1]
    assert (suggested.section, suggested.setting, suggested.value) == ("adapter", "mode", "on")
    assert f"log loss {raw:.4g} without an adapter, {adapted:.4g} with one, over 25 cohorts" in suggested.reason
    assert loop.adapter.history("churn") == []
    loop.close()


def test_a_model_that_has_gone_stale_below_its_adapter_is_seen(loop, clock):
    for _ in range(22):
        fed(loop, clock, 1, harder=0.2)
        loop.decide("churn")
    served = loop.labelled("churn", Window(clock() - timedelta(days=2), clock()))
    assert served.column("adapter_revision").null_count == 0
    assert served.column("raw_probability").to_pylist() != served.column("probability").to_pylist()
    gain = loop.adapter.gain("churn")
    assert gain["loss_served"] < gain["loss_raw"]
    losses = {loss["name"]: loss for loss in latest_verdict(loop.store, "churn").evidence["watched"]}
    assert losses["raw brier"]["current"] > losses["brier"]["current"]
    assert losses["raw brier"]["monitors"]["change"]["alarmed_at"] is not None
    assert [incident.title for incident in load_incidents(loop.store, "churn")]
