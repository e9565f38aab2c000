from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.decisions.monitors.rules import WindowRule, start_rule

RULES = ("threshold", "absolute")


def errors(random, rate, count):
    return (random.random(count) < rate).astype(float)


def started(rule, rate=0.1, seed=0, **options):
    return start_rule(rule, errors(np.random.default_rng(seed), rate, 5000), **options)


def after_stream(rule, labels, look=500):
    for start in range(0, len(labels), look):
        rule = rule.update(labels[start : start + look])
    return rule


@pytest.mark.parametrize("name", RULES)
def test_every_rule_cries_of_losses_that_have_doubled_and_states_no_error_rate(name):
    rule = after_stream(started(name), errors(np.random.default_rng(1), 0.25, 3000))
    assert rule.alarmed_at is not None
    assert rule.alarmed_at <= 1500
    assert rule.alpha is None
    assert rule.once_in is rule.e_value is None


@pytest.mark.parametrize("name", RULES)
def test_no_rule_cries_of_losses_that_fell(name):
    rule = after_stream(started(name, rate=0.3), errors(np.random.default_rng(1), 0.02, 5000))
    assert rule.alarmed_at is None


def crosses_at(rule, limit, labels=500):
    return rule.crossed([limit - 1e-9, limit + 1e-9], labels).tolist() == [False, True]


def test_the_limits_are_what_the_rules_say():
    reference = np.concatenate([np.full(500, level) for level in (0.1, 0.2, 0.3, 0.4)])
    assert crosses_at(start_rule("threshold", reference, threshold=0.2), 0.25 * 1.2)
    assert crosses_at(start_rule("absolute", reference, threshold=0.2), 0.45)


def test_a_window_is_judged_when_it_ends_and_a_small_one_never():
    rule = started("threshold")
    assert rule.update(np.ones(400), ends=False).alarmed_at is None
    assert rule.update(np.ones(400), ends=False).update(np.ones(0)).alarmed_at == 400
    assert rule.update(np.ones(199)).alarmed_at is None
    assert rule.update(np.ones(199)).update(np.ones(200)).alarmed_at == 399


@pytest.mark.parametrize("name", RULES)
def test_an_alarm_stays(name):
    rule = after_stream(started(name), np.ones(500))
    assert after_stream(rule, np.zeros(2000)).alarmed_at == rule.alarmed_at


@pytest.mark.parametrize("name", RULES)
@given(cuts=st.lists(st.integers(0, 1500), max_size=8), seed=st.integers(0, 5))
@settings(max_examples=25)
def test_any_grouping_and_any_restart_gives_the_identical_rule(name, cuts, seed):
    losses = np.random.default_rng(seed).beta(2, 8 - 3 * (seed % 2), 1500)
    reference = np.random.default_rng(seed).beta(2, 8, 5000)
    whole = start_rule(name, reference).update(losses)
    pieces = start_rule(name, reference)
    bounds = [0, *sorted(cuts), 1500]
    for start, end in pairwise(bounds):
        pieces = msgspec.json.decode(msgspec.json.encode(pieces), type=WindowRule)
        pieces = pieces.update(losses[start:end], ends=False)
    assert pieces.update(losses[:0]) == whole
