"""A loop that asks before it promotes: what people are shown, what their answers do, what becomes of late ones."""

from datetime import timedelta

import pytest

from feedback_loop.cycle import run_cycle
from feedback_loop.errors import BadInput, Refused
from feedback_loop.promotion import ApprovalDesk
from feedback_loop.registry import Reference
from feedback_loop.store import approvals, retrainings
from feedback_loop.store.alerts import load_alerts
from feedback_loop.views.status import loop_status
from tests.builders import churn_loop, play_days, register_churn

DAY = timedelta(days=1)

pytestmark = pytest.mark.usefixtures("warm_children")


@pytest.fixture
def loop(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__POLICY__MODE", "propose")
    made = churn_loop(tmp_path, clock)
    yield made
    made.close()


def asked(loop, candidate, **settings):
    """A question about a registered version, as a search would ask it."""
    approval = loop.settings.model("churn").approval.model_copy(update=settings)
    desk = ApprovalDesk(loop.rollouts.desk("churn"), approval)
    return desk.ask(candidate, loop.champion("churn").version, {"summary": "better"}, loop.clock())


def test_a_candidate_waits_for_a_person_who_sees_the_evidence_and_is_promoted_by_their_yes(loop, clock, run, plain):
    play_days(loop, clock, 12)
    clock.set(clock() + 30 * DAY)
    jobs = {outcome.job: outcome.result for outcome in run_cycle(loop, "churn")}
    assert (jobs["retrain"]["state"], jobs["retrain"]["reason"], loop.champion("churn").version) == (
        "proposed",
        "refresh",
        "1",
    )
    (open_one,) = loop.approvals.list("churn")
    number = open_one.approval_id
    evidence = open_one.evidence
    assert evidence["gate"]["passed"]
    assert evidence["gain"] == pytest.approx(-evidence["gate"]["difference"])
    assert evidence["gain_at_least"] == pytest.approx(-evidence["gate"]["upper"])
    assert evidence["data"]["trained_until"][0] < evidence["data"]["trained_until"][1]
    (told,) = load_alerts(loop.store, [], about="approval:churn:")
    assert f"feedback-loop approvals approve {number}" in told.body
    clock.set(clock() + DAY)
    jobs = {outcome.job: outcome.result for outcome in run_cycle(loop, "churn")}
    assert jobs["retrain"] == {"proposed": None, "held": f"Version 2 waits for approval {number}."}
    assert "expected gain" in run("approvals", "show", number)[1]
    assert f"APPROVAL      {number} is open: version 2" in run("status")[1]
    with pytest.raises(BadInput, match="reason"):
        loop.approvals.approve(number, reason=" ")
    loop.approvals.approve(number, reason="the figures are good", by="ada")
    assert loop.champion("churn").version == "2"
    tags = loop.registry.find(Reference("churn", version="2")).tags
    assert (tags["feedback_loop.approved_by"], tags["feedback_loop.approved_because"]) == (
        "ada",
        "the figures are good",
    )
    promotion = retrainings.load_promotions(loop.store, "churn")[-1]
    assert (promotion.made_by, promotion.approval_id, promotion.evidence["gain"]) == ("ada", number, evidence["gain"])
    with pytest.raises(Refused, match="is promoted"):
        loop.approvals.approve(number, reason="again", by="bo")
    assert loop_status(loop)["models"]["churn"]["approval"] is None
    assert plain("approvals", "list")[1] == []
    kinds = [row["kind"] for row in plain("models", "history", "churn", "--version", "2")[1]]
    assert kinds == ["trial", "asked", "answered", "promoted", "promotion"]
    (row,) = plain("retrainings", "list", "churn")[1]
    story = plain("retrainings", "show", row["retraining_id"])[1]
    assert [story["state"], story["approvals"][0]["state"], story["promotions"][0]["state"]] == [
        "proposed",
        "promoted",
        "done",
    ]
    assert [gate["name"] for gate in story["gates"] if not gate["passed"]] == []
    assert {"loss", "segments", "leak", "parity"} <= {gate["name"] for gate in story["gates"]}
    assert "gate parity: passed" in run("retrainings", "show", row["retraining_id"])[1]
    assert run("retrainings", "show", 99)[0] == 1
    assert [row["state"] for row in plain("approvals", "list", "--all")[1]] == ["promoted"]


def test_a_no_leaves_the_champion_and_is_kept_with_the_version(loop, clock, run):
    number = asked(
        loop, register_churn(loop.registry, clock(), seed=4).version, needed=2, expires=9999 * DAY
    ).approval_id
    loop.approvals.approve(number, reason="why not", by="ada")
    assert run("scheduler", "--once")[0] == 4  # by the real clock
    with pytest.raises(Refused, match="ada has answered already"):
        loop.approvals.approve(number, reason="sure", by="Ada")
    rejected = loop.approvals.reject(number, reason="not before Christmas", by="bo")
    assert (rejected.state, loop.champion("churn").version) == ("rejected", "1")
    tags = loop.registry.find(Reference("churn", version="2")).tags
    assert (tags["feedback_loop.rejected_by"], tags["feedback_loop.approval"]) == ("bo", f"{number}: rejected")
    assert "bo: no, not before Christmas" in run("approvals", "show", number)[1]
    assert "None waits." in run("approvals", "list")[1]


def test_one_that_expired_is_judged_again_on_newer_rows_and_never_promoted_stale(loop, clock):
    play_days(loop, clock, 2)
    good = register_churn(loop.registry, clock() + 5 * DAY, seed=4).version  # it has learned until now
    first = asked(loop, good)
    assert loop.approvals.settle("churn")["state"] == "open"
    clock.set(clock() + 7 * DAY)
    with pytest.raises(Refused, match="has expired"):
        loop.approvals.approve(first.approval_id, reason="late", by="ada")
    waits = loop.approvals.settle("churn")
    assert (waits["state"], "once there are rows enough" in waits["because"]) == ("expired", True)
    play_days(loop, clock, 5)
    clock.set(clock() + 2 * DAY)
    again = loop.approvals.settle("churn")
    assert (again["state"], again["approval"]) == ("open", first.approval_id + 1)
    fresh = loop.approvals.show(again["approval"])
    assert (fresh["candidate"], fresh["evidence"]["judged_again"]) == (good, first.approval_id)
    assert fresh["evidence"]["gate"]["rows"] == 1500
    assert loop.champion("churn").version == "1"


def test_a_candidate_that_is_no_good_any_more_is_refused_when_judged_again(loop, clock):
    play_days(loop, clock, 2)
    bad = register_churn(loop.registry, clock() + 5 * DAY, turned=True).version
    asked(loop, bad)
    loop.promote("churn", register_churn(loop.registry, clock(), seed=6).version)  # another champion than compared
    play_days(loop, clock, 5)
    clock.set(clock() + 2 * DAY)
    settled = loop.approvals.settle("churn")
    assert (settled["state"], "Judged again" in settled["because"]) == ("refused", True)
    (ended,) = approvals.load_approvals(loop.store, "churn")
    assert ended.ended_at == clock()


def test_a_yes_whose_process_died_is_carried_out_by_the_next_turn_once(loop, clock):
    second = register_churn(loop.registry, clock(), seed=4).version
    number = asked(loop, second).approval_id
    approvals.vote(loop.store, number, voter="ada", approves=True, reason="good", now=clock())  # and then it died
    assert loop.approvals.settle("churn")["state"] == "promoted"
    assert loop.champion("churn").version == second
    loop.rollback("churn")
    assert loop.approvals.settle("churn")["state"] == "promoted"
    assert loop.champion("churn").version == "1"
