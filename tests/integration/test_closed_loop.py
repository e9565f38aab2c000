"""The yardstick's loop is the product's own, on a simulated clock."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from benchmarks.yardstick import product
from benchmarks.yardstick.adapters import adapted
from benchmarks.yardstick.calendars import Fits, frozen
from benchmarks.yardstick.models import LINEAR, pipeline
from benchmarks.yardstick.rows import DELAY, OUTCOME, TIME, Settings, rows_of

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
BEFORE, PLAYED, ROWS_A_DAY = 20, 9, 250


def test_the_loop_answers_by_its_adapted_first_version_until_it_promotes_a_better_one():
    random, count = np.random.default_rng(0), (BEFORE + PLAYED) * ROWS_A_DAY
    number, day = random.normal(size=count), np.arange(count) // ROWS_A_DAY
    meaning = np.where(day < BEFORE, 1, -1)
    frame = pd.DataFrame(
        {
            "number": number,
            TIME: pd.Timestamp(BEGIN) + pd.to_timedelta(day - BEFORE, unit="D") + pd.Timedelta("4h"),
            DELAY: pd.Timedelta("6h"),
            OUTCOME: meaning * 2 * number + random.logistic(size=count) > 0,
        }
    )
    settings = Settings("binary", BEGIN, recent=timedelta(days=5), refresh=timedelta(days=7))
    fits = Fits(rows_of(frame, settings), pipeline(LINEAR, frame, settings))
    changes = {"policy": {"cooldown": "1d"}, "retraining": {"search": "own"}, "adapter": {"mode": "on"}}
    answers, expected = product.loop(fits, "the loop", changes), adapted(fits.rows, frozen(fits))
    assert answers.fits >= answers.promotions == len(answers.moves) == 1
    until, after = fits.rows.of_looks(0, answers.moves[0]), fits.rows.of_looks(answers.moves[0], PLAYED)
    assert np.allclose(answers.values[until], expected.values[until], rtol=0, atol=1e-9)
    assert not np.allclose(answers.values[until], frozen(fits).values[until])
    right = fits.rows.outcome.iloc[after].to_numpy(dtype=bool) == (answers.values[after, 1] > 0.5)
    assert right.mean() > 0.6  # the first version is right in one of four by now
    assert 0 < answers.cpu_seconds < answers.all_cpu_seconds
