"""What durability costs: rows acknowledged by a spool, rows forwarded to a store, beside what the raw parts can do.

Ceilings, in the same run: for the spool, sqlite3 that commits the very same bytes with `synchronous = FULL`; for
SQLite, `executemany` of tuples that are made already into an identical table; for PostgreSQL, binary COPY of bytes
that are encoded already into an identical table (same indexes; but a row that comes twice is an error).
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa

from benchmarks.lines import Line, median, run
from benchmarks.stores import temporary_store
from feedback_loop.capture import Forwarder, Spool
from feedback_loop.capture.groups import pack
from feedback_loop.clock import system_clock
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract, prediction_id
from feedback_loop.store import Store, arrow
from feedback_loop.store.model_tables import find_tables
from feedback_loop.store.predictions import LOGGED_AT, PredictionLog, prediction_schema

OURS = "feedback_loop"
RAW_SPOOL, RAW_COPY, RAW_MANY = "raw sqlite3, synchronous=FULL", "raw binary COPY", "raw sqlite3 executemany"
FEATURES = 20
THREADS = 16
NOW = datetime(2026, 3, 10, tzinfo=UTC)


def benchmark(quick: bool) -> Iterator[Line]:
    """Rows per second, and bytes per row."""
    runs = 4
    yield from _acknowledged(runs, seconds=0.5 if quick else 3.0)
    for kind in ("sqlite", "postgresql"):
        yield from _forwarded(kind, runs, 20_000 if quick else 200_000)


def _acknowledged(runs: int, seconds: float) -> Iterator[Line]:
    contract = _contract()
    for size, threads in ((1, 1), (1, THREADS), (64, 1), (1000, 1)):
        rows = _rows(contract, size, 0)
        body = bytes(pack(contract.model, 1, rows, 0).body)
        ours, raw = [], []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                raw.append(_raw_spool(Path(folder), body, size, seconds))
            with tempfile.TemporaryDirectory() as folder:
                ours.append(_spool(Path(folder), contract, rows, threads, seconds))
        case = f"acknowledged, groups of {size}, {threads} at once"
        ceiling = median(raw)
        yield Line("log", case, "durable rows", ceiling, "rows/s", RAW_SPOOL + ", one at a time")
        mine = median(ours)
        yield Line("log", case, "durable rows", mine, "rows/s", OURS, RAW_SPOOL, mine / ceiling)
    for size in (1, 64):
        with tempfile.TemporaryDirectory() as folder:
            value = _spool_bytes(Path(folder), contract, _rows(contract, size, 0))
        yield Line("log", f"in the spool, groups of {size}", "size on disk", value, "B/row", OURS)


def _spool_bytes(folder: Path, contract: Contract, rows: pa.Table) -> float:
    """What a row takes while it waits: its share of the file, once the write-ahead log is in it."""
    settings, groups = LogSettings(), 6400 // rows.num_rows
    spool = Spool(folder, CaptureSettings(max_bytes=2**40), lambda _: settings)
    for _ in range(groups):
        spool.append(contract, rows, NOW)
    path = spool.path
    assert path is not None  # it was appended to
    spool.close()
    return path.stat().st_size / float(groups * rows.num_rows)


def _spool(folder: Path, contract: Contract, rows: pa.Table, threads: int, seconds: float) -> float:
    """Rows per second that are durable: each thread appends again once its rows are."""
    settings = LogSettings()  # made once, as a configuration is
    spool = Spool(folder, CaptureSettings(max_bytes=2**40), lambda _: settings)
    counts, stop = [0] * threads, time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < stop:
            counts[number] += spool.append(contract, rows, NOW)

    workers = [threading.Thread(target=work, args=[number]) for number in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    spent = time.perf_counter() - began
    spool.close()
    return sum(counts) / spent


def _raw_spool(folder: Path, body: bytes, rows: int, seconds: float) -> float:
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE groups (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL)")
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        connection.execute("INSERT INTO groups (body) VALUES (?)", (body,))
        count += rows
    spent = time.perf_counter() - began
    connection.close()
    return count / spent


def _forwarded(kind: str, runs: int, count: int) -> Iterator[Line]:
    contract = _contract()
    measured: dict[str, list[float]] = {"ours": [], "raw": []}
    with temporary_store(kind) as store, tempfile.TemporaryDirectory() as folder:
        log = PredictionLog(store)
        for number in range(runs):
            chunks = [_rows(contract, 10_000, number * count + first) for first in range(0, count, 10_000)]
            raw = [_rows(contract, 10_000, (runs + number) * count + first) for first in range(0, count, 10_000)]
            log.append(contract, _rows(contract, 1, -1 - number), NOW)
            works = [
                ("raw", _raw_insert(store, contract, raw)),
                ("ours", _drain(Path(folder) / f"spool{number}", contract, chunks, log, store)),
            ]
            for name, work in works[:: -1 if number % 2 else 1]:  # in turns: the table is larger for the second
                measured[name].append(count / _timed(work))
        size = _bytes(store) / (2 * runs * count)
    ceiling, mine = median(measured["raw"]), median(measured["ours"])
    case, subject = f"forwarded to {kind}, {FEATURES} features", RAW_COPY if kind == "postgresql" else RAW_MANY
    yield Line("log", case, "rows", ceiling, "rows/s", subject)
    yield Line("log", case, "rows", mine, "rows/s", OURS, subject, mine / ceiling)
    yield Line("log", f"in {kind}, indexes included", "size", size, "B/row", OURS)


def _drain(
    folder: Path, contract: Contract, chunks: list[pa.Table], log: PredictionLog, store: Store
) -> Callable[[], None]:
    """What a forwarder does with rows that wait in groups of 64, to the last of them."""
    settings = CaptureSettings(max_bytes=2**40)
    spool = Spool(folder, settings, lambda _: LogSettings())
    for chunk in chunks:
        for first in range(0, chunk.num_rows, 64):
            spool.append(contract, chunk.slice(first, 64), NOW)
    spool.close()
    forwarder = Forwarder(folder, log, store, system_clock, settings)

    def work() -> None:
        assert forwarder.drain().stored == sum(chunk.num_rows for chunk in chunks)

    return work


def _raw_insert(store: Store, contract: Contract, chunks: list[pa.Table]) -> Callable[[], None]:
    """The same rows into the same table by the driver alone, in as many transactions; all is encoded before."""
    with store.read() as connection:
        table = find_tables(connection, contract.model).generations[0].table
    moment = pa.scalar(NOW, pa.timestamp("us", "UTC"))
    stamped = [chunk.append_column(LOGGED_AT, pa.repeat(moment, chunk.num_rows)) for chunk in chunks]
    names = stamped[0].column_names
    if store.is_postgresql:
        return _raw_copy(store, table.name, stamped)
    marks, quoted = ", ".join("?" * len(names)), ", ".join(f'"{name}"' for name in names)
    statement = f"INSERT INTO {table.name} ({quoted}) VALUES ({marks})"  # noqa: S608 (names of ours)
    tuples = [list(zip(*(arrow.plain(chunk.column(name)) for name in names), strict=True)) for chunk in stamped]

    def many() -> None:
        for rows in tuples:
            with store.write() as connection:
                connection.exec_driver_sql(statement, rows)

    return many


def _raw_copy(store: Store, table: str, chunks: list[pa.Table]) -> Callable[[], None]:
    from pgpq import ArrowToPostgresBinaryEncoder

    bodies = []
    for chunk in chunks:
        ids = pa.array([UUID(text).bytes for text in chunk.column("prediction_id").to_pylist()], pa.binary(16))
        chunk = chunk.set_column(0, "prediction_id", ids)  # noqa: PLW2901 (as COPY takes a uuid)
        encoder = ArrowToPostgresBinaryEncoder(chunk.schema)
        parts = [
            encoder.write_header(),
            *(encoder.write_batch(each) for each in chunk.to_batches()),
            encoder.finish(),
        ]
        bodies.append(b"".join(parts))
    names = ", ".join(f'"{name}"' for name in chunks[0].column_names)

    def copy_all() -> None:
        for body in bodies:
            with store.write() as connection:
                driver: Any = connection.connection.driver_connection
                with driver.cursor().copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)") as copy:
                    copy.write(body)

    return copy_all


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _rows(contract: Contract, count: int, first: int) -> pa.Table:
    """Rows of the log of one month: as a batcher hands them over."""
    numbers = np.random.default_rng(first % 2**32)
    moments = [NOW + timedelta(microseconds=int(each)) for each in np.sort(numbers.integers(0, 10**12, count))]
    values: dict[str, object] = {
        "prediction_id": [prediction_id(moment) for moment in moments],
        "predicted_at": moments,
        "model_version": ["7"] * count,
        "role": ["champion"] * count,
        "source": ["online"] * count,
        "request_id": [f"req-{first + row}" for row in range(count)],
        "latency_us": numbers.integers(200, 2000, count),
        "sample_weight": np.ones(count),
        "order": np.arange(first, first + count),
        "prediction": numbers.random(count) > 0.5,
        "probability": numbers.random(count),
    }
    for number in range(FEATURES):
        is_word = number % 4 == 3
        values[f"x{number}"] = numbers.choice(["red", "green", "blue"], count) if is_word else numbers.random(count)
    schema = prediction_schema(contract)
    return pa.table({name: values[name] for name in schema.names}, schema=schema)


def _contract() -> Contract:
    kinds = [ColumnType.STRING if number % 4 == 3 else ColumnType.DOUBLE for number in range(FEATURES)]
    return make_contract(
        model="orders",
        task=Task.BINARY,
        features=tuple(Column(f"x{number}", kind) for number, kind in enumerate(kinds)),
        label="late",
        label_type=ColumnType.BOOLEAN,
        key=("order",),
        key_types={"order": ColumnType.LONG},
        classes=(False, True),
        has_probabilities=True,
    )


def _bytes(store: Store) -> float:
    """What the predictions take in the store, with their indexes."""
    with store.read() as connection:
        if store.is_postgresql:
            size = (
                "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('predictions_orders') WHERE isleaf"
            )
            return float(connection.exec_driver_sql(size).scalar_one())
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return float(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())


if __name__ == "__main__":
    run(benchmark, __doc__)
