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
from feedback_loop.schema import numbered_ids
from feedback_loop.schema.files.reader import check_file, count_rows, is_csv, read_chunks

CHUNK_ROWS = 25_000

GROUP_ROWS = 4 * CHUNK_ROWS
GROUP_BYTES = 128 * 1024 * 1024
"""Parts of at most so many rows and bytes make a row group of the file."""

Record = Callable[[Scorer, pa.Table, Scored, pa.StringArray, datetime], int]
"""Makes scored rows durable, each id once."""


@dataclass(frozen=True)
class Job:
    """What makes two runs over a file the same job: stored with the parts that are done."""

    source: str
    size_bytes: int
    modified_ns: int
    wanted: str  # the model as the caller named it: an alias may mean another version by now
    model: str
    version: str
    registered_at: str  # a model that was deleted and registered again counts its versions from 1 again
    form: str  # a digest of what the configuration has answered and logged
    predicted_at: str
    seed: str
    chunk_rows: int
    revision: int | None = None  # of the adapter that the answers go through

    def ids(self, first_row: int, rows: int) -> pa.StringArray:
        """The rows' ids, the same in each run of the job: a chunk that is logged twice is in the log once."""
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
    choose: Callable[[Job | None], Scorer],
    source: Path,
    target: Path,
    *,
    record: Record,
    now: datetime,
    progress: Progress,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
) -> FileResult:
    """Scores a Parquet or CSV file into another, which gets all its columns and ours.

    `choose` gives the scorer: of the version and the adapter's revision that an interrupted job began with, or (None)
    of what is `wanted` now.
    Finished parts lie in `<target>.parts` until the whole is done; a second run of the same model under the same
    configuration goes on after the last. Raises NotFound, BadInput (with row numbers of the file) and Refused.
    """
    check_file(source)
    total = count_rows(source)
    is_text = is_csv(source)
    is_csv(target)  # a format that can't be written is refused before the work
    if target.exists() and not overwrite:
        raise Refused(f"{target} is there already.", cure="Give another name, or --overwrite.")
    parts = target.with_name(target.name + ".parts")
    job, scorer = _begin(wanted, choose, source, parts, now, chunk_rows)
    done = sorted(parts.glob("part-*.parquet"))
    rows = resumed = sum(pq.read_metadata(path).num_rows for path in done)
    logged, logging = 0, None
    # A chunk is logged while the next one is scored. It is logged before its part is there, and parts are in order.
    with progress.track(f"predict {source.name}", total) as advance, ThreadPoolExecutor(1) as logger:
        advance(resumed)
        try:
            for number, chunk in enumerate(read_chunks(source, job.chunk_rows)):
                if number < len(done):
                    continue
                part = parts / f"part-{number:08d}.parquet"
                scored = _score_chunk(scorer, job, chunk, rows, part, is_text=is_text)
                logged += logging.result() if logging is not None else 0
                logging = logger.submit(_log_chunk, scorer, job, scored, record)
                rows += chunk.num_rows
                advance(chunk.num_rows)
        finally:  # where reading or scoring fails, an error of the chunk before is raised: its rows are not logged
            logged += logging.result() if logging is not None else 0
    _join(sorted(parts.glob("part-*.parquet")), target)
    shutil.rmtree(parts)
    return FileResult(rows, logged, resumed, str(target), job.version)


def _begin(
    wanted: str, choose: Callable[[Job | None], Scorer], source: Path, parts: Path, now: datetime, chunk_rows: int
) -> tuple[Job, Scorer]:
    file = parts / "job.json"
    begun = _read_job(file)
    if begun is not None and begun.wanted != wanted:
        raise _other_job(parts, begun)
    scorer = choose(begun)
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
        predicted_at=begun.predicted_at if begun is not None else now.isoformat(),
        seed=begun.seed if begun is not None else secrets.token_hex(16),
        chunk_rows=begun.chunk_rows if begun is not None else chunk_rows,
        revision=scorer.adapting.revision if scorer.adapting is not None else None,
    )
    if begun is not None and job != begun:
        raise _other_job(parts, begun)
    if begun is None:
        new_folder(parts)
        _replace(file, lambda path: path.write_bytes(msgspec.json.encode(job)))
    return job, scorer


def _read_job(file: Path) -> Job | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Job) if file.exists() else None
    except msgspec.DecodeError as error:
        raise Refused(f"{file} is not what was written: {error}.", cure="Delete its folder to begin anew.") from error


def _other_job(parts: Path, job: Job) -> Refused:
    return Refused(
        f"{parts} holds parts of another job: {job.wanted} (version {job.version}, as it was configured then) over "
        f"{job.source} as it was then.",
        cure="Run that one again to end it, or delete that folder to begin anew.",
    )


def _form(scorer: Scorer) -> str:
    contracts = (scorer.contract, scorer.logged)
    columns = [(contract.features, contract.key, contract.outputs, contract.classes) for contract in contracts]
    more: list[object] = [scorer.exploring.rule] if scorer.exploring is not None else []
    more += ["intervals"] if scorer.has_intervals else []
    form = repr([columns, scorer.contract.positive, scorer.sample, *more])
    return hashlib.blake2b(form.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class _ScoredChunk:
    """A chunk of the file, scored and not yet logged: its part is written, but not there until it is."""

    rows: pa.Table
    scored: Scored
    ids: pa.StringArray
    written: Path
    part: Path


def _score_chunk(
    scorer: Scorer, job: Job, chunk: pa.Table, first_row: int, part: Path, *, is_text: bool
) -> _ScoredChunk:
    try:
        rows = scorer.rows_of(chunk, text=is_text)
        ids = job.ids(first_row, chunk.num_rows)
        scored = scorer.marked(scorer.score(rows), rows, ids)
    except BadInput as error:
        cure = "Mend the file; what was scored before these rows is kept, and a new run goes on there."
        raise error.moved(first_row, cure=cure) from error
    ours = {"prediction_id": ids, "model_version": pa.repeat(job.version, chunk.num_rows)}
    ours |= {column.name: scored.outputs.column(column.stored) for column in scorer.contract.outputs}
    ours |= {name: pa.array(values) for name, values in scored.beside.items()}
    named = {scorer.contract.own(name): values for name, values in ours.items()}
    table = pa.table({name: chunk.column(name) for name in chunk.column_names if name not in named} | named)
    # As it is: the part is read once, and then it goes.
    written = _write(part, lambda path: pq.write_table(table, path, compression="none", use_dictionary=False))
    return _ScoredChunk(rows, scored, ids, written, part)


def _log_chunk(scorer: Scorer, job: Job, chunk: _ScoredChunk, record: Record) -> int:
    """Logs a chunk and puts its part into place; returns how many rows were new."""
    new = record(scorer, chunk.rows, chunk.scored, chunk.ids, datetime.fromisoformat(job.predicted_at))
    chunk.written.replace(chunk.part)
    return new


def _join(parts: Sequence[Path], target: Path) -> None:
    """The parts as one file, a few at a time."""
    schema = pq.read_schema(parts[0])
    # A dictionary is made of what repeats: numbers with a fraction hardly ever do, ids never.
    repeated = [
        field.name for field in schema if not (pa.types.is_floating(field.type) or "prediction_id" in field.name)
    ]

    def write(path: Path) -> None:
        writer: csv.CSVWriter | pq.ParquetWriter
        writer = (
            csv.CSVWriter(path, schema) if is_csv(target) else pq.ParquetWriter(path, schema, use_dictionary=repeated)
        )
        with writer:
            for group in _row_groups(parts):
                tables = [pq.read_table(part, memory_map=True).cast(schema) for part in group]
                writer.write_table(pa.concat_tables(tables))

    _replace(target, write)


def _row_groups(parts: Sequence[Path]) -> Iterator[list[Path]]:
    """The parts, as many together as make a row group."""
    group, group_rows, group_bytes = list[Path](), 0, 0
    for part in parts:
        rows, size = pq.read_metadata(part).num_rows, part.stat().st_size
        if group and (group_rows + rows > GROUP_ROWS or group_bytes + size > GROUP_BYTES):
            yield group
            group, group_rows, group_bytes = [], 0, 0
        group, group_rows, group_bytes = [*group, part], group_rows + rows, group_bytes + size
    yield group


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file that is there whole or not at all, also after a crash."""
    _write(path, write).replace(path)


def _write(path: Path, write: Callable[[Path], object]) -> Path:
    """Writes what is to take the place of `path` to a file beside it, durably."""
    written = path.with_name(f".{path.name}.new")
    with private_files():
        write(written)
    with written.open("rb") as file:
        os.fsync(file.fileno())
    return written
