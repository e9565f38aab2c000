"""The server process: Granian in front of the application, with TLS and limits on what a connection may do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback_loop.config import ServingSettings
from feedback_loop.errors import ConfigError

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


def run_server(load: Callable[[], Any], settings: ServingSettings, certificate: Certificate | None = None) -> None:
    """Serves until SIGTERM or SIGINT; requests that are in flight then are answered.

    `load` makes the application, in the worker's process, before it takes its first request. Raises ConfigError for
    a certificate that is none.
    """
    from granian.constants import HTTPModes, Interfaces, SSLProtocols
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    if certificate is not None:
        certificate.check()
    server = Server(
        "feedback_loop",  # a name for the logs: the application comes from `load`
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        workers=1,
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
    )
    server.serve(target_loader=load, wrap_loader=False)
