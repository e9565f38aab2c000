"""The server's processes: Granian's workers on one port, and one stager."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from feedback_loop.config import ServingSettings
from feedback_loop.errors import ConfigError, Refused
from feedback_loop.serving.app import ENDING
from feedback_loop.serving.children import Child, Life, end_with
from feedback_loop.serving.publication import NotStaged, Place

MOST_HEAD_BYTES = 64 * 1024
"""The longest head of a request that is taken: request line and headers."""


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


def run_server(
    load: Callable[[], Any],
    settings: ServingSettings,
    stager: Sequence[str],
    places: Mapping[str, Place],
    certificate: Certificate | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT; requests that are in flight then are answered, and no process is left.

    `load` makes the application, in each worker's process, before it takes its first request; `stager` is the command
    that fills the `places`. It begins with the first model that there is something to answer with of; each other is
    served once it is made ready. Raises NotStaged where nothing can be made ready of any, Refused for an address that
    is taken, ConfigError for a certificate that is none.
    """
    if certificate is not None:
        certificate.check()
    refuse_taken(settings.host, settings.port)
    for place in places.values():
        place.forget_failure()
    with Life() as life, Child("stager", stager, life) as process:
        wait_for_any(places, process)
        _serve(load, settings, certificate, life)


def refuse_taken(host: str, port: int) -> None:
    """Raises Refused where somebody listens already.

    Workers share their port with whoever asks for it in the same way: with those of another server, too.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else connections that have ended are in the way
        try:
            probe.bind((host, port))
        except OSError as error:
            cure = "End the server that is there, or give another port."
            raise Refused(f"Nothing can be served at {host}:{port}: {error.strerror}.", cure=cure) from error


def wait_for_any(places: Mapping[str, Place], stager: Child) -> None:
    """Until there is something to answer with, of any model; what a server before published will do.

    Raises NotStaged with the first failure once there is one of each, or the stager has ended.
    """
    while not any(place.read() for place in places.values()):
        has_died = stager.deaths > 0  # before failures are looked for: it may have said why
        failures = [failure for place in places.values() if (failure := place.failure()) is not None]
        if failures and (has_died or len(failures) == len(places)):
            raise NotStaged(failures[0].cause, cure=failures[0].cure)
        if has_died:
            raise NotStaged("The stager ended before it had made a version ready.", cure="See what it said above.")
        time.sleep(0.02)


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
        log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},  # to where all libraries log
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
