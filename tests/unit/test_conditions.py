from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.alerts import tell_conditions
from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings, load_settings
from feedback_loop.config_policy import ConditionSettings
from feedback_loop.decisions import judge_condition, load_condition_states
from feedback_loop.decisions.conditions import value_of
from feedback_loop.errors import ConfigError
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.evaluations import (
    DriftValue,
    EstimateValue,
    Evaluation,
    MetricValue,
    QualityValue,
    save_evaluation,
)
from tests.builders import write_config

DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
RECALL = ConditionSettings.model_validate({"metric": "recall", "below": 0.7, "for": "2 windows"})


def window(number):
    return Window(START + number * DAY, START + (number + 1) * DAY)


def evaluation(number=0, recall=None, **more):
    metrics = (MetricValue("recall", recall, 500),) if recall is not None else ()
    values = {"metrics": metrics, "matured": True, "predictions": 1000, "labelled": 500, **more}
    return Evaluation("churn", "1", window(number), window(number).end, **values)


def of(*recalls):
    return judge_condition(RECALL, [evaluation(number, recall) for number, recall in enumerate(recalls)])


def test_a_line_is_crossed_by_so_many_windows_in_a_row_and_says_since_when():
    assert of(0.8, 0.6).state == "within"
    assert of(0.6, 0.8, 0.6).state == "within"
    crossed = of(0.8, 0.6, 0.65, 0.5)
    assert (crossed.state, crossed.value, crossed.window, crossed.since) == ("crossed", 0.5, window(3), window(1))
    assert of(0.6, 0.6, 0.7).state == "within"


def test_a_window_without_the_value_neither_counts_nor_interrupts():
    assert of(0.6, None, 0.6, None).state == "crossed"
    assert of(0.6, None).state == "within"
    unknown = of(None)
    assert unknown.state == "unknown"
    assert "coverage" in unknown.known


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=12), windows=st.integers(1, 4))
def test_it_is_crossed_where_the_last_windows_all_are(values, windows):
    condition = ConditionSettings.model_validate({"metric": "recall", "above": 0.5, "for": windows})
    found = judge_condition(condition, [evaluation(number, value) for number, value in enumerate(values)])
    assert (found.state == "crossed") == (len(values) >= windows and all(v > 0.5 for v in values[-windows:]))


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ({"metric": "recall"}, 0.9),
        ({"metric": "recall", "segment": "plan=pro"}, 0.4),
        ({"metric": "coverage"}, 0.5),
        ({"metric": "drifted_share"}, 0.5),
        ({"metric": "drift", "column": "age"}, 0.3),
        ({"metric": "missing", "column": "age"}, 0.2),
        ({"metric": "duplicates"}, 0.1),
        ({"metric": "estimated_recall"}, 0.8),
        ({"metric": "recal"}, None),
    ],
)
def test_any_value_of_an_evaluation_can_have_a_line(condition, value):
    shown = evaluation(
        metrics=(MetricValue("recall", 0.9, 500), MetricValue("recall", 0.4, 50, segment="plan=pro")),
        drift=(
            DriftValue("age", "psi", 9.0, 0.1, None, True, 500),
            DriftValue("age", "ks", 0.3, 0.1, 0.001, True, 500, decides=True),
            DriftValue("plan", "chi2", 0.0, 0.1, 0.5, False, 500, decides=True),
        ),
        quality=(
            QualityValue("age", "missing", 0.2, 0.0, True, 500),
            QualityValue("", "duplicates", 0.1, 0.0, False, 9),
        ),
        estimates=(EstimateValue("recall", 0.8, 1000, "cbpe", 500),),
    )
    assert value_of(ConditionSettings.model_validate({**condition, "below": 1}), shown) == value


def test_what_outcomes_tell_is_judged_when_the_window_has_matured():
    early = evaluation(recall=0.1, matured=False, estimates=(EstimateValue("recall", 0.8, 1000, "cbpe", 500),))
    assert value_of(RECALL, early) is None
    assert value_of(ConditionSettings(metric="estimated_recall", below=0.5), early) == 0.8


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('metric = "recall"', "one line: below or above"),
        ('metric = "recall"\nbelow = 0.7\nabove = 0.9', "one line: below or above"),
        ('metric = "drift"\nabove = 0.1\ncolumn = "age"\nsegment = "plan=pro"', "not on both"),
        ('metric = "recall"\nbelow = 0.7\nfor = "2 days"', 'write "2 windows"'),
        ('metric = "recall"\nbelow = 0.7\nsegment = "origin=JFK"', "'origin' is not among the segments"),
        (
            'metric = "recall"\nbelow = 0.7\n[[models.churn.conditions]]\nmetric = "recall"\nbelow = 0.7',
            "there twice",
        ),
        ('metric = "recall"\nbellow = 0.7', "Did you mean models.churn.conditions.0.below"),
    ],
)
def test_a_condition_that_says_too_little_or_too_much_is_refused_in_words(tmp_path, text, cause):
    config = write_config(tmp_path, more=f"\n[[models.churn.conditions]]\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        load_settings(config)
    assert cause in f"{refused.value} {refused.value.cure}"


def test_the_words_of_a_condition_name_it():
    assert RECALL.words == "recall below 0.7 for 2 windows"
    assert ConditionSettings(metric="missing", column="age", above=0.2).words == "missing of age above 0.2"
    assert ModelSettings(task="binary", label="churned", conditions=(RECALL,)).conditions == (RECALL,)


def test_a_crossed_line_is_told_once_its_recovery_too_and_it_is_armed_anew(store):
    def tell(number, *recalls):
        return tell_conditions(store, "churn", "1", [of(*recalls)], ["log"], window(number).end)

    assert [tell(1, 0.6, 0.6), tell(1, 0.6, 0.6), tell(2, 0.6, 0.6, 0.5)] == [1, 0, 0]
    assert [tell(3, 0.6, 0.6, 0.5, 0.9), tell(3, 0.6, 0.6, 0.5, 0.9)] == [1, 0]
    assert tell(5, 0.9, 0.9, 0.9, 0.9, 0.6, 0.6) == 1
    alerts = load_alerts(store, [], about="condition:churn:")
    assert [each.title for each in alerts] == [
        "churn: recall below 0.7 for 2 windows",
        "churn: no longer recall below 0.7 for 2 windows",
        "churn: recall below 0.7 for 2 windows",
    ]
    assert "no error rate" in alerts[0].body
    assert alerts[0].fields["condition"] == RECALL.words
    assert alerts[0].kind == "condition"


def test_what_matured_long_before_the_windows_of_today_is_found(store):
    for number in range(60):
        save_evaluation(store, evaluation(number, 0.6 if number < 2 else None, matured=number < 2))
        save_evaluation(store, replace(evaluation(number, 0.9), version="2"))
    [standing] = load_condition_states(store, "churn", "1", [RECALL])
    assert (standing.state, standing.window, standing.since) == ("crossed", window(1), window(0))
    [other] = load_condition_states(store, "churn", "2", [RECALL])
    assert (other.state, other.window) == ("within", window(59))


def test_quiet_hours_may_leave_conditions_out(tmp_path):
    config = write_config(tmp_path, more='\n[alerts]\nquiet = "22:00-07:00"\nquiet_except = ["condition"]\n')
    assert load_settings(config).alerts.quiet_except == ("condition",)
