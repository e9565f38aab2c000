"""How long one waits for the package and for commands that only read the store, beside an empty Python and MLflow."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.lines import Line, median, run

CASES = {
    "an empty Python": ["-c", "pass"],
    "import feedback_loop": ["-c", "import feedback_loop"],
    "feedback-loop --help": ["-m", "feedback_loop", "--help"],
    "feedback-loop status": ["-m", "feedback_loop", "status"],
    "feedback-loop incidents list": ["-m", "feedback_loop", "incidents", "list"],
    "feedback-loop models history": ["-m", "feedback_loop", "models", "history", "churn"],
    "import mlflow": ["-c", "import mlflow"],
}
CONFIGURATION = """\
[store]
url = "sqlite:///store.db"
[registry]
tracking_uri = "sqlite:///mlflow.db"
[models.churn]
task = "binary"
label = "churned"
"""


def benchmark(quick: bool) -> Iterator[Line]:
    """Medians of whole processes, warm: by the clock, and of what they compute."""
    spent: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "feedback_loop.toml").write_text(CONFIGURATION)
        for repeat in range(3 if quick else 16):
            for case, arguments in CASES.items():
                began, computed = time.perf_counter(), os.times()
                subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=folder)
                now = os.times()
                cpu = now.children_user - computed.children_user + now.children_system - computed.children_system
                if repeat:  # the first makes the tables, and reads everything from disk
                    spent.setdefault((case, "wall time"), []).append(time.perf_counter() - began)
                    spent.setdefault((case, "processor time"), []).append(cpu)
    for (case, metric), times in spent.items():
        ratio = median(times) / median(spent["import mlflow", metric])
        yield Line("startup", "from the shell", metric, median(times), "s", case, "import mlflow", ratio)


if __name__ == "__main__":
    run(benchmark, __doc__)
