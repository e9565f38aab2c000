"""Freezes: one of a model and one of all may stand at a time, and each is kept with who and why."""

import pytest

from feedback_loop.errors import Refused
from feedback_loop.store.freezes import EVERYWHERE, Freeze, freeze, held_by_freeze, unfreeze
from feedback_loop.store.records import many
from feedback_loop.store.retrainings import end_promotion, intend_promotion, load_promotions


def test_a_freeze_holds_its_model_or_all_until_it_is_lifted(store, now):
    freeze(store, "m", reason="audit", by="ada", now=now)
    with pytest.raises(Refused, match=r"m is frozen since .* by ada: audit"):
        freeze(store, "m", reason="again", by="bo", now=now)
    assert "ada" in held_by_freeze(store, "m")
    assert held_by_freeze(store, "other") == ""
    freeze(store, EVERYWHERE, reason="a holiday", by="bo", now=now)
    assert "bo: a holiday" in held_by_freeze(store, "other")
    with pytest.raises(Refused, match=r"other has no freeze of its own\. All models are frozen"):
        unfreeze(store, "other", reason="r", by="ada", now=now)
    unfreeze(store, EVERYWHERE, reason="over", by="cy", now=now)
    assert held_by_freeze(store, "other") == ""
    unfreeze(store, "m", reason="done", by="ada", now=now)
    freeze(store, "m", reason="once more", by="ada", now=now)
    assert [each.lifted_by for each in many(store, Freeze, order_by="freeze_id")] == ["ada", "cy", None]


def test_no_promotion_begins_while_its_model_is_frozen_but_what_was_done_in_mlflow_is_recorded(store, now):
    freeze(store, "m", reason="audit", by="ada", now=now)
    options = {"from_version": None, "to_version": "1", "reason": "r", "now": now}
    for kind in ("first", "promotion", "rollback"):
        with pytest.raises(Refused, match="audit"):
            intend_promotion(store, "m", kind=kind, **options)
    end_promotion(store, intend_promotion(store, "m", kind="external", **options), now=now)
    assert [promotion.kind for promotion in load_promotions(store, "m")] == ["external"]
