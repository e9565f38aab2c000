"""Predictions brought from elsewhere in bulk: a file or a query of what was answered, straight to the store."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feedback_loop.capture.external import (
    LATENCY,
    OWN,
    PREDICTED_AT,
    REQUEST_ID,
    Deployed,
    Deployments,
    external_rows,
)
from feedback_loop.capture.outputs import read_outputs
from feedback_loop.errors import BadInput, NotFound, RowError
from feedback_loop.inference import ID_COLUMN, input_rows
from feedback_loop.progress import Progress
from feedback_loop.schema import (
    PREDICTION_ID,
    Column,
    ColumnType,
    Contract,
    PredictionId,
    derived_bits,
    prediction_id,
    with_booleans,
)
from feedback_loop.schema.files.reader import check_file, count_rows, is_csv, read_chunks
from feedback_loop.store.predictions import PredictionLog

CHUNK_ROWS = 10_000
MOST_PROBLEMS = 100
VERSION = Column("model_version", ColumnType.STRING, required=False)

OnError = Literal["refuse", "skip"]
"""What a bad row does: all rows are refused, or it is left out and reported."""


@dataclass(frozen=True)
class ImportResult:
    """What became of the rows: `rows = logged + known + erased + unsampled + skipped`.

    `known` were there before (or twice), `erased` are of before their key was erased, `unsampled` are not in the
    sample that is logged.
    """

    rows: int
    logged: int
    known: int
    erased: int
    unsampled: int
    skipped: int
    versions: tuple[str, ...]
    problems: tuple[RowError, ...] = ()  # of the rows that were left out, the first 100


@dataclass
class _Staged:
    """Checked rows, version by version in files, until all of them are known to be good."""

    folder: Path
    rows: int = 0
    bad_rows: int = 0
    problems: list[RowError] = field(default_factory=list)
    deployed: dict[str, Deployed] = field(default_factory=dict)

    def path(self, version: str) -> Path:
        return self.folder / f"{list(self.deployed).index(version)}.parquet"

    def refuse(self, problems: Iterable[RowError]) -> None:
        for problem in problems:
            self.bad_rows += 1
            if len(self.problems) < MOST_PROBLEMS:
                self.problems.append(problem)


@dataclass
class _Counting:
    """The log as a sink that counts what it left out."""

    log: PredictionLog
    erased: int = 0
    unsampled: int = 0

    def append(self, contract: Contract, rows: pa.Table, now: datetime) -> int:
        done = self.log.append_counted(contract, rows, now)
        self.erased += done.erased
        return done.new


def read_file(source: Path) -> tuple[Generator[pa.Table], int | None, bool]:
    """A Parquet or CSV file's rows in chunks, how many there are (CSV does not say), and whether they are text."""
    check_file(source)
    return read_chunks(source, CHUNK_ROWS), count_rows(source), is_csv(source)


def import_predictions(
    chunks: Iterator[pa.Table],
    model: str,
    deployments: Deployments,
    log: PredictionLog,
    *,
    now: datetime,
    progress: Progress,
    total: int | None = None,
    version: str | None = None,
    on_error: OnError = "refuse",
    text: bool = False,
) -> ImportResult:
    """Logs what a table holds: features, key, `prediction` and/or probabilities, `predicted_at`.

    `prediction_id`, `model_version`, `request_id` and `latency_us` are taken where they are there. A row without a
    version is of `version` (default: the one that the model's alias means). A row without an id gets one made of its
    version, time and key (without a key: of all that it holds), so that a second run changes nothing. Only rows with
    an id of their own may lack a column of the key.

    Rows are checked, all of them, before the first is stored; until then they lie in a temporary folder, and memory
    is bounded whatever their number. Raises BadInput, with row numbers, NotFound and Unavailable: run again after it.
    """
    default = deployments.find(model, version)
    with tempfile.TemporaryDirectory(prefix="feedback-loop-import-") as folder:
        staged = _Staged(Path(folder))
        with progress.track(f"check predictions of {model}", total) as advance, ExitStack() as open_files:
            writers: dict[str, pq.ParquetWriter] = {}
            for chunk in chunks:
                for deployed, rows in _checked(chunk, default, deployments, staged, now, text=text):
                    if deployed.version not in writers:
                        staged.deployed[deployed.version] = deployed
                        writer = pq.ParquetWriter(staged.path(deployed.version), rows.schema)
                        writers[deployed.version] = open_files.enter_context(writer)
                    writers[deployed.version].write_table(rows)
                staged.rows += chunk.num_rows
                advance(chunk.num_rows)
        if staged.problems and on_error == "refuse":
            cure = "Nothing was stored. Mend the rows, or have them left out: --on-error skip."
            raise BadInput(staged.problems, cure=cure, total=staged.bad_rows)
        counting = _Counting(log)
        logged = _store(staged, counting, now, progress, f"import predictions of {model}")
    return ImportResult(
        rows=staged.rows,
        logged=logged,
        known=staged.rows - staged.bad_rows - logged - counting.erased - counting.unsampled,
        erased=counting.erased,
        unsampled=counting.unsampled,
        skipped=staged.bad_rows,
        versions=tuple(sorted(staged.deployed)),
        problems=tuple(staged.problems),
    )


def _store(staged: _Staged, sink: _Counting, now: datetime, progress: Progress, description: str) -> int:
    logged = 0
    with progress.track(description, staged.rows - staged.bad_rows) as advance:
        for version, deployed in staged.deployed.items():
            with pq.ParquetFile(staged.path(version)) as file:
                for batch in file.iter_batches(batch_size=CHUNK_ROWS):
                    recorded = deployed.log(sink, pa.Table.from_batches([batch]), now)
                    logged += recorded.new
                    sink.unsampled += recorded.unsampled
                    advance(batch.num_rows)
    return logged


def _checked(
    chunk: pa.Table, default: Deployed, deployments: Deployments, staged: _Staged, now: datetime, *, text: bool
) -> Iterator[tuple[Deployed, pa.Table]]:
    """The chunk's good rows as rows of the log, by version; what is wrong with the others goes to `staged`."""
    numbers = pa.array(range(staged.rows, staged.rows + chunk.num_rows), pa.int64())
    versions = _versions(chunk, default.contract.own(VERSION.name))
    for version in pc.unique(versions).to_pylist():
        own = pc.is_null(versions) if version is None else pc.fill_null(pc.equal(versions, version), False)
        rows, places = chunk.filter(own), numbers.filter(own)
        try:
            deployed = default if version is None else deployments.find(default.contract.model, version)
        except NotFound as error:
            staged.refuse(RowError(row, VERSION.name, error.cause) for row in places.to_pylist())
            continue
        yield deployed, _good(rows, places, deployed, staged, now, text=text)


def _versions(chunk: pa.Table, name: str) -> pa.Array:
    if name not in chunk.column_names:
        return pa.nulls(chunk.num_rows, pa.string())
    texts = [str(value).strip() if value is not None else "" for value in chunk.column(name).to_pylist()]
    return pa.array([text or None for text in texts], pa.string())


def _good(
    rows: pa.Table, places: pa.Array, deployed: Deployed, staged: _Staged, now: datetime, *, text: bool
) -> pa.Table:
    """Those of the rows that fit, after leaving out the others: an error names a hundred at the most."""
    while True:
        try:
            return _rows(rows, deployed, now, text=text)
        except BadInput as error:
            first: dict[int, RowError] = {}
            for problem in error.problems:
                if problem.row < 0:  # a column is missing: no row can be good
                    raise
                number = places[problem.row].as_py()
                first.setdefault(problem.row, RowError(number, problem.field, problem.cause))
            staged.refuse(first[row] for row in sorted(first))
            good = pa.array([row not in first for row in range(rows.num_rows)], pa.bool_())
            rows, places = rows.filter(good), places.filter(good)


def _rows(table: pa.Table, deployed: Deployed, now: datetime, *, text: bool) -> pa.Table:
    contract = deployed.contract
    _refuse_keyless(table, contract)
    table = with_booleans(table, (*contract.features, *contract.key, *contract.outputs))
    own = (replace(PREDICTED_AT, required=True), REQUEST_ID, LATENCY)
    inputs = input_rows(contract, table, own, text=text)
    timeless = [
        row for row, value in enumerate(inputs.column(contract.own(PREDICTED_AT.name)).to_pylist()) if value is None
    ]
    if timeless:
        raise BadInput([RowError(row, PREDICTED_AT.name, "is missing") for row in timeless])
    outputs = read_outputs(contract, table, text=text)
    contents = _contents(inputs, outputs, contract)

    def make_id(row: int, moment: datetime) -> PredictionId:
        seed = msgspec.json.encode([deployed.version, moment, *contents[row]]).decode()
        return prediction_id(moment, derived_bits(seed))

    return external_rows(deployed, inputs, outputs, now, make_id=make_id)


def _refuse_keyless(table: pa.Table, contract: Contract) -> None:
    """A prediction that nobody's outcome can find is no row of the log."""
    missing = [column.name for column in contract.key if column.name not in table.column_names]
    if not missing:
        return
    name = contract.own(PREDICTION_ID)
    ids = table.column(name).to_pylist() if name in table.column_names else []
    if any(ids):
        cause = "is missing, and the row has no prediction_id by which its outcome could find it"
        problems = [RowError(row, missing[0], cause) for row, given in enumerate(ids) if not given]
        if problems:
            raise BadInput(problems)
        return
    expected = {column.name for column in (*contract.features, *contract.key, *contract.outputs)}
    expected |= {contract.own(column.name) for column in (ID_COLUMN, VERSION, *OWN)}
    others = [name for name in table.column_names if name not in expected]
    nearest = [
        (name, close) for name in missing for close in difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    ]
    meant = ", ".join(f"is {close} meant to be {name}?" for name, close in nearest)
    given = f"{meant[:1].upper()}{meant[1:]}" if meant else f"There is {', '.join(table.column_names)}."
    raise BadInput(
        [RowError(-1, name, "is missing: outcomes find their predictions by the key") for name in missing],
        cure=f"{given} Give the key's columns, or prediction_id.",
    )


def _contents(inputs: pa.Table, outputs: pa.Table, contract: Contract) -> list[tuple[object, ...]]:
    """What tells one row from another at the same moment: its key, or (where it has none) all that it holds."""
    keys = [inputs.column(column.name).to_pylist() for column in contract.key]
    columns = [inputs.column(column.name).to_pylist() for column in contract.features]
    columns += [column.to_pylist() for column in outputs.columns]
    everything = list(zip(*keys, *columns, strict=True))
    if not keys:
        return everything
    by_key = list(zip(*keys, strict=True))
    return [whole if None in key else key for key, whole in zip(by_key, everything, strict=True)]
