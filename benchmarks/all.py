"""Runs every benchmark and writes docs/figures.md: the figures, with the machine, the versions and the date."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.lines import Line, figure, wide

NAMES = (
    "startup",
    "log",
    "join",
    "monitoring",
    "false_alarms",
    "detection_delay",
    "recovery",
    "backtest",
    "diagnosis",
    "monitors",
    "drift_alarms",
    "batch",
    "serving",
    "many_models",
    "pages",
    "adapter",
    "loop",
    "closed_loop",
    "selective_labels",
)
WIDE = ("closed_loop", "selective_labels")
"""Their tables have a column for each metric."""

PACKAGES = (
    "mlflow",
    "scikit-learn",
    "evidently",
    "sqlalchemy",
    "pyarrow",
    "pandas",
    "numpy",
    "granian",
    "onnxruntime",
)
TARGET = Path(__file__).parent.parent / "docs" / "figures.md"

HEAD = """# Figures

Written by `make bench`; each table has the command that makes it alone. Medians of at least three runs; every peer
ran in the same run, on the same machine. Compare ratios: an absolute time says more about the machine than the code.

{machine}
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller work, and nothing is written")
    options = parser.parse_args()
    parts = [HEAD.format(machine=_machine())]
    for name in NAMES:
        module = f"benchmarks.{name}"
        command = [sys.executable, "-m", module, "--json", *(["--quick"] if options.quick else [])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        lines = [Line(**json.loads(row)) for row in done.stdout.splitlines()]
        parts.append(_table(name, lines))
        print(parts[-1], flush=True)
        if not options.quick:
            TARGET.write_text("\n".join(parts))


def _table(name: str, lines: list[Line]) -> str:
    rows = [f"## {name}\n\n`python -m benchmarks.{name}`\n"]
    if name in WIDE:
        return "\n".join([*rows, *wide(lines)]) + "\n"
    rows += ["| case | figure | who | value | against |", "|---|---|---|---:|---|"]
    for line in lines:
        against = f"{line.ratio:.3g} x {line.baseline}" if line.ratio is not None else ""
        rows.append(
            f"| {line.case} | {line.metric} | {line.subject} | {figure(line.value)} {line.unit} | {against} |"
        )
    return "\n".join(rows) + "\n"


def _machine() -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d} · {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{memory:.0f} GiB · Python {platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    main()
