"""Rows that go the short way, as plain values, are scored and logged as those that go by a table."""

import math
from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.capture import Recorder, Spool
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.inference import Scored, Scorer
from feedback_loop.inference.onnx import Layout
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Column, ColumnType, Role, Source, Task, make_contract, make_redaction
from feedback_loop.schema.protocol import Rows, rows_table
from tests.streams import examples

T = ColumnType
FEATURES = (
    Column("d", T.DOUBLE),
    Column("f", T.FLOAT),
    Column("i", T.INTEGER, required=False),
    Column("l", T.LONG, required=False),
    Column("b", T.BOOLEAN, required=False),
    Column("s", T.STRING),
    Column("t", T.DATETIME, required=False),
)
CONTRACT = make_contract(
    model="any",
    task=Task.BINARY,
    features=FEATURES,
    label="y",
    label_type=T.BOOLEAN,
    key=("order", "l"),
    key_types={"order": T.STRING},
    classes=(False, True),
    has_probabilities=True,
)
NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
missing = st.none() | st.just(math.nan)
values = st.fixed_dictionaries(
    {
        "d": st.floats() | missing,
        "f": st.floats(allow_nan=False) | missing,
        "i": st.integers(-(2**31), 2**31 - 1) | st.none(),
        "l": st.integers(-(2**63), 2**63 - 1) | st.none(),
        "b": st.booleans() | st.none(),
        "s": texts | missing,
        "t": st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)) | st.none(),  # noqa: DTZ001
        "order": texts | st.none(),
    }
)
parts = st.lists(values, min_size=1, max_size=5)


def as_rows(records):
    return Rows(len(records), {name: [each[name] for each in records] for name in records[0]}, [None] * len(records))


@examples(30)
@given(parts)
def test_a_model_is_fed_the_same_by_rows_and_by_a_table(records):
    rows = as_rows(records)
    layout = Layout(("d", "f", "i", "l", "b"), ("s",), ("s",))
    by_table, by_rows = layout.feed(rows_table(CONTRACT, rows)), layout.feed_rows(rows, single=[1])
    assert by_table.keys() == by_rows.keys()
    for name, array in by_table.items():
        np.testing.assert_array_equal(array, by_rows[name])
        assert array.dtype == by_rows[name].dtype
        assert by_rows[name].flags["C_CONTIGUOUS"]


def ids_of(count):
    """Of one request, or of two with rows each."""
    return [("r", count)] if count < 2 else [("r", 1), (None, count - 1)]


@examples(30)
@given(st.lists(parts, min_size=1, max_size=4), st.booleans(), st.booleans(), st.booleans())
def test_the_log_is_the_same_by_values_and_by_a_table(
    tmp_path_factory, groups, has_request_ids, has_latencies, is_adapted
):
    version = ModelVersion("any", "7", None, NOW, (), {})
    scorer = Scorer(version, CONTRACT, None, make_redaction(CONTRACT, {}, b""))
    tables = []
    for turn in range(2):
        spool = Spool(tmp_path_factory.mktemp("spool"), CaptureSettings(), lambda _: LogSettings())
        recorder = Recorder(spool, lambda bits: bits)
        for records in groups:
            rows, count = as_rows(records), len(records)
            columns = [np.arange(count) % 2 == 0, np.linspace(0.0, 1.0, count)]
            more = {"raw": [~columns[0], columns[1] / 2], "revision": 7} if is_adapted else {}
            scored = Scored(CONTRACT, [], columns, **more)
            recorder.record(
                scorer,
                rows if turn else rows_table(CONTRACT, rows),
                scored,
                recorder.fill(rows.ids, NOW),
                NOW,
                role=Role.CANARY,
                source=Source.ONLINE,
                requests=ids_of(count) if has_request_ids else None,
                latency_us=list(range(count)) if has_latencies else None,
            )
        with SpoolFile.open(spool.path) as file:
            waiting = list(file.read(file.last(), 10**6))
            assert all((group.size == 0) == bool(turn) for group in waiting)
            file.load_contracts(group.contract for group in waiting)
            tables.append(file.unpack(waiting)[1].combine_chunks())
        spool.close()
    by_table, by_values = tables
    assert by_values.schema == by_table.schema
    assert ("adapter_revision" in by_values.column_names) is is_adapted
    for name in by_table.column_names:  # NaN where the model was given NaN is missing in both
        assert by_values.column(name).to_pylist() == by_table.column(name).to_pylist(), name
