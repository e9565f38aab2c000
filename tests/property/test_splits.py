"""What is learned and what it is compared on, whatever the rows, their outcomes and when these were known."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.retraining.dataset import KNOWN, OUTCOME, TrainingRows
from feedback_loop.retraining.hints import Steering
from feedback_loop.retraining.split import NotMade, split_newest
from feedback_loop.retraining.trials import Plan, plans

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAYS = timedelta(hours=1), 60


@st.composite
def searches(draw):
    """Rows of sixty days, some of which share an outcome, known sooner or later; and how they are split."""
    count = draw(st.integers(60, 150))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    hours = np.sort(random.integers(0, 24 * DAYS, count))
    outcomes = random.integers(0, max(count // draw(st.integers(1, 4)), 1), count)
    known = hours + random.integers(0, draw(st.sampled_from([1, 24, 24 * 20])), count)
    champion = SimpleNamespace(
        version=SimpleNamespace(
            trained_until=BEGAN + HOUR * draw(st.integers(0, 24 * DAYS)), tells_trained_until=True
        ),
        contract=SimpleNamespace(own=str),
    )
    moments = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            "predicted_at": pa.array([BEGAN + HOUR * int(hour) for hour in hours], moments),
            OUTCOME: outcomes,
            KNOWN: pa.array([BEGAN + HOUR * int(hour) for hour in known], moments),
        }
    )
    settings = RetrainingSettings(min_rows=20, recent=timedelta(days=draw(st.integers(3, 30))))
    return TrainingRows(table, champion), settings, timedelta(hours=draw(st.sampled_from([1, 24])))


@given(search=searches())
def test_no_outcome_is_on_both_sides_and_all_that_is_learned_was_known_when_the_held_out_rows_begin(search):
    rows, settings, window = search
    learned_until = rows.champion.version.trained_until
    try:
        split = split_newest(rows, settings, BEGAN + timedelta(days=DAYS), window)
    except NotMade:
        return
    at, held_out = np.datetime64(split.at.replace(tzinfo=None)), set(split.holdout.outcomes)
    assert (split.holdout.times >= at).all()
    assert held_out.isdisjoint(rows.between(BEGAN, learned_until).outcomes)  # what the champion knows tells nothing
    tried = plans(["own", "linear"], None, settings, 0)
    tried.append(Plan("own", None, "since", None, 0, Steering("since", "a hint", since=SimpleNamespace(start=BEGAN))))
    for plan in tried:
        learn = plan.rows_of(split.learn, split.at)
        known = np.asarray(learn.table.column(KNOWN).cast(pa.timestamp("us")).to_numpy())
        assert (learn.times < at).all()
        assert (known < at).all()
        assert held_out.isdisjoint(learn.outcomes)
