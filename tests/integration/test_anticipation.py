"""Versions are judged on held-out rows by what callers would get of them, the adapter on top."""

from datetime import timedelta

import numpy as np
import pyarrow.compute as pc
import pytest

from feedback_loop.clock import EPOCH, ManualClock, Window
from feedback_loop.monitoring import primary_loss, row_losses
from feedback_loop.retraining.dataset import training_rows
from feedback_loop.store import adapters
from feedback_loop.store.predictions import read_labelled
from feedback_loop.store.retrainings import load_retrainings
from tests.builders import churn_loop, play_days
from tests.conftest import NOW

ON = """
[models.churn.adapter]
mode = "on"
"""

DAYS = 14


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A loop whose model has become wrong, and whose adapter has learned of every day that was over."""
    clock = ManualClock(NOW)
    loop = churn_loop(tmp_path_factory.mktemp("home"), clock, more=ON)
    loop.adapter.run("churn")
    for day in range(DAYS):
        play_days(loop, clock, 1, seed=50 + day, harder=0.8)
        loop.join("churn")
        loop.adapter.run("churn")
    yield loop
    loop.close()


def test_the_champion_would_have_served_what_it_did_serve(played):
    now, scorer = played.clock(), played.scorer(played.champion("churn"))
    since = now - timedelta(days=5)
    options = {"until": now, "as_of": now, "history": None, "since": since}
    rows = training_rows(played.store, scorer, **options)
    rows = type(rows)(rows.table, rows.champion, adapter=played.adapter.anticipation("churn", since))
    contract = scorer.logged
    logged = read_labelled(played.store, contract, Window(since, now), as_of=now, columns=contract.outputs)
    probability = contract.probabilities[0].stored
    would, did = (table.column(probability).to_numpy() for table in (rows.served(scorer), logged))
    assert len(would) == 5 * 300
    assert would == pytest.approx(did, abs=1e-9)
    raw = type(rows)(rows.table, rows.champion).served(scorer).column(probability).to_numpy()
    assert np.abs(raw - did).mean() > 0.02


def test_state_of_a_moment_is_the_one_that_was_served_then(played):
    history = played.adapter.history("churn")
    for revision in history[:-1]:
        kept = played.adapter.anticipation("churn", revision.made_at)
        assert kept.adapter.coefficients.digest == revision.digest
    assert adapters.load_state(played.store, "churn", history[7].revision) is None  # it was made again by replay


def test_before_there_was_one_it_is_judged_with_one_that_has_learned_nothing(played):
    assert played.adapter.anticipation("churn", EPOCH).adapter.looks == 0


def test_a_search_compares_what_is_served(played):
    result = played.retrain("churn", promotes=False)
    gate = load_retrainings(played.store, "churn")[-1].gate
    contract, until = played.scorer(played.champion("churn")).logged, played.context.final("churn", None)
    [at] = {trial.trained_until for trial in result.trials}
    window = Window(at, played.context.matured_until("churn", until))
    rows = read_labelled(played.store, contract, window, as_of=until, columns=contract.outputs)
    served = row_losses(contract, rows.filter(pc.is_valid(rows.column(contract.label.stored))))
    losses = served[primary_loss(contract)]
    assert len(losses) == gate["rows"]
    assert gate["champion"] == pytest.approx(losses.mean(), abs=1e-6)
