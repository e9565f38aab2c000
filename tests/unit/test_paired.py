"""The test of two versions on the same rows: what it costs when they are equal, and when it finds who is better."""

import numpy as np
import pytest

from feedback_loop.promotion.paired import PairedTest, WindowPair

ALPHA = 0.05


def pairs(differences, rows=100):
    return [WindowPair(f"day {place}", rows, 0.2 + value, 0.2) for place, value in enumerate(differences)]


def begun(random, spread=1.0):
    """A test that knows by 14 windows of before how much windows vary."""
    return PairedTest().scaled_by(list(random.normal(0, 0.01 * spread, 14)))


def found(differences, random, side):
    """After how many windows the evidence was there; None: never."""
    test = begun(random)
    for place, pair in enumerate(pairs(differences), 1):
        test = test.after([pair])
        if getattr(test, side) >= 1 / ALPHA:
            return place
    return None


def simulated(runs, windows, effect, side):
    random = np.random.default_rng(1)
    return [found(random.normal(effect * 0.01, 0.01, windows), random, side) for _ in range(runs)]


def test_looks_may_be_grouped_in_any_way_and_a_state_is_read_back_as_it_was():
    random = np.random.default_rng(0)
    all_pairs = pairs(random.normal(0.002, 0.01, 30))
    whole = begun(np.random.default_rng(5)).after(all_pairs)
    parts = begun(np.random.default_rng(5)).after(all_pairs[:7]).after(all_pairs[7:8]).after(all_pairs[8:])
    assert whole == parts
    from dataclasses import asdict

    assert PairedTest.of(asdict(whole)) == whole
    assert whole.figures["counted"] == 30
    assert whole.mean == pytest.approx(np.mean([pair.difference for pair in all_pairs]))
    errors = np.std([pair.difference for pair in all_pairs], ddof=1) / np.sqrt(30)
    assert whole.standard_error == pytest.approx(errors)


def test_one_terrible_window_is_no_evidence_alone_and_nothing_is_before_there_is_a_scale():
    assert PairedTest().after(pairs([0.5])).windows == 0
    assert begun(np.random.default_rng(0)).after(pairs([0.5])).harm < 2
    assert begun(np.random.default_rng(0)).after(pairs([0.0] * 20)).harm == pytest.approx(1.0)


def test_a_worse_version_is_found_soon_and_an_equal_one_seldom():
    worse = [place for place in simulated(30, 14, 2.0, "harm") if place is not None]
    assert len(worse) >= 29
    assert np.median(worse) <= 8
    assert sum(place is not None for place in simulated(40, 14, 0.0, "harm")) <= 4
    assert not any(simulated(20, 14, 2.0, "gain"))


@pytest.mark.statistics
@pytest.mark.parametrize("side", ["harm", "gain"])
def test_of_a_thousand_equal_challengers_at_most_alpha_are_found_better_or_worse(side):
    for windows in (14, 100):
        share = np.mean([place is not None for place in simulated(1000, windows, 0.0, side)])
        assert share <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / 1000)


@pytest.mark.statistics
@pytest.mark.parametrize(("effect", "side"), [(2.0, "harm"), (-2.0, "gain")])
def test_of_a_thousand_worse_or_better_challengers_nearly_all_are_found_within_two_weeks(effect, side):
    places = simulated(1000, 14, effect, side)
    assert np.mean([place is not None for place in places]) >= 0.99
    assert np.median([place for place in places if place is not None]) <= 8
    assert not any(simulated(1000, 14, effect, "gain" if side == "harm" else "harm"))
