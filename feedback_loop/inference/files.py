"""Files scored in chunks: memory bounded whatever the file's size, and resumed after a crash where it stopped."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from feedback_loop.errors import BadInput, NotFound, Refused
from feedback_loop.inference.engines import Scored
from feedback_loop.inference.scorer import Scorer
from feedback_loop.progress import Progress
from feedback_loop.schema import PredictionId, derived_bits, prediction_id

CHUNK_ROWS = 10_000

Record = Callable[[Scorer, pa.Table, Scored, Sequence[PredictionId], datetime], int]
"""Makes scored rows durable, each id once."""


@dataclass(frozen=True)
class Job:
    """What makes two runs over a file the same job: kept beside the parts that are done."""

    source: str
    size_bytes: int
    modified_ns: int
    model: str
    version: str
    predicted_at: str
    seed: str
    chunk_rows: int

    def ids(self, first_row: int, rows: int) -> list[PredictionId]:
        """The rows' ids: the same whenever the job is run, so that a chunk that is logged twice is there once."""
        moment = datetime.fromisoformat(self.predicted_at)
        return [
            prediction_id(moment, derived_bits(f"{self.seed}:{row}")) for row in range(first_row, first_row + rows)
        ]


@dataclass(frozen=True)
class FileResult:
    """What a job did: `logged` counts the rows that the log did not have before."""

    rows: int
    logged: int
    resumed_rows: int
    target: str
    version: str


def predict_file(
    choose: Callable[[str | None], Scorer],
    source: Path,
    target: Path,
    *,
    record: Record,
    now: datetime,
    progress: Progress,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
) -> FileResult:
    """Scores a Parquet or CSV file into another: all its columns, and ours beside them.

    `choose` gives the scorer: of the version that an interrupted job began with, or (None) of the one that is meant
    now. Parts that are done lie in `<target>.parts` until the whole is; a second run goes on after the last of
    them. Raises NotFound, BadInput (with row numbers of the file) and Refused.
    """
    if not source.exists():
        raise NotFound("file", str(source))
    total = count_rows(source)
    is_csv(target)  # a format that can't be written is refused before the work
    if target.exists() and not overwrite:
        raise Refused(f"{target} is there already.", cure="Give another name, or --overwrite.")
    parts = target.with_name(target.name + ".parts")
    job, scorer = _begin(choose, source, parts, now, chunk_rows)
    done = sorted(parts.glob("part-*.parquet"))
    rows = resumed = sum(pq.read_metadata(path).num_rows for path in done)
    logged = 0
    with progress.track(f"predict {source.name}", total) as advance:
        advance(resumed)
        for number, chunk in enumerate(read_chunks(source, job.chunk_rows)):
            if number < len(done):
                continue
            scored, new = _score_chunk(scorer, job, chunk, rows, record, is_text=is_csv(source))
            _write_part(scored, parts / f"part-{number:08d}.parquet")
            rows, logged = rows + chunk.num_rows, logged + new
            advance(chunk.num_rows)
    _join(sorted(parts.glob("part-*.parquet")), target)
    shutil.rmtree(parts)
    return FileResult(rows, logged, resumed, str(target), job.version)


def _begin(
    choose: Callable[[str | None], Scorer], source: Path, parts: Path, now: datetime, chunk_rows: int
) -> tuple[Job, Scorer]:
    status = source.stat()
    place = parts / "job.json"
    if place.exists():
        job = Job(**json.loads(place.read_text()))
        if (job.source, job.size_bytes, job.modified_ns) != (
            str(source.absolute()),
            status.st_size,
            status.st_mtime_ns,
        ):
            raise Refused(
                f"{parts} holds parts of another job: {job.source} as it was then.",
                cure="Delete that folder to begin anew.",
            )
        return job, choose(job.version)
    scorer = choose(None)
    job = Job(
        source=str(source.absolute()),
        size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        model=scorer.version.model,
        version=scorer.version.version,
        predicted_at=now.isoformat(),
        seed=secrets.token_hex(16),
        chunk_rows=chunk_rows,
    )
    parts.mkdir(parents=True, exist_ok=True)
    _replace(place, lambda path: path.write_text(json.dumps(asdict(job))))
    return job, scorer


def _score_chunk(
    scorer: Scorer, job: Job, chunk: pa.Table, first_row: int, record: Record, *, is_text: bool
) -> tuple[pa.Table, int]:
    try:
        rows = scorer.rows_of(chunk, text=is_text)
        scored = scorer.score(rows)
    except BadInput as error:
        cure = "Mend the file; what was scored before these rows is kept, and a new run goes on there."
        raise error.moved(first_row, cure=cure) from error
    ids = job.ids(first_row, chunk.num_rows)
    new = record(scorer, rows, scored, ids, datetime.fromisoformat(job.predicted_at))
    ours = {"prediction_id": pa.array(ids), "model_version": pa.array([job.version] * chunk.num_rows)}
    ours |= {name: scored.outputs.column(name) for name in scored.outputs.column_names}
    kept = [name for name in chunk.column_names if name not in ours]
    return pa.table({**{name: chunk.column(name) for name in kept}, **ours}), new


def is_csv(path: Path) -> bool:
    """Whether a file is CSV (and not Parquet) by its name; raises BadInput where it is neither."""
    if path.suffix.lower() not in (".csv", ".parquet", ".pq"):
        raise BadInput.of("file", f"{path.name} is neither .parquet nor .csv")
    return path.suffix.lower() == ".csv"


def count_rows(source: Path) -> int | None:
    """How many rows a file has, where it says so (CSV does not)."""
    with _readable(source):
        return None if is_csv(source) else int(pq.read_metadata(source).num_rows)


def read_chunks(source: Path, chunk_rows: int) -> Generator[pa.Table]:
    """The file's rows in tables of exactly `chunk_rows` (the last may have fewer)."""
    with _readable(source):
        yield from _cut(_batches(source, chunk_rows), chunk_rows)


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        raise BadInput.of("file", f"{source.name} can't be read: {error}") from error


def _batches(source: Path, chunk_rows: int) -> Iterator[pa.RecordBatch]:
    if not is_csv(source):
        with pq.ParquetFile(source) as file:
            yield from file.iter_batches(batch_size=chunk_rows)
        return
    with source.open("rb") as file:
        names = csv.open_csv(file).schema.names
    # Everything as text: what a column holds is for the contract to say, not for the first block to guess.
    options = csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False)
    with source.open("rb") as file:
        yield from csv.open_csv(file, convert_options=options)


def _cut(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while count + batch.num_rows >= rows:
            yield pa.Table.from_batches([*waiting, batch.slice(0, rows - count)])
            batch, waiting, count = batch.slice(rows - count), [], 0  # noqa: PLW2901 (the rest of the batch)
        if batch.num_rows:
            waiting.append(batch)
            count += batch.num_rows
    if waiting:
        yield pa.Table.from_batches(waiting)


def _write_part(table: pa.Table, path: Path) -> None:
    _replace(path, lambda place: pq.write_table(table, place))


def _join(parts: Sequence[Path], target: Path) -> None:
    """The parts as one file, a part at a time."""
    if not parts:
        raise BadInput.of("file", "it holds no rows")
    schema = pq.read_schema(parts[0])

    def write(place: Path) -> None:
        writer: csv.CSVWriter | pq.ParquetWriter
        with csv.CSVWriter(place, schema) if is_csv(target) else pq.ParquetWriter(place, schema) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part).cast(schema))

    _replace(target, write)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside and renames, so that a file is there whole or not at all, also after a crash."""
    beside = path.with_name(f".{path.name}.new")
    write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
