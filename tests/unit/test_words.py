"""What the command line says of records, in words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from feedback_loop.cli.monitor import _evaluation, _evaluation_words
from feedback_loop.clock import Window
from feedback_loop.store.evaluations import DriftValue, Evaluation, MetricValue
from feedback_loop.views.jobs import in_words

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(days=1))


def test_an_evaluation_names_its_version_and_each_drifted_column_by_the_method_that_decides():
    drift = (
        DriftValue("age", "wasserstein", 0.4321, 0.1, None, drifted=True, rows=300, decides=True),
        DriftValue("age", "psi", 0.9, 0.1, None, drifted=True, rows=300),
        DriftValue("plan", "jensen_shannon", 0.2, 0.1, None, drifted=True, rows=300, decides=True),
        DriftValue("month", "psi", 0.01, 0.1, None, drifted=False, rows=300, decides=True),
    )
    found = Evaluation("churn", "7", WINDOW, START, matured=True, predictions=300, labelled=300, drift=drift)
    found = replace(found, metrics=(MetricValue("accuracy", 0.75, 300),))
    calm = replace(found, version="8", drift=())
    said = _evaluation_words([_evaluation(found), _evaluation(calm)], {}).splitlines()
    head = said.index("2026-03-01 – 2026-03-02, version 7: accuracy 0.7500")
    assert said[head + 1] == "  drifted: age (wasserstein 0.432), plan (jensen_shannon 0.2)"
    assert said[head + 2] == "2026-03-01 – 2026-03-02, version 8: accuracy 0.7500"
    assert len(said) == head + 3
    assert "month" not in "\n".join(said)


def test_what_a_job_returned_is_told_in_words():
    counts = {"received": 4, "new": 3, "corrected": 0, "erased": None}
    result = {"folder": {"counts": counts, "refused": {"a.csv": "row 1: is none"}}, "sql": None, "is_done": False}
    said = in_words(result)
    assert said == "folder (counts (received: 4, new: 3), refused (a.csv: row 1: is none)), is done: no"
    assert in_words({"state": None, "reports": []}) == ""
    assert (
        in_words({"failed": [{"window": "a", "cause": "b"}, {"window": "c"}]})
        == "failed: window: a, cause: b; window: c"
    )
