"""Approvals: one open per model, one answer per person, used at most once."""

from dataclasses import replace
from datetime import timedelta

import pytest

from feedback_loop.errors import NotFound, Refused
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.approvals import Approval, ask, end, load_approval, load_votes, vote, waiting_approval
from feedback_loop.store.engine import ConstraintViolated
from feedback_loop.store.freezes import freeze
from feedback_loop.store.records import add
from feedback_loop.store.retrainings import end_promotion, intend_promotion

WEEK = timedelta(days=7)


def question(now, **changes):
    asked = Approval(0, "m", "2", "1", None, 1, now, now + WEEK, "open", {"summary": "It is better."})
    return replace(asked, **changes)


def answer(store, approval, voter, now, *, approves=True):
    return vote(store, approval.approval_id, voter=voter, approves=approves, reason=f"says {voter}", now=now)[0]


def test_one_yes_approves_or_two_of_different_people_and_one_no_rejects(store, now):
    one = ask(store, question(now), ["ops"])
    (told,) = load_alerts(store, [], about="approval:m:")
    assert f'feedback-loop approvals approve {one.approval_id} --reason "…"' in told.body
    assert answer(store, one, "ada", now).state == "approved"
    with pytest.raises(Refused, match="is approved"):
        answer(store, one, "bo", now)
    end(store, load_approval(store, one.approval_id), "promoted", "r", now)
    two = ask(store, question(now, needed=2))
    assert answer(store, two, "Ada", now).state == "open"
    with pytest.raises(Refused, match="ada has answered already: 2 different people"):
        answer(store, two, " ada ", now)
    assert answer(store, two, "bo", now).state == "approved"
    assert [each.voter for each in load_votes(store, two.approval_id)] == ["ada", "bo"]
    with pytest.raises(Refused, match="is being promoted"):
        ask(store, question(now, candidate="3"))
    end(store, load_approval(store, two.approval_id), "promoted", "r", now)
    three = ask(store, question(now, needed=2))
    rejected = answer(store, three, "cy", now, approves=False)
    assert (rejected.state, rejected.ended_because, waiting_approval(store, "m")) == ("rejected", "cy: says cy", None)


def test_an_approval_that_has_expired_or_was_superseded_or_is_frozen_is_not_given(store, now):
    old = ask(store, question(now))
    with pytest.raises(Refused, match="has expired"):
        answer(store, old, "ada", now + WEEK)
    newer = ask(store, question(now, candidate="3"))
    assert load_approval(store, old.approval_id).ended_because == "Version 3 was proposed instead."
    with pytest.raises(Refused, match="is superseded"):
        answer(store, old, "ada", now)
    freeze(store, "m", reason="audit", by="ada", now=now)
    with pytest.raises(Refused, match="audit"):
        answer(store, newer, "ada", now)
    assert answer(store, newer, "ada", now, approves=False).state == "rejected"  # to say no changes nothing
    with pytest.raises(NotFound, match="approval"):
        vote(store, 99, voter="ada", approves=True, reason="r", now=now)


def test_the_database_itself_holds_that_one_is_open_and_that_one_is_used_once(store, now):
    approval = ask(store, question(now))
    with pytest.raises(ConstraintViolated):
        add(store, question(now, candidate="3"))
    options = {"kind": "promotion", "reason": "r", "now": now, "approval_id": approval.approval_id}
    end_promotion(store, intend_promotion(store, "m", from_version=None, to_version="2", **options), now=now)
    with pytest.raises(Refused):
        intend_promotion(store, "m", from_version="2", to_version="3", **options)
