"""What watches a promotion: probation after it, shadow and canary before it, each by live rows."""

from datetime import timedelta

import pytest

from feedback_loop.errors import Refused, Unavailable
from feedback_loop.promotion import rollout
from feedback_loop.promotion.fence import Champions
from feedback_loop.registry import Reference
from feedback_loop.store import retrainings, rollouts
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.records import change
from feedback_loop.store.rollouts import Rollout
from feedback_loop.store.serving_state import TrafficPlan
from feedback_loop.views.history import model_history
from tests.builders import churn_loop, play_days, register_churn

DAY = timedelta(days=1)


@pytest.fixture
def make(tmp_path, clock, monkeypatch):
    made = []

    def make(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"FEEDBACK_LOOP_MODELS__CHURN__ROLLOUT__{name.upper()}", str(value))
        made.append(churn_loop(tmp_path, clock))
        play_days(made[0], clock, 5, per_day=60)
        return made[0]

    yield make
    made[0].close()


def turns(loop, clock, days, seed=50):
    """Plays so many days with a look after each; returns the last that was running, by its stage, and what it was."""
    for day in range(days):
        play_days(loop, clock, 1, per_day=60, seed=seed + day)
        look = loop.rollouts.turn("churn")
        if look.get("state") not in (None, "running"):
            break
    return look


def land(loop, clock, version):
    return loop.rollouts.desk("churn").land(version, "1", clock(), reason="a search found it.", made_by="the loop")


def test_a_version_that_is_worse_than_the_one_that_it_replaced_is_rolled_back_and_blocked(make, clock, run, plain):
    loop = make()
    bad = register_churn(loop.registry, clock(), turned=True).version
    loop.promote("churn", bad, by="ada")
    running = turns(loop, clock, 1)
    assert (running["stage"], running["state"], running["candidate"]) == ("probation", "running", bad)
    assert "probation     version 2 beside 1" in run("status")[1]
    ended = turns(loop, clock, 13, seed=60)
    assert (ended["state"], loop.champion("churn").version) == ("harmful", "1")
    assert ended["counted"] <= 9
    assert ended["harm"] >= 20
    back = retrainings.load_promotions(loop.store, "churn")[-1]
    assert (back.kind, back.made_by, back.evidence["rollout"]) == ("rollback", "the loop", ended["rollout_id"])
    (incident,) = loop.incidents.list("churn")
    (alert,) = load_alerts(loop.store, [incident.incident_id])
    assert "Version 2 is worse than 1, which it replaced" in alert.body == incident.evidence["summary"]
    assert (incident.cause, incident.evidence["harm"]) == ("rollback", ended["harm"])
    assert f"incident      {incident.incident_id} since " in run("status")[1]
    story = run("incidents", "show", "churn")[1]
    assert "churn version 2 was rolled back to 1" in story
    assert "opened: (rollback) version 2: Version 2 is worse than 1" in story
    with pytest.raises(Refused, match=r"Version 2 of churn is blocked: .*--force"):
        loop.promote("churn", bad)
    with pytest.raises(Refused, match="is blocked"):
        land(loop, clock, bad)
    assert loop.rollouts.turn("churn") == {"rollout": None}  # a rollback has no probation
    assert loop.promote("churn", bad, force=True).to_version == bad
    (closed,) = loop.incidents.list("churn", closed=True)
    assert closed.closed_because == "Version 2 is the champion since."
    compared = plain("models", "compare", "churn/2", "churn/1")[1]
    (brier,) = [loss for loss in compared["losses"] if loss["loss"] == "brier"]
    assert brier["difference"] == pytest.approx(brier["one"] - brier["other"])
    assert brier["difference"] > 5 * brier["standard_error"]
    assert (compared["learned"], compared["rows"]) == (0, 60 * compared["days"])
    assert "brier" in run("models", "compare", "churn/2", "churn@champion", "--window", "2026-03-05")[1]
    assert run("models", "compare", "churn/2", "churn/1", "--window", "2031-01")[0] == 1


def test_a_version_that_is_as_good_stays_and_its_probation_ends(make, clock):
    loop = make(probation=6)
    loop.promote("churn", register_churn(loop.registry, clock(), seed=0).version)
    ended = turns(loop, clock, 12)
    assert (ended["state"], ended["counted"], loop.champion("churn").version) == ("passed", 6, "2")
    assert loop.rollouts.turn("churn") == {"rollout": None}


def test_without_labels_a_probation_is_inconclusive_and_a_hand_in_mlflow_ends_it(make, clock):
    loop = make(probation=4)
    loop.promote("churn", register_churn(loop.registry, clock(), turned=True).version)
    clock.set(clock() + 8 * DAY)  # nobody asked, nothing is known
    ended = loop.rollouts.turn("churn")
    assert (ended["state"], loop.champion("churn").version) == ("inconclusive", "2")
    told = next(event.words for event in model_history(loop.store, "churn") if event.kind == "inconclusive")
    assert told.startswith("probation ended: It has too few labels: ")
    loop.promote("churn", register_churn(loop.registry, clock(), seed=4).version)
    assert loop.rollouts.turn("churn")["state"] == "running"
    loop.registry.set_alias("churn", "champion", "1")
    ended = loop.rollouts.turn("churn")
    assert (ended["state"], ended["ended_because"]) == ("superseded", "The champion is version 1 by now.")
    assert loop.champion("churn").version == "1"
    fourth = register_churn(loop.registry, clock(), seed=6).version
    loop.promote("churn", fourth)
    loop.registry._mlflow.client.delete_model_version("churn", "1")
    loop.context._versions.clear()
    turns(loop, clock, 3)
    (*_, ended) = rollouts.load_rollouts(loop.store, "churn")
    assert (ended.state, "no model version 'churn/1'" in ended.ended_because) == ("inconclusive", True)


def test_a_shadow_ends_early_by_gain_and_then_the_candidate_is_promoted_and_on_probation(make, clock):
    loop = make(mode="shadow")
    loop.promote("churn", register_churn(loop.registry, clock(), turned=True).version, reason="a bad one")
    good = register_churn(loop.registry, clock(), seed=4).version
    assert loop.rollouts.desk("churn").land(good, "2", clock(), reason="r.", made_by="the loop") == "rollout"
    assert loop.champion("churn").version == "2"
    ended = turns(loop, clock, 14)
    assert (ended["stage"], ended["state"], loop.champion("churn").version) == ("shadow", "passed", good)
    assert ended["counted"] < 14
    promotion = retrainings.load_promotions(loop.store, "churn")[-1]
    assert (promotion.evidence["rollout"], promotion.reason.startswith("r. After its shadow: better")) == (
        ended["rollout_id"],
        True,
    )
    assert turns(loop, clock, 1)["stage"] == "probation"


def test_a_canary_grows_by_steps_and_stops_at_harm(make, clock):
    loop = make(mode="canary", windows=4)
    bad = register_churn(loop.registry, clock(), turned=True).version
    assert land(loop, clock, bad) == "rollout"
    assert loop.registry.find(Reference("churn", alias="challenger")).version == bad
    shares = []
    for day in range(12):
        plan = loop.models.traffic("churn")
        shares.append(plan.share)
        play_days(loop, clock, 1, per_day=60, seed=80 + day)
        look = loop.rollouts.turn("churn")
        if look["state"] != "running":
            break
    assert sorted(set(shares)) == [0.05, 0.25]
    assert (look["state"], loop.champion("churn").version) == ("harmful", "1")
    assert loop.models.traffic("churn").canary is None
    assert rollouts.blocked_by(loop.store, "churn", bad) is not None
    (first,) = loop.incidents.list("churn")
    assert first.title == "churn version 2 was stopped as a canary"


def test_a_canary_whose_process_died_before_it_was_routed_is_routed_by_the_next_turn_and_a_hand_is_not_undone(
    make, clock, monkeypatch
):
    loop = make(mode="canary", windows=4)
    candidate = register_churn(loop.registry, clock(), seed=0).version

    def died(*_):
        raise Unavailable("the store", "the process died")

    with monkeypatch.context() as patch:
        patch.setattr(rollout, "save_traffic", died)
        with pytest.raises(Unavailable):
            land(loop, clock, candidate)
    assert loop.models.traffic("churn").canary is None
    begun = rollouts.running_rollout(loop.store, "churn")
    late = loop.rollouts.desk("churn")._settled_elsewhere(begun, "1", begun.since + 4 * DAY)
    assert (late.state, loop.models.traffic("churn").canary) == ("superseded", None)
    change(loop.store, Rollout, {"state": "running"}, rollout_id=begun.rollout_id)  # it was not so late
    assert loop.rollouts.turn("churn")["state"] == "running"
    assert (loop.models.traffic("churn").canary, loop.models.traffic("churn").share) == ("challenger", 0.05)
    loop.models.route("churn", TrafficPlan())
    loop.rollouts.turn("churn")
    assert loop.models.traffic("churn").canary is None


def test_what_was_decided_long_ago_and_not_done_is_judged_anew_on_the_rows_since(make, clock, monkeypatch):
    loop = make()
    loop.promote("churn", register_churn(loop.registry, clock(), turned=True).version)

    def died(*_, **__):
        raise Unavailable("the registry", "the process died")

    with monkeypatch.context() as patch:
        patch.setattr(Champions, "promote", died)
        with pytest.raises(Unavailable):
            turns(loop, clock, 12)
    decided = rollouts.running_rollout(loop.store, "churn")
    assert decided.evidence["decision"] == "harm"
    # The world turns round: what was worse is the better one now.
    play_days(loop, clock, 12, per_day=60, seed=200, harder=1.0)
    look = loop.rollouts.turn("churn")
    assert (look["state"], look["counted"] > decided.evidence["counted"]) == ("passed", True)
    assert loop.champion("churn").version == "2"


def test_a_shadow_without_evidence_ends_by_the_gate_on_live_rows(make, clock):
    loop = make(mode="shadow", windows=5)
    as_good = register_churn(loop.registry, clock() - 5 * DAY, seed=0).version
    land(loop, clock, as_good)
    ended = turns(loop, clock, 10)
    assert (ended["state"], loop.champion("churn").version) == ("passed", as_good)
    assert "log_loss" in ended["ended_because"]
