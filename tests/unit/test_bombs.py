"""Bodies that are small only while they are packed: refused in every format, before they take any memory."""

import io
import json
import struct
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_loop.capture.payloads import read_answer, read_request
from feedback_loop.config import Settings
from feedback_loop.errors import BadInput, TooLarge
from feedback_loop.outcomes import OutcomeFile, decode_body
from feedback_loop.schema.budget import USUAL, Budget
from feedback_loop.schema.protocol import WireError, make_decoder, oip
from feedback_loop.serving.http_errors import HttpError
from feedback_loop.serving.request import Request
from feedback_loop.serving.room import Room
from feedback_loop.serving.worker_process import _take_reports
from tests.bombs import (
    ARROW,
    FILES,
    JSON,
    LONG_FILES,
    MIB,
    PARQUET,
    PART_BYTES,
    REFUSED_FILES,
    TEXTS,
    packed,
    stream,
)
from tests.builders import binary_contract

CONTRACT = binary_contract()
FEW = Budget(rows=1_000, unpacked_bytes=2**20)
DECODER, SMALL = make_decoder(CONTRACT, None), make_decoder(CONTRACT, None, FEW)
WANTED = {"customer", "month", "churned"}


def lying(body, size=100):
    """The same file, whose footer says that its columns are small."""
    about = pq.read_metadata(io.BytesIO(body))
    for place in range(about.num_columns):
        true = about.row_group(0).column(place).total_uncompressed_size
        body = body.replace(varint(true), varint(size, len(varint(true))))
    total = varint(about.row_group(0).total_byte_size)
    assert total in body
    body = body.replace(total, varint(size, len(total)))
    assert pq.read_metadata(io.BytesIO(body)).row_group(0).total_byte_size == size
    return body


def varint(number, width=0):
    number, found = number * 2, b""
    while number > 127 or len(found) + 1 < width:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


@pytest.mark.parametrize("name", ARROW)
def test_outcomes_in_arrow_are_measured_before_they_are_unpacked(name):
    body, before = ARROW[name](), pa.total_allocated_bytes()
    with pytest.raises(TooLarge):
        decode_body(body, "arrow", USUAL, WANTED)
    assert pa.total_allocated_bytes() - before < MIB


def test_outcomes_take_room_for_what_they_become_before_any_is_looked_at():
    """A few hundred bytes of Arrow are 100,000 rows; another request has half of the room by then."""
    body, room = stream(pa.table({"customer": pa.nulls(100_000)})), Room(8 * MIB)
    request = Request(SimpleNamespace(path="/", headers={}))
    settings = Settings(models={"churn": {"task": "binary", "label": "churned"}})
    served = SimpleNamespace(champion=lambda _: "1", contract=lambda *_: CONTRACT)
    with room.share() as other, room.share() as request.share:
        other.grow(4 * MIB)
        request.came(len(body))
        posted = ("outcomes", "churn", body, "arrow", "refuse", None)
        with pytest.raises(HttpError) as refused:
            _take_reports(None, settings, served, USUAL, *posted, request.unpacked)
    assert refused.value.status == 503


def test_a_list_of_outcomes_in_arrow_is_no_column():
    with pytest.raises(BadInput, match="month: is list"):
        decode_body(stream(pa.table({"month": [[1] * 1000]})), "arrow", USUAL, WANTED)


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_what_is_within_the_budget_is_read_as_it_is(new, compression):
    columns = {
        "customer": [1, None],
        "month": pa.array(["a", None]).dictionary_encode(),
        "prediction_id": pa.array(["x" * 36, "y"], pa.string_view()),
        "churned": [True, False],
    }
    body = stream(pa.table(columns | {"junk": [[1], [2]]}), compression, new)
    assert decode_body(body, "arrow", USUAL, set(columns)).equals(pa.table(columns))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("lies", [False, True])
def test_parquet_is_measured_by_its_pages_whatever_its_footer_says(name, lies):
    body = lying(FILES[name]()) if lies else FILES[name]()
    before = pa.total_allocated_bytes()
    for read in (lambda: DECODER.decode(body, PARQUET, {}.get), lambda: read_request(body, CONTRACT, PARQUET)):
        with pytest.raises(TooLarge):
            read()
    assert pa.total_allocated_bytes() - before < MIB


def test_encodings_that_repeat_a_long_text_are_not_taken():
    body = packed({"age": [1.0], "plan": ["x"]}, use_dictionary=False, column_encoding={"plan": "DELTA_BYTE_ARRAY"})
    with pytest.raises(WireError, match="DELTA_BYTE_ARRAY"):
        DECODER.decode(body, PARQUET, {}.get)


FLAT = {"age": [1.0], "plan": ["x"]}


def test_what_would_end_the_process_once_arrow_is_asked_for_a_column_is_refused(tmp_path):
    optional, required = (bytes([0x25, kind]) + b"\x18\x03age" for kind in (2, 0))
    body = packed(FLAT).replace(optional, required)  # its statistics are still those of an optional column
    assert body != packed(FLAT)
    (tmp_path / "in.parquet").write_bytes(body)
    with pytest.raises(WireError, match="the statistics of 'age'"):
        DECODER.decode(body, PARQUET, {}.get)
    with pytest.raises(BadInput, match=r"in\.parquet can't be read"):
        list(parts(tmp_path / "in.parquet"))


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_a_batch_of_arrow_that_says_it_is_longer_than_it_is_is_refused(new, tmp_path):
    body = stream(pa.table({"month": ["a", "b", "c"]}), new=new)
    longer = body.replace(struct.pack("<q", 3), struct.pack("<q", 90_000))
    assert longer != body
    (tmp_path / "in.arrow").write_bytes(longer)
    with pytest.raises(BadInput, match="is no arrow"):
        decode_body(longer, "arrow", USUAL, WANTED)
    with pytest.raises(BadInput, match=r"in\.arrow can't be read"):
        list(parts(tmp_path / "in.arrow"))


def test_a_schema_of_arrow_that_is_no_base64_is_refused(tmp_path):
    body = packed(FLAT)
    place = body.index(b"ARROW:schema") + 40
    (tmp_path / "in.parquet").write_bytes(body[:place] + b"!" + body[place + 1 :])
    with pytest.raises(BadInput, match=r"in\.parquet can't be read"):
        list(parts(tmp_path / "in.parquet"))


def test_a_footer_that_is_long_is_not_read():
    body = packed({"age": [1.0], "plan": ["x"]} | {f"c{n}": [1] for n in range(4000)})
    with pytest.raises(TooLarge, match="a footer of"):
        DECODER.decode(body, PARQUET, {}.get)


@pytest.mark.parametrize("name", TEXTS)
def test_rows_of_text_are_counted_while_they_are_read(name):
    kind, text = TEXTS[name]()
    body = text.encode()
    with pytest.raises(TooLarge):
        SMALL.decode(body, kind, {}.get)
    with pytest.raises(BadInput):
        read_request(body, CONTRACT, kind, FEW)


@pytest.mark.parametrize("kind", ["json", "ndjson"])
def test_outcomes_in_json_are_counted(kind):
    rows = [{"customer": 1, "churned": True}] * 1_001
    text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
    with pytest.raises(TooLarge):
        decode_body(text.encode(), kind, FEW, WANTED)


def infer(**tensor):
    spec = {"name": "age", "datatype": "FP64", "shape": [1], "data": [1.0], **tensor}
    return json.dumps({"inputs": [spec, {"name": "plan", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}).encode()


def test_tensors_are_counted():
    with pytest.raises(TooLarge):
        oip.decode_infer(SMALL, infer(shape=[1_001], data=[1.0] * 1_001), {}.get)
    with pytest.raises(WireError, match="200 dimensions"):
        oip.decode_infer(DECODER, infer(shape=[2**62] * 200), {}.get)
    body = json.loads(infer()) | {"outputs": [{"name": "prediction"}] * 2}
    with pytest.raises(WireError, match="twice"):
        oip.decode_infer(DECODER, json.dumps(body).encode(), {}.get)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1_001, 2], "data": [[1, 2]] * 1_001}]},
        {"inputs": [{"name": "input", "datatype": "FP64", "shape": [10**9, 0], "data": []}]},
    ],
)
def test_payloads_of_others_are_counted(body):
    text = json.dumps(body)
    with pytest.raises(TooLarge):
        read_request(text.encode(), CONTRACT, JSON, FEW)
    with pytest.raises(TooLarge):
        read_answer(text.replace("inputs", "outputs").encode(), CONTRACT, FEW)


POOLS = []
"""They outlive what was taken from them, whoever still holds it."""


@contextmanager
def no_more_than(size):
    """Holds what is taken at a time, by Arrow and by Python, to so many bytes."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield
        most = pool.max_memory() + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert most < size


def parts(path, chunk_rows=50_000):
    return OutcomeFile.of(path).parts(None, chunk_rows, Budget(2**62, PART_BYTES))


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_a_part_of_a_file_that_would_be_large_is_refused_before_it_is_read(name, tmp_path):
    (tmp_path / name).write_bytes(REFUSED_FILES[name]())
    with no_more_than(5 * PART_BYTES), pytest.raises(TooLarge, match=f"{name} holds"):
        list(parts(tmp_path / name))


@pytest.mark.parametrize("name", LONG_FILES)
def test_a_long_file_is_read_in_parts_as_small_as_its_rows_are_long(name, tmp_path):
    rows, make = LONG_FILES[name]
    (tmp_path / name).write_bytes(make())
    with no_more_than(8 * PART_BYTES):
        assert sum(len(part) for part, _ in parts(tmp_path / name)) == rows
