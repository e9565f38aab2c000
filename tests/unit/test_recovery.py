"""When an incident is over: tested, not by one good window."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.clock import Window
from feedback_loop.config_policy import PolicySettings, WatchSettings
from feedback_loop.decisions import Baseline, Cohort, judge
from feedback_loop.decisions.losses import Losses, Watched
from feedback_loop.decisions.recovery import (
    Level,
    Recoveries,
    follow,
    reference_level,
    start_recovery,
)
from tests.streams import simulated

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
@simulated(40, 300)
def test_a_model_that_is_still_worse_is_taken_to_be_back_in_fewer_streams_than_alpha(streams, rate):
    random = np.random.default_rng(4)
    closed = [
        closes_after(start_recovery(LEVEL, alpha=0.2), [errors(random, rate, 200) for _ in range(60)])
        for _ in range(streams)
    ]
    assert sum(each is not None for each in closed) <= 0.2 * streams


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


START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = PolicySettings(reference=1000, watch=(WatchSettings(loss="error", segment="plan=pro"),), loss="error")


def base(random, rate=0.1, rows=4000):
    members = {"plan=pro": np.arange(rows) % 2 == 0}
    watched = (Watched("error", "", 0.5), Watched("error", "plan=pro", 0.5))
    losses = Losses({"error": errors(random, rate, rows)}, members)
    return Baseline(watched, losses, np.repeat(np.arange(10), rows // 10))


def days(random, first, rates, segment_rates=None, rows=1000):
    """A cohort a day, with other error rates where the plan is pro."""
    found = []
    for day, rate in enumerate(rates, first):
        is_pro = np.arange(rows) % 2 == 0
        own = rate if segment_rates is None else segment_rates[day - first]
        losses = errors(random, np.where(is_pro, own, rate), rows)
        window = Window(START + day * DAY, START + (day + 1) * DAY)
        found.append(Cohort(window, Losses({"error": losses}, {"plan=pro": is_pro}), rows))
    return found


def judged(cohorts, baseline, previous=None, version="1"):
    options = {"previous": previous, "drifted_share": None, "now": cohorts[-1].window.end + DAY}
    return judge("churn", version, cohorts, baseline, POLICY, **options)


def test_what_opened_the_incident_and_what_came_on_top_have_to_be_back_all_of_it():
    random = np.random.default_rng(7)
    baseline = base(random)
    bad = days(random, 0, [0.1] * 3, [0.5] * 3)
    first = judged(bad, baseline)
    assert "error of plan=pro" in first.evidence["acts"]
    opening = follow(None, first, bad, baseline, 0.05)
    # What was bad opened it: the test is of what follows.
    assert {test.sequence.labels for test in opening.tests.values()} == {0}
    only_pro = Recoveries("1", {"error of plan=pro": opening.tests["error of plan=pro"]})
    worse = days(random, 3, [0.5] * 3, [0.1] * 3)
    second = judged(worse, baseline, first)
    assert "error" in second.evidence["acts"]
    both = follow(only_pro, second, worse, baseline, 0.05)
    assert both.tests["error"].sequence.labels == 0
    assert both.tests["error of plan=pro"].sequence.labels == 1500
    good = days(random, 6, [0.3] * 40, [0.02] * 40)
    still = follow(both, judged(good, baseline, second), good, baseline, 0.05)
    assert still.tests["error of plan=pro"].recovered
    assert not still.recovered
    better = days(random, 46, [0.05] * 40)
    assert follow(still, judged(better, baseline, second), better, baseline, 0.05).recovered


def test_a_version_that_takes_over_is_tested_by_its_own_reference_and_within_the_same_alpha():
    random = np.random.default_rng(8)
    bad = days(random, 0, [0.4] * 3)
    baseline = base(random)
    opening = follow(None, judged(bad, baseline), bad, baseline, 0.05)
    new, cohorts = base(random, 0.3), days(random, 3, [0.28] * 40)
    taken = follow(opening, judged(cohorts, new, version="2"), cohorts, new, 0.05)
    assert taken.version == "2"
    assert {test.ordinal for test in taken.tests.values()} == {2}
    assert min(test.limit for test in taken.tests.values()) > 0.29
    assert taken.recovered


def test_a_version_without_a_reference_is_not_tested_yet():
    random = np.random.default_rng(9)
    bad, baseline = days(random, 0, [0.4] * 3), base(random)
    opening = follow(None, judged(bad, baseline), bad, baseline, 0.05)
    few = base(random, rows=500)
    assert follow(opening, judged(bad, few, version="2"), bad, few, 0.05) == opening


def test_a_version_whose_reference_is_whole_for_a_segment_alone_is_not_tested_yet():
    random = np.random.default_rng(9)
    bad, baseline = days(random, 0, [0.1] * 3), base(random)
    policy = POLICY.model_copy(update={"reference": 5000})
    verdict = judge("churn", "1", bad, baseline, policy, previous=None, drifted_share=None, now=START + 4 * DAY)
    assert [bool(pair["monitors"]) for pair in verdict.monitor["pairs"]] == [False, True]
    assert follow(None, verdict, bad, baseline, 0.05) is None


def test_an_incident_of_before_there_were_tests_is_tested_by_the_first_loss():
    random = np.random.default_rng(10)
    good, baseline = days(random, 0, [0.05] * 10), base(random)
    found = follow(None, judged(good, baseline), good, baseline, 0.05)
    assert list(found.tests) == ["error"]
    assert found.recovered
