"""Which outcome belongs to which prediction: horizon, which of several, what absence means. On both stores."""

from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput
from feedback_loop.outcomes import coverage, record_outcomes
from feedback_loop.schema import Column, ColumnType, JoinRule, Which
from feedback_loop.store import findings, joins
from feedback_loop.store.coverage import load_coverage, with_inferred
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WHOLE = Window(START - 400 * DAY, START + 400 * DAY)


def predict(store, contract, hours, *, customer=1, role="champion", logged=None):
    moments = [START + hour * HOUR for hour in hours]
    count = len(moments)
    rows = prediction_rows(contract, moments, customer=[customer] * count, month=["m"] * count, role=[role] * count)
    PredictionLog(store).append(contract, rows, logged or START + 100 * HOUR)


def happen(store, contract, hour, value=True, *, customer=1, now=START + 200 * HOUR):
    frame = {"customer": [customer], "month": ["m"], "churned": [value], "occurred_at": [START + hour * HOUR]}
    return record_outcomes(store, contract, frame, now=now, source="test").counts


def labels(store, contract, as_of=None):
    rows = read_labelled(store, contract, WHOLE, as_of=as_of).sort_by("predicted_at")
    return rows.column("churned").to_pylist()


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (Which.ALL, [None, True, True, None]),
        (Which.FIRST, [None, True, None, None]),
        (Which.LAST, [None, None, True, None]),
    ],
)
def test_an_outcome_belongs_to_predictions_of_its_horizon_all_of_them_or_one(store, which, expected):
    contract = binary_contract(join=JoinRule(horizon=10 * HOUR, which=which))
    predict(store, contract, [0, 12, 15, 21])  # too early, two that fit, and one after it occurred
    happen(store, contract, 20)
    assert labels(store, contract) == expected


@pytest.mark.parametrize(
    ("which", "expected"), [(Which.ALL, [True, True]), (Which.FIRST, [True, None]), (Which.LAST, [None, True])]
)
def test_without_a_horizon_one_of_several_is_chosen_too(store, which, expected):
    contract = binary_contract(join=JoinRule(which=which))
    predict(store, contract, [0, 500])
    happen(store, contract, 20)
    assert labels(store, contract) == expected


def test_versions_of_another_role_do_not_take_an_outcome_away(store):
    contract = binary_contract(join=JoinRule(which=Which.LAST))
    predict(store, contract, [0])
    predict(store, contract, [1], role="shadow")
    happen(store, contract, 2)
    assert labels(store, contract) == [True, True]


def test_the_horizon_ends_to_the_microsecond(store):
    contract = binary_contract(join=JoinRule(horizon=timedelta(days=31, seconds=1)))
    odd = [START + timedelta(microseconds=999_999), START + timedelta(seconds=59, microseconds=999_999)]
    rows = prediction_rows(contract, odd, customer=[1, 2], month=["m", "m"])
    PredictionLog(store).append(contract, rows, START)
    end = timedelta(days=31, seconds=1)
    frame = {
        "customer": [1, 2],
        "month": ["m", "m"],
        "churned": [True, True],
        "occurred_at": [odd[0] + end, odd[1] + end - timedelta.resolution],
    }
    record_outcomes(store, contract, frame, now=START + 400 * DAY, source="test")
    assert labels(store, contract) == [None, True]


def test_of_several_events_the_first_within_the_horizon_counts_and_each_is_corrected_by_its_time(store):
    contract = binary_contract(join=JoinRule(horizon=10 * HOUR))
    predict(store, contract, [0, 8])
    assert happen(store, contract, 5, True).new == 1
    assert happen(store, contract, 9, False).new == 1
    assert labels(store, contract) == [True, False]
    assert happen(store, contract, 5, False).corrected == 1
    assert happen(store, contract, 5, False).unchanged == 1
    assert labels(store, contract) == [False, False]


def test_an_outcome_without_its_time_is_refused_where_there_is_a_horizon(store):
    contract = binary_contract(join=JoinRule(horizon=10 * HOUR))
    with pytest.raises(BadInput, match="occurred_at: is missing: this model's join has a horizon"):
        record_outcomes(store, contract, {"customer": [1], "month": ["m"], "churned": [True]}, now=START, source="t")


def test_what_stays_away_until_maturity_counts_as_what_absence_means_until_it_comes(store):
    contract = binary_contract(join=JoinRule(absent_means=False, maturity=DAY))
    predict(store, contract, [0, 30], logged=START)
    assert labels(store, contract, START + 23 * HOUR) == [None, None]
    assert labels(store, contract, START + 24 * HOUR) == [False, None]
    happen(store, contract, 40, now=START + 60 * HOUR)
    assert labels(store, contract, START + 60 * HOUR) == [True, True]
    assert labels(store, contract, START + 24 * HOUR) == [False, None]


def test_an_early_outcome_waits_for_its_prediction(store):
    contract = binary_contract()
    assert happen(store, contract, 0, now=START).unmatched == 1  # before the model has any table
    assert joins.join_new(store, contract, DAY, START).outcomes == 1
    [early] = findings.load_findings(store, contract, findings.UNMATCHED)
    assert (early["customer"], bool(early["churned"])) == (1, True)
    predict(store, contract, [0], logged=START + DAY)
    assert joins.join_new(store, contract, DAY, START + DAY).changed == 1
    assert findings.count_findings(store, "churn") == {"unmatched": 0, "conflict": 0}
    assert labels(store, contract) == [True]


def test_what_is_odd_is_told_by_the_names_of_the_model(store):
    types = {"role": ColumnType.LONG, "Month": ColumnType.STRING, "month": ColumnType.STRING}
    contract = binary_contract(key=tuple(types), key_types=types)
    PredictionLog(store).append(contract, prediction_rows(contract, []), START)
    outcome = {"role": [1], "Month": ["a"], "month": ["b"], "churned": [True]}
    record_outcomes(store, contract, outcome, now=START, source="t")
    joins.join_new(store, contract, DAY, START)
    [early] = findings.load_findings(store, contract, findings.UNMATCHED)
    assert (early["role"], early["Month"], early["month"], bool(early["churned"])) == (1, "a", "b", True)


def test_outcomes_that_contradict_each_other_are_listed_and_the_one_by_id_counts(store):
    contract = binary_contract()
    rows = prediction_rows(contract, [START], customer=[1], month=["m"])
    PredictionLog(store).append(contract, rows, START)
    identifier = rows.column("prediction_id").to_pylist()
    happen(store, contract, 0, True, now=START)
    record_outcomes(store, contract, {"prediction_id": identifier, "churned": [False]}, now=START, source="t")
    joins.join_new(store, contract, DAY, START + HOUR)
    assert [row["prediction_id"] for row in findings.load_findings(store, contract, "conflict")] == identifier
    assert labels(store, contract) == [False]
    happen(store, contract, 0, False, now=START + 2 * HOUR)
    joins.join_new(store, contract, DAY, START + 2 * HOUR)
    assert findings.count_findings(store, "churn")["conflict"] == 0


def test_another_rule_makes_the_accounts_anew(store):
    contract = binary_contract()
    predict(store, contract, [0, 12], logged=START)
    happen(store, contract, 20, now=START + DAY)
    assert joins.join_new(store, contract, DAY, START + DAY).predictions == 2
    assert joins.join_new(store, contract, DAY, START + 2 * DAY) == joins.Joined(0, 0, 0, 0, START + 2 * DAY)
    counted, _ = load_coverage(store, "churn")
    assert {(account.segment, account.predictions, account.labelled) for account in counted} == {("", 2, 2)}
    narrower = binary_contract(join=JoinRule(horizon=10 * HOUR))
    # The outcome was taken in without a horizon: to a join with one, it is no event.
    assert joins.join_new(store, narrower, DAY, START + 3 * DAY).predictions == 2
    counted, _ = load_coverage(store, "churn")
    assert {(account.segment, account.predictions, account.labelled) for account in counted} == {("", 2, 0)}


def test_accounts_are_kept_by_version_role_and_segment_in_small_steps_too(store, monkeypatch):
    monkeypatch.setattr(joins, "STEP_ROWS", 2)
    contract = binary_contract()
    for hour in range(9):
        rows = prediction_rows(
            contract,
            [START + hour * HOUR],
            plan=["pro" if hour % 3 else None],
            model_version=[str(hour % 2)],
            customer=[hour],
            month=["m"],
        )
        PredictionLog(store).append(contract, rows, START + hour * HOUR)
    happen(store, contract, 3, customer=3, now=START + 10 * HOUR)
    done = joins.join_new(store, contract, 4 * HOUR, START + 20 * HOUR)
    assert (done.predictions, done.outcomes, done.windows) == (9, 1, 6)  # windows, step by step
    counted, until = load_coverage(store, "churn")
    assert until == START + 20 * HOUR
    assert sum(account.predictions for account in counted if not account.segment) == 9
    assert sum(account.predictions for account in counted if account.segment == "plan=pro") == 6
    assert [(a.window_start, a.version, a.labelled) for a in counted if a.labelled and not a.segment] == [
        (START, "1", 1)
    ]


def test_segments_span_generations(store):
    before = binary_contract()
    after = binary_contract(features=(Column("age", ColumnType.STRING), Column("plan", ColumnType.STRING)))
    for contract, day in ((before, 0), (after, 1)):
        rows = prediction_rows(contract, [START + day * DAY], plan=["pro"], customer=[day], month=["m"])
        PredictionLog(store).append(contract, rows, START + day * DAY)
    assert joins.join_new(store, after, DAY, START + 2 * DAY).predictions == 2
    counted, _ = load_coverage(store, "churn")
    assert sum(account.predictions for account in counted if account.segment == "plan=pro") == 2


def test_maturity_that_passes_changes_the_accounts_though_nothing_came(store):
    contract = binary_contract(join=JoinRule(absent_means=False, maturity=DAY))
    predict(store, contract, [0], logged=START)
    predict(store, contract, [1, 30], customer=2, logged=START)
    for hours, inferred in ((23, [0, 0]), (24, [1, 0]), (25, [2, 0]), (48, [2, 0]), (72, [2, 1])):
        until = START + hours * HOUR
        changed = joins.join_new(store, contract, DAY, until).windows
        counted, watermark = load_coverage(store, "churn")
        accounts = with_inferred(store, contract, DAY, counted, until)
        assert ([account.predictions for account in accounts], watermark) == ([2, 1], until)
        assert [(account.labelled, account.inferred) for account in accounts] == [(0, count) for count in inferred]
        assert changed == {23: 2, 24: 1, 25: 1, 48: 0, 72: 1}[hours]


def test_what_was_observed_is_told_apart_from_what_absence_means(store):
    """The outcomes of fifty predictions stay away: a feed that is dead does not look like one that is complete."""
    contract = binary_contract(join=JoinRule(absent_means=False, maturity=DAY))
    for customer in range(50):
        predict(store, contract, [0], customer=customer, logged=START)
    happen(store, contract, 2, customer=7, now=START + HOUR)
    joins.join_new(store, contract, DAY, START + 3 * DAY)
    found, until = load_coverage(store, "churn")
    [whole] = coverage(with_inferred(store, contract, DAY, found, until), "version", until)
    assert (whole.observed, whole.inferred, whole.labelled, whole.share) == (1, 49, 50, 1.0)
    [account] = with_inferred(store, binary_contract(), DAY, found, until)
    assert (account.labelled, account.inferred) == (1, 0)
