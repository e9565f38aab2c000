"""The figures of a model's page, from its evaluations."""

from datetime import UTC, datetime, timedelta

from feedback_loop.clock import Window
from feedback_loop.store.evaluations import DriftValue, EstimateValue, Evaluation, MetricValue, save_evaluation
from feedback_loop.views.performance import (
    drift_matrix,
    metric_history,
    metric_names,
    newest_version,
    segment_figures,
    whole_window,
)

DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)


def evaluation(day, *, matured=True, version="1", brier=0.2, drift=(), **more):
    window = Window(START + day * DAY, START + (day + 1) * DAY)
    metrics = (
        MetricValue("brier", brier, 100, 0.01, least=0.1, most=0.3),
        MetricValue("brier", brier + 0.1, 20, None, segment="plan=pro", coverage=0.5),
    )
    estimates = (EstimateValue("brier", 0.15, 100, "cbpe", 500, 0.02), EstimateValue("recall", 0.5, 100, "cbpe", 500))
    drifts = tuple(DriftValue(name, "psi", far, 0.1, None, far > 0.1, 100, decides=True) for name, far in drift)
    options = {"metrics": metrics, "estimates": estimates, "drift": drifts, **more}
    return Evaluation("churn", version, window, window.end + DAY, matured, 200, 100, **options)


def test_a_metric_has_its_value_only_once_the_window_has_matured_and_its_estimate_before():
    matured, early = metric_history([evaluation(0), evaluation(1, matured=False)], "brier")
    assert (matured["value"], matured["least"], matured["most"], matured["rows"]) == (0.2, 0.1, 0.3, 100)
    assert (round(matured["low"], 4), round(matured["high"], 4)) == (0.1804, 0.2196)
    assert (early["value"], early["low"], early["rows"]) == (None, None, None)
    assert (early["estimate"], round(early["estimate_low"], 4)) == (0.15, 0.1108)
    assert early["window"] == ["2026-03-02", "2026-03-03"]


def test_a_segment_has_its_own_coverage_and_no_interval_without_an_error():
    [row] = metric_history([evaluation(0)], "brier", "plan=pro")
    assert (row["value"], row["coverage"], row["low"], row["estimate"]) == (0.30000000000000004, 0.5, None, None)


def test_segments_are_those_of_the_newest_window_that_has_matured_all_rows_first():
    rows = segment_figures(
        [evaluation(0, brier=0.1), evaluation(1), evaluation(2, matured=False, brier=0.9)], "brier"
    )
    assert [(row["segment"], row["value"]) for row in rows] == [("(all)", 0.2), ("plan=pro", 0.30000000000000004)]
    assert segment_figures([evaluation(0)], "mae") == []


def test_a_column_that_a_window_did_not_know_is_a_gap_and_the_farthest_comes_first(sqlite_store):
    drifts = [("age", 0.05)], [("age", 0.02), ("plan", 0.3)]
    saved = [save_evaluation(sqlite_store, evaluation(day, drift=drift)) for day, drift in enumerate(drifts)]
    drift = drift_matrix(sqlite_store, saved)
    assert drift["columns"] == ["plan", "age"]
    assert [[round(far, 3) if far else far for far in row] for row in drift["strength"]] == [[None, 3.0], [0.5, 0.2]]
    assert drift["drifted"] == [[False, True], [False, False]]
    assert [row["column"] for row in drift["rows"]] == ["plan", "age"]


def test_nothing_is_known_of_a_model_without_evaluations(sqlite_store):
    assert drift_matrix(sqlite_store, [])["columns"] == metric_names([]) == segment_figures([], "brier") == []
    assert whole_window([], "1") is None


def test_the_span_of_a_version_is_that_of_its_matured_windows():
    windows = [evaluation(0, version="1"), evaluation(1, version="2"), evaluation(2, version="2", matured=False)]
    assert whole_window(windows, "2") == windows[1].window
    assert metric_names(windows) == ["brier", "recall"]


def test_a_page_is_about_the_version_of_the_newest_window_with_predictions():
    assert newest_version([evaluation(0, version="1"), evaluation(1, version="2"), evaluation(2, version="")]) == "2"
    assert newest_version([evaluation(0, version="")]) == newest_version([]) == ""
