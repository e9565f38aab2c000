"""Servers as processes: started, asked, measured, and ended with all that they started."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.peers.environment import QUIET, ROOT
from benchmarks.peers.models import Request
from benchmarks.peers.subjects import Subject, answer_of

START_SECONDS = 180
"""A server that has not answered rightly by then failed."""

END_SECONDS = 20
"""Whoever has not ended by itself by then is killed."""

SETTLED_FOR_SECONDS = 0.5

NEAR = 1e-6
"""So far may a probability be from scikit-learn's."""

MIB = 2**20


class Running:
    """A server that runs."""

    def __init__(self, subject: Subject, process: psutil.Popen, port: int, log: Path) -> None:
        self.subject = subject
        self.port = port
        self._process = process
        self._log = log
        self._seen: set[psutil.Process] = set()

    def first_answer(self, request: Request) -> None:
        """Returns once a request is answered rightly; raises RuntimeError with the log's end where it never is."""
        stop = time.perf_counter() + START_SECONDS
        problem: str | None = "it was never reached"
        while problem is not None:
            if self._process.poll() is not None or time.perf_counter() > stop:
                raise RuntimeError(f"{self.subject.name} did not start: {problem}\n{self._log.read_text()[-3000:]}")
            with contextlib.suppress(OSError):  # nobody listens yet
                problem = self.problem_of(request)
            time.sleep(0.005 if problem is not None else 0)
        self._tree()

    def check(self, requests: Sequence[Request]) -> None:
        """Raises RuntimeError where a request is answered with anything but scikit-learn's answer."""
        for request in requests:
            problem = self.problem_of(request)
            if problem is not None:
                raise RuntimeError(f"{self.subject.name}: {problem}\n{self._log.read_text()[-3000:]}")

    def problem_of(self, request: Request) -> str | None:
        """What is wrong with the answer to a request, or None; raises OSError where there is none."""
        connection = self._connection()
        try:
            status, body = _exchange(connection, self.subject.path, request)
        except http.client.HTTPException as error:
            raise ConnectionError(f"The answer is torn: {error!r}") from error
        finally:
            connection.close()
        if status != 200:
            return f"status {status}: {body[:500]!r}"
        if self.subject.shape == "echo":
            return None if body.decode() == request.body else "the body did not come back as it went"
        predictions, probabilities = answer_of(self.subject.shape, body)
        if predictions != request.predictions:
            return f"scikit-learn says {request.predictions[:5]}…, the answer {body[:500]!r}"
        off = 0.0 if probabilities is None else _distance(probabilities, request.probabilities)
        return None if off <= NEAR else f"a probability is {off} from scikit-learn's"

    def memory_mib(self) -> float:
        """Resident memory of the whole tree, pages that several share counted for each."""
        return sum(_resident(process) for process in self._tree()) / MIB

    def settle(self, most_seconds: float) -> None:
        """Returns once hardly anything is computed any more: some go on after they could answer."""
        stop = time.perf_counter() + most_seconds
        before, idle = self._computed_seconds(), False
        while not idle and time.perf_counter() < stop:
            time.sleep(SETTLED_FOR_SECONDS)
            now = self._computed_seconds()
            before, idle = now, now - before < 0.1 * SETTLED_FOR_SECONDS

    def worker_mib(self, workers: int, request: Request) -> float:
        """Resident memory of the largest process that answers callers itself."""
        connections = [self._connection() for _ in range(8 * workers)]  # more than one may go to the same worker
        try:
            for connection in connections:
                _exchange(connection, self.subject.path, request)
            return max(_resident(process) for process in self._tree() if self._is_connected(process)) / MIB
        finally:
            for connection in connections:
                connection.close()

    def end(self) -> None:
        """Asks it to end, and kills whoever is left of it: also those who left its process group (BentoML's do)."""
        self._tree()
        if self._process.poll() is None:
            self._process.terminate()
        _, left = psutil.wait_procs(self._seen, timeout=END_SECONDS)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, left = psutil.wait_procs(left, timeout=END_SECONDS)
        if left:
            raise RuntimeError(f"{self.subject.name}: processes {[each.pid for each in left]} can't be ended")

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _is_connected(self, process: psutil.Process) -> bool:
        """Whether it holds the server's end of a caller's connection."""
        try:
            found = process.net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        return any(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == self.port for each in found)

    def _computed_seconds(self) -> float:
        return sum(_computed(process) for process in self._tree())

    def _tree(self) -> list[psutil.Process]:
        """Who runs now. Whoever was seen once is ended in the end, also if the one that started it died before."""
        try:
            found = [psutil.Process(self._process.pid), *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self._seen.update(found)
        return [process for process in found if process.is_running()]


@contextlib.contextmanager
def running(
    subject: Subject, command: Sequence[str], environment: Mapping[str, str], port: int, log: Path
) -> Iterator[Running]:
    """A server's processes, from their start to their end, whatever happens between."""
    with log.open("w") as file:
        process = psutil.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **QUIET, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    server = Running(subject, process, port, log)
    try:
        yield server
    finally:
        server.end()


def _exchange(connection: http.client.HTTPConnection, path: str, request: Request) -> tuple[int, bytes]:
    connection.request("POST", path, request.body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _distance(some: list[list[float]], others: list[list[float]]) -> float:
    return max(
        abs(one - other)
        for row, right in zip(some, others, strict=True)
        for one, other in zip(row, right, strict=True)
    )


def _resident(process: psutil.Process) -> int:
    """Nothing for a process that ended meanwhile."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _computed(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
