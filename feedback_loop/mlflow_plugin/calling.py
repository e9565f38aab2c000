"""Asks a deployment's server: what answers there, and for predictions."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from feedback_loop.config import KEY_VARIABLE, load_settings
from feedback_loop.errors import BadInput, Refused, RowError, Unavailable
from feedback_loop.mlflow_plugin.server_process import Deployment

LOOK_SECONDS, ANSWER_SECONDS = 5.0, 300.0

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what a server listens on is called by another name)


@dataclass(frozen=True)
class Server:
    """The server of one model at a URL; `certificate` is the one that it shows, if it has one."""

    model: str
    url: str
    certificate: Path | None

    @classmethod
    def of(cls, deployment: Deployment) -> Self:
        """Where a deployment answers."""
        settings = load_settings(Path(deployment.config))
        shown = settings.serving.tls_certificate
        host = _EVERYWHERE.get(deployment.host, deployment.host)
        host = f"[{host}]" if ":" in host else host
        url = f"{'https' if shown else 'http'}://{host}:{deployment.port}"
        return cls(deployment.model, url, settings.path(shown) if shown else None)

    def version(self) -> str | None:
        """The version that answers callers now; None where nobody answers yet."""
        try:
            ready: dict[str, Any] = json.loads(self._call("/ready", None, LOOK_SECONDS))
        except (OSError, ValueError):
            return None
        return ready["models"].get(self.model) if ready.get("ready") else None

    def predict(self, inputs: Any) -> dict[str, Any]:
        """The server's answer to what MLflow's scoring protocol says of these inputs; raises Refused, Unavailable."""
        from mlflow.utils.proto_json_utils import dump_input_data

        try:
            answer: dict[str, Any] = json.loads(
                self._call("/invocations", dump_input_data(inputs).encode(), ANSWER_SECONDS)
            )
        except urllib.error.HTTPError as error:
            cause = f"The server refused ({error.code}): {_words(error.read())}"
            cure = f"Set {KEY_VARIABLE} to a key: feedback-loop keys create." if error.code in (401, 403) else ""
            raise Refused(cause, cure=cure) from error
        except OSError as error:
            raise Unavailable("server", f"{self.url} does not answer: {error}.", cure="See its log.") from error
        return answer

    def _call(self, path: str, body: bytes | None, seconds: float) -> bytes:
        headers = {"content-type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["authorization"] = f"Bearer {key}"
        context = _only(self.certificate) if self.certificate else None
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 (http or https, by our own words)
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # a proxy of the environment knows nothing of this machine
            urllib.request.HTTPSHandler(context=context),
        )
        with direct.open(request, timeout=seconds) as response:
            content: bytes = response.read()
        return content


def _words(body: bytes) -> str:
    """What a refusal says: which columns or rows are wrong, and MLflow's own words of it without the data."""
    try:
        said = json.loads(body)
        problems = [str(RowError(each["row"], each["field"], each["cause"])) for each in said.get("problems", ())]
        *_, words = str(said["message"]).split(" Error: ")
    except (ValueError, KeyError, TypeError, AttributeError):  # a proxy's page
        return body.decode(errors="replace")[:2000]
    more = f"; and {len(problems) - BadInput.SHOWN} more" if len(problems) > BadInput.SHOWN else ""
    return ". ".join(["; ".join(problems[: BadInput.SHOWN]) + more, words] if problems else [words])[:2000]


def _only(certificate: Path) -> ssl.SSLContext:
    """Trusts this certificate alone (the first of the file), whatever host it names and whoever signed it.

    It is asked for by the address it listens on, which a certificate hardly ever names.
    """
    end = "-----END CERTIFICATE-----"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate.read_text().partition(end)[0] + end)
    return context
