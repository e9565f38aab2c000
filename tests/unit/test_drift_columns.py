"""The monitors of one column and what is found among many: errors are bounded over all columns and all looks."""

import numpy as np
import pytest
from scipy import stats

from feedback_loop.decisions.drift import Watch
from feedback_loop.decisions.drift.columns import PooledCounts, RankedDistances, drifted_columns, score
from feedback_loop.decisions.drift.recovery import Return

MANY_SWINGING = [
    pytest.param(*case, marks=pytest.mark.statistics) for case in [(1, 500, 5), (1, 500, 20), (20, 40, 8)]
]
MANY_ROWS = [pytest.param(*case, marks=pytest.mark.statistics) for case in [(1, 200), (8, 25)]]


def swinging(random, streams, windows, spread):
    """Distances of windows from a reference of as many as `windows[0]`, which it was estimated from."""
    means = random.normal(scale=spread, size=(streams, sum(windows)))
    centre = means[:, : windows[0]].mean(axis=1, keepdims=True)
    own = (means[:, : windows[0]] - centre) * windows[0] / (windows[0] - 1)
    return np.abs(own), np.abs(means[:, windows[0] :] - centre)


@pytest.mark.parametrize(("columns", "streams", "own"), [(1, 100, 5), (1, 100, 20), (20, 10, 8), *MANY_SWINGING])
def test_windows_that_only_swing_seldom_alarm_however_often_they_are_looked_at(columns, streams, own):
    random, alarms = np.random.default_rng(columns * own), 0
    for stream in range(streams):
        before, after = swinging(random, columns, (own, 60), 0.1)
        states = [RankedDistances.begin(tuple(each), 500, 3.5, 1000 * stream + k) for k, each in enumerate(before)]
        for look in range(60):
            states = [state.after(float(after[k, look]), 500) for k, state in enumerate(states)]
        alarms += bool(drifted_columns({str(k): state.peak for k, state in enumerate(states)}, 0.05))
    assert alarms <= stats.binom.ppf(0.999, streams, 0.05)


@pytest.mark.parametrize(("columns", "streams"), [(1, 50), (8, 8), *MANY_ROWS])
def test_rows_that_do_not_change_seldom_alarm_however_often_they_are_looked_at(columns, streams):
    random, alarms = np.random.default_rng(columns), 0
    for stream in range(streams):
        shares = random.dirichlet([3, 3, 3, 1], size=columns)
        states = [
            PooledCounts.begin(tuple(random.multinomial(2000, share).tolist()), 100 * stream + k)
            for k, share in enumerate(shares)
        ]
        for _ in range(20):
            states = [
                state.after(tuple(random.multinomial(400, share).tolist()))
                for state, share in zip(states, shares, strict=True)
            ]
        alarms += bool(drifted_columns({str(k): state.peak for k, state in enumerate(states)}, 0.05))
    assert alarms <= stats.binom.ppf(0.999, streams, 0.05)


@pytest.mark.parametrize("hits", [1, 4, 100_000])
def test_the_score_of_a_window_of_many_rows_is_normal_for_rare_and_for_common_values(hits):
    random, (pool, rows) = np.random.default_rng(hits), (1_000_000, 20_000)
    counts = stats.hypergeom.rvs(pool, hits, rows, size=1000, random_state=random)
    scores = [score(int(count), pool, hits, rows, random.random()) for count in counts]
    assert stats.kstest(scores, "norm").pvalue > 0.01
    assert max(scores) < stats.norm.isf(1e-3 / 1000)


@pytest.mark.parametrize(("own", "before", "within"), [(8, 0, 12), (8, 20, 8), (20, 0, 6), (20, 20, 7)])
def test_a_shift_is_found_among_twenty_columns_within_days(own, before, within):
    random, delays = np.random.default_rng(own + before), []
    for stream in range(10):
        firsts, later = swinging(random, 1, (own, before + 30), 0.07)
        later[0, before:] += 0.25
        state = RankedDistances.begin(tuple(firsts[0]), 500, 3.5, stream)
        delay = None
        for look, distance in enumerate(later[0]):
            state = state.after(float(distance), 500)
            peaks = {"moved": state.peak} | {str(k): 1.0 for k in range(19)}
            if delay is None and drifted_columns(peaks, 0.05):
                delay = look + 1 - before
        delays.append(delay if delay is not None else 99)
    assert min(delays) >= 1
    assert np.median(delays) <= within


def test_windows_of_fewer_rows_are_not_farther_by_that_alone():
    alarms = 0
    for stream in range(100):
        random = np.random.default_rng(stream)
        state = RankedDistances.begin(tuple(np.abs(random.normal(scale=2000**-0.5, size=10))), 2000, 3.5, stream)
        for look in range(40):
            size = (2000, 150)[look >= 10]
            state = state.after(float(np.abs(random.normal(scale=size**-0.5))), size)
        alarms += bool(drifted_columns({"x": state.peak}, 0.05))
    assert alarms <= stats.binom.ppf(0.999, 100, 0.05)


def test_as_many_columns_are_found_as_the_false_discovery_rate_allows():
    harmonic = sum(1 / k for k in range(1, 11))
    least = 10 * harmonic / 0.05
    peaks = {str(k): 1.0 for k in range(10)}
    assert drifted_columns(peaks, 0.05) == {}
    assert drifted_columns(peaks | {"3": least}, 0.05) == {"3": least}
    assert drifted_columns(peaks | {"3": least * 0.999}, 0.05) == {}
    assert set(drifted_columns(peaks | {"3": least / 2, "4": least / 2}, 0.05)) == {"3", "4"}
    assert set(drifted_columns(peaks | {"3": least, "4": least / 3}, 0.05)) == {"3"}
    assert drifted_columns({}, 0.05) == {}


def test_the_adjuster_takes_no_more_than_it_may():
    size, alpha = 7, 0.05
    harmonic = sum(1 / k for k in range(1, size + 1))
    p = (np.arange(2_000_000) + 0.5) / 2_000_000 * alpha / harmonic
    places = np.ceil(size * harmonic * p / alpha)
    assert (size / (alpha * places)).mean() * alpha / harmonic == pytest.approx(1, rel=1e-4)


def test_a_column_that_stays_where_it_drifted_to_is_seldom_taken_to_be_back():
    """Every second window is far from the reference by chance: the worst that is still drifted."""
    random, streams, wrong = np.random.default_rng(3), 2000, 0
    for _ in range(streams):
        state = Return(0.05)
        for far in random.random(200) < 0.5:
            state = state.after(far=bool(far))
            wrong += state.is_back
            if state.is_back:
                break
    assert 0 < wrong <= stats.binom.ppf(0.999, streams, 0.05)


@pytest.mark.parametrize("streams", [20, pytest.param(200, marks=pytest.mark.statistics)])
def test_monitors_that_are_armed_anew_again_and_again_share_one_alpha(streams):
    """Each is made to begin anew every ten windows, as if its column had come back."""
    random, alarms = np.random.default_rng(11), 0
    for stream in range(streams):
        share, alarmed = random.dirichlet([3, 3, 3, 1]), False
        reference = tuple(random.multinomial(2000, share).tolist())
        for begun in range(1, 13):
            state = PooledCounts.begin(reference, 100 * stream + begun)
            for _ in range(10):
                state = state.after(tuple(random.multinomial(300, share).tolist()))
            alarmed |= bool(Watch("rows", "", pooled={"x": state}, begun={"x": begun}).peaks["x"] >= 1 / 0.05)
        alarms += alarmed
    assert alarms <= stats.binom.ppf(0.999, streams, 0.05)
