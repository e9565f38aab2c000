"""A program of somebody's, with limits of time, memory and output; when it is over, so are all its descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from feedback_loop.retraining.parallel import LATE
from feedback_loop.retraining.trainer_process import TOLD

LOOK_SECONDS = 0.2
REPORT_SECONDS = 10.0
GRACE_SECONDS = 5.0
"""So long has the runner to end what it has started."""

ENDING_SECONDS = 30.0
"""So long is waited for what was killed: one that hangs in the kernel ends when it can."""

MOST_OUTPUT = 100_000_000
"""A program that prints more is stopped: its output lies on the disk."""

_RUNNER = Path(__file__).with_name("trainer_process.py")


@dataclass(frozen=True)
class Ended:
    """How a program ended: `cause` says why it did not end well (empty: it did)."""

    cause: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Limits:
    """What a program may take, all its processes together."""

    seconds: float
    memory_bytes: int | None = None


def run_supervised(
    description: Path,
    *,
    folder: Path,
    variables: Mapping[str, str],
    output: Path,
    limits: Limits,
    report: Callable[[], None],
) -> Ended:
    """Runs what `description` says in a session of its own; `report` is called now and then as `output` grows.

    Whatever it has started is killed when it ends, also what ignores signals or has left its process group.
    """
    began, peak, cause, reported = time.monotonic(), 0, "", time.monotonic()
    family: set[psutil.Process] = set()  # all that it has started, as far as this has looked
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 (our own program, which runs the user's)
            [sys.executable, "-P", str(_RUNNER), str(description)],
            stdin=subprocess.PIPE,  # held open for as long as this process lives: the runner ends with it
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    try:
        while process.poll() is None and not cause:
            members = _family(process.pid)
            family |= members
            peak = max(peak, _memory(members))
            cause = _beyond(limits, time.monotonic() - began, peak, output)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                report()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0 if cause else LOOK_SECONDS)
    finally:
        _end(process, family)
        report()
    return Ended(cause or _why_ended(process.returncode), time.monotonic() - began, peak)


def _beyond(limits: Limits, seconds: float, memory: int, output: Path) -> str:
    """Which limit is passed, in words; empty: none."""
    if seconds > limits.seconds:
        return LATE
    if limits.memory_bytes is not None and memory > limits.memory_bytes:
        return f"its processes took {memory:,} bytes of memory, and {limits.memory_bytes:,} are allowed"
    if output.stat().st_size > MOST_OUTPUT:
        return f"it printed more than {MOST_OUTPUT:,} bytes"
    return ""


def _why_ended(code: int) -> str:
    number = -code if code < 0 else code - 128  # of the runner itself, or as it says of the program
    if number == signal.SIGKILL:
        return "it was killed (was memory short?)"
    if number > 0:
        return f"it was ended by signal {number}"
    return f"it ended with code {code}" if code else ""


def _family(pid: int) -> set[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return {first, *first.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _memory(family: set[psutil.Process]) -> int:
    """What processes have in memory, in bytes."""
    total = 0
    for process in family:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_info().rss
    return total


def _end(process: subprocess.Popen[bytes], family: set[psutil.Process]) -> None:
    """Ends all that it has started, and waits until the system has: its runner does so when it is told.

    Where that one can't (it was killed, it holds the interpreter, memory is short), the process group is killed here,
    and those of its family that have left it.
    """
    if process.returncode is None:  # else its number may be another one's
        family |= _family(process.pid)
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.write(TOLD)
            process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    until = time.monotonic() + ENDING_SECONDS
    while any(map(_goes_on, family)) and time.monotonic() < until:
        time.sleep(0.01)


def _goes_on(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
