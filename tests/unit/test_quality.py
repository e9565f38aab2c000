"""What is wrong with rows as such: each check fails for what it is about, and for nothing else."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from feedback_loop.clock import format_moment
from feedback_loop.monitoring import silence_notice, volume_notice
from feedback_loop.monitoring.evaluation import profile_of_reference
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.layout import Layout, make_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.quality import quality_values
from tests.builders import binary_contract, multiclass_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def table(rows, seed, **changes):
    random = np.random.default_rng(seed)
    chance = random.beta(2, 3, rows)
    columns = {
        "age": pa.array(random.normal(40, 10, rows)),
        "plan": pa.array(random.choice(["basic", "plus", "pro"], rows)),
        "prediction": pa.array(chance > 0.5),
        "probability": pa.array(chance),
        "churned": pa.nulls(rows, pa.bool_()),
    }
    return pa.table(columns | changes)


REFERENCE = table(5000, 0)
LAYOUT = make_layout(binary_contract(), REFERENCE)


def profile(rows):
    return Profile.of(LAYOUT, fold(LAYOUT, rows))


def failed(rows, reference=REFERENCE):
    return {(each.column, each.check) for each in quality_values(profile(reference), profile(rows)) if each.failed}


@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("rows", [100, 1000, 20_000])
def test_nothing_is_wrong_with_rows_like_those_of_the_reference(seed, rows):
    assert failed(table(rows, seed)) == set()


def mostly(values, other, share=0.05):
    plain = values.to_pylist()
    return plain[: int(len(plain) * (1 - share))] + [other] * (len(plain) - int(len(plain) * (1 - share)))


AGES, PLANS = table(2000, 7)["age"], table(2000, 7)["plan"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"age": pa.array(mostly(AGES, None), pa.float64())}, ("age", "missing")),
        ({"age": pa.array(mostly(AGES, float("nan")), pa.float64())}, ("age", "missing")),
        ({"age": pa.array(mostly(AGES, float("inf")), pa.float64())}, ("age", "non_finite")),
        ({"age": pa.array(mostly(AGES, 400.0), pa.float64())}, ("age", "out_of_range")),
        ({"age": pa.array(mostly(AGES, -1e300), pa.float64())}, ("age", "out_of_range")),
        ({"age": pa.array(mostly(AGES, 41.5, 0.4), pa.float64())}, ("age", "stuck")),
        ({"age": pa.array([41.5] * 2000, pa.float64())}, ("age", "constant")),
        ({"age": pa.nulls(2000, pa.float64())}, ("age", "schema")),
        ({"plan": pa.array(mostly(PLANS, "gold"))}, ("plan", "new_categories")),
        ({"plan": pa.array(["pro"] * 2000)}, ("plan", "constant")),
        ({"plan": pa.array(mostly(PLANS, None), pa.string())}, ("plan", "missing")),
    ],
)
def test_each_check_finds_what_it_is_about(changes, found):
    wrong = failed(table(2000, 7, **changes))
    assert found in wrong
    assert {column for column, _ in wrong} <= {found[0], ""}


@pytest.mark.parametrize(("repeats", "is_found"), [(2, True), (1, False)])
@pytest.mark.parametrize("rows", [500, 20_000])
def test_rows_that_came_twice_are_told(rows, repeats, is_found):
    once = table(rows, 3)
    assert (("", "duplicates") in failed(pa.concat_tables([once] * repeats))) == is_found


def test_few_possible_rows_are_no_duplicates():
    few = {"age": pa.array(np.tile([20.0, 30.0, 40.0, 50.0], 500))}
    reference = table(2000, 5, **few)
    layout = make_layout(binary_contract(), reference)
    before, now = (Profile.of(layout, fold(layout, each)) for each in (reference, table(2000, 6, **few)))
    found = quality_values(before, now)
    assert not next(each.failed for each in found if each.check == "duplicates")


def test_too_few_rows_are_not_checked():
    found = quality_values(profile(REFERENCE), profile(table(99, 1, age=pa.nulls(99, pa.float64()))))
    assert [each.check for each in found] == ["probabilities"]


def test_a_window_with_half_as_many_predictions_as_before_is_told_once():
    counts = {START + day * DAY: 1000 + 7 * day for day in range(10)}
    assert volume_notice(counts, DAY, START + 10 * DAY) is None
    few = counts | {START + 9 * DAY: 300}
    notice = volume_notice(few, DAY, START + 10 * DAY)
    assert "300 predictions" in notice.words
    assert volume_notice(few, DAY, START + 10 * DAY + timedelta(hours=3)) == notice
    assert volume_notice(few | {START + 10 * DAY: 1000}, DAY, START + 11 * DAY) is None
    gone = {start: count for start, count in counts.items() if start < START + 9 * DAY}
    assert "0 predictions" in volume_notice(gone, DAY, START + 10 * DAY).words
    assert volume_notice(dict(list(counts.items())[-3:]), DAY, START + 10 * DAY) is None
    assert (
        volume_notice({START + day * DAY: 3 for day in range(9)} | {START + 9 * DAY: 0}, DAY, START + 10 * DAY)
        is None
    )


WEEKLY, DAILY = [1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.15], [0.02] * 6 + [1.0] * 14 + [0.1] * 4


def seasonal(seed, days, length, level=400.0):
    """Counts of windows with weekends (and nights) that differ from one to the next, as those of people do."""
    random, per_day = np.random.default_rng(seed), DAY // length
    counts = {}
    for place in range(days * per_day):
        rate = level / per_day * WEEKLY[place // per_day % 7] * (DAILY[place % 24] if per_day == 24 else 1.0)
        count = int(random.poisson(rate * random.lognormal(sigma=0.15)))
        if count:
            counts[START + place * length] = count
    return counts


def notices(counts, length, days):
    found = (volume_notice(counts, length, START + (look + 1) * length) for look in range(days * (DAY // length)))
    return {each.subject for each in found if each is not None}


@pytest.mark.parametrize(
    ("streams", "days"), [(12, 70), pytest.param(400, 365, marks=pytest.mark.statistics)], ids=["few", "many"]
)
def test_weekends_are_as_they_are_each_week(streams, days):
    cried = sum(bool(notices(seasonal(seed, days, DAY), DAY, days)) for seed in range(streams))
    assert cried <= stats.binom.ppf(0.999, streams, 0.05)


@pytest.mark.parametrize("streams", [1, pytest.param(100, marks=pytest.mark.statistics)])
def test_nights_are_as_they_are_each_week_also_once_clocks_change(streams):
    for seed in range(streams):
        counts = seasonal(seed, 42, HOUR, level=20_000.0)
        earlier = {start - HOUR * (start > START + 28 * DAY): count for start, count in counts.items()}
        assert not notices(earlier, HOUR, 41)


def test_a_weekend_that_is_as_busy_as_a_weekday_is_told_and_a_weekday_that_is_as_calm_as_a_weekend():
    for day, changed in ((47, 400), (44, 70), (44, 0)):
        counts = seasonal(1, 49, DAY) | {START + day * DAY: changed}
        assert notices(counts, DAY, 49) == {f"volume:{format_moment(START + day * DAY)}"}


def test_what_stays_as_it_became_is_told_once():
    counts = seasonal(2, 40, DAY) | {START + day * DAY: 2000 for day in range(40, 60)}
    assert notices(counts, DAY, 60) == {f"volume:{format_moment(START + 40 * DAY)}"}


def test_silence_is_told_once_it_lasts_too_long():
    last = START + timedelta(hours=1)
    assert silence_notice(last, timedelta(hours=2), START + timedelta(hours=3)) is None
    assert (
        "2026-03-01T01:00Z" in silence_notice(last, timedelta(hours=2), START + timedelta(hours=3, seconds=1)).words
    )


def test_probabilities_that_are_none_are_counted_also_where_there_is_no_reference():
    wrong = pa.array([1.5, -0.2, float("inf"), None, *[0.5] * 96])
    rows = table(100, 1, probability=wrong)
    [check] = quality_values(None, profile(rows))
    assert (check.check, check.value, check.failed, check.rows) == ("probabilities", 0.03, True, 100)
    assert ("", "probabilities") in failed(rows)
    assert failed(table(2000, 1, probability=pa.array([1.0 + 1e-7, 0.0] * 1000))) & {("", "probabilities")} == set()


def test_probabilities_of_classes_that_do_not_add_up_are_none():
    contract, layout = multiclass_contract(), Layout(multiclass_contract())
    chances = np.random.default_rng(1).dirichlet([1, 1, 1], 200)
    chances[:20] *= 1.2
    rows = pa.table({"prediction": ["a"] * 200} | {f"probability_{c}": chances[:, k] for k, c in enumerate("abc")})
    rows = rows.append_column(contract.label.stored, pa.nulls(200, pa.string()))
    [check] = quality_values(None, Profile.of(layout, fold(layout, rows)))
    assert (check.value, check.failed) == (0.1, True)


def test_a_new_extreme_of_what_rows_of_a_day_share_is_one_event():
    """Each day has one value, as weather has: the coldest day so far is no fault, degrees as Kelvin are one."""
    days = 40 + 10 * np.random.default_rng(1).normal(size=(12, 1))
    moments = pa.array([START + DAY * (row // 300) for row in range(3600)], pa.timestamp("us", "UTC"))
    shared = table(3600, 1, age=pa.array(np.repeat(days, 300, axis=1).ravel()), predicted_at=moments)
    reference = profile_of_reference(binary_contract(), shared, DAY)

    def is_found(value):
        window = table(300, 2, age=pa.array([value] * 150 + [40.0] * 150))
        found = quality_values(reference, Profile.of(reference.layout, fold(reference.layout, window)))
        return next(check.failed for check in found if (check.column, check.check) == ("age", "out_of_range"))

    assert not is_found(days.max() + 5)
    assert not is_found(days.min() - 5)
    assert is_found(days.max() + 273)
    assert is_found(-1e300)
