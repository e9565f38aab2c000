"""Bodies that are small only while they are packed, by what is in them; made when they are asked for."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MIB = 2**20


def stream(table, compression=None, new=pa.ipc.new_stream):
    sink = io.BytesIO()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def packed(columns, **options):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def views(times):
    """One long text, seen so many times."""
    long = pa.array(["x" * MIB], pa.string_view())
    _, seen, *texts = long.buffers()
    seen = pa.py_buffer(seen.to_pybytes()[:16] * times)
    return pa.Array.from_buffers(pa.string_view(), times, [None, seen, *texts])


def one_text(times):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, np.int32)), pa.array(["x" * MIB]))


ARROW = {
    "nulls": lambda: stream(pa.table({"customer": pa.nulls(10**8), "churned": pa.nulls(10**8)})),
    "nulls in a file": lambda: stream(pa.table({"customer": pa.nulls(10**8)}), new=pa.ipc.new_file),
    "zeros that are packed": lambda: stream(pa.table({"month": [b"\0" * 70 * MIB]}), "zstd"),
    "zeros in a column of nobody": lambda: stream(pa.table({"junk": [b"\0" * 70 * MIB]}), "lz4"),
    "a text by its number": lambda: stream(pa.table({"month": one_text(50_000)})),
    "a text by views": lambda: stream(pa.table({"month": views(50_000)})),
    "many fields": lambda: stream(pa.table([[1]] * 20_000, names=["x"] * 20_000)),
}

FILES = {
    "many rows": lambda: packed({"age": np.zeros(2_000_000), "plan": pa.nulls(2_000_000, pa.string())}),
    "long texts": lambda: packed(
        {"age": np.zeros(100), "plan": [f"{n}{'x' * MIB}" for n in range(100)]}, compression="zstd"
    ),
    "one text, often": lambda: packed({"age": np.zeros(5_000), "plan": one_text(5_000)}),
}

RECORD = {"age": 1.0, "plan": "a"}
TEXTS = {
    "rows of JSON": lambda: (JSON, json.dumps({"dataframe_records": [RECORD] * 1_001})),
    "odd rows of JSON": lambda: (JSON, json.dumps({"dataframe_records": [{**RECORD, "age": "1"}] * 1_001})),
    "objects": lambda: (JSON, '{"instances": [' + "{}," * 1_100_000 + "{}]}"),
    "columns": lambda: (JSON, json.dumps({"inputs": {"age": [1] * 1_001, "plan": ["a"] * 1_001}})),
    "names": lambda: (JSON, json.dumps({"dataframe_records": [{f"n{n}": 0} for n in range(1_000)]})),
    "widths": lambda: (JSON, json.dumps({"dataframe_split": {"data": [[0] * 900] + [[]] * 900}})),
    "rows of CSV": lambda: (CSV, "age,plan\n" + "1,a\n" * 1_001),
    "columns of CSV": lambda: (CSV, "a" + "," * 200_000 + "\n1"),
    "gaps of CSV": lambda: (CSV, ",".join(f"c{n}" for n in range(900)) + "\n" + "1\n" * 900),
}


def in_pages(texts, **options):
    """A page for each text."""
    return packed({"plan": texts}, data_page_size=1, write_batch_size=1, compression="zstd", **options)


PART_BYTES = 2**20
"""What of each of these files may be in memory at a time."""

REFUSED_FILES = {
    "a page that is packed.parquet": lambda: packed({"plan": ["x" * 4 * MIB]}, compression="zstd"),
    "long texts of a category.parquet": lambda: in_pages(
        pa.array([f"{n}{'x' * 200_000}" for n in range(20)]).dictionary_encode(), use_dictionary=False
    ),
    "a footer.parquet": lambda: packed({f"{n}{'x' * 100}": [1] for n in range(1_500)}),
    "a batch that is packed.arrow": lambda: stream(pa.table({"plan": ["x" * 4 * MIB]}), "zstd"),
    "a line.csv": lambda: b"age,plan\n1," + b"x" * 4 * MIB + b"\n",
    "a quote that is left open.csv": lambda: b'age,plan\n1,"' + b"xxxxxxx\n" * 2**18,
    "a row of commas.csv": lambda: b"age,plan\n" + b"," * 4 * MIB,
    "a line.ndjson": lambda: b'{"plan": "' + b"x" * 4 * MIB + b'"}\n',
}

LONG_FILES = {
    "nulls.parquet": (200_000, lambda: packed({"plan": pa.nulls(200_000, pa.string())})),
    "a page for each text.parquet": (
        60,
        lambda: in_pages([f"{n}{'x' * 200_000}" for n in range(60)], use_dictionary=False),
    ),
    "texts that repeat what was before.parquet": (
        300,
        lambda: packed(
            {"plan": [f"{'x' * 100_000}{n}" for n in range(300)]},
            use_dictionary=False,
            column_encoding={"plan": "DELTA_BYTE_ARRAY"},
        ),
    ),
    "texts of a category.parquet": (
        300,
        lambda: packed({"plan": pa.array(["x" * 200_000] * 300).dictionary_encode()}),
    ),
    "texts of a list.parquet": (300, lambda: packed({"plan": [["x" * 200_000]] * 300})),
    "one text, often.parquet": (
        300,
        lambda: packed({"plan": pa.array(["x" * 200_000] * 300)}),
    ),
    "one text, often.arrow": (
        300,
        lambda: stream(pa.table({"plan": pa.array(["x" * 200_000] * 300).dictionary_encode()})),
    ),
    "short rows.csv": (30_000, lambda: b"age,plan\n" + b"1,a\n" * 30_000),
    "short rows.ndjson": (10_000, lambda: b'{"plan": 1}\n' * 10_000),
}
"""How many rows are in each, none of which is too long."""
