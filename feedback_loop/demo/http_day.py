"""One day over real HTTP: a real server process, sixteen callers at once, one flight a request."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback_loop.demo.flights import FEATURES, KEY
from feedback_loop.demo.model import NAME
from feedback_loop.errors import Unavailable
from feedback_loop.schema import PredictionId

if TYPE_CHECKING:
    import pandas as pd

CALLERS = 16
READY_SECONDS = 120


def predict_over_http(config: Path, flights: pd.DataFrame, ids: Sequence[PredictionId], moment: datetime) -> int:
    """Sends every flight as a request of its own; returns how many were answered with their own id.

    Raises Unavailable where the server does not come up or an answer is not what was asked for.
    """
    records = json.loads(flights[list(dict.fromkeys((*KEY, *FEATURES)))].to_json(orient="records"))
    bodies = [
        json.dumps({"dataframe_records": [record], "prediction_ids": [identifier]})
        for record, identifier in zip(records, ids, strict=True)
    ]
    with _server(config, moment) as port, ThreadPoolExecutor(CALLERS) as callers:
        local = threading.local()
        answered = list(callers.map(lambda body: _ask(local, port, body), bodies))
    if answered != list(ids):
        raise Unavailable("server", "An answer did not carry the id that was asked with.")
    return len(answered)


@contextmanager
def _server(config: Path, moment: datetime) -> Iterator[int]:
    """`feedback-loop serve` as a process of its own, whose clock begins at that moment."""
    port = _free_port()
    command = [sys.executable, "-m", "feedback_loop", "serve", NAME, "--config", str(config), "--port", str(port)]
    log = config.parent / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--clock-start", moment.isoformat()],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, port, log)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _ask(local: threading.local, port: int, body: str) -> str:
    """One request on the calling thread's own connection; returns the id in the answer."""
    if not hasattr(local, "connection"):
        local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection: http.client.HTTPConnection = local.connection
    connection.request("POST", "/invocations", body, {"content-type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise Unavailable("server", f"It answered {response.status}: {content[:300]!r}.")
    answer: dict[str, Any] = json.loads(content)
    return str(answer["prediction_ids"][0])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise Unavailable("server", f"It did not come up: {log.read_text()[-500:]}", cure=f"See {log}.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
