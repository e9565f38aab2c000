"""A version with an adapter on: callers get adapted answers in the model's own form, the log has both."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from feedback_loop.capture import Recorder
from feedback_loop.errors import Refused
from feedback_loop.inference import PyfuncEngine, Scorer, SklearnEngine
from feedback_loop.inference.adapter_coefficients import HEADS, Coefficients
from feedback_loop.inference.adapter_encoding import Category, Encoding
from feedback_loop.inference.adapting import Adapting
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Column, ColumnType, Source, Task, make_contract, make_redaction
from feedback_loop.schema.protocol import Rows, rows_table
from feedback_loop.store.predictions import prediction_schema

RANDOM = np.random.default_rng(11)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
FEATURES = (Column("a", ColumnType.DOUBLE), Column("f", ColumnType.FLOAT), Column("plan", ColumnType.STRING))
CLASSES = {Task.BINARY: (0, 1), Task.MULTICLASS: ("x", "y", "z"), Task.REGRESSION: ()}
ENCODING = Encoding(("a", "f"), np.zeros(2), np.ones(2), (Category("plan", ("pro",)),))
ROWS = Rows(
    4, {"a": [1.5, -3.0, None, 0.1], "f": [0.1, 2.0, 0.3, None], "plan": ["pro", "x", None, "pro"]}, [None] * 4
)


def contract_of(task, **changes):
    kinds = {Task.BINARY: ColumnType.LONG, Task.MULTICLASS: ColumnType.STRING, Task.REGRESSION: ColumnType.DOUBLE}
    options = {
        "features": FEATURES,
        "label": "y",
        "label_type": kinds[task],
        "classes": CLASSES[task],
        "has_probabilities": task is not Task.REGRESSION,
    }
    return make_contract(model="m", task=task, **(options | changes))


def coefficients(contract):
    outputs = len(contract.classes) if contract.task is Task.MULTICLASS else 1
    return Coefficients(
        contract.task,
        contract.classes,
        contract.positive,
        ENCODING,
        RANDOM.normal(1, 0.5, (HEADS, outputs)),
        RANDOM.normal(0, 2, (1 + ENCODING.width, HEADS * outputs)),
        np.full(1 + HEADS, 1 / (1 + HEADS)),
        1.0,
        2.0,
    )


class OnNumbers:
    """scikit-learn's object on the columns of numbers, a missing one being 0."""

    def __init__(self, estimator):
        self.estimator = estimator

    def __getattr__(self, name):
        return lambda frame: getattr(self.estimator, name)(frame[["a", "f"]].fillna(0.0).to_numpy(float))


def sklearn_engine(contract, way="predict"):
    matrix, target = RANDOM.normal(size=(60, 2)), RANDOM.integers(0, max(len(contract.classes), 2), 60)
    estimator = LinearRegression() if contract.task is Task.REGRESSION else LogisticRegression()
    labels = target if not contract.classes else np.array(contract.classes, dtype=object)[target]
    labels = labels.astype(int) if contract.task is Task.BINARY else labels
    return SklearnEngine(OnNumbers(estimator.fit(matrix, labels)), contract, answers_with=way)


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("way", ["predict", "predict_proba", "predict_log_proba"])
def test_answers_and_log_are_the_adapted_ones_in_the_models_own_form(task, way):
    contract = contract_of(task)
    way = "predict" if task is Task.REGRESSION else way
    engine, table = sklearn_engine(contract, way), rows_table(contract, ROWS)
    numbers = coefficients(contract)
    plain = engine.score(table)
    adapted = Adapting(7, numbers, contract, engine.answers_with).adapted(plain, table)
    raw = np.column_stack([np.asarray(values) for values in plain.columns[0 if task is Task.REGRESSION else 1 :]])
    expected = numbers.apply(
        raw if task is Task.MULTICLASS else raw[:, 0], {name: table.column(name) for name in table.column_names}
    )
    assert (adapted.revision, adapted.form, adapted.raw) == (7, plain.form, plain.columns)
    if task is Task.REGRESSION:
        assert adapted.answers == expected.tolist() == adapted.outputs.column("prediction").to_pylist()
        return
    chances = expected if task is Task.MULTICLASS else np.column_stack([1 - expected, expected])
    likeliest = [contract.classes[place] for place in chances.argmax(axis=1)]
    told = {"predict": likeliest, "predict_proba": chances.tolist(), "predict_log_proba": np.log(chances).tolist()}
    assert adapted.answers == told[way]
    assert (
        adapted.outputs.column("prediction").to_pylist()
        == likeliest
        != plain.outputs.column("prediction").to_pylist()
    )
    logged = np.column_stack([adapted.outputs.column(column.stored) for column in contract.probabilities])
    assert (logged == (chances if task is Task.MULTICLASS else chances[:, 1:])).all()


@pytest.mark.parametrize("task", Task)
def test_rows_as_they_were_decoded_alone_or_together_get_what_a_table_gets(task):
    contract = contract_of(task)
    engine, adapting = sklearn_engine(contract), Adapting(7, coefficients(contract), contract, "predict")
    table = rows_table(contract, ROWS)
    expected = adapting.adapted(engine.score(table), table)
    assert adapting.adapted(engine.score(table), ROWS).values() == expected.values()
    said = engine.score(table)
    for place in range(4):
        own = slice(place, place + 1)
        row = Rows(1, {name: values[own] for name, values in ROWS.columns.items()}, [None])
        alone = replace(said, answers=said.answers[own], columns=[column[own] for column in said.columns])
        one = adapting.adapted(alone, row)
        assert one.values() == {name: values[own] for name, values in expected.values().items()}
        assert one.answers == expected.answers[own]


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (np.array([0.25, 0.5, 0.75, 1.0]), lambda _, yes: yes),
        (np.array([[0.25], [0.5], [0.75], [1.0]]), lambda _, yes: [yes]),
        (np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]), lambda no, yes: [no, yes]),
        (
            pd.DataFrame({"no": [0.75, 0.5, 0.25, 0.0], "yes": [0.25, 0.5, 0.75, 1.0]}),
            lambda no, yes: {"no": no, "yes": yes},
        ),
        (pd.Series([0.25, 0.5, 0.75, 1.0], name="yes"), lambda _, yes: {"yes": yes}),
    ],
)
@pytest.mark.parametrize("positive", [0, 1])
def test_probabilities_of_any_model_are_given_out_as_it_gives_them(answer, place, positive):
    contract = contract_of(Task.BINARY, positive=positive)
    engine, table = PyfuncEngine(lambda _: answer, contract), rows_table(contract, ROWS)
    adapted = Adapting(7, coefficients(contract), contract, engine.answers_with).adapted(engine.score(table), table)
    chances = adapted.outputs.column("probability").to_pylist()
    pairs = [(1 - chance, chance) if positive else (chance, 1 - chance) for chance in chances]
    assert adapted.answers == [place(*pair) for pair in pairs]
    assert adapted.outputs.column("prediction").to_pylist() == [int(yes > no) for no, yes in pairs]


@pytest.mark.parametrize(
    "answer",
    [
        pd.DataFrame({"why": list("abcd"), "y": [1.0, 2.0, 3.0, 4.0]}),
        pd.DataFrame({"value": [1.0, 2.0, 3.0, 4.0], "more": [9.0] * 4}),
        {"y": [1, 2, 3, 4], "why": list("abcd")},
        [[1.0, "a"], [2.0, "b"], [3.0, "c"], [4.0, "d"]],
    ],
)
def test_of_a_regression_that_answers_more_the_number_alone_is_another(answer):
    contract = contract_of(Task.REGRESSION)
    engine, table = PyfuncEngine(lambda _: answer, contract), rows_table(contract, ROWS)
    plain = engine.score(table)
    adapted = Adapting(7, coefficients(contract), contract, engine.answers_with).adapted(plain, table)
    numbers = adapted.outputs.column("prediction").to_pylist()
    assert numbers != plain.outputs.column("prediction").to_pylist()
    for before, after, number in zip(plain.answers, adapted.answers, numbers, strict=True):
        assert type(after) is type(before)
        was, now = (list(row.values()) if isinstance(row, dict) else row for row in (before, after))
        differing = [value for old, value in zip(was, now, strict=True) if old != value]
        assert differing == [number]


def test_a_row_without_probabilities_keeps_the_models_class():
    contract = contract_of(Task.BINARY)
    engine, table = PyfuncEngine(lambda _: np.array([0.25, np.nan, 0.75, 1.0]), contract), rows_table(contract, ROWS)
    plain = engine.score(table)
    adapted = Adapting(7, coefficients(contract), contract, "predict_proba").adapted(plain, table)
    assert adapted.outputs.column("prediction")[1].as_py() == plain.outputs.column("prediction")[1].as_py()
    assert np.isnan(adapted.answers[1])


def test_an_adapter_of_other_classes_or_of_what_is_no_probability_is_refused():
    numbers = coefficients(contract_of(Task.MULTICLASS))
    for contract, way in ((contract_of(Task.BINARY), "predict"), (contract_of(Task.MULTICLASS), "decision_function")):
        with pytest.raises(Refused, match="Revision 7 of the adapter of 'm' can't be on"):
            Adapting(7, numbers, contract, way)


def test_a_table_without_a_feature_is_adapted_as_if_it_were_missing():
    contract = contract_of(Task.REGRESSION)
    adapting, plain = Adapting(7, coefficients(contract), contract, "predict"), sklearn_engine(contract)
    table = rows_table(contract, ROWS)
    said = plain.score(table)
    nothing = table.set_column(0, "a", pa.nulls(4, pa.float64()))
    assert adapting.adapted(said, table.drop_columns(["a"])).answers == adapting.adapted(said, nothing).answers


def test_a_regression_with_intervals_gives_them_out_beside_its_answers_and_logs_them():
    contract = contract_of(Task.REGRESSION, features=(*FEATURES, Column("lower", ColumnType.DOUBLE)))
    rows = Rows(4, ROWS.columns | {"lower": [0.5] * 4}, [None] * 4)
    numbers, redaction = replace(coefficients(contract), interval=(-1.5, 2.0)), make_redaction(contract, {}, b"")
    scorer = Scorer(
        ModelVersion("m", "1", None, NOW, (), {}),
        contract,
        sklearn_engine(contract),
        redaction,
        has_intervals=True,
    )
    parts = []

    class Sink:
        def append(self, _, table, __):
            parts.append(table)
            return table.num_rows

    recorder = Recorder(Sink())
    for by, of_rows in (
        (scorer.adapted_by(7, numbers), rows),
        (scorer.adapted_by(7, numbers), rows_table(contract, rows)),  # as of a batch
        (scorer.adapted_by(7, replace(numbers, interval=None)), rows),  # too little is known yet
        (replace(scorer, has_intervals=False).adapted_by(7, numbers), rows),
    ):
        scored = by.score_rows(of_rows) if isinstance(of_rows, Rows) else by.score(of_rows)
        recorder.record(by, of_rows, scored, recorder.fill([None] * 4, NOW), NOW, source=Source.ONLINE)
        logged, answers = parts.pop(), np.array(scored.values()["prediction"])
        expected = {"lower": (answers - 1.5).tolist(), "upper": (answers + 2.0).tolist()}
        if by.has_intervals and by.adapting.coefficients.interval:
            assert scored.beside == expected
            assert [logged.column(column.stored).to_pylist() for column in contract.interval_columns] == list(
                expected.values()
            )
        else:
            assert scored.beside == {}
            assert not {column.stored for column in contract.interval_columns} & {*logged.column_names}
    assert contract_of(Task.BINARY).interval_columns == ()


def test_raw_answers_reach_the_log_also_of_hashed_dropped_and_sampled_rows():
    features = (*FEATURES, Column("propensity", ColumnType.DOUBLE))
    contract = contract_of(Task.BINARY, features=features)
    redaction = make_redaction(contract, {"plan": "hash", "propensity": "drop"}, b"a key")
    scorer = Scorer(
        ModelVersion("m", "1", None, NOW, (), {}), contract, sklearn_engine(contract), redaction, sample=0.5
    ).adapted_by(7, coefficients(contract))
    rows = Rows(
        40, {name: values * 10 for name, values in ROWS.columns.items()} | {"propensity": [0.5] * 40}, [None] * 40
    )
    parts = []

    class Sink:
        def append(self, _, table, __):
            parts.append(table)
            return table.num_rows

    scored = scorer.score_rows(rows)
    recorder = Recorder(Sink())
    recorder.record(scorer, rows, scored, recorder.fill(rows.ids, NOW), NOW, source=Source.ONLINE)
    (logged,) = parts
    assert 0 < logged.num_rows < 40
    extra = [scorer.logged.adapter_revision, *scorer.logged.raw_outputs]
    assert logged.schema == prediction_schema(scorer.logged, extra)
    assert set(logged.column("adapter_revision").to_pylist()) == {7}
    pairs = set(zip(scored.values()["raw_probability"], scored.values()["probability"], strict=True))
    assert (
        set(zip(*(logged.column(name).to_pylist() for name in ("raw_probability", "probability")), strict=True))
        <= pairs
    )
