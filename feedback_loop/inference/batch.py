"""Files scored in chunks: memory bounded whatever the file's size, and resumed after a crash where it stopped."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from feedback_loop.errors import BadInput, Refused
from feedback_loop.inference.engines import Scored
from feedback_loop.inference.scorer import Scorer
from feedback_loop.private import new_folder, private_files
from feedback_loop.progress import Progress
from feedback_loop.schema import PredictionId, numbered_ids
from feedback_loop.schema.files.reader import check_file, count_rows, is_csv, read_chunks

CHUNK_ROWS = 10_000

_JOINED_ROWS = 10 * CHUNK_ROWS
_JOINED_BYTES = 128 * 1024 * 1024
"""Parts of so many rows, or as many as are no larger than that, make a row group of the file."""

Record = Callable[[Scorer, pa.Table, Scored, Sequence[PredictionId], datetime], int]
"""Makes scored rows durable, each id once."""


@dataclass(frozen=True)
class Job:
    """What makes two runs over a file the same job: kept beside the parts that are done."""

    source: str
    size_bytes: int
    modified_ns: int
    wanted: str  # as it was asked for: an alias may mean another version by now
    model: str
    version: str
    registered_at: str  # a model that is made anew begins to count its versions again
    form: str  # a digest of what is answered and logged, as the configuration has it
    predicted_at: str
    seed: str
    chunk_rows: int

    def ids(self, first_row: int, rows: int) -> list[PredictionId]:
        """The rows' ids: the same whenever the job is run, so that a chunk that is logged twice is there once."""
        return numbered_ids(datetime.fromisoformat(self.predicted_at), self.seed, first_row, rows)


@dataclass(frozen=True)
class FileResult:
    """What a job did: `logged` counts the rows that the log did not have before."""

    rows: int
    logged: int
    resumed_rows: int
    target: str
    version: str


def predict_file(
    wanted: str,
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

    `choose` gives the scorer: of the version that an interrupted job began with, or (None) of what is `wanted` now.
    Parts that are done lie in `<target>.parts` until the whole is; a second run of the same model under the same
    configuration goes on after the last. Raises NotFound, BadInput (with row numbers of the file) and Refused.
    """
    check_file(source)
    total = count_rows(source)
    is_csv(target)  # a format that can't be written is refused before the work
    if target.exists() and not overwrite:
        raise Refused(f"{target} is there already.", cure="Give another name, or --overwrite.")
    parts = target.with_name(target.name + ".parts")
    job, scorer = _begin(wanted, choose, source, parts, now, chunk_rows)
    done = sorted(parts.glob("part-*.parquet"))
    rows = resumed = sum(pq.read_metadata(path).num_rows for path in done)
    logged, keeping = 0, None
    # A chunk is kept while the next one is scored; it is logged before its part is there, and parts are in order.
    with progress.track(f"predict {source.name}", total) as advance, ThreadPoolExecutor(1) as keeper:
        advance(resumed)
        for number, chunk in enumerate(read_chunks(source, job.chunk_rows)):
            if number < len(done):
                continue
            try:
                scored = _score_chunk(scorer, job, chunk, rows, is_text=is_csv(source))
            finally:  # what could not be kept is told first: the rows before these are not there then
                logged += keeping.result() if keeping is not None else 0
            keeping = keeper.submit(_keep_chunk, scorer, scored, record, parts / f"part-{number:08d}.parquet")
            rows += chunk.num_rows
            advance(chunk.num_rows)
        logged += keeping.result() if keeping is not None else 0
    _join(sorted(parts.glob("part-*.parquet")), target)
    shutil.rmtree(parts)
    return FileResult(rows, logged, resumed, str(target), job.version)


def _begin(
    wanted: str, choose: Callable[[str | None], Scorer], source: Path, parts: Path, now: datetime, chunk_rows: int
) -> tuple[Job, Scorer]:
    place = parts / "job.json"
    known = _known(place)
    if known is not None and known.wanted != wanted:
        raise _other_job(parts, known)
    scorer = choose(known.version if known is not None else None)
    status = source.stat()
    job = Job(
        source=str(source.absolute()),
        size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        wanted=wanted,
        model=scorer.version.model,
        version=scorer.version.version,
        registered_at=scorer.version.created_at.isoformat(),
        form=_form(scorer),
        predicted_at=known.predicted_at if known is not None else now.isoformat(),
        seed=known.seed if known is not None else secrets.token_hex(16),
        chunk_rows=known.chunk_rows if known is not None else chunk_rows,
    )
    if known is not None:
        if job != known:
            raise _other_job(parts, known)
        return known, scorer
    new_folder(parts)
    _replace(place, lambda path: path.write_bytes(msgspec.json.encode(job)))
    return job, scorer


def _known(place: Path) -> Job | None:
    try:
        return msgspec.json.decode(place.read_bytes(), type=Job) if place.exists() else None
    except msgspec.DecodeError as error:
        raise Refused(
            f"{place} is not what was written: {error}.", cure="Delete its folder to begin anew."
        ) from error


def _other_job(parts: Path, job: Job) -> Refused:
    return Refused(
        f"{parts} holds parts of another job: {job.wanted} (version {job.version}, as it was configured then) over "
        f"{job.source} as it was then.",
        cure="Run that one again to end it, or delete that folder to begin anew.",
    )


def _form(scorer: Scorer) -> str:
    said = [(each.features, each.key, each.outputs, each.classes) for each in (scorer.contract, scorer.logged)]
    parts = repr([said, scorer.contract.positive, scorer.sample])
    return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class _ScoredChunk:
    """A chunk of the file, as the model has read and answered it."""

    chunk: pa.Table
    rows: pa.Table
    scored: Scored
    ids: Sequence[PredictionId]
    job: Job


def _score_chunk(scorer: Scorer, job: Job, chunk: pa.Table, first_row: int, *, is_text: bool) -> _ScoredChunk:
    try:
        rows = scorer.rows_of(chunk, text=is_text)
        scored = scorer.score(rows)
    except BadInput as error:
        cure = "Mend the file; what was scored before these rows is kept, and a new run goes on there."
        raise error.moved(first_row, cure=cure) from error
    return _ScoredChunk(chunk, rows, scored, job.ids(first_row, chunk.num_rows), job)


def _keep_chunk(scorer: Scorer, made: _ScoredChunk, record: Record, part: Path) -> int:
    """Logs a chunk and writes its part, as it is: it is read once more, and then it goes. Returns the new rows."""
    chunk, job = made.chunk, made.job
    new = record(scorer, made.rows, made.scored, made.ids, datetime.fromisoformat(job.predicted_at))
    ours = {"prediction_id": pa.array(made.ids), "model_version": pa.array([job.version] * chunk.num_rows)}
    ours |= {column.name: made.scored.outputs.column(column.stored) for column in scorer.contract.outputs}
    named = {scorer.contract.own(name): values for name, values in ours.items()}
    kept = {name: chunk.column(name) for name in chunk.column_names if name not in named}
    table = pa.table({**kept, **named})
    _replace(part, lambda place: pq.write_table(table, place, compression="none", use_dictionary=False))
    return new


def _join(parts: Sequence[Path], target: Path) -> None:
    """The parts as one file, a few at a time."""
    schema = pq.read_schema(parts[0])
    # Numbers with a fraction hardly ever repeat, ids never.
    repeated = [
        field.name for field in schema if not (pa.types.is_floating(field.type) or "prediction_id" in field.name)
    ]

    def write(place: Path) -> None:
        writer: csv.CSVWriter | pq.ParquetWriter
        opened = (
            csv.CSVWriter(place, schema)
            if is_csv(target)
            else pq.ParquetWriter(place, schema, use_dictionary=repeated)
        )
        with opened as writer:
            for few in _some(parts):
                tables = (pq.read_table(part, memory_map=True).cast(schema) for part in few)
                writer.write_table(pa.concat_tables(tables))

    _replace(target, write)


def _some(parts: Sequence[Path]) -> Iterator[list[Path]]:
    """The parts, so many together as make a row group."""
    few, rows, size = list[Path](), 0, 0
    for part in parts:
        more_rows, more = pq.read_metadata(part).num_rows, part.stat().st_size
        if few and (rows + more_rows > _JOINED_ROWS or size + more > _JOINED_BYTES):
            yield few
            few, rows, size = [], 0, 0
        few, rows, size = [*few, part], rows + more_rows, size + more
    yield few


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside and renames, so that a file is there whole or not at all, also after a crash."""
    beside = path.with_name(f".{path.name}.new")
    with private_files():
        write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
