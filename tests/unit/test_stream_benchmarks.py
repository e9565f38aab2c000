"""What the benchmarks of decisions play and how they count, held against the rules themselves."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from benchmarks import detection_delay, streams
from benchmarks.detection_delay import ORACLE, Matched, cusum, grown, rates, statistics
from benchmarks.false_alarms import benchmark, monitor_alarm
from benchmarks.peers.rules import BOUND_SIZES, chunks, start_method, upper_bound, z_test
from benchmarks.streams import DEPENDENT, LOOK, PEERS, UNCHANGED, Stream
from feedback_loop.decisions.monitors.harm import BATCH
from feedback_loop.decisions.monitors.window_means import Units


def worsening(seed, looks=60):
    """Looks whose error rate grows from one to the next, so that every rule cries somewhere."""
    random = np.random.default_rng(seed)
    chances = np.concatenate([np.full(10, 0.1), 0.1 + 0.004 * np.arange(looks - 10)])
    return [(random.random(LOOK) < rate).astype(float) for rate in chances]


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("seed", range(5))
def test_window_rules_over_all_looks_at_once_cry_where_the_rule_does_look_by_look(name, seed):
    looks = worsening(seed)
    rule = streams.rules(np.concatenate(looks[:10]), streams.numbered(looks[:10]))[name]
    found = streams.window_rules(looks, 10)[name]
    assert found == next(place for place, look in enumerate(looks[10:], 1) if rule.crossed(look.mean(), len(look)))


def test_the_limits_are_what_the_rules_of_others_say():
    reference = np.concatenate([np.full(500, level) for level in (0.1, 0.2, 0.3, 0.4)])
    error = stats.norm.ppf(0.95) * reference.std(ddof=1) * np.sqrt(1 / 500 + 1 / 2000)
    limits = {
        z_test(reference): 0.25 + error,
        chunks(reference, np.repeat(np.arange(4), 500)): 0.25 + 3 * np.std([0.1, 0.2, 0.3, 0.4]),
        chunks(reference, np.zeros(2000, dtype=np.int64)): np.mean(tenths := reference.reshape(10, 200).mean(axis=1))
        + 3 * np.std(tenths),
    }
    for rule, limit in limits.items():
        assert rule.crossed([limit - 1e-9, limit + 1e-9], 500).tolist() == [False, True]
        assert not rule.crossed(1.0, 199)


@pytest.mark.parametrize(("name", "limit"), [*zip(PEERS, (0.10, 0.05, 1.6448536, 3.0), strict=True)])
def test_the_measures_that_are_matched_are_those_of_the_rules(name, limit):
    looks = worsening(7)
    means = np.array([look.mean() for look in looks[10:]])
    crossed = statistics(np.concatenate(looks[:10]), means)[name] > limit
    assert streams.first(crossed) == streams.window_rules(looks, 10)[name]


def test_the_bound_of_method_a_for_errors_is_that_of_clopper_and_pearson():
    for wrong, count in [(0, 1000), (7, 1000), (400, 5000), (999, 1000), (1000, 1000)]:
        losses = np.repeat([0.0, 1.0], [count - wrong, wrong])
        expected = stats.binomtest(wrong, count).proportion_ci(0.95, "exact").high
        assert upper_bound("error", losses, 0.025) == pytest.approx(expected, abs=1e-9)


def test_the_bound_of_numbers_covers_their_mean_and_is_near():
    covered, excess = 0, []
    for seed in range(400):
        losses = np.random.default_rng(seed).beta(2, 8, 1000)
        bound = upper_bound("brier", losses, 0.1)
        covered += bound >= 0.2
        excess.append((bound - losses.mean()) / (losses.std() / math.sqrt(1000)))
    assert covered >= 0.9 * 400
    assert np.median(excess) < 3.5  # standard errors; 1.3 if the distribution were known


def test_the_bound_is_where_the_bets_against_the_mean_have_won():
    losses = np.random.default_rng(1).beta(2, 8, 1000)
    bound = upper_bound("brier", losses, 0.1)
    won = np.exp(np.log1p(np.outer(BOUND_SIZES, 1 - losses)).sum(axis=1) - 1000 * np.log1p(BOUND_SIZES * (1 - bound)))
    assert won.mean() == pytest.approx(10, rel=1e-6)


def test_what_an_alarm_of_a_says_counts_that_its_bound_may_be_wrong():
    reference = (np.random.default_rng(6).random(5000) < 0.1).astype(float)
    monitor = start_method("harm_a", "error", reference, np.arange(5000) // 500, Units(), alpha=0.1, seed=1)
    after = monitor.update(np.ones(1000))
    assert after.alarmed_at == BATCH
    assert after.once_in == pytest.approx(20, rel=1e-6)  # of 2 / alpha


def test_our_monitors_alarm_in_the_same_look_however_many_are_given_at_once(monkeypatch):
    stream = Stream("worse", lambda random, looks: np.array(worsening(int(random.integers(9)), looks)))
    looks = worsening(4)
    at_once = [monitor_alarm(method, stream, looks, Units("label"), seed=1) for method in ("change", "harm_a")]
    monkeypatch.setattr("benchmarks.false_alarms.CALL", 1)
    assert at_once == [
        monitor_alarm(method, stream, looks, Units("label"), seed=1) for method in ("change", "harm_a")
    ]
    assert None not in at_once


@pytest.mark.parametrize("stream", [*UNCHANGED, *DEPENDENT], ids=lambda stream: stream.name)
def test_streams_are_of_their_seed_alone_and_lie_between_0_and_1(stream):
    one, two = (stream.make(np.random.default_rng(5), 40) for _ in range(2))
    assert one.shape == (40, LOOK)
    assert np.array_equal(one, two)
    assert one.min() >= 0
    assert one.max() <= 1


def test_seasons_come_back_and_days_hang_together_as_they_are_said_to():
    made = partial(np.random.default_rng, 1)
    means = streams.season(made(), 7000, 7).mean(axis=1)
    by_place = means.reshape(-1, 7).mean(axis=0)
    assert np.ptp(by_place) == pytest.approx(2 * streams.SWING, rel=0.15)
    assert means.mean() == pytest.approx(streams.RATE, abs=0.002)
    for memory in (0.0, 0.5, 0.8):
        steps = streams.days(made(), 4000, memory).mean(axis=1) - streams.RATE
        noise = streams.RATE * (1 - streams.RATE) / LOOK
        signal = steps.var() - noise
        assert np.sqrt(signal) == pytest.approx(streams.DAYS, rel=0.1)
        assert np.mean(steps[1:] * steps[:-1]) / signal == pytest.approx(memory, abs=0.08)


def test_outcomes_arrive_once_and_mature_without_those_that_come_too_late():
    random = np.random.default_rng(2)
    wrong = streams.errors(random, 200)
    waits = streams.delays(random, wrong)
    arrived = streams.as_arrived(wrong, waits)
    assert sum(map(len, arrived)) == int((np.arange(200)[:, None] + waits.astype(int) < 200).sum())
    assert np.mean(np.concatenate(arrived[:3])) < 0.06
    assert np.mean(np.concatenate(arrived[100:])) == pytest.approx(0.1, abs=0.01)
    whole = streams.matured(wrong, waits, 25, 10)
    assert [len(look) for look in whole[10:]] == [int((wait <= 25).sum()) for wait in waits[10:]]
    assert len(whole[0]) == int((waits[0] <= 34).sum())  # the first of the reference, read when its last has matured


def test_changes_have_the_sizes_that_their_names_say():
    random, whole = np.random.default_rng(3), np.ones(400_000)
    assert rates(0.02, 0.05).draw(random, whole).mean() == pytest.approx(0.07, abs=0.002)
    assert rates(0.02, 0.05).draw(random, 0 * whole).mean() == pytest.approx(0.02, abs=0.002)
    assert grown(1.5).draw(random, whole).mean() == pytest.approx(0.3, abs=0.002)


@pytest.mark.parametrize("change", [rates(0.1, 0.05), grown(1.25)], ids=lambda change: change.name)
def test_the_oracles_evidence_is_a_likelihood_ratio(change):
    random = np.random.default_rng(4)
    unchanged = change.evidence(change.draw(random, np.zeros(400_000)))
    assert np.exp(unchanged).mean() == pytest.approx(1, abs=0.01)  # of mean 1 without the change
    assert unchanged.mean() < 0 < change.evidence(change.draw(random, np.ones(100_000))).mean()


def test_the_cusum_never_falls_below_zero_and_counts_from_its_lowest():
    steps = np.array([-1.0, 2.0, -3.0, 1.0, 1.0, 1.0])
    assert cusum(steps).tolist() == [0, 2, 0, 1, 2, 3]
    assert detection_delay.crossing(steps, 2.5) == 6
    assert detection_delay.crossing(steps, 3.5) is None


def test_delays_are_counted_from_the_change_to_the_end_of_the_look():
    assert detection_delay._delay(None, 1000, 120) == np.inf
    assert detection_delay._delay(1000, 1000, 120) == -1  # it cried before
    assert detection_delay._delay(1001, 1000, 0) == 500
    assert detection_delay._delay(1700, 1000, 120) == 880


def test_a_large_change_is_found_by_all_and_first_by_nobody_before_it_is_there():
    cases = [(rates(0.1, 0.3), 1)]
    matched = Matched(dict.fromkeys(PEERS, 10.0), 0.1, 0.01, {cases[0][0].name: 12.0}, {})
    found = detection_delay._delays(cases, matched, 1, 6, 10)[0]
    for name in ("D", "D, matched", "A", "B", streams.ADWIN, ORACLE):
        assert 0 < found[name] <= 1500


def test_a_case_asked_for_by_name_is_played_alone_with_a_line_for_every_subject():
    lines = list(benchmark(quick=True, only="^late"))
    assert {line.case for line in lines} == {"late bad outcomes, 16 streams"}
    shares = {line.subject: line.value for line in lines}
    assert shares["D, label by label, as they come"] == 1
    assert max(shares[f"{name}, as suggested"] for name in "DAB") <= 3 / 16
