"""Diagnoses in the store, on every database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.store import conclusions
from feedback_loop.store.conclusions import Diagnosis, load_diagnoses, record_diagnosis, save_judgement
from tests.conftest import NOW

MADE = Diagnosis(
    model="churn",
    version="1",
    incident_id=None,
    window=Window(NOW - timedelta(days=2), NOW - timedelta(days=1)),
    as_of=NOW,
    recommendation="repair",
    summary="Repair the feed",
    evidence={"change": {"value": 0.1, "error": 0.01}, "split": None},
)


def test_a_diagnosis_is_kept_as_it_was_made(store):
    kept = record_diagnosis(store, MADE)
    assert kept == replace(MADE, diagnosis_id=1)
    assert load_diagnoses(store, "churn") == [kept]
    assert load_diagnoses(store, "other") == []
    assert load_diagnoses(store, "churn", incident_id=3) == []


def test_they_come_in_the_order_in_which_they_were_made(store):
    made = [record_diagnosis(store, replace(MADE, recommendation=each)) for each in ("none", "recent", "more")]
    assert load_diagnoses(store, "churn") == made


@pytest.mark.parametrize("right", [True, False])
def test_what_has_been_judged_stays_as_it_was_judged(store, right):
    kept = record_diagnosis(store, MADE)
    save_judgement(store, kept.diagnosis_id, right=right, because="it recovered")
    save_judgement(store, kept.diagnosis_id, right=not right, because="second thoughts")
    assert conclusions.load_diagnoses(store, "churn") == [
        replace(kept, was_right=right, judged_because="it recovered")
    ]
