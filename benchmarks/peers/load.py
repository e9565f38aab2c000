"""The load: wrk, which sends as fast as it is answered, and checks every answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.models import Request
from benchmarks.peers.subjects import Subject

SCRIPT = Path(__file__).parent / "load.lua"
MOST_SECONDS = 30
NO_WRK = "wrk, which makes the load, is not on this machine. Install it: apt-get install wrk."


@dataclass(frozen=True)
class Load:
    """What came of a load. `wrong` answers had another status or other predictions, or never came."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    answers: int
    wrong: int
    example: str


def need_wrk() -> None:
    """Raises SystemExit, which says how to get it, where wrk is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit(NO_WRK)


def write_bodies(path: Path, requests: Sequence[Request]) -> None:
    """A file of bodies, one a line."""
    path.write_text("".join(f"{request.body}\n" for request in requests))


def load(subject: Subject, port: int, bodies: Path, predictions: list[int], callers: int, seconds: int) -> Load:
    """What `callers`, each of which asks again once it is answered, see within some seconds.

    Where they were not answered thrice each on average, the time was too short to say much of their latency: it is
    measured again, for longer.
    """
    found = _load(subject, port, bodies, predictions, callers, seconds)
    while found.answers < 3 * callers and seconds < MOST_SECONDS:
        seconds = min(3 * seconds, MOST_SECONDS)
        found = _load(subject, port, bodies, predictions, callers, seconds)
    if found.answers == 0:
        raise RuntimeError(f"{subject.name} answered nobody within {seconds} s")
    return found


def _load(subject: Subject, port: int, bodies: Path, predictions: list[int], callers: int, seconds: int) -> Load:
    right = '"dataframe_records"' if subject.shape == "echo" else json.dumps(predictions, separators=(",", ":"))
    place = f"http://127.0.0.1:{port}{subject.path}"
    command = ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", "--timeout", "60s", "-s", str(SCRIPT), place]
    done = subprocess.run(
        [*command, "--", str(bodies), subject.shape, right],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = {line.partition(" ")[0]: line.partition(" ")[2] for line in done.stdout.splitlines()}
    if done.returncode or "figures" not in lines:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    spent_us, answers, p50_us, p99_us, wrong, broken = (int(each) for each in lines["figures"].split())
    return Load(
        requests_per_second=answers / spent_us * 1e6,
        p50_ms=p50_us / 1000,
        p99_ms=p99_us / 1000,
        answers=answers,
        wrong=wrong + broken,
        example=lines.get("example", ""),
    )
