"""Drift from profiles, held against scipy and Evidently."""

import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import stats

from feedback_loop.monitoring.drift import drift_values
from feedback_loop.monitoring.evaluation import profile_of_reference, with_swings
from feedback_loop.monitoring.profiles.fold import fold, fold_held_out, fold_outcomes, merge
from feedback_loop.monitoring.profiles.layout import choosing_half, make_layout, number_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.quality import quality_values
from feedback_loop.schema import Column, ColumnType
from tests.builders import binary_contract

NUMBER, WORD = Column("x", ColumnType.DOUBLE), Column("w", ColumnType.STRING)


def contract_of(column):
    return replace(binary_contract(), features=(column,), outputs=binary_contract().outputs[:1], segments=())


def table_of(column, values):
    kind = {"x": pa.float64(), "w": pa.string()}[column.name]
    rows = pa.array(values, kind)
    return pa.table({column.name: rows, "prediction": [True] * len(rows), "churned": pa.nulls(len(rows), pa.bool_())})


def profile_of(layout, column, values):
    return Profile.of(layout, fold(layout, table_of(column, values)))


def reference_of(layout, column, values):
    rows = table_of(column, values)
    return Profile.of(layout, merge([fold(layout, rows), fold_held_out(layout, rows)]))


def compared(reference, current, column):
    layout = make_layout(contract_of(column), table_of(column, reference))
    found = drift_values(reference_of(layout, column, reference), profile_of(layout, column, current))
    return {each.method.partition("[")[0]: each for each in found if each.column == column.name}


def theirs(method, reference, current, kind):
    from evidently.legacy.calculations import stattests
    from evidently.legacy.core import ColumnType as EvidentlyType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        test = stattests.get_stattest(pd.Series(reference), pd.Series(current), kind, method)
        return test(pd.Series(reference), pd.Series(current), EvidentlyType(kind), None)


@pytest.fixture
def random():
    return np.random.default_rng(7)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3, 2.0])
@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential"])
def test_the_wasserstein_distance_is_scipys_within_a_few_thousandths(random, draw, shift):
    reference, current = getattr(random, draw)(size=5000), getattr(random, draw)(size=3000) + shift
    found = compared(reference, current, NUMBER)["wasserstein_normed"]
    exact = stats.wasserstein_distance(reference, current) / reference.std()
    assert found.value == pytest.approx(exact, abs=0.005, rel=0.005)
    assert found.value == pytest.approx(
        theirs("wasserstein", reference, current, "num").drift_score, abs=0.005, rel=0.005
    )
    assert found.drifted == (exact > 0.1)
    assert (found.decides, found.is_default) == (True, True)


def test_a_wider_distribution_is_as_far_as_scipy_says(random):
    reference, current = random.normal(size=5000), random.normal(scale=2, size=5000)
    exact = stats.wasserstein_distance(reference, current) / reference.std()
    found = compared(reference, current, NUMBER)
    assert found["wasserstein_normed"].value == pytest.approx(exact, rel=0.01)
    assert abs(found["mean_shift"].value) < 0.1


def test_the_shift_of_the_mean_says_where_to(random):
    reference = random.normal(50, 5, 5000)
    up, down = (compared(reference, random.normal(mean, 5, 500), NUMBER)["mean_shift"].value for mean in (60, 45))
    assert up == pytest.approx(2, abs=0.2)
    assert down == pytest.approx(-1, abs=0.2)


def test_the_distance_of_few_valued_numbers_is_exact(random):
    reference, current = random.integers(0, 7, 4000), random.integers(0, 5, 3000)
    found = compared(reference.astype(float), current.astype(float), NUMBER)["wasserstein_normed"]
    exact = stats.wasserstein_distance(reference, current) / reference.std()
    assert found.value == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_the_kolmogorov_smirnov_test_is_scipys_within_a_bin(random, shift):
    reference, current = random.normal(size=2000), random.normal(size=400) + shift
    found, exact = compared(reference, current, NUMBER)["ks"], stats.ks_2samp(reference, current, method="asymp")
    assert exact.statistic - 0.011 <= found.value <= exact.statistic + 1e-12
    assert found.p_value >= exact.pvalue * 0.98


def test_the_kolmogorov_smirnov_test_of_few_values_is_exact(random):
    reference, current = random.integers(0, 30, 900) * 1.0, random.integers(2, 32, 500) * 1.0
    found, exact = compared(reference, current, NUMBER)["ks"], stats.ks_2samp(reference, current, method="asymp")
    assert (found.value, found.p_value) == pytest.approx((exact.statistic, exact.pvalue))
    assert found.is_default
    assert found.drifted == theirs(None, reference, current, "num").drifted


DISTANCES = {"psi": "psi", "jensen_shannon": "jensenshannon", "hellinger": "hellinger"}


@pytest.mark.parametrize(("method", "name"), DISTANCES.items())
def test_distances_of_words_are_evidentlys(random, method, name):
    reference, current = (
        random.choice(list("abcde"), 3000),
        random.choice(list("bcdef"), 2000, p=[0.4, 0.3, 0.1, 0.1, 0.1]),
    )
    found = compared(reference, current, WORD)[method]
    assert found.value == pytest.approx(theirs(name, reference, current, "cat").drift_score, abs=1e-9)
    assert found.drifted


@pytest.mark.parametrize(("method", "name"), DISTANCES.items())
def test_distances_of_numbers_are_evidentlys_over_the_same_bins(random, method, name):
    reference, current = random.normal(size=4000), random.normal(0.3, 1.2, size=3000)
    found = compared(reference, current, NUMBER)[method]
    ordered = np.sort(reference)
    edges = np.searchsorted(ordered, np.quantile(reference, np.linspace(0, 1, 101)[5:100:5], method="inverted_cdf"))
    edges = (ordered[edges] + ordered[edges + 1]) / 2
    binned = [np.searchsorted(edges, values).astype(str) for values in (reference, current)]
    assert found.binning == "20 quantiles of the reference"
    assert found.value == pytest.approx(theirs(name, *binned, "cat").drift_score, abs=1e-9)


@pytest.mark.parametrize("words", ["ab", "abc", "abcdefgh"])
def test_tests_of_words_are_evidentlys(random, words):
    reference, current = random.choice(list(words), 800), random.choice(list(words), 300)
    default = next(each for each in compared(reference, current, WORD).values() if each.is_default)
    wanted = theirs(None, reference, current, "cat")
    assert default.method == ("z" if len(words) == 2 else "chi_squared")
    assert default.p_value == pytest.approx(wanted.drift_score)
    assert default.drifted == wanted.drifted


@pytest.mark.parametrize("rows", [500, 3000])
@pytest.mark.parametrize("kind", ["normal", "few", "two"])
def test_the_default_rule_for_numbers_is_evidentlys(random, rows, kind):
    def draw(size):
        return (
            random.normal(size=size)
            if kind == "normal"
            else random.integers(0, {"few": 4, "two": 2}[kind], size) * 1.0
        )

    reference, current = draw(rows), draw(400)
    found = compared(reference, current, NUMBER)
    default = next(each for each in found.values() if each.is_default)
    wanted = theirs(None, reference, current, "num")
    is_test = rows == 500
    assert default.threshold == (0.05 if is_test else 0.1)
    tolerance = {"abs": 0.005} if not is_test else {"rel": 0.35, "abs": 0.05}
    assert (default.p_value if is_test else default.value) == pytest.approx(wanted.drift_score, **tolerance)


def test_many_categories_in_few_rows_are_not_drift(random):
    words = [f"w{number}" for number in range(100)]
    reference, current = random.choice(words, 5000), random.choice(words, 300)
    found = compared(reference, current, WORD)["jensen_shannon"]
    assert found.value > 0.1  # the distance alone would cry
    assert not found.drifted


def test_a_hundred_thousand_categories_are_bounded(random):
    words = [f"w{number}" for number in range(120_000)]
    reference, current = random.choice(words, 200_000), random.choice(words, 20_000)
    layout = make_layout(contract_of(WORD), table_of(WORD, reference))
    profile = profile_of(layout, WORD, current)
    assert len(profile.to_bytes()) < 2_000_000
    assert all(np.isfinite(each.value) for each in drift_values(profile_of(layout, WORD, reference), profile))


def test_too_few_rows_say_how_many_are_missing(random):
    found = compared(random.normal(size=5000), random.normal(size=8) + 9, NUMBER)
    assert found.keys() == {"insufficient_data"}
    assert (found["insufficient_data"].value, found["insufficient_data"].drifted) == (92, False)


@pytest.mark.parametrize(
    "column",
    [
        [None] * 200,
        [float("inf")] * 200,
        [3.0] * 200,
        [float("nan")] * 150 + [1.0] * 150,
        [1e308, -1e308] * 200,
        [2.0**60 + place for place in range(300)],
        [],
        [1.0],
    ],
)
def test_nasty_columns_do_not_break_drift(column):
    found = compared(column, column, NUMBER)
    assert all(np.isfinite(each.value) for each in found.values())
    assert not any(each.drifted for each in found.values())
    assert found.keys() == {"insufficient_data"} or found["wasserstein_normed"].value == pytest.approx(0)


def test_a_constant_column_that_moves_has_drifted():
    found = compared([3.0] * 2000, [3.5] * 2000, NUMBER)
    assert found["wasserstein_normed"].drifted
    assert compared(["a"] * 2000, ["b"] * 2000, WORD)["jensen_shannon"].drifted


def test_new_words_are_told_from_rare_and_known_ones_and_from_those_that_are_to_be_expected():
    words = ["a", "b"] * 1500 + [f"w{place}" for place in range(1500)]  # a third came once: so many more are new
    new = [f"never seen {place}" for place in range(1000)]
    same = compared(words, ["a", "b"] * 333 + new[:334], WORD)
    assert not any(each.drifted for each in same.values() if each.decides)
    assert abs(same["share_change"].value) < 0.03
    assert same["psi"].value < 0.01
    for strange in (new, new[:1] * 1000):
        found = compared(words, strange, WORD)
        assert found["share_change"].method == "share_change[(new)]"
        assert found["share_change"].value == pytest.approx(2 / 3, abs=0.03)
        assert found["jensen_shannon"].drifted


def test_a_reference_whose_days_differ_raises_the_threshold(random):
    days = [random.normal(size=200) + random.normal(scale=2) for _ in range(12)]
    layout = make_layout(contract_of(NUMBER), table_of(NUMBER, np.concatenate(days)))
    reference = profile_of(layout, NUMBER, np.concatenate(days))
    parts = [profile_of(layout, NUMBER, day) for day in days]
    rests = [profile_of(layout, NUMBER, np.concatenate(days[:place] + days[place + 1 :])) for place in range(12)]
    swung = with_swings(reference, zip(parts, rests, strict=True))
    another, far = (profile_of(layout, NUMBER, random.normal(size=200) + shift) for shift in (1, 30))

    def drifted(one, other):
        return next(each.drifted for each in drift_values(one, other) if each.column == "x" and each.decides)

    assert drifted(reference, another)
    assert not drifted(swung, another)
    assert Profile.from_bytes(swung.to_bytes()) == swung
    assert drifted(swung, far)


def test_windows_of_the_reference_are_held_against_words_that_the_same_rows_chose(random):
    """Their luck, here that they have words which the other half never had, is that of all later windows too."""
    contract, days = contract_of(WORD), 6
    common = np.where(choosing_half(days * 200), "chosen", "other")
    words = [word if random.random() < 0.98 else f"{place}" for place, word in enumerate(common)]
    moments = np.repeat([datetime(2026, 3, 1, tzinfo=UTC) + day * timedelta(days=1) for day in range(days)], 200)
    rows = table_of(WORD, words).append_column("predicted_at", pa.array(moments, pa.timestamp("us", "UTC")))
    reference = profile_of_reference(contract, rows, timedelta(days=1))
    later = profile_of(reference.layout, WORD, random.choice(["chosen", "other"], 200))
    (value,) = (each.value for each in drift_values(reference, later) if each.column == "w" and each.decides)
    assert value == pytest.approx(np.mean(reference.swings["w"].distances), rel=0.1)


def rounded_otherwise(values, by=1):
    """As another engine, or another batch, would have them: a few last bits away, up or down."""
    away = np.random.default_rng(1).integers(-by, by + 1, len(values))
    return np.where(away > 0, np.nextafter(values, 9), np.where(away < 0, np.nextafter(values, -9), values))


ATOMS = {
    "four answers of stumps": [0.0, 0.17, 0.52, 1.0],
    "a thousand answers of trees": np.random.default_rng(3).random(1000),
    "of single precision": np.random.default_rng(4).random(60).astype(np.float32),
}


@pytest.mark.parametrize("atoms", ATOMS)
def test_answers_that_another_engine_rounds_otherwise_have_not_drifted(random, atoms):
    answers = random.choice(ATOMS[atoms], 6000)
    again = rounded_otherwise(answers.astype(ATOMS["of single precision"].dtype) if "single" in atoms else answers)
    layout = make_layout(binary_contract(features=(), key=(), segments=()), scored(rounded_otherwise(answers)))
    reference, current = (Profile.of(layout, fold(layout, scored(each))) for each in (answers, again))
    chances = [each for each in drift_values(reference, current) if each.column == "probability"]
    assert {each.method for each in chances} >= {"psi", "jensen_shannon", "wasserstein_normed", "ks"}
    assert max(abs(each.value) for each in chances) < 1e-6
    assert not any(each.failed for each in quality_values(reference, current))


def scored(chances):
    return pa.table({"prediction": chances > 0.5, "probability": chances, "churned": chances > 0.4})


def test_cuts_lie_between_what_the_reference_has_and_dense_numbers_keep_their_bins(random):
    for values in (random.random(5000), 1.7e9 + random.random(5000) * 3600, random.lognormal(0, 8, 5000)):
        number = number_layout("x", pa.table({"x": values}))
        assert len(number.edges) > 95
        inner = np.array(number.cuts[1:-1])
        assert not np.isin(inner, values).any()
        assert (number.edges[:-1] < inner).all() and (inner < number.edges[1:]).all()
        counts = np.bincount(number.slots(values), minlength=len(number.edges))
        assert counts.max() <= 0.011 * len(values)


def test_whole_numbers_are_what_they_are(random):
    number = number_layout("x", pa.table({"x": pa.array(random.integers(2**24 - 40, 2**24, 3000).astype(float))}))
    assert number.edges == tuple(float(each) for each in range(2**24 - 40, 2**24))
    assert number.cuts[0] == number.edges[0] and number.cuts[-1] == number.edges[-1]


def test_drift_of_predictions_is_that_of_raw_answers_and_losses_are_those_of_what_was_served(random):
    contract = binary_contract(segments=())
    raw = random.uniform(0.05, 0.95, 400)
    rows = pa.table(
        {
            "age": random.normal(40, 9, 400),
            "plan": ["pro"] * 400,
            "prediction": raw > 0.5,
            "probability": raw,
            "churned": random.random(400) < 0.3,
        }
    )
    layout = make_layout(contract, rows)
    served = rows.set_column(3, "probability", pa.array(raw * 0.4)).set_column(
        2, "prediction", pa.array([False] * 400)
    )
    half = pa.array([number % 2 == 0 for number in range(400)])  # an adapter was on for every other row
    logged = pa.table(
        {name: pc.if_else(half, served.column(name), rows.column(name)) for name in rows.column_names}
        | {f"raw_{name}": pc.if_else(half, rows.column(name), None) for name in ("prediction", "probability")}
    )
    was, now = Profile.of(layout, fold(layout, rows)), Profile.of(layout, fold(layout, logged))
    assert {value.value for value in drift_values(was, now)} == {0.0}
    as_served = Profile.of(layout, fold(layout, logged.select(rows.column_names)))
    assert [tally.to_bytes() for tally in fold_outcomes(layout, logged).values()] == [
        tally.to_bytes() for tally in fold_outcomes(layout, logged.select(rows.column_names)).values()
    ]
    assert max(value.value for value in drift_values(was, as_served)) > 0.1
