"""The confidence sequence: against its definition, its coverage at every look, and how wide it is."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from feedback_loop.decisions.monitors.sequences import _RHO, ConfidenceSequence, log_wealth
from tests.streams import simulated

LOOK = 50
LOSSES = st.lists(st.floats(0, 1), max_size=60)


def wrong_ever(streams, means, alpha):
    """The shares of streams that were at some look above, and below, what the bounds allow."""
    below = above = 0
    for losses, mean in zip(streams, means, strict=True):
        sequence, expected = ConfidenceSequence(), np.cumsum(mean)
        is_below = is_above = False
        for start in range(0, len(losses), LOOK):
            sequence = sequence.update(losses[start : start + LOOK])
            truth = expected[sequence.labels - 1] / sequence.labels
            lower, upper = sequence.bounds(alpha)
            is_below, is_above = is_below or truth > upper, is_above or truth < lower
        below, above = below + is_below, above + is_above
    return below / len(streams), above / len(streams)


@pytest.mark.parametrize("distance", [0.0, 3.0, 40.0])
@pytest.mark.parametrize("squares", [0.0, 5.0, 300.0])
def test_the_wealth_is_the_mixture_of_bets_that_the_theorem_names(distance, squares):
    prior = stats.gamma(_RHO, scale=1 / _RHO)

    def bet(share):
        return np.exp(share * distance + squares * (np.log1p(-share) + share)) * prior.pdf(1 - share) / prior.cdf(1)

    whole, _ = integrate.quad(bet, 0, 1, limit=400, points=[0.01, 0.05, 0.2, 0.5])
    assert log_wealth(distance, squares) == pytest.approx(np.log(whole), abs=1e-6)


def test_before_the_first_loss_everything_is_possible():
    assert ConfidenceSequence().mean is None
    assert ConfidenceSequence().bounds(0.05) == (0.0, 1.0)


@pytest.mark.parametrize("rate", [0.02, 0.3])
@simulated(60, 400)
def test_the_mean_of_errors_leaves_the_bounds_ever_in_fewer_streams_than_alpha(streams, rate):
    random = np.random.default_rng(1)
    losses = (random.random((streams, 3000)) < rate).astype(float)
    assert max(wrong_ever(losses, np.full_like(losses, rate), 0.1)) <= 0.05


@simulated(60, 400)
def test_a_mean_that_wanders_is_held_too(streams):
    random = np.random.default_rng(2)
    rates = 0.2 + 0.15 * np.sin(np.arange(3000) / 200)
    losses = (random.random((streams, 3000)) < rates).astype(float)
    assert max(wrong_ever(losses, np.tile(rates, (streams, 1)), 0.1)) <= 0.05


@simulated(60, 400)
def test_a_mean_that_answers_to_what_was_seen_is_held_too(streams):
    random = np.random.default_rng(3)
    losses, means = np.empty((streams, 1500)), np.empty((streams, 1500))
    for row in range(streams):
        rate = 0.2
        for place in range(1500):
            means[row, place] = rate
            losses[row, place] = random.random() < rate
            rate = 0.05 if losses[row, place] else min(rate + 0.01, 0.5)
    assert max(wrong_ever(losses, means, 0.1)) <= 0.05


def test_the_bounds_are_at_most_twice_as_wide_as_those_of_a_single_look():
    random = np.random.default_rng(4)
    sequence = ConfidenceSequence().update((random.random(5000) < 0.1).astype(float))
    lower, upper = sequence.bounds(0.05)
    once = 2 * 1.96 * np.sqrt(0.1 * 0.9 / 5000)
    assert once < upper - lower < 2 * once


def test_losses_that_hardly_differ_are_bounded_four_times_as_closely_as_errors():
    random = np.random.default_rng(5)
    alike = ConfidenceSequence().update(0.3 + 0.01 * random.random(1000)).bounds(0.05)
    errors = ConfidenceSequence().update((random.random(1000) < 0.3).astype(float)).bounds(0.05)
    assert 4 * (alike[1] - alike[0]) < errors[1] - errors[0]


def test_less_risk_makes_wider_bounds_and_one_side_needs_less():
    sequence = ConfidenceSequence().update(np.tile([0.0, 1.0, 0.0], 300))
    assert sequence.upper(0.01) > sequence.upper(0.05) > sequence.mean > sequence.lower(0.05) > sequence.lower(0.01)
    assert sequence.bounds(0.05) == (sequence.lower(0.025), sequence.upper(0.025))


def test_a_million_labels_are_no_trouble():
    sequence = ConfidenceSequence().update(np.tile([0.0, 0.0, 0.0, 1.0], 250_000))
    lower, upper = sequence.bounds(0.05)
    assert 0.248 < lower < 0.25 < upper < 0.252


@given(LOSSES, LOSSES, LOSSES)
def test_no_grouping_shows_nor_does_a_restart_from_json(first, second, third):
    whole = ConfidenceSequence(guess=0.1).update(np.array(first + second + third))
    parts = ConfidenceSequence(guess=0.1)
    for each in (first, second, third):
        parts = ConfidenceSequence(**json.loads(json.dumps(asdict(parts)))).update(np.array(each))
    assert parts == whole


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(1e-6, 0.9))
def test_the_mean_lies_within_its_bounds_and_these_within_the_losses_range(losses, alpha):
    sequence = ConfidenceSequence().update(np.array(losses))
    lower, upper = sequence.bounds(alpha)
    assert 0 <= lower <= sequence.mean <= upper <= 1
