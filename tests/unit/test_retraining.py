from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from feedback_loop.retraining.gate import non_inferiority, paired_difference
from feedback_loop.retraining.trials import choose, make_candidate

DAYS = np.datetime64("2026-03-01", "us") + np.repeat(np.arange(10), 100).astype("timedelta64[D]")
RANDOM = np.random.default_rng(0)
CHAMPION = RANDOM.uniform(0.3, 0.7, 1000)


def gate(candidate, champion=CHAMPION, times=DAYS, margin=0.05):
    return non_inferiority("log_loss", candidate, champion, times, margin=margin, alpha=0.05)


def test_an_equal_candidate_passes():
    assert gate(CHAMPION).passed


def test_a_candidate_that_is_worse_than_the_margin_is_refused():
    result = gate(CHAMPION * 1.08)
    assert not result.passed
    assert result.difference == pytest.approx(0.08 * CHAMPION.mean())
    assert "is allowed" in result.summary


def test_a_candidate_that_might_be_worse_is_refused_although_its_mean_is_better():
    noise = np.repeat(RANDOM.normal(scale=0.2, size=10), 100)
    assert not gate(CHAMPION - 0.005 + noise - noise.mean()).passed


@pytest.mark.parametrize("days", [1, 2])
def test_rows_of_one_or_two_days_can_not_pass(days):
    times = np.datetime64("2026-03-01", "us") + (np.arange(1000) % days).astype("timedelta64[D]")
    result = gate(CHAMPION - 0.2, times=times)
    assert not result.passed
    assert "3 days are needed" in result.summary


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_losses_that_are_no_number_can_not_pass(bad):
    candidate = CHAMPION.copy()
    candidate[3] = bad
    assert not gate(candidate).passed


def test_no_rows_can_not_pass():
    assert not gate(np.empty(0), np.empty(0), np.empty(0, dtype="datetime64[us]")).passed


def test_the_error_of_a_difference_counts_days_and_not_rows():
    by_day = np.repeat(RANDOM.normal(size=10), 100)
    paired = paired_difference(by_day, np.zeros(1000), DAYS)
    assert paired.standard_error == pytest.approx(by_day[::100].std(ddof=1) / np.sqrt(10))


def candidate(name, losses, rows):
    trial = SimpleNamespace(name=name, rows=rows)
    return SimpleNamespace(trial=trial, losses=losses)


def test_more_data_is_chosen_where_the_difference_is_within_one_error():
    noise = np.repeat(RANDOM.normal(scale=0.05, size=10), 100)
    recent = candidate("recent", CHAMPION, 1000)
    everything = candidate("all", CHAMPION + noise - noise.mean() + 0.001, 9000)
    assert choose([recent, everything], DAYS) is everything


def test_recent_data_is_chosen_where_it_is_clearly_better():
    recent = candidate("recent", CHAMPION, 1000)
    everything = candidate("all", CHAMPION + 0.1, 9000)
    assert choose([recent, everything], DAYS) is recent


def test_a_single_trial_is_chosen():
    only = candidate("all", CHAMPION[:100], 9000)
    assert choose([only], DAYS[:100]) is only


def made_of(*kinds, classes=("a", "b")):
    """The candidate of trials of these kinds, whose losses are ever worse; `averaged` and `rescored` say of whom."""
    noise = np.repeat(RANDOM.normal(scale=0.01, size=10), 100)
    tried = [
        SimpleNamespace(
            plan=SimpleNamespace(recipe=kind),
            trial=SimpleNamespace(name="all", rows=9000),
            losses=CHAMPION + place / 10 + noise,
            estimator=LogisticRegression().fit([[place] for place in range(len(known))], list(known)),
            scorer=SimpleNamespace(contract=SimpleNamespace(classes=known)),
        )
        for place, (kind, known) in enumerate(zip(kinds, classes, strict=True))
    ]
    holdout = SimpleNamespace(decided=DAYS, losses=lambda scorer, _: scorer)
    return make_candidate(tried, holdout, "log_loss", lambda average: average)


def test_a_candidate_is_the_average_of_the_best_three_kinds():
    made = made_of("own", "boosting", "linear", "trees", classes=[("a", "b")] * 4)
    assert list(made.losses.named_estimators_) == ["own", "boosting", "linear"]
    assert made.words == "average of own, boosting, linear"


def test_a_kind_that_lacks_a_class_is_no_part_of_an_average():
    made = made_of("own", "boosting", "linear", classes=[("a", "b"), ("a", "b", "c"), ("a", "b", "c")])
    assert made.words == "average of boosting, linear"


def test_one_kind_alone_is_what_it_is_and_none_is_no_candidate():
    made = made_of("own", classes=[("a", "b")])
    assert made.words == "own"
    assert made.scorer is made.members[0].scorer
    assert made_of(classes=[]) is None


def test_the_days_are_those_of_utc():
    late = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
    moments = [late, late + timedelta(minutes=2), late + timedelta(days=1)]
    times = np.array([moment.replace(tzinfo=None) for moment in moments], dtype="datetime64[us]")
    assert paired_difference(np.ones(3), np.zeros(3), times).days == 2
