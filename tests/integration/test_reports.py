"""Evidently's reports, of every task and on nasty data."""

import json

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.errors import BadInput
from feedback_loop.monitoring import reports
from feedback_loop.monitoring.reports import write_report
from tests.builders import binary_contract, multiclass_contract, regression_contract

RANDOM = np.random.default_rng(0)


def binary(count, shift=0.0):
    chance = RANDOM.random(count)
    return pa.table(
        {
            "age": RANDOM.normal(40 + shift, 5, count),
            "plan": RANDOM.choice(["basic", "pro"], count),
            "prediction": chance > 0.5,
            "probability": chance,
            "churned": RANDOM.random(count) < chance,
        }
    )


def multiclass(count):
    chance = RANDOM.dirichlet([1, 1, 1], count)
    names = np.array(list("abc"))
    columns = {f"probability_{name}": chance[:, place] for place, name in enumerate("abc")}
    return pa.table(
        {
            "x": RANDOM.normal(size=count),
            "prediction": names[chance.argmax(axis=1)],
            "kind": RANDOM.choice(names, count),
            **columns,
        }
    )


def regression(count):
    truth = RANDOM.normal(size=count)
    return pa.table({"x": truth, "prediction": truth + RANDOM.normal(size=count) / 10, "paid": truth})


@pytest.mark.parametrize(
    ("contract", "rows"),
    [
        (binary_contract(), binary),
        (binary_contract(probabilities=False), binary),
        (multiclass_contract(), multiclass),
        (regression_contract(), regression),
    ],
)
@pytest.mark.parametrize("kind", ["drift", "validation"])
def test_every_task_has_its_reports_as_page_and_as_data(tmp_path, contract, rows, kind):
    page, data = write_report(kind, contract, rows(300), rows(200), tmp_path / "reports", "2026-03")
    assert (page.name, data.name) == (f"2026-03-{kind}.html", f"2026-03-{kind}.json")
    text = page.read_text()
    assert "<script" in text
    assert page.stat().st_size < 6 * 2**20
    metrics = json.loads(data.read_text())["metrics"]
    assert metrics


def test_a_report_of_drift_says_which_column_drifted(tmp_path):
    _, data = write_report("drift", binary_contract(), binary(2000), binary(2000, shift=10), tmp_path, "x")
    found = {m["metric_name"]: m["value"] for m in json.loads(data.read_text())["metrics"]}
    age = next(value for name, value in found.items() if "column=age" in name)
    assert age > 0.1


def test_the_accuracy_in_the_report_is_that_of_the_rows(tmp_path):
    current = binary(500)
    _, data = write_report("validation", binary_contract(), binary(500), current, tmp_path, "x")
    found = {m["metric_name"]: m["value"] for m in json.loads(data.read_text())["metrics"]}
    accuracy = next(value for name, value in found.items() if name.startswith("Accuracy("))
    truth, answer = current.column("churned").to_numpy(), current.column("prediction").to_numpy()
    assert accuracy == pytest.approx((truth == answer).mean())


def test_missing_values_constants_and_new_words_do_not_break_a_report(tmp_path):
    nasty = binary(300).to_pydict()
    nasty["age"] = [None] * 150 + [1.0] * 150
    nasty["plan"] = ["new"] * 299 + [None]
    nasty["churned"] = [None] * 100 + [True] * 100 + [False] * 100
    rows = pa.table(nasty)
    for kind in ("drift", "validation"):
        write_report(kind, binary_contract(), binary(300), rows, tmp_path, "nasty")


@pytest.mark.parametrize("kind", ["drift", "validation"])
def test_too_few_rows_are_refused_with_their_number(tmp_path, kind):
    with pytest.raises(BadInput, match="9 rows are too few"):
        write_report(kind, binary_contract(), binary(300), binary(9), tmp_path, "x")
    unlabelled = binary(50).set_column(4, "churned", pa.nulls(50, pa.bool_()))
    if kind == "validation":
        with pytest.raises(BadInput, match="0 rows are too few"):
            write_report(kind, binary_contract(), binary(300), unlabelled, tmp_path, "x")


def test_many_rows_are_sampled_and_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "MOST_ROWS", 100)
    assert reports._sampled(binary(1000), 0).num_rows == 100
    assert reports._sampled(binary(1000), 0).num_rows == 100
    one, other = (reports._sampled(pa.table({"x": range(1000)}), 3) for _ in range(2))
    assert one.equals(other)
    page, _ = write_report("drift", binary_contract(), binary(300), binary(300), tmp_path, "x")
    assert "300 rows against a reference of 300. Shown is a random sample of at most 100 rows" in page.read_text()
