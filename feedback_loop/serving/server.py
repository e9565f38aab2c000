"""The server's processes: Granian's workers on one port, and one stager."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import structlog

from feedback_loop.config import ServingSettings
from feedback_loop.errors import ConfigError, Refused
from feedback_loop.serving.app import ENDING
from feedback_loop.serving.publication import NotStaged, Place

MOST_HEAD_BYTES = 64 * 1024
"""The longest head of a request that is taken: request line and headers."""

RESTART_SECONDS = 1.0
"""How long a stager that died stays away."""

MOST_RESTART_SECONDS = 60.0
"""How long it stays away at most, if it dies again and again."""

END_SECONDS = 5.0
"""How long a stager may take to end; what it was making is made again the next time."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Certificate:
    """The server's certificate (with its chain) and private key: PEM files."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raises ConfigError where they can't be read or do not belong together."""
        for path, setting in ((self.certificate, "serving.tls_certificate"), (self.key, "serving.tls_key")):
            if not path.is_file():
                raise ConfigError(f"There is no file {str(path)!r}.", cure=f"Mend {setting}.", key=setting)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"{self.certificate} and {self.key} are no certificate and its key: {error}.",
                cure="Give PEM files that belong together, the key without a password.",
                key="serving.tls_certificate",
            ) from error


class Life:
    """A pipe that ends when this process does, however that happens: what is to end with it waits for that."""

    def __init__(self) -> None:
        self.end, writing_end = os.pipe()
        """What others read: nothing ever comes but the end."""
        self._writing_end = os.fdopen(writing_end, "wb", buffering=0)

    def __enter__(self) -> Self:
        os.register_at_fork(after_in_child=self._writing_end.close)  # else the workers would hold each other's open
        return self

    def __exit__(self, *_: object) -> None:
        self._writing_end.close()
        os.close(self.end)


class StagerProcess:
    """The stager as a child process: started again where it dies, ended with this one."""

    def __init__(self, command: Sequence[str], life: Life) -> None:
        self._command = command
        self._life = life
        self.deaths = 0
        """How often it has ended by itself."""
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch stager", daemon=True)

    def __enter__(self) -> Self:
        self._process = self._started()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._watcher.join(END_SECONDS)

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=self._life.end)  # noqa: S603 (our own program)

    def _watch(self) -> None:
        pause = RESTART_SECONDS
        while self._process is not None:
            began = time.monotonic()
            code = self._process.wait()
            self.deaths += 1
            if time.monotonic() - began > MOST_RESTART_SECONDS:
                pause = RESTART_SECONDS
            if self._ending.wait(pause):
                return
            _log.error("stager ended and is started again", code=code)
            pause = min(2 * pause, MOST_RESTART_SECONDS)
            self._process = self._started()


def run_server(
    load: Callable[[], Any],
    settings: ServingSettings,
    stager: Sequence[str],
    places: Mapping[str, Place],
    certificate: Certificate | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT; requests that are in flight then are answered, and no process is left.

    `load` makes the application, in each worker's process, before it takes its first request; `stager` is the command
    that fills the `places`. A model of which nothing can be made ready is not served until something can; the others
    are. Raises NotStaged where there is nothing at all to begin with, Refused for an address that is taken,
    ConfigError for a certificate that is none.
    """
    if certificate is not None:
        certificate.check()
    _refuse_taken(settings.host, settings.port)
    for place in places.values():
        place.forget_failure()
    with Life() as life, StagerProcess(stager, life) as process:
        failures = {name: _wait_for(name, place, process) for name, place in places.items()}
        failed = [failure for failure in failures.values() if failure is not None]
        if len(failed) == len(places):
            raise failed[0]
        for name, failure in failures.items():
            if failure is not None:
                _log.error("model not served", model=name, cause=str(failure))
        _serve(load, settings, certificate, life)


def _refuse_taken(host: str, port: int) -> None:
    """Workers share their port with whoever asks for it in the same way: with those of another server, too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else connections that have ended are in the way
        try:
            probe.bind((host, port))
        except OSError as error:
            cure = "End the server that is there, or give another --port."
            raise Refused(f"Nothing can be served at {host}:{port}: {error.strerror}.", cure=cure) from error


def _wait_for(name: str, place: Place, stager: StagerProcess) -> NotStaged | None:
    """Until there is something to answer with, or it is said why not; what a server before published will do."""
    while place.read() is None:
        has_died = stager.deaths > 0  # before the failure is looked for: it may have said why
        failure = place.failure()
        if failure is not None:
            return NotStaged(failure.cause or f"No version of {name!r} could be made ready.", cure=failure.cure)
        if has_died:
            raise NotStaged("The stager ended before it had made a version ready.", cure="See what it said above.")
        time.sleep(0.02)
    return None


def _serve(load: Callable[[], Any], settings: ServingSettings, certificate: Certificate | None, life: Life) -> None:
    from granian.constants import HTTPModes, Interfaces, SSLProtocols
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    server = Server(
        "feedback_loop",  # a name for the logs: the application comes from `load`
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        workers=settings.workers,
        http=HTTPModes.http1,  # whose heads have a time limit
        websockets=False,
        backlog=settings.backlog,
        backpressure=settings.max_connections,
        http1_settings=HTTP1Settings(
            header_read_timeout=round(settings.header_timeout.total_seconds() * 1000),
            max_buffer_size=MOST_HEAD_BYTES,
        ),
        ssl_cert=certificate.certificate if certificate is not None else None,
        ssl_key=certificate.key if certificate is not None else None,
        ssl_protocol_min=SSLProtocols.tls12,
        log_level=LogLevels.warning,
        workers_kill_timeout=30,
        respawn_failed_workers=True,
    )
    os.register_at_fork(after_in_child=_hold_signals)
    server.serve(target_loader=partial(_loaded, load, life.end), wrap_loader=False)


def _hold_signals() -> None:
    """In a worker, until its loop runs: a signal that came between Granian's handlers and the loop would be lost.

    All of its threads inherit the mask, so that what waits is for the main one, which `App` opens.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _loaded(load: Callable[[], Any], life: int) -> Any:
    """The application, in a worker that ends when its server was killed: nobody else would end it."""
    end_with(life, lambda: os.kill(os.getpid(), signal.SIGTERM))
    return load()


def end_with(life: int, end: Callable[[], None]) -> None:
    """Calls `end` once the process that holds the other side of this pipe is gone: now, if it is already."""

    def watch() -> None:
        while os.read(life, 1):
            pass
        end()

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
