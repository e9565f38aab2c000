"""Batch scoring with every row logged: `feedback-loop predict` beside what people glue together by hand.

By hand: pandas reads the file, MLflow's pyfunc scores it, `DataFrame.to_sql` logs it, pandas writes the answer. Both
are whole processes from start to end, on the same model, file and kind of database (SQLite, WAL).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.lines import Line, median, run

OURS, BY_HAND = "feedback-loop predict", "pandas, pyfunc and to_sql"

CONFIG = """
[models.load]
task = "regression"
label = "y"
key = ["id"]
key_types = { id = "long" }
"""

GLUE = """
import sqlite3, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri("sqlite:///mlflow.db")
frame = pd.read_parquet(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/load@champion")
frame["prediction"] = model.predict(frame.drop(columns="id"))
database = sqlite3.connect("log.db")
database.execute("PRAGMA journal_mode = WAL")
frame["predicted_at"] = pd.Timestamp.now("UTC").isoformat()
frame.to_sql("log", database, index=False, if_exists="append")
frame.to_parquet(sys.argv[2])
"""

COLUMNS = 20


def benchmark(quick: bool) -> Iterator[Line]:
    """Rows per second and peak memory on a small and on a large file."""
    sizes = (20_000, 60_000) if quick else (100_000, 500_000)
    runs = 1 if quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _register(folder)
        for rows in sizes:
            _write(folder / "in.parquet", rows)
            seconds: dict[str, list[float]] = {OURS: [], BY_HAND: []}
            memory: dict[str, list[float]] = {OURS: [], BY_HAND: []}
            for _ in range(runs):
                for subject, command in _commands():
                    spent, peak = _measured(command, folder)
                    seconds[subject].append(spent)
                    memory[subject].append(peak)
            case = f"{rows:,} rows x {COLUMNS} features"
            speed = {subject: rows / median(spent) for subject, spent in seconds.items()}
            peak_mb = {subject: median(peaks) for subject, peaks in memory.items()}
            yield Line("batch", case, "speed", speed[BY_HAND], "rows/s", BY_HAND)
            yield Line("batch", case, "speed", speed[OURS], "rows/s", OURS, BY_HAND, speed[OURS] / speed[BY_HAND])
            yield Line("batch", case, "peak memory", peak_mb[BY_HAND], "MB", BY_HAND)
            ratio = peak_mb[OURS] / peak_mb[BY_HAND]
            yield Line("batch", case, "peak memory", peak_mb[OURS], "MB", OURS, BY_HAND, ratio)


def _register(folder: Path) -> None:
    """A linear model of 20 features as champion: so cheap that the glue is what is measured."""
    code = f"""
    import numpy as np, pandas as pd, mlflow
    from sklearn.linear_model import LinearRegression
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(1000, {COLUMNS})),
                         columns=[f"x{{n}}" for n in range({COLUMNS})])
    model = LinearRegression().fit(frame, frame.sum(axis=1))
    mlflow.sklearn.log_model(model, name="m", input_example=frame.head(3), registered_model_name="load")
    mlflow.MlflowClient().set_registered_model_alias("load", "champion", "1")
    """
    (folder / "feedback_loop.toml").write_text(CONFIG)
    (folder / "glue.py").write_text(GLUE)
    _measured([sys.executable, "-c", textwrap.dedent(code)], folder)


def _write(path: Path, rows: int) -> None:
    values = np.random.default_rng(1).normal(size=(rows, COLUMNS))
    frame = pd.DataFrame(values, columns=[f"x{number}" for number in range(COLUMNS)])
    frame.insert(0, "id", np.arange(rows))
    frame.to_parquet(path)


def _commands() -> Iterator[tuple[str, list[str]]]:
    ours = [sys.executable, "-m", "feedback_loop", "predict", "load@champion", "in.parquet", "out.parquet"]
    yield OURS, [*ours, "--overwrite"]
    yield BY_HAND, [sys.executable, "glue.py", "in.parquet", "out-by-hand.parquet"]


def _measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a command, run in a folder whose databases of logs are empty."""
    for path in (*folder.glob("feedback_loop.db*"), *folder.glob("log.db*")):
        path.unlink()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    with (folder / "log").open("w") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **quiet, "PYTHONPATH": str(Path.cwd())}
        )
        _, status, usage = os.wait4(process.pid, 0)
        spent = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed:\n{(folder / 'log').read_text()[-2000:]}")
    return spent, usage.ru_maxrss / 1024


if __name__ == "__main__":
    run(benchmark, __doc__)
