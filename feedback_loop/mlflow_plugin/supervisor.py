"""Keeps a deployment's server running: `python -m feedback_loop.mlflow_plugin.supervisor FOLDER LOCK`.

`LOCK` is the number of the open lock file that it was given. It ends with SIGTERM, and the server with it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from feedback_loop.mlflow_plugin.server_process import Deployment

PAUSE_SECONDS, MOST_PAUSE_SECONDS = 1.0, 60.0
"""How long a server that ended by itself stays away; the pause doubles where it ends again and again."""


class Supervisor:
    """One server after another, until it is told to end."""

    def __init__(self, deployment: Deployment, lock: int) -> None:
        self._deployment, self._lock = deployment, lock
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Serves until `end`; returns the exit code of a server that could not even begin."""
        pause, is_first = PAUSE_SECONDS, True
        while not self._ending.is_set():
            began = time.monotonic()
            code, lived = self._serve(), time.monotonic() - began
            if is_first and code > 0 and lived < MOST_PAUSE_SECONDS:  # such as for a port that is taken
                return code
            pause = PAUSE_SECONDS if lived > MOST_PAUSE_SECONDS else pause
            if not self._ending.wait(pause):
                print(f"The server ended with code {code} and is started again.", file=sys.stderr, flush=True)  # noqa: T201
            is_first, pause = False, min(2 * pause, MOST_PAUSE_SECONDS)
        return 0

    def end(self) -> None:
        """Has the server end, and none follow it."""
        self._ending.set()
        if self._process is not None:
            self._process.terminate()

    def _serve(self) -> int:
        self._process = subprocess.Popen(self._deployment.command(), pass_fds=[self._lock])  # noqa: S603
        if self._ending.is_set():  # the signal came before there was a process to end
            self._process.terminate()
        return self._process.wait()


def main(folder: str, lock: str) -> int:
    """Supervises the deployment of a folder."""
    supervisor = Supervisor(Deployment.read(Path(folder)), int(lock))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: supervisor.end())
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
