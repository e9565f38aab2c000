"""The server's certificate, looked at before anything is started with it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from feedback_loop.errors import ConfigError


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
