"""When an incident is over: tested, not by one good window."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.decisions.recovery import (
    Level,
    Recoveries,
    reference_level,
    start_recovery,
)

LEVEL = Level(0.1, 0.004)


def errors(random, rate, count):
    return (random.random(count) < rate).astype(float)


def closes_after(recovery, cohorts):
    """The number of the cohort after which it is over, looked at after each; None: never."""
    for number, losses in enumerate(cohorts, 1):
        recovery = recovery.update([losses])
        if recovery.recovered:
            return number
    return None


def test_one_window_without_any_loss_closes_nothing():
    recovery = start_recovery(LEVEL, alpha=0.05).update([np.zeros(100_000)])
    assert recovery.bound < recovery.limit
    assert not recovery.recovered


def test_one_lucky_window_among_bad_ones_closes_nothing():
    random = np.random.default_rng(1)
    cohorts = [errors(random, 0.02 if day == 3 else 0.2, 500) for day in range(60)]
    assert closes_after(start_recovery(LEVEL, alpha=0.05), cohorts) is None


def test_a_model_that_is_back_is_found_to_be():
    random = np.random.default_rng(2)
    found = [
        closes_after(start_recovery(LEVEL, alpha=0.05), [errors(random, 0.1, 500) for _ in range(200)])
        for _ in range(40)
    ]
    assert None not in found
    assert np.median(found) <= 45  # 22,500 labels, where the limit is .009 above the truth


def test_cohorts_from_before_the_repair_need_not_be_outweighed():
    random = np.random.default_rng(3)
    cohorts = [errors(random, 0.25, 500) for _ in range(20)] + [errors(random, 0.08, 500) for _ in range(60)]
    assert 20 < closes_after(start_recovery(LEVEL, alpha=0.05), cohorts) < 50


@pytest.mark.parametrize("rate", [0.11, 0.2])
def test_a_model_that_is_still_worse_is_taken_to_be_back_in_fewer_streams_than_alpha(rate):
    random = np.random.default_rng(4)
    closed = [
        closes_after(start_recovery(LEVEL, alpha=0.2), [errors(random, rate, 200) for _ in range(60)])
        for _ in range(150)
    ]
    assert sum(each is not None for each in closed) <= 0.2 * 150


def test_a_model_that_wanders_above_the_limit_is_not_taken_to_be_back():
    random = np.random.default_rng(5)
    closed = 0
    for _ in range(100):
        swing = 0.16 + 0.045 * np.sin(np.arange(60) / 3 + random.random() * 6)
        cohorts = [errors(random, rate, 200) for rate in swing]
        closed += closes_after(start_recovery(LEVEL, alpha=0.2), cohorts) is not None
    assert closed <= 0.2 * 100


def test_the_limit_is_what_is_tolerated_above_the_reference_and_its_uncertainty():
    assert LEVEL.limit() == pytest.approx(0.1 + 0.004 + 0.005)
    assert LEVEL.limit(0.02) == pytest.approx(0.1 + 0.004 + 0.02)


def test_the_reference_is_more_uncertain_where_its_windows_differ():
    random = np.random.default_rng(6)
    windows = np.repeat(np.arange(20), 250)
    same = reference_level(errors(random, 0.1, 5000), windows)
    days = reference_level(errors(random, np.repeat(random.uniform(0, 0.2, 20), 250), 5000), windows)
    assert same.standard_error == pytest.approx(0.3 / np.sqrt(5000), rel=0.5)
    assert days.standard_error > 2 * same.standard_error
    perfect = reference_level(np.zeros(5000), windows)
    assert (perfect.mean, perfect.standard_error) == (0.0, 1 / 5000)


def test_windows_without_labels_say_nothing():
    recovery = start_recovery(LEVEL, alpha=0.05)
    assert recovery.update([np.empty(0), np.empty(0)]) == recovery
    assert not recovery.recovered


def test_the_words_tell_the_evidence_and_how_often_it_goes_wrong():
    recovery = start_recovery(LEVEL, alpha=0.05).update([np.tile([0.0, 0.0, 0.0, 0.2], 500)] * 3)
    assert recovery.recovered
    words = Recoveries("1", {"error": recovery}).words
    assert words.startswith("error 0.0500 on the last 6,000 labelled predictions of 3 windows, at most 0.05")
    assert words.endswith("where up to 0.1090 is well (this ever goes wrong for 0.05 of incidents at most)")


@given(st.lists(st.lists(st.floats(0, 0.3), max_size=8), max_size=12), st.integers(0, 12))
def test_no_grouping_of_cohorts_into_looks_shows_nor_does_a_restart(cohorts, split):
    losses = [np.array(each) for each in cohorts]
    start = start_recovery(Level(0.15, 0.01), alpha=0.05)
    kept = json.loads(json.dumps(Recoveries("1", {"error": start.update(losses[:split])}).to_json()))
    assert Recoveries.from_json(kept).tests["error"].update(losses[split:]) == start.update(losses)
