"""Batches are scored by the fastest engine that is proven, from the bundles that servers answer from."""

import shutil

import pyarrow.compute as pc
from structlog.testing import capture_logs

from feedback_loop.inference import SklearnEngine
from feedback_loop.inference.onnx import OnnxEngine
from tests.builders import churn_loop, customers, open_loop, register_churn


def test_batches_are_scored_by_the_engine_that_is_proven_and_the_next_process_finds_it_ready(loop, tmp_path, clock):
    rows = customers(200, 3)
    answers = loop.predict("churn", rows)
    version = loop.champion("churn")
    opened, native = loop.context.fastest_scorer(version), loop.scorer(version)
    assert isinstance(opened.engine, OnnxEngine)
    assert isinstance(native.engine, SklearnEngine)
    theirs = native.score(native.rows_of(rows)).outputs
    assert answers.column("prediction") == theirs.column("prediction")
    assert pc.max(pc.abs(pc.subtract(answers.column("probability"), theirs.column("probability")))).as_py() < 1e-12
    assert version.tags["feedback_loop.proof"] == "holds"
    again = open_loop(tmp_path / "feedback_loop.toml", clock)
    again.registry.load = None  # nothing is brought from the registry, and no scikit-learn into memory
    assert again.predict("churn", rows).drop_columns("prediction_id") == answers.drop_columns("prediction_id")
    again.close()


def test_a_batch_without_a_proven_engine_is_scored_by_the_model_itself_and_the_log_says_why(tmp_path, clock):
    loop = churn_loop(tmp_path, clock, more='[models.churn.inference]\nengine = "native"\n')
    with capture_logs() as logs:
        for _ in range(2):  # the second time the bundle is there already, and nothing is said again
            loop.context._fastest.clear()
            loop.predict("churn", customers(3, 3))
            assert isinstance(loop.context.fastest_scorer(loop.champion("churn")).engine, SklearnEngine)
    (told,) = [each for each in logs if each["event"] == "engine_fallback"]
    assert (told["log_level"], told["engine"]) == ("warning", "sklearn")
    loop.close()


def test_a_batch_is_scored_where_no_bundle_can_be_kept(loop, tmp_path):
    shutil.rmtree(tmp_path / "models")
    (tmp_path / "models").write_text("no folder")
    with capture_logs() as logs:
        assert loop.predict("churn", customers(3, 3)).num_rows == 3
    assert "scored_without_bundle" in [each["event"] for each in logs]


def test_bundles_of_versions_that_nobody_scores_with_any_more_are_removed(loop, tmp_path, clock):
    for seed in range(1, 5):
        loop.predict("churn", customers(3, 3))
        loop.promote("churn", register_churn(loop.registry, clock(), seed=seed).version)
    loop.predict("churn", customers(3, 3))
    kept = sorted(each.name.split("-")[0] for each in (tmp_path / "models" / "churn").iterdir())
    assert kept == ["3", "4", "5"]


def test_a_reference_is_answered_by_the_engine_that_answers_callers(loop):
    held = customers(400, 5)
    version = loop.models.register("churn", str(loop.registry.load(loop.champion("churn")).path), reference=held)
    fastest = loop.context.fastest_scorer(version)
    assert isinstance(fastest.engine, OnnxEngine)
    answers = fastest.score(fastest.rows_of(held)).outputs
    assert loop.registry.reference_rows(version).select(answers.column_names) == answers
