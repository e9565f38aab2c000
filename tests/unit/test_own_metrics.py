"""Metrics of a user's own making: sums that are kept, functions of rows, and what becomes of those that fail."""

import importlib
import sys
from datetime import UTC, datetime
from textwrap import dedent

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.errors import ConfigError, ContractError
from feedback_loop.monitoring.custom_metrics import metrics_by_rows
from feedback_loop.monitoring.evaluation import evaluate_cells
from feedback_loop.monitoring.profiles.custom_sums import MetricFailed, _import_metric, check_metrics, sums_of
from feedback_loop.monitoring.profiles.fold import fold, fold_outcomes, merge
from feedback_loop.monitoring.profiles.layout import Layout, make_layout
from feedback_loop.schema import OwnMetric, make_redaction
from tests.builders import binary_contract, evaluate_rows

WINDOW = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
METRICS = """
import numpy as np
from feedback_loop import SumMetric

def numbers(rows, name):
    return np.asarray(rows.column(name).to_numpy(zero_copy_only=False), dtype=float)

def gains(rows):
    return {"gain": np.where(numbers(rows, "prediction") == 1, numbers(rows, "churned") * 10 - 1, 0.0)}

def ages(rows):
    return {"age": numbers(rows, "age"), "one": np.ones(rows.num_rows)}

def choosy(rows):
    if (numbers(rows, "age") > 40).any():
        raise ValueError("too old")
    return {"age": numbers(rows, "age")}

def of_names(rows):
    if rows.num_rows:
        return {"other": np.ones(rows.num_rows)}
    return {"first": np.ones(0)}

def oldest(rows):
    return max(rows.column("age").to_pylist())

def broken(rows):
    raise RuntimeError("out of order")

profit = SumMetric(gains, least=-1.0, most=9.0)
age = SumMetric(ages, lambda sums, rows: sums["age"] / sums["one"])
choosy = SumMetric(choosy)
of_names = SumMetric(of_names)
many = SumMetric(lambda rows: {str(each): np.ones(rows.num_rows) for each in range(17)}, lambda sums, rows: 1.0)
two_means = SumMetric(lambda rows: {"a": np.ones(rows.num_rows), "b": np.ones(rows.num_rows)})
short = SumMetric(lambda rows: {"a": np.ones(rows.num_rows + 1)})
senseless = SumMetric(gains, lambda sums, rows: 1 / 0)
nothing = SumMetric(gains, lambda sums, rows: float("nan"))
absent = SumMetric(lambda rows: {"a": numbers(rows, "nowhere")})
words = "not a metric"
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module with those metrics."""
    name = f"own_{abs(hash(tmp_path)):x}"
    (tmp_path / f"{name}.py").write_text(METRICS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def contract_with(module, *names, columns=("age",)):
    return binary_contract(own_metrics=tuple(OwnMetric(name, f"{module}:{name}", columns) for name in names))


def rows_of(count=200, known=150):
    random = np.random.default_rng(5)
    chance = random.random(count)
    truth = pa.array(random.random(count) < chance, mask=np.arange(count) >= known)
    return pa.table(
        {
            "churned": truth,
            "prediction": chance > 0.5,
            "probability": chance,
            "age": np.linspace(20, 60, count),
            "plan": ["pro"] * count,
        }
    )


def evaluated(contract, rows):
    return evaluate_rows(contract, rows, None, version="1", window=WINDOW, as_of=WINDOW.end, matured=True)


def failures(evaluation):
    return {each.column: each.value for each in evaluation.quality if each.check == "own_metric"}


def test_a_mean_has_its_error_and_holds_its_bounds(module):
    rows = rows_of()
    found = evaluated(contract_with(module, "profit"), rows)
    truth = np.array(rows["churned"].slice(0, 150).to_pylist(), dtype=float)
    gains = np.where(rows["prediction"].to_numpy()[:150], truth * 10 - 1, 0.0)
    (profit,) = [each for each in found.metrics if each.metric == "profit"]
    assert (profit.value, profit.rows) == (pytest.approx(gains.mean()), 150)
    assert profit.standard_error == pytest.approx(gains.std(ddof=1) / np.sqrt(150))
    assert profit.least == pytest.approx((gains.sum() - 50) / 200)
    assert profit.most == pytest.approx((gains.sum() + 450) / 200)
    assert profit.coverage == 0.75


def test_a_metric_of_sums_is_made_of_them_and_counts_only_rows_that_have_what_it_takes(module):
    rows = rows_of()
    ages = rows["age"].to_numpy().copy()
    ages[:3] = np.nan, np.inf, 25
    rows = rows.set_column(rows.column_names.index("age"), "age", pa.array(ages))
    found = evaluated(contract_with(module, "age"), rows)
    (age,) = [each for each in found.metrics if each.metric == "age"]
    assert (age.value, age.rows) == (pytest.approx(ages[2:150].mean()), 148)
    assert found.metric("accuracy") is not None
    assert failures(found) == {}


def test_rows_that_a_metric_fails_for_leave_it_out_and_are_counted_however_they_are_folded(module):
    contract, rows = contract_with(module, "choosy", "profit"), rows_of()
    with capture_logs() as logs:
        found = evaluated(contract, rows)
    too_old = int((rows["age"].to_numpy()[:150] > 40).sum())
    assert failures(found) == {"choosy": too_old / 150}
    assert found.metric("choosy") is None
    assert found.metric("profit") is not None
    assert any("too old" in each.get("cause", "") and each.get("rows") == too_old for each in logs)
    layout = Layout.bare(contract)
    pieces = [rows.slice(start, 37) for start in range(0, 200, 37)]
    assert merge([fold(layout, each) for each in pieces]) == fold(layout, rows)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(15, 60), st.booleans(), st.booleans()), min_size=1, max_size=20), st.randoms())
def test_sums_that_were_added_can_be_taken_out_again(tmp_path_factory, people, order):
    module = _shared_module(tmp_path_factory)
    layout = Layout.bare(contract_with(module, "choosy", "profit", "age"))
    ages, answers, truths = zip(*people, strict=True)
    rows = pa.table({"age": ages, "prediction": answers, "probability": [0.5] * len(ages), "churned": truths})
    whole = fold_outcomes(layout, rows)
    places = list(range(len(ages)))
    order.shuffle(places)
    taken, kept = places[::2], places[1::2]
    left = merge(
        [
            whole,
            {cell: -tally for cell, tally in fold_outcomes(layout, rows.take(pa.array(taken, pa.int64()))).items()},
        ]
    )
    assert {c: t for c, t in left.items() if len(t.keys)} == fold_outcomes(
        layout, rows.take(pa.array(kept, pa.int64()))
    )


def _shared_module(tmp_path_factory):
    if "own_shared" not in sys.modules:
        folder = tmp_path_factory.mktemp("own")
        (folder / "own_shared.py").write_text(METRICS)
        sys.path.insert(0, str(folder))
        importlib.import_module("own_shared")
        sys.path.remove(str(folder))
    return "own_shared"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("nowhere", "no attribute"),
        ("words", "neither a SumMetric nor a function"),
        ("many", "17 sums"),
        ("two_means", "2 sums"),
        ("short", r"gives \(1,\) numbers for 0 rows"),
        ("absent", "nowhere"),
    ],
)
def test_a_metric_that_is_none_is_told_and_stops_nothing(module, name, cause):
    contract = contract_with(module, name, "profit")
    with pytest.raises(MetricFailed, match=cause):
        check_metrics(contract)
    found = evaluated(contract, rows_of())
    assert failures(found) == {name: 1.0}
    assert found.metric("profit") is not None
    assert found.metric("accuracy") is not None


def test_a_module_or_an_entry_point_that_is_not_there_is_told():
    for path, cause in (("no_such_module:profit", "No module named"), ("no_such_point", "no entry point")):
        with pytest.raises(MetricFailed, match=cause):
            check_metrics(binary_contract(own_metrics=(OwnMetric("profit", path),)))


def test_a_metric_that_fails_later_than_at_first_sight_is_told_too(module):
    found = evaluated(contract_with(module, "of_names", "senseless", "nothing"), rows_of())
    assert failures(found) == {"of_names": 1.0, "senseless": 1.0}
    assert found.metric("nothing") is None


def test_a_metric_may_not_take_the_name_of_another(module):
    contract = binary_contract(own_metrics=(OwnMetric("accuracy", f"{module}:profit"),))
    found = evaluated(contract, rows_of())
    assert failures(found) == {"accuracy": 1.0}
    assert found.metric("accuracy") <= 1


def test_a_function_of_rows_is_asked_of_all_labelled_rows_with_every_column(module):
    contract = contract_with(module, "oldest", "broken", columns=())
    told = metrics_by_rows(contract, rows_of())
    assert [(each.metric, each.value, each.rows, each.coverage) for each in told[:1]] == [
        ("oldest", pytest.approx(np.linspace(20, 60, 200)[149]), 150, 0.75)
    ]
    assert [(each.column, each.check) for each in told[1:]] == [("broken", "own_metric")]
    assert metrics_by_rows(contract, rows_of(known=0)) == []


def test_an_evaluation_of_kept_sums_has_no_functions_of_rows(module):
    contract = contract_with(module, "oldest", "profit")
    rows = rows_of()
    layout = make_layout(contract, rows)
    found = evaluate_cells(
        layout, fold(layout, rows), None, version="1", window=WINDOW, as_of=WINDOW.end, matured=True
    )
    assert found.metric("oldest") is None
    assert failures(found) == {}


@pytest.mark.parametrize("change", ["source", "version", "name"])
def test_another_code_or_name_makes_another_layout(tmp_path, monkeypatch, change):
    source = """
        from feedback_loop import SumMetric
        profit = SumMetric(lambda rows: {"gain": [1.0] * rows.num_rows}, version="1")
        loss = SumMetric(lambda rows: {"gain": [1.0] * rows.num_rows}, version="1")
    """
    name = f"changing_{change}"
    path = tmp_path / f"{name}.py"
    path.write_text(dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    contract = contract_with(name, "profit", columns=())
    layout = make_layout(contract, rows_of())
    assert Layout.from_bytes(layout.to_bytes()) == layout
    assert layout.is_of(contract)
    if change == "name":
        contract = contract_with(name, "loss", columns=())
    else:
        path.write_text(
            dedent(source).replace('"1"', '"22"') if change == "version" else dedent(source) + "# other\n"
        )
        importlib.invalidate_caches()
        del sys.modules[name]
        for each in (_import_metric, sums_of):
            each.cache_clear()
    assert not layout.is_of(contract)
    assert Layout.bare(contract).is_of(contract)


def test_the_configuration_takes_a_path_or_a_table_and_names_what_is_wrong():
    metrics = {"profit": "shop.metrics:profit", "cost": {"path": "cost", "columns": ["age"]}}
    found = ModelSettings(task="binary", label="churned", metrics=metrics).metrics
    assert (found["profit"].path, found["cost"].columns) == ("shop.metrics:profit", ("age",))
    for wrong in ({"profit": "shop metrics"}, {"a b": "shop:profit"}, {"profit": {"columns": []}}):
        with pytest.raises(ValueError, match="metrics"):
            ModelSettings(task="binary", label="churned", metrics=wrong)


def test_a_metric_takes_columns_that_are_there_and_are_logged(module):
    with pytest.raises(ContractError, match="has no column 'price'"):
        contract_with(module, "profit", columns=("price",))
    with pytest.raises(ConfigError, match="a metric of yours takes it"):
        make_redaction(contract_with(module, "profit"), {"age": "drop"}, b"")
