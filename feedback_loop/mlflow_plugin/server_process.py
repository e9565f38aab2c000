"""A deployment's server as processes: begun, looked at and ended by the files in the deployment's folder.

Supervisor and server hold a lock on `lock` for as long as they live: whether it is held says whether they run, also
where their process ids belong to somebody else by now.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from feedback_loop.errors import Refused, Unavailable
from feedback_loop.private import new_file, new_folder, private_files

RECORD, LOCK, LOG = "deployment.json", "lock", "server.log"

END_SECONDS = 60.0
"""How long a server may take to answer what is in flight; then it is killed."""

_LOOK_SECONDS = 0.1
_LOG_SHOWN = 1500


@dataclass(frozen=True)
class Deployment:
    """One server of one model, as it was asked for."""

    name: str
    model: str
    config: str
    host: str
    port: int
    workers: int
    created_at: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """That of a folder."""
        return cls(**json.loads((folder / RECORD).read_text()))

    def command(self) -> list[str]:
        """What serves it."""
        program = [sys.executable, "-P", "-m", "feedback_loop", "serve", self.model, "--config", self.config]
        return [*program, "--host", self.host, "--port", str(self.port), "--workers", str(self.workers)]

    def write(self, folder: Path) -> None:
        """Keeps it in its folder."""
        new = folder / f".{RECORD}"
        with private_files():
            new.write_text(json.dumps(asdict(self), indent=2))
        new.replace(folder / RECORD)


def start(deployment: Deployment, folder: Path) -> None:
    """Begins a supervisor, which begins the server, in a session of its own: they outlive this process.

    Raises Refused where the deployment runs already.
    """
    new_folder(folder)
    deployment.write(folder)
    new_file(folder / LOG)
    with _open_lock(folder) as lock:
        if not _take(lock, fcntl.LOCK_EX):
            raise Refused(f"The server of the deployment {deployment.name!r} runs already.")
        command = [sys.executable, "-P", "-m", "feedback_loop.mlflow_plugin.supervisor"]
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 (our own program)
                [*command, str(folder), str(lock.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(deployment.config).parent,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
        lock.truncate(0)
        lock.write(str(process.pid))
    process.returncode = 0  # it is nobody's child: that it goes on when this process ends is meant


def claim(folder: Path) -> bool:
    """Makes the folder of a new deployment; False where there is one: of two that make it at once one has it."""
    new_folder(folder.parent)
    try:
        with private_files():
            folder.mkdir()
    except FileExistsError:
        return False
    return True


def run(command: Sequence[str]) -> int:
    """Runs it in the foreground until it ends; returns its exit code. What is to end this process ends it first.

    It is in a group of its own, where a terminal's Ctrl-C does not reach it: whatever comes is passed on, once.
    """
    begun, came = list[subprocess.Popen[bytes]](), list[int]()

    def pass_on(number: int, _: object) -> None:
        if not begun:
            came.append(number)
        for process in begun:
            process.send_signal(number)

    with _handled_by(pass_on), subprocess.Popen(command, process_group=0) as process:  # noqa: S603 (our own program)
        begun.append(process)
        for number in came[:1]:  # while it was begun
            process.send_signal(number)
        return process.wait()


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    """What is to end this process is left to a handler; other threads than the main one are not asked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def is_running(folder: Path) -> bool:
    """Whether the supervisor or the server lives."""
    if not (folder / LOCK).exists():
        return False
    with _open_lock(folder) as lock:
        return not _take(lock, fcntl.LOCK_SH)  # several may look at the same time


def process_id(folder: Path) -> int | None:
    """The supervisor's, which is that of their process group too."""
    text = (folder / LOCK).read_text() if is_running(folder) else ""
    return int(text) if text else None


def stop(folder: Path) -> None:
    """Ends supervisor and server; requests that are in flight are answered. Raises Unavailable where they go on."""
    pid = process_id(folder)
    if pid is None:
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:  # the supervisor was killed, and its server was not
        _signal_group(pid, signal.SIGTERM)
    if not _wait_for_end(folder, END_SECONDS):
        _signal_group(pid, signal.SIGKILL)
        if not _wait_for_end(folder, END_SECONDS):
            raise Unavailable("server", f"Process group {pid} does not end.", cure="End it by hand.")


def remove(folder: Path) -> None:
    """Ends the server and forgets the deployment."""
    stop(folder)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()  # if this was the last one


def last_words(folder: Path) -> str:
    """The end of what the server has printed."""
    text = (folder / LOG).read_text(errors="replace")[-_LOG_SHOWN:].strip()
    return text or "it printed nothing"


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _wait_for_end(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


@contextmanager
def _open_lock(folder: Path) -> Iterator[IO[str]]:
    new_file(folder / LOCK)
    with (folder / LOCK).open("r+") as lock:
        yield lock


def _take(lock: IO[str], kind: int) -> bool:
    """Whether the lock is free: now this open file holds it, and whoever inherits that."""
    deadline = time.monotonic() + (1.0 if kind == fcntl.LOCK_EX else 0.0)  # one that looks holds it for a moment
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        else:
            return True
