"""Redaction: which columns of a row are logged, and in which form."""

from dataclasses import replace

import pyarrow as pa
import pytest

from feedback_loop.errors import ConfigError
from feedback_loop.schema import ColumnType, hashed, make_redaction
from tests.builders import binary_contract

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
