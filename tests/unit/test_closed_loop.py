"""The yardstick of strategies: what is known when, what is compared with what, and what poison changes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pandas as pd
import pytest

from benchmarks.lines import Line, wide
from benchmarks.yardstick.adapters import adapted
from benchmarks.yardstick.calendars import CADENCES, WINDOWS, Fits, calendar, frozen
from benchmarks.yardstick.harm import POISONS, start_of
from benchmarks.yardstick.measures import Judged
from benchmarks.yardstick.models import BOOSTING, LINEAR, pipeline
from benchmarks.yardstick.play import CALENDARS, play, poisoned
from benchmarks.yardstick.rows import DELAY, OUTCOME, TIME, Settings, rows_of
from benchmarks.yardstick.streams import shuffled

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
TASKS = ("binary", "multiclass", "regression")


def frame_of(days=80, rows_a_day=40, *, task="binary", delay="6h", turned=0.5, seed=0):
    """Rows from 30 days before BEGIN on; after the share `turned` of all days the features mean the opposite."""
    random = np.random.default_rng(seed)
    count = days * rows_a_day
    day = np.arange(count) // rows_a_day
    number, word = random.normal(size=count), random.choice(["red", "blue"], count)
    score = np.where(day < turned * days, 1, -1) * 2 * number + (word == "red") + random.logistic(size=count)
    outcomes = {
        "binary": score > 0,
        "multiclass": np.array(["low", "middle", "high"])[np.digitize(score, [-1, 1])],
        "regression": score,
    }
    return pd.DataFrame(
        {
            "number": number,
            "word": word,
            TIME: pd.Timestamp(BEGIN) + pd.to_timedelta(day - 30, unit="D") + pd.Timedelta("4h"),
            DELAY: pd.Timedelta(delay),
            OUTCOME: outcomes[task],
        }
    )


def fits_of(frame, task="binary"):
    settings = Settings(task, BEGIN)
    return Fits(rows_of(frame, settings), pipeline(LINEAR, frame, settings))


def losses(answers, fits):
    return Judged(answers, fits.rows).losses


def test_a_fit_learns_from_what_is_known_at_its_moment_and_from_nothing_else():
    rows = fits_of(frame_of(delay="3D")).rows
    look = rows.looks[10]
    known = rows.before(look)
    assert rows.time[known].max() == look - np.timedelta64(3, "D")
    assert rows.time[known].min() < np.datetime64("2026-03-01")
    lately = rows.before(look, timedelta(days=5))
    assert rows.time[lately].min() == look - np.timedelta64(5, "D")
    assert set(lately) < set(known)


def test_rows_whose_outcome_never_comes_are_predicted_but_neither_learned_from_nor_judged():
    frame = frame_of().astype({OUTCOME: object})
    frame.loc[::2, DELAY] = pd.NaT
    frame.loc[::2, OUTCOME] = None
    rows = fits_of(frame).rows
    assert len(rows.judged) == rows.played.sum() / 2
    assert len(rows.before(rows.looks[-1])) == rows.truth.notna().sum() - 20  # all but those of the last day
    assert np.isfinite(frozen(fits_of(frame)).values[rows.played]).all()


@pytest.mark.parametrize(
    ("cadence", "expected"), [("monthly", 1), ("every 28 days", 1), ("weekly", 7), ("every look", 49)]
)
def test_a_calendar_fits_when_it_is_due_and_answers_by_the_newest_fit(cadence, expected):
    fits = fits_of(frame_of())
    answers = calendar(fits, cadence, "all")
    assert (answers.fits, len(answers.moves)) == (expected, expected)
    start = answers.moves[-1]
    places = fits.rows.of_looks(start, start + 1)
    newest = fits.fitted(fits.rows.before(fits.rows.looks[start]))
    assert np.array_equal(answers.values[places], fits.rows.answers_of(newest, places))
    before = fits.rows.of_looks(0, answers.moves[0])
    assert np.array_equal(answers.values[before], frozen(fits).values[before])


def test_a_window_of_one_class_only_leaves_the_fit_before_in_place():
    frame = frame_of()
    frame.loc[frame[TIME] >= pd.Timestamp(BEGIN), OUTCOME] = True
    fits = fits_of(frame)
    fits = replace(fits, rows=replace(fits.rows, settings=replace(fits.rows.settings, recent=timedelta(days=5))))
    answers = calendar(fits, "weekly", "recent")
    assert answers.fits == 0
    assert np.array_equal(answers.values[fits.rows.played], frozen(fits).values[fits.rows.played])


@pytest.mark.parametrize("task", TASKS)
def test_what_learns_beats_what_is_frozen_after_a_change(task):
    frame, settings = frame_of(task=task), Settings(task, BEGIN)
    played = {judged.answers.name: judged for judged in play(frame, pipeline(LINEAR, frame, settings), settings, [
        frozen, *CALENDARS, lambda fits: adapted(fits.rows, frozen(fits)),
    ])}  # fmt: skip
    assert {f"{cadence}, {window}" for cadence in CADENCES for window in WINDOWS} < set(played)
    assert played["weekly, recent"].value < played["frozen"].value
    assert played["frozen + adapter"].value < played["frozen"].value
    difference, error = played["weekly, recent"].against(played["frozen"])
    assert difference == pytest.approx(played["weekly, recent"].value - played["frozen"].value)
    assert difference < -2 * error < 0


def test_the_figures_are_those_of_scikit_learn_and_the_worst_days_lie_after_the_change():
    from sklearn.metrics import brier_score_loss, log_loss

    fits = fits_of(frame_of())
    judged = Judged(frozen(fits), fits.rows)
    truth = fits.rows.truth.iloc[fits.rows.judged].astype(bool)
    chances = judged.answers.values[fits.rows.judged, 1]
    assert judged.value == pytest.approx(log_loss(truth, chances))
    assert judged.brier == pytest.approx(brier_score_loss(truth, chances))
    assert judged.worst(10) == pytest.approx(max(judged.within(look, 10) for look in fits.rows.looks[:41]))
    assert judged.worst(1000) == pytest.approx(judged.value)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.name)
def test_poison_changes_what_is_reported_of_its_days_and_never_what_is_judged(poison, task):
    frame, settings = frame_of(task=task), Settings(task, BEGIN)
    start = start_of(frame, settings)
    assert start == pd.Timestamp("2026-03-20", tz="UTC")
    clean, rows = (rows_of(given, settings) for given in (frame, poison.of(frame, settings, start)))
    assert np.array_equal(clean.truth.iloc[clean.judged], rows.truth.iloc[rows.judged])
    assert np.array_equal(clean.time[clean.judged], rows.time[rows.judged])
    inside = (rows.time >= np.datetime64("2026-03-20")) & (
        rows.time < np.datetime64("2026-03-20") + np.timedelta64(poison.days, "D")
    )
    same = (rows.outcome == rows.truth).to_numpy()
    assert same[~inside].all()
    assert not same[inside].all()


def test_poison_is_compared_with_the_same_strategy_without_it():
    frame, settings = frame_of(turned=2.0), Settings("binary", BEGIN)
    strategies = [partial(calendar, cadence="weekly", window="recent")]
    costs = {
        name: judged.value - clean.value
        for name, judged, clean in poisoned(frame, pipeline(LINEAR, frame, settings), settings, strategies)
    }
    assert list(costs) == [poison.name for poison in POISONS]
    assert costs["four weeks of ones"] > costs["a week of ones"] > 0


def test_days_in_random_order_keep_their_rows_and_their_delays():
    frame = frame_of()
    mixed = shuffled(frame)
    assert sorted(mixed[TIME]) == sorted(frame[TIME])
    assert (mixed.groupby(frame[TIME])[TIME].nunique() == 1).all()
    assert (mixed[TIME] != frame[TIME]).mean() > 0.9


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", [BOOSTING, LINEAR])
def test_both_models_take_words_numbers_and_what_is_missing(kind, task):
    frame, settings = frame_of(days=35, task=task), Settings(task, BEGIN)
    frame.loc[::7, "word"], frame.loc[::5, "number"] = None, np.nan
    rows = rows_of(frame, settings)
    values = frozen(Fits(rows, pipeline(kind, frame, settings))).values[rows.played]
    assert np.isfinite(values).all()


def test_a_wide_table_has_a_row_for_each_subject_and_a_column_for_each_metric():
    lines = [
        Line("b", "flights", "log loss", 0.5399, "nats", "frozen"),
        Line("b", "flights", "log loss", 0.513, "nats", "weekly"),
        Line("b", "flights", "difference", -0.0269, "nats", "weekly", "frozen"),
    ]
    assert wide(lines) == [
        "| case | who | log loss | difference |",
        "|---|---|---:|---:|",
        "| flights | frozen | 0.5399 |  |",
        "| flights | weekly | 0.513 | -0.0269 to frozen |",
    ]
