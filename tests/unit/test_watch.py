"""Columns that have drifted, told with a bound on how many are told in error, over all columns and all looks."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from feedback_loop.clock import Window
from feedback_loop.config_policy import DriftSettings
from feedback_loop.decisions.drift import Watch, rule_of, start_watch, watch_window
from feedback_loop.monitoring import profile_of_reference
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.schema import Column, ColumnType
from tests.builders import binary_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CONTRACT = replace(binary_contract(), segments=())


def rows(random, count, *, day=0, shift=0.0, **columns):
    chance = random.beta(2, 3, count)
    made = {
        "predicted_at": pa.array([START + day * DAY] * count, pa.timestamp("us", "UTC")),
        "age": pa.array(random.normal(40 + 10 * shift, 10, count)),
        "plan": pa.array(random.choice(["basic", "plus", "pro"], count)),
        "prediction": pa.array(chance > 0.5),
        "probability": pa.array(chance),
        "churned": pa.nulls(count, pa.bool_()),
    }
    return pa.table(made | columns)


def reference_of(random, days, per_day=300):
    return profile_of_reference(
        CONTRACT, pa.concat_tables([rows(random, per_day, day=day) for day in range(days)]), DAY
    )


def window(day):
    return Window(START + day * DAY, START + (day + 1) * DAY)


def watched(watch, reference, tables, settings, first=0):
    told = []
    for day, table in enumerate(tables, first):
        profile = Profile.of(reference.layout, fold(reference.layout, table))
        watch, messages = watch_window(watch, reference, profile, settings, "churn version 1", window(day))
        told += messages
    return watch, told


@pytest.mark.parametrize(("days", "rule"), [(6, "windows"), (4, "rows")])
def test_the_rule_is_that_which_the_reference_allows(days, rule):
    reference = reference_of(np.random.default_rng(1), days)
    assert rule_of(reference, DriftSettings()) == rule
    assert rule_of(reference, DriftSettings(rule="thresholds")) == "thresholds"


@pytest.mark.parametrize(("days", "within"), [(10, 12), (3, 3)])
def test_a_column_that_moves_is_told_once_with_direction_and_size(days, within):
    random = np.random.default_rng(3)
    reference, settings = reference_of(random, days), DriftSettings()
    watch = start_watch(reference, settings, "churn version 1", 0)
    watch, told = watched(watch, reference, [rows(random, 300) for _ in range(5)], settings)
    assert told == []
    watch, told = watched(watch, reference, [rows(random, 300, shift=0.5) for _ in range(within)], settings, first=5)
    [message] = told
    assert message.title == "churn version 1: columns have drifted"
    assert "age: " in message.body
    assert "mean +0." in message.body
    assert "wasserstein_normed 0." in message.body
    assert set(watch.told) == {"age"}
    _, told = watched(watch, reference, [rows(random, 300, shift=0.5) for _ in range(3)], settings, first=40)
    assert told == []


@pytest.mark.parametrize("days", [1, 20])
def test_a_column_that_is_as_it_was_is_told_so_and_the_same_break_again_is_told_again(days):
    random, settings = np.random.default_rng(5), DriftSettings()
    reference = reference_of(random, days, per_day=6000 // days)
    watch, day, told = start_watch(reference, settings, "churn version 1", 0), 0, []
    for shift, many in [(0.8, 15), (0.0, 12), (0.8, 25), (0.0, 15)]:
        tables = [rows(random, 300, shift=shift) for _ in range(many)]
        watch, messages = watched(watch, reference, tables, settings, first=day)
        day += many
        told.append([message for message in messages if "age: " in message.body])
        assert ("age" in watch.told) == (shift > 0)
        assert watch == Watch.from_json(json.loads(json.dumps(watch.to_json())))
    broken, mended, again, over = told
    assert [message.title for message in broken + again] == ["churn version 1: columns have drifted"] * 2
    for [message] in (mended, over):
        assert message.title == "churn version 1: columns are as they were"
        assert message.subject.endswith(":recovered")
        assert re.search(r"age: \d+ windows like the reference's \(found 2026-0", message.body)
    assert watch.begun == {"age": 3}


def test_a_word_and_missing_values_are_told_too():
    random = np.random.default_rng(4)
    reference, settings = reference_of(random, 2, 1000), DriftSettings()
    watch = start_watch(reference, settings, "churn version 1", 0)
    ages = pa.array(np.where(random.random(800) < 0.1, np.nan, random.normal(40, 10, 800)))
    plans = pa.array(random.choice(["basic", "plus", "pro"], 800, p=[0.2, 0.3, 0.5]))
    watch, told = watched(watch, reference, [rows(random, 800, age=ages, plan=plans)] * 2, settings)
    drift = " ".join(each.body for each in told if each.subject.startswith("drift:"))
    assert set(watch.told) == {"age", "plan"}
    assert "missing 0.0% → " in drift
    assert "pro +1" in drift


@pytest.mark.parametrize("days", [8, 3])
def test_a_watch_that_was_stored_in_between_goes_on_to_the_bit(days):
    random = np.random.default_rng(5)
    reference, settings = reference_of(random, days), DriftSettings()
    tables = [rows(random, 300, shift=0.2 * (day > 4)) for day in range(10)]
    at_once, told = watched(start_watch(reference, settings, "m", 0), reference, tables, settings)
    watch, again = start_watch(reference, settings, "m", 0), []
    for day, table in enumerate(tables):
        watch, messages = watched(
            Watch.from_json(json.loads(json.dumps(watch.to_json()))), reference, [table], settings, first=day
        )
        again += messages
    assert (watch, again) == (at_once, told)
    assert json.dumps(watch.to_json()) == json.dumps(at_once.to_json())


def test_evidentlys_thresholds_cry_where_nothing_has_changed():
    random = np.random.default_rng(6)
    reference = reference_of(random, 3)  # of 900 rows: its rule is a test at .05 for each column and window
    crying = DriftSettings(rule="thresholds")
    tables = [rows(random, 300) for _ in range(25)]
    watch, told = watched(start_watch(reference, crying, "m", 0), reference, tables, crying)
    assert {message.subject.partition(":")[0] for message in told} == {"drift"}
    assert all("drift" in key for key in watch.failing)
    quiet = DriftSettings()
    assert watched(start_watch(reference, quiet, "m", 0), reference, tables, quiet)[1] == []


def test_a_failed_check_is_told_once_until_it_has_recovered():
    random, settings = np.random.default_rng(7), DriftSettings()
    reference = reference_of(random, 10)
    bad = rows(random, 300, plan=pa.array(["gold"] * 300))
    good = rows(random, 300)
    watch = start_watch(reference, settings, "m", 0)
    watch, told = watched(watch, reference, [good, bad, bad], settings)
    [message] = told
    assert "plan: new_categories 100.0%, 0.0% expected" in message.body
    assert watch.failing == {"plan: new_categories": "2026-03-02"}
    watch, told = watched(watch, reference, [good.slice(0, 50)], settings, first=3)
    assert (told, len(watch.failing)) == ([], 1)  # fifty rows say nothing
    watch, told = watched(watch, reference, [good], settings, first=4)
    assert (told, watch.failing) == ([], {})
    assert len(watched(watch, reference, [bad], settings, first=5)[1]) == 1


WORDS = {
    "sku": lambda random, rows: np.char.add("sku-", random.integers(0, 5000, rows).astype(str)),
    "zipf": lambda random, rows: random.zipf(1.5, rows).astype(str),
    "hundred": lambda random, rows: random.integers(0, 100, rows).astype(str),
    "note": lambda random, rows: random.bytes(8 * rows).hex(" ", 8).split(),
}
OF_WORDS = replace(CONTRACT, features=tuple(Column(name, ColumnType.STRING) for name in WORDS))


def texts(random, count, *, day=0, **columns):
    made = {name: pa.array(draw(random, count)) for name, draw in WORDS.items()} | columns
    return rows(random, count, day=day, **made)


@pytest.mark.parametrize("streams", [1, pytest.param(60, marks=[pytest.mark.statistics, pytest.mark.timeout(1500)])])
@pytest.mark.parametrize(("days", "per_day"), [(12, 500), (5, 300)])
@pytest.mark.parametrize("rule", ["windows", "rows"])
def test_text_of_many_values_that_does_not_change_seldom_alarms(rule, days, per_day, streams):
    settings, cried = DriftSettings(rule=rule), 0
    for seed in range(streams):
        random = np.random.default_rng(seed)
        history = pa.concat_tables([texts(random, per_day, day=day) for day in range(days)])
        reference = profile_of_reference(OF_WORDS, history, DAY)
        watch = start_watch(reference, settings, "m", seed)
        _, told = watched(watch, reference, [texts(random, 300) for _ in range(10)], settings)
        assert not [each for each in told if each.subject.startswith("quality")]
        cried += bool(told)
    assert cried <= stats.binom.ppf(0.999, streams, 0.05)


@pytest.mark.parametrize("column", WORDS)
def test_text_of_many_values_that_becomes_one_or_others_is_told_within_days(column):
    random = np.random.default_rng(3)
    history = pa.concat_tables([texts(random, 300, day=day) for day in range(5)])
    reference, settings = profile_of_reference(OF_WORDS, history, DAY), DriftSettings(rule="rows")
    known = next((*each.words, *each.rare)[0] for each in reference.layout.words if each.column == column)
    others = [[f"other {place}" for place in range(500)], ["other"] * 500] if column != "note" else []
    for words in ([known] * 500, *others):  # in each row of `note` is another word, also before
        watch = start_watch(reference, settings, "m", 0)
        tables = [texts(random, 500, **{column: pa.array(words)}) for _ in range(2)]
        watch, _ = watched(watch, reference, tables, settings)
        assert set(watch.told) == {column}


@pytest.mark.parametrize("rule", ["windows", "rows", "thresholds"])
def test_by_a_small_reference_an_unknown_word_in_every_row_is_told_at_once(rule):
    random, settings = np.random.default_rng(2), DriftSettings(rule=rule)
    reference = reference_of(random, 5, 300)
    watch = start_watch(reference, settings, "m", 0)
    watch, told = watched(watch, reference, [rows(random, 300)], settings)
    assert not [each for each in told if "plan" in each.body]
    _, told = watched(watch, reference, [rows(random, 300, plan=pa.array(["gold"] * 300))], settings, first=1)
    assert "plan: new_categories 100.0%, 0.0% expected" in " ".join(each.body for each in told)


def test_a_column_that_the_reference_has_too_few_values_of_says_so():
    random, settings = np.random.default_rng(2), DriftSettings(rule="windows")
    ages = pa.array(np.where(np.arange(300) < 12, 40.0, np.nan))
    reference = profile_of_reference(
        CONTRACT, pa.concat_tables([rows(random, 300, day=day, age=ages) for day in range(5)]), DAY
    )
    assert start_watch(reference, settings, "m", 0).unjudged == {"age": 40}
    assert start_watch(reference, DriftSettings(rule="rows"), "m", 0).unjudged == {}


def test_one_cause_is_told_once_whatever_check_shows_it():
    random, settings = np.random.default_rng(7), DriftSettings(rule="windows")
    reference = reference_of(random, 10)
    gone, most = (pa.array(np.where(np.arange(300) < kept, random.normal(40, 10, 300), np.nan)) for kept in (0, 12))
    values = np.where(np.arange(300) < 250, 40.0, random.normal(40, 10, 300))
    stuck, nearly = pa.array([40.0] * 300), pa.array(values)
    for tables, words in (([gone, most, gone], "age: schema"), ([nearly, stuck, nearly], "age: stuck")):
        watch = start_watch(reference, settings, "m", 0)
        watch, told = watched(watch, reference, [rows(random, 300, age=each) for each in tables], settings)
        [message] = [each for each in told if each.subject.startswith("quality")]
        assert message.body.count("age") == 1
        assert words in message.body
        assert len(watch.failing) == 1


def test_columns_are_told_by_the_models_names():
    stored = tuple(replace(each, field=f"{each.name}_2") for each in CONTRACT.features)
    contract, random = replace(CONTRACT, features=stored), np.random.default_rng(4)

    def renamed(table):
        return table.rename_columns([f"{name}_2" if name in ("age", "plan") else name for name in table.column_names])

    history = pa.concat_tables([renamed(rows(random, 300, day=day)) for day in range(3)])
    reference, settings = profile_of_reference(contract, history, DAY), DriftSettings()
    changed = [renamed(rows(random, 300, shift=1.0, plan=pa.array(["gold"] * 300))) for _ in range(3)]
    watch, told = watched(start_watch(reference, settings, "m", 0), reference, changed, settings)
    said = " ".join(each.body for each in told)
    assert "age: wasserstein_normed" in said
    assert "plan: new_categories" in said
    assert "_2" not in said
    assert set(watch.told) == {"age", "plan"}


@pytest.mark.parametrize("days", [6, 2])
@pytest.mark.parametrize(
    "ages", [[None] * 300, [float("inf")] * 300, [3.0] * 300, [1e308, -1e308] * 150, [2.0**60] * 300]
)
def test_nasty_columns_do_not_break_a_watch(days, ages):
    random, settings = np.random.default_rng(8), DriftSettings()
    column = pa.array(ages, pa.float64())
    nasty = [rows(random, 300, day=day, age=column) for day in range(days)]
    for tables in (nasty, [rows(random, 300, day=day) for day in range(days)]):
        reference = profile_of_reference(CONTRACT, pa.concat_tables(tables), DAY)
        watch = start_watch(reference, settings, "m", 0)
        watch, _ = watched(watch, reference, (nasty * 4)[:8], settings)
        assert Watch.from_json(json.loads(json.dumps(watch.to_json()))) == watch
        assert set(watch.told) <= {"age"}
        assert tables is not nasty or not watch.told


def test_the_windows_of_a_reference_are_compared_with_the_rest_of_it():
    random = np.random.default_rng(9)
    days = [rows(random, 300, day=day, shift=day / 10) for day in range(4)]
    reference = profile_of_reference(CONTRACT, pa.concat_tables(days), DAY)
    ages = [table.column("age").to_numpy() for table in days]
    for day, distance in enumerate(reference.swings["age"].distances):
        rest = np.concatenate(ages[:day] + ages[day + 1 :])
        assert distance == pytest.approx(stats.wasserstein_distance(rest, ages[day]) / rest.std(), abs=0.02)
    assert reference.swings["age"].rows == 300
