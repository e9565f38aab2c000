"""How long one waits for `import feedback_loop` and for `feedback-loop --help`, beside an empty Python and MLflow."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.lines import Line, median, run

CASES = {
    "an empty Python": ["-c", "pass"],
    "import feedback_loop": ["-c", "import feedback_loop"],
    "feedback-loop --help": ["-m", "feedback_loop", "--help"],
    "import mlflow": ["-c", "import mlflow"],
}


def benchmark(quick: bool) -> Iterator[Line]:
    """Medians of whole processes, warm."""
    spent: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(3 if quick else 15):
        for case, arguments in CASES.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            spent[case].append(time.perf_counter() - began)
    for case, times in spent.items():
        ratio = median(times) / median(spent["import mlflow"])
        yield Line("startup", "from the shell", "wall time", median(times), "s", case, "import mlflow", ratio)


if __name__ == "__main__":
    run(benchmark, __doc__)
