"""Estimates without outcomes: NannyML's on its own data, bins against rows, trees of losses, nasty windows."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.monitoring.cbpe import Scored, binary_estimates, calibrated, multiclass_estimates
from feedback_loop.monitoring.estimates import estimate_values, past_errors
from feedback_loop.monitoring.evaluation import evaluate_rows, profile_of_reference
from feedback_loop.monitoring.profiles import Profile, fold, fold_predictions
from feedback_loop.schema import Column, ColumnType, Task, make_contract
from feedback_loop.store.evaluations import PastEstimate
from tests.builders import binary_contract, multiclass_contract, prediction_rows, regression_contract

RECORDED = Path(__file__).parent.parent / "recorded"
VALUES = json.loads((RECORDED / "nannyml.json").read_text())
CARDS = ["highstreet_card", "prepaid_card", "upmarket_card"]
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CHUNK = 1000
OURS = {"average_precision": "pr_auc"}
TASK_METRICS = ["roc_auc", "f1", "precision", "recall", "accuracy"]


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED / "nannyml.npz") as file:
        return dict(file)


def rows_of(scores, chances, answered):
    """Rows, each by itself, as NannyML sorts them."""
    order = np.argsort(scores, kind="stable")
    return Scored(scores[order], np.ones(len(scores)), answered[order].astype(float), chances[order])


def chunks(count):
    return [slice(first, first + CHUNK) for first in range(0, count, CHUNK)]


def test_binary_estimates_are_those_of_nannyml_on_its_own_data(recorded):
    truth, score = recorded["binary_reference_truth"].astype(float), recorded["binary_reference_score"] / 100
    asked, answers = recorded["binary_analysis_score"] / 100, recorded["binary_analysis_answer"]
    assert VALUES["binary"]["calibrated"]
    chances = calibrated(score, truth, 1 - truth, asked)
    for number, chunk in enumerate(chunks(len(asked))):
        found = binary_estimates(rows_of(asked[chunk], chances[chunk], answers[chunk]), CHUNK, 800.0)
        for metric in [*TASK_METRICS, "average_precision"]:
            expected = VALUES["binary"][metric][number]
            assert found[OURS.get(metric, metric)].value == pytest.approx(expected, abs=1e-8)


def test_multiclass_estimates_are_those_of_nannyml_on_its_own_data(recorded):
    """NannyML makes a row's calibrated probabilities add up to 1, which is all that bins can't say."""
    truth, answers = recorded["multiclass_reference_truth"], recorded["multiclass_analysis_answer"]
    asked = np.column_stack([recorded[f"multiclass_analysis_{card}"] / 100 for card in CARDS])
    assert VALUES["multiclass"]["calibrated"] == [True] * 3
    chances = np.empty_like(asked)
    for place, card in enumerate(CARDS):
        hits = (truth == place).astype(float)
        chances[:, place] = calibrated(recorded[f"multiclass_reference_{card}"] / 100, hits, 1 - hits, asked[:, place])
    chances /= chances.sum(axis=1)[:, None]
    for number, chunk in enumerate(chunks(len(asked))):
        classes = {
            card: rows_of(asked[chunk, place], chances[chunk, place], answers[chunk] == place)
            for place, card in enumerate(CARDS)
        }
        found = multiclass_estimates(classes, CHUNK, 800.0)
        for metric in TASK_METRICS:
            value = found["accuracy" if metric == "accuracy" else f"{metric}_macro"].value
            assert value == pytest.approx(VALUES["multiclass"][metric][number], abs=1e-8)
        precision = np.mean([binary_estimates(each, CHUNK, 800.0)["pr_auc"].value for each in classes.values()])
        assert precision == pytest.approx(VALUES["multiclass"]["average_precision"][number], abs=1e-8)
