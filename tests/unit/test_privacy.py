"""What is logged of a row, and in which form."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.errors import ConfigError
from feedback_loop.monitoring.sampling import row_weights, uniform
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.schema import ColumnType, hashed, make_redaction, prediction_id
from tests.builders import binary_contract, regression_contract
from tests.conftest import NOW

KEY = b"a long random text"


def redaction(key=KEY, contract=None, **modes):
    return make_redaction(contract or binary_contract(), modes, key)


def rows(**columns):
    return pa.table(columns)


def test_a_dropped_feature_is_gone_and_a_hashed_one_is_text():
    found = redaction(age="drop", plan="hash", customer="hash")
    assert [(each.name, each.type) for each in found.logged.features] == [("plan", ColumnType.STRING)]
    assert [(each.name, each.type) for each in found.logged.key] == [
        ("customer", ColumnType.STRING),
        ("month", ColumnType.STRING),
    ]
    assert found.hides_features
    assert found.served == binary_contract()
    assert not redaction(customer="hash").hides_features


def test_rows_are_redacted_once_and_what_is_missing_stays_missing():
    found = redaction(age="drop", plan="hash")
    plain = rows(age=[1.0, 2.0], plan=["pro", None], churned=[True, False])
    once = found.redact(plain)
    assert once.column_names == ["plan", "churned"]
    assert once.column("plan")[1].as_py() is None
    assert len(once.column("plan")[0].as_py()) == 32
    assert found.redact(once).equals(once)


def test_rows_that_were_hashed_with_another_key_are_refused(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(redaction(b"one key", plan="hash").redact(rows(plan=["pro"])), tmp_path / "kept.parquet")
    kept = pq.read_table(tmp_path / "kept.parquet")
    assert redaction(b"one key", plan="hash").redact(kept).equals(kept)
    for other in (redaction(b"another", plan="hash"), redaction()):
        with pytest.raises(ConfigError, match="hashed with another key") as caught:
            other.redact(kept)
        assert "FEEDBACK_LOOP_CAPTURE__HASH_KEY" in caught.value.cure


def test_the_key_and_the_column_are_part_of_a_hash():
    column = replace(binary_contract().column("plan"), type=ColumnType.STRING)
    values = pa.chunked_array([["pro", "pro", "basic"]])
    one = hashed(column, values, KEY).to_pylist()
    assert one[0] == one[1] != one[2]
    assert hashed(column, values, b"another").to_pylist()[0] != one[0]
    assert hashed(replace(column, name="tariff"), values, KEY).to_pylist()[0] != one[0]
    assert hashed(column, values.slice(0, 0), KEY).to_pylist() == []
    assert hashed(column, pa.chunked_array([], pa.string()), KEY).to_pylist() == []


@pytest.mark.parametrize(
    ("modes", "said"),
    [
        ({"custommer": "hash"}, "Did you mean customer?"),
        ({"zzz": "plain"}, "It has age, customer, month, plan"),
        ({"customer": "drop"}, "outcomes find their predictions by the key"),
        ({"plan": "drop"}, "segments are told apart by it"),
        ({"churned": "hash"}, "the label and what the model answers"),
        ({"churned": "drop"}, "the label and what the model answers"),
        ({"probability": "hash"}, "the label and what the model answers"),
    ],
)
def test_what_must_be_logged_is_refused_with_its_setting(modes, said):
    with pytest.raises(ConfigError) as caught:
        redaction(**modes)
    assert said in str(caught.value)
    assert caught.value.key == f"models.churn.log.columns.{next(iter(modes))}"


def test_a_hash_without_a_key_says_how_to_set_one():
    with pytest.raises(ConfigError, match="FEEDBACK_LOOP_CAPTURE__HASH_KEY"):
        redaction(b"", plan="hash")
    assert redaction(b"", plan="plain", age="drop").logged.features == (binary_contract().column("plan"),)


def weighted(weights, count=None):
    random = np.random.default_rng(1)
    count = count or len(weights)
    chance = random.random(count)
    return pa.table(
        {
            "prediction_id": [prediction_id(NOW) for _ in range(count)],
            "sample_weight": np.asarray(weights, dtype=float),
            "churned": random.random(count) < chance,
            "prediction": chance > 0.5,
            "probability": chance,
            "plan": random.choice(["basic", "pro"], count),
        }
    )


@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_equal_weights_give_to_the_bit_what_no_weights_give(weight):
    table = weighted(np.full(500, weight))
    bare = table.drop_columns(["sample_weight"])
    assert validation_metrics(binary_contract(), table) == validation_metrics(binary_contract(), bare)
    assert uniform(table) is table


def test_a_weight_counts_like_so_many_rows():
    weights = np.random.default_rng(3).integers(1, 5, 400)
    table = weighted(weights)
    repeated = table.take(np.repeat(np.arange(400), weights)).drop_columns(["sample_weight"])
    found = {(m.metric, m.segment): m.value for m in validation_metrics(binary_contract(), table)}
    assert found == pytest.approx(
        {(m.metric, m.segment): m.value for m in validation_metrics(binary_contract(), repeated)}, rel=1e-12
    )
    assert {m.rows for m in validation_metrics(binary_contract(), table) if not m.segment} == {400}


def test_a_weight_counts_like_so_many_rows_for_numbers_too():
    random = np.random.default_rng(5)
    weights = random.integers(1, 4, 200)
    truth = random.normal(size=200)
    table = pa.table(
        {"paid": truth, "prediction": truth + random.normal(size=200), "sample_weight": weights.astype(float)}
    )
    repeated = table.take(np.repeat(np.arange(200), weights)).drop_columns(["sample_weight"])
    found = {m.metric: m.value for m in validation_metrics(regression_contract(), table)}
    assert found == pytest.approx({m.metric: m.value for m in validation_metrics(regression_contract(), repeated)})


def test_the_error_of_a_weighted_mean_is_what_repetition_shows():
    random = np.random.default_rng(8)
    weights, found = np.repeat([1.0, 10.0], [300, 60]), []
    for _ in range(400):
        values = np.concatenate([random.normal(1, 1, 300), random.normal(3, 1, 60)])
        table = pa.table({"paid": np.abs(values), "prediction": np.zeros(360), "sample_weight": weights})
        found += [each for each in validation_metrics(regression_contract(), table) if each.metric == "mae"]
    means, errors = [each.value for each in found], [each.standard_error for each in found]
    # The strata are fixed here, which the formula does not know: it is on the safe side, by the gap between them.
    assert np.std(means) < np.mean(errors) < 2 * np.std(means)


def test_thinned_rows_stand_for_as_many_each_and_are_the_same_whenever_asked():
    table = weighted(np.concatenate([np.full(4000, 1.0), np.full(400, 10.0)]))
    thinned = uniform(table)
    assert row_weights(thinned) is None
    assert 300 < thinned.num_rows - 400 < 500  # a tenth of the 4,000, and all of the 400
    assert set(thinned.column("sample_weight").to_pylist()) == {10.0}
    assert uniform(table).equals(thinned)
