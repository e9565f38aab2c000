"""What an adapter serves between looks: frozen numbers, applied alike to one row and to many."""

import dataclasses

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.errors import Refused
from feedback_loop.inference.adapter_coefficients import HEADS, ROWS_AT_ONCE, Coefficients
from feedback_loop.inference.adapter_encoding import Category, Encoding
from feedback_loop.schema import Task
from tests.builders import binary_contract, multiclass_contract, regression_contract

ENCODING = Encoding(
    ("age", "is_new", "income"),
    np.array([40.0, 0.5, 1000.0]),
    np.array([10.0, 0.5, 300.0]),
    (Category("plan", ("basic", "gold")), Category("town", ("Ulm",))),
)
ROWS = {
    "age": [35.0, None, 1e9, 40.0, float("nan")],
    "is_new": [True, False, None, True, False],
    "income": [1, 2, 3, 4, 5],
    "plan": ["gold", "basic", None, "other", "gold"],
    "town": ["Ulm", "Bonn", "Ulm", None, "Ulm"],
}
CHANCES = [0.2, 0.9, 0.0, 1.0, 0.5]
RAW = {
    Task.BINARY: np.array(CHANCES),
    Task.MULTICLASS: np.column_stack([CHANCES, np.subtract(1, CHANCES) / 4, np.subtract(1, CHANCES) * 3 / 4]),
    Task.REGRESSION: np.array([3.0, -1e6, 0.0, 17.5, 1e6]),
}


def coefficients(task: Task, seed: int = 0, **changes) -> Coefficients:
    random, outputs = np.random.default_rng(seed), 3 if task is Task.MULTICLASS else 1
    pool = random.random(1 + HEADS)
    values = {
        "classes": {Task.BINARY: (False, True), Task.MULTICLASS: ("a", "b", "c")}.get(task, ()),
        "positive": True if task is Task.BINARY else None,
        "encoding": ENCODING,
        "slopes": random.normal(1, 0.3, (HEADS, outputs)),
        "weights": random.normal(0, 0.5, (1 + ENCODING.width, HEADS * outputs)),
        "pool": pool / pool.sum(),
        "interval": (-1.5, 2.0) if task is Task.REGRESSION else None,
    }
    return Coefficients(task, **(values | {"centre": 5.0, "scale": 3.0} | changes))


def expected(given: Coefficients, raw, x):
    """The definition, written out: a pool of raw and three heads."""
    if given.task is Task.REGRESSION:
        z = (raw - given.centre) / given.scale
        heads = z[:, None] * given.slopes[:, 0] + np.column_stack([np.ones(len(x)), x]) @ given.weights
        return raw + given.scale * heads @ given.pool[1:]
    if given.task is Task.BINARY:
        raw = np.clip(raw, 1e-4, 1 - 1e-4)
        z = np.log(raw / (1 - raw))
        heads = z[:, None] * given.slopes[:, 0] + np.column_stack([np.ones(len(x)), x]) @ given.weights
        return given.pool[0] * raw + (1 / (1 + np.exp(-heads))) @ given.pool[1:]
    clipped = np.clip(raw, 1e-4, 1 - 1e-4)
    mixed = given.pool[0] * clipped / clipped.sum(axis=1, keepdims=True)
    z = np.log(clipped) - np.log(clipped).mean(axis=1, keepdims=True)
    for head in range(HEADS):
        own = given.weights[:, 3 * head : 3 * head + 3]
        powers = np.exp(z * given.slopes[head] + np.column_stack([np.ones(len(x)), x]) @ own)
        mixed += given.pool[1 + head] * powers / powers.sum(axis=1, keepdims=True)
    return mixed


def test_features_are_standardised_clipped_and_one_hot_and_what_is_missing_is_zero():
    x = ENCODING.dense(ROWS, 5)
    assert x[:, 0].tolist() == [-0.5, 0, 4, 0, 0]
    assert x[:, 1].tolist() == [1, -1, 0, 1, -1]
    assert x[:, 3:].tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]]
    without = ENCODING.dense({name: values for name, values in ROWS.items() if name not in ("age", "plan")}, 5)
    assert not without[:, [0, 3, 4]].any()
    assert (without[:, [1, 2, 5]] == x[:, [1, 2, 5]]).all()


@pytest.mark.parametrize("task", Task)
def test_rows_as_lists_as_arrow_and_one_by_one_get_the_same_answers_by_the_definition(task):
    given, raw = coefficients(task), RAW[task]
    wanted = expected(given, raw, ENCODING.dense(ROWS, 5))
    np.testing.assert_allclose(given.apply(raw, ROWS), wanted, rtol=1e-12)
    table = pa.concat_tables([pa.table(ROWS).slice(0, 2), pa.table(ROWS).slice(2)])
    arrow = {name: table.column(name) for name in table.column_names}
    np.testing.assert_allclose(given.apply(raw.tolist(), arrow), wanted, rtol=1e-12)
    part = {name: ROWS[name] for name in ("age", "town")}  # a version that lacks features
    for columns in ({"unused": [0] * 5, **ROWS}, part):
        assert given.apply(raw, columns).tolist() == one_by_one(given, raw, columns)


def one_by_one(given, raw, columns):
    rows = [{name: values[place : place + 1] for name, values in columns.items()} for place in range(len(raw))]
    if given.task is not Task.MULTICLASS:
        return [given.apply_one(answer, row) for answer, row in zip(raw.tolist(), rows, strict=True)]
    return [given.apply_to_classes(answer, row) for answer, row in zip(raw.tolist(), rows, strict=True)]


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("without_features", [0, 1, HEADS])
def test_a_rows_answer_is_the_same_to_the_last_bit_whichever_rows_are_beside_it(task, without_features):
    random, rows = np.random.default_rng(3), 2 * ROWS_AT_ONCE + 77
    given = coefficients(task, 5)
    given.weights[1:, : without_features * (3 if task is Task.MULTICLASS else 1)] = 0  # heads on z alone
    columns = {
        "age": random.normal(40, 30, rows).astype(np.float32),
        "is_new": random.random(rows) < 0.5,
        "income": random.integers(0, 10**6, rows),
        "plan": random.choice(["basic", "gold", "other"], rows).tolist(),
    }
    chances = random.dirichlet(np.ones(3), rows)
    raw = chances if task is Task.MULTICLASS else chances[:, 0] if task is Task.BINARY else random.normal(0, 9, rows)
    together = given.apply(raw, columns)
    np.testing.assert_allclose(together, expected(given, raw, ENCODING.dense(columns, rows)), rtol=1e-12)
    for count in (60, 5):  # in which sums are made in other ways
        few = slice(ROWS_AT_ONCE - count // 2, ROWS_AT_ONCE + count)
        beside = {name: values[few] for name, values in columns.items()}
        assert (given.apply(raw[few], beside) == together[few]).all()
        assert one_by_one(given, raw[few], beside) == together[few].tolist()
        table = pa.table(beside)
        assert (
            given.apply(raw[few], dict(zip(table.column_names, table.columns, strict=True))) == together[few]
        ).all()


@pytest.mark.parametrize("task", Task)
def test_an_adapter_that_has_learned_nothing_changes_no_bit(task):
    start = 0.0 if task is Task.REGRESSION else 1.0
    learned = coefficients(task)
    given = dataclasses.replace(
        learned, slopes=np.full_like(learned.slopes, start), weights=np.zeros_like(learned.weights)
    )
    assert given.is_identity
    assert not learned.is_identity
    assert (given.apply(RAW[task], ROWS) == RAW[task]).all()
    assert one_by_one(given, RAW[task], ROWS) == RAW[task].tolist()


def test_an_answer_that_is_no_number_stays_none():
    for task in (Task.BINARY, Task.REGRESSION):
        raw = RAW[task].copy()
        raw[1] = np.nan
        given = coefficients(task)
        assert np.isnan(given.apply(raw, ROWS)).tolist() == [False, True, False, False, False]
        assert np.isnan(one_by_one(given, raw, ROWS)).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("task", Task)
def test_bytes_come_back_exactly_and_what_was_changed_is_refused(task):
    given = coefficients(task)
    packed = given.to_bytes()
    again = Coefficients.from_bytes(packed)
    assert again.to_bytes() == packed
    assert again.digest == given.digest != coefficients(task, seed=1).digest
    assert (again.apply(RAW[task], ROWS) == given.apply(RAW[task], ROWS)).all()
    layout, digest, content = msgspec.msgpack.decode(packed)
    for wrong in ((layout + 1, digest, content), (layout, digest, content[:-1]), (layout, digest)):
        with pytest.raises(Refused, match="can't be read"):
            Coefficients.from_bytes(msgspec.msgpack.encode(wrong))


def test_only_versions_with_its_task_and_its_classes_are_adapted():
    assert coefficients(Task.MULTICLASS).why_unfit(multiclass_contract()) == ""
    assert coefficients(Task.REGRESSION).why_unfit(regression_contract()) == ""
    for contract in (multiclass_contract(("a", "b")), binary_contract()):
        assert "other classes" in coefficients(Task.MULTICLASS).why_unfit(contract)
