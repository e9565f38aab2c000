"""What it costs to watch a model: by hand, by peers, and by profiles that the join keeps up to date.

A history of 20 features with all outcomes, in SQLite. By hand (pandas reads, joins; Evidently's presets of drift and
classification), NannyML and whylogs begin with the same file; ours are an audit, which reads all of it too, a
scheduled run that finds 10,000 new rows on top of it, and a report. The largest history is ours alone. Imports are
in nobody's time, the processes that an audit starts are in its own. Evidently and ours run in the project's
environment, the others in one of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from benchmarks import history
from benchmarks.lines import Line, command_line, median, show
from benchmarks.peers.environment import QUIET, monitors_folder
from feedback_loop.store import Store, migrate

BY_HAND = "by hand with pandas and Evidently"
SCHEDULED, AUDIT, REPORT = "our scheduled run", "our audit", "our report"
OURS = (AUDIT, SCHEDULED, REPORT)
MONITORS = Path(__file__).parent / "peers" / "monitors"
SILENT = {**QUIET, "NML_DISABLE_USAGE_LOGGING": "1", "WHYLOGS_NO_ANALYTICS": "True"}
ROUNDS = 3


def benchmark(quick: bool, kept: Path | None) -> Iterator[Line]:
    """Seconds and peak memory of each at every size; ours also against by hand, and against the smaller history."""
    sizes, rounds = ((20_000, 60_000), 1) if quick else ((100_000, 1_000_000, 10_000_000), ROUNDS)
    alone = None if quick else sizes[-1]
    smaller: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.parquet"
        pq.write_table(history.reference_rows(), reference)
        for size in sizes:
            path = (kept or Path(folder)) / f"history-{size}.db"
            _make(path, size)
            by_hand = None
            for subject, command in _commands(path, reference, peers=size != alone):
                taken = [_measured(command) for _ in range(rounds if subject != AUDIT or size != alone else 1)]
                seconds = median([each for each, _ in taken])
                by_hand = by_hand or (seconds if subject == BY_HAND else None)
                case = f"{size:,} rows"
                against = (BY_HAND, seconds / by_hand) if by_hand and subject != BY_HAND else (None, None)
                yield Line("monitoring", case, "time", seconds, "s", subject, *against)
                if subject in smaller and subject in OURS:
                    growth = seconds / smaller[subject]
                    yield Line("monitoring", case, "growth", seconds, "s", subject, "the smaller history", growth)
                smaller[subject] = seconds
                yield Line("monitoring", case, "peak memory", max(peak for _, peak in taken), "MiB", subject)
            if kept is None:
                path.unlink()


def _make(path: Path, size: int) -> None:
    if path.exists():
        return
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    store = Store(f"sqlite:///{new}")
    migrate.prepare(store)
    history.fill(store, size)
    store.flush()
    store.close()
    new.rename(path)


def main() -> None:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--kept", type=Path, help="a folder in which the histories are kept for the next run")
    options = parser.parse_args()
    show(benchmark(options.quick, options.kept), as_json=options.json)


def _commands(store: Path, reference: Path, *, peers: bool) -> Iterator[tuple[str, Sequence[str]]]:
    own = [sys.executable, "-m", "benchmarks.peers.monitors.ours"]
    if peers:
        python = str(monitors_folder() / "python")
        for subject, program, script in (
            (BY_HAND, sys.executable, "evidently_by_hand.py"),
            ("NannyML", python, "nannyml_by_hand.py"),
            ("whylogs", python, "whylogs_by_hand.py"),
        ):
            yield subject, [program, str(MONITORS / script), str(store), str(reference)]
    for subject, what in ((AUDIT, "audit"), (REPORT, "report"), (SCHEDULED, "scheduled")):
        yield subject, [*own, what, f"sqlite:///{store}"]


def _measured(command: Sequence[str]) -> tuple[float, float]:
    """The seconds that it says it took, and the peak of memory (MiB) of it and its children together."""
    environment = {**os.environ, **SILENT}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process of an audit compiles the package anew
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(command, stdout=said, text=True, env=environment) as process:
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, _resident(process.pid))
                time.sleep(0.05)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        said.seek(0)
        return float(json.loads(said.read().splitlines()[-1])["seconds"]), peak


def _resident(pid: int) -> float:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        own = psutil.Process(pid)
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total / 2**20


if __name__ == "__main__":
    main()
