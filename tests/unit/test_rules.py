import base64
import builtins
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from feedback_loop.decisions.monitors.rules import rule_from_json, rule_to_json, start_rule
from feedback_loop.errors import NotFound

RULES = ("threshold", "absolute", "z_test", "chunks", "adwin")
WINDOWS = np.repeat(np.arange(10), 500)


def errors(random, rate, count):
    return (random.random(count) < rate).astype(float)


def started(rule, rate=0.1, seed=0, **options):
    return start_rule(rule, errors(np.random.default_rng(seed), rate, 5000), WINDOWS, **options)


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
    windows = np.repeat(np.arange(4), 500)
    rules = {name: start_rule(name, reference, windows, threshold=0.2) for name in RULES[:4]}
    error = stats.norm.ppf(0.95) * reference.std(ddof=1) * np.sqrt(1 / 500 + 1 / 2000)
    assert crosses_at(rules["threshold"], 0.25 * 1.2)
    assert crosses_at(rules["absolute"], 0.45)
    assert crosses_at(rules["z_test"], 0.25 + error)
    assert crosses_at(rules["chunks"], 0.25 + 3 * np.std([0.1, 0.2, 0.3, 0.4]))


def test_a_reference_of_one_window_is_cut_into_nannymls_ten_chunks():
    reference = errors(np.random.default_rng(2), 0.1, 5000)
    means = reference.reshape(10, 500).mean(axis=1)
    rule = start_rule("chunks", reference, np.zeros(5000, dtype=np.int64))
    assert crosses_at(rule, means.mean() + 3 * means.std())


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
@settings(max_examples=25, deadline=None)
def test_any_grouping_and_any_restart_gives_the_identical_rule(name, cuts, seed):
    losses = np.random.default_rng(seed).beta(2, 8 - 3 * (seed % 2), 1500)
    reference = np.random.default_rng(seed).beta(2, 8, 5000)
    whole = start_rule(name, reference, WINDOWS).update(losses)
    pieces = start_rule(name, reference, WINDOWS)
    bounds = [0, *sorted(cuts), 1500]
    for start, end in pairwise(bounds):
        pieces = rule_from_json(json.loads(json.dumps(rule_to_json(pieces))))
        pieces = pieces.update(losses[start:end], ends=False)
    assert pieces.update(losses[:0]) == whole


def test_adwin_alarms_at_the_label_where_rivers_own_sees_the_rise():
    from river.drift import ADWIN

    random = np.random.default_rng(3)
    reference, labels = errors(random, 0.1, 5000), errors(random, 0.16, 8000)
    own = ADWIN()
    for label in reference:
        own.update(label)
    first = next(number for number, label in enumerate(labels, 1) if own.update(label) or own.drift_detected)
    assert after_stream(start_rule("adwin", reference, WINDOWS), labels).alarmed_at == first


def test_adwin_goes_on_after_a_fall_as_rivers_own_does():
    from river.drift import ADWIN

    labels = np.concatenate([np.ones(300), np.zeros(2000), errors(np.random.default_rng(4), 0.3, 2000)])
    own, rises = ADWIN(), []
    for number, label in enumerate(labels, 1):
        before = own.estimation
        own.update(label)
        if own.drift_detected and own.estimation > before:
            rises.append(number)
    rule = start_rule("adwin", np.ones(300), np.zeros(300, dtype=np.int64))
    assert after_stream(rule, labels[300:], look=7).alarmed_at == rises[0] - 300


def test_what_is_kept_of_adwin_is_small_and_no_pickle():
    rule = after_stream(started("adwin"), errors(np.random.default_rng(5), 0.1, 50_000))
    kept = base64.b64decode(rule.window)
    assert len(kept) < 4000
    assert not kept.startswith(b"\x80")  # with which every pickle of today begins


def test_without_river_the_cure_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("river"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NotFound, match=r"feedback-loop\[river\]"):
        started("adwin")
