"""Child processes: started again where they die, ended with the process that started them, however that ends."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import structlog

RESTART_SECONDS = 1.0
"""How long a child that died stays away."""

MOST_RESTART_SECONDS = 60.0
"""How long it stays away at most, if it dies again and again."""

END_SECONDS = 5.0
"""How long a child may take to end."""

_log = structlog.get_logger(__name__)


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


class Child:
    """A command as a child process: started again where it dies, ended with the block.

    The end of `life`, which is its standard input, tells it that its parent was killed (see `end_with`).
    """

    def __init__(self, name: str, command: Sequence[str], life: Life, end_seconds: float = END_SECONDS) -> None:
        self._name = name
        self._command = command
        self._life = life
        self._end_seconds = end_seconds
        self.deaths = 0
        """How often it has ended by itself."""
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"watch {name}", daemon=True)

    def __enter__(self) -> Self:
        self._process = self._started()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ask_to_end()
        process = self._process
        if process is not None:
            try:
                process.wait(self._end_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._watcher.join(END_SECONDS)

    def ask_to_end(self) -> None:
        """Sends SIGTERM: several children end at the same time, if all are asked before the first is waited for."""
        self._ending.set()
        if self._process is not None:
            self._process.terminate()

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
            _log.error(f"{self._name} ended and is started again", code=code, after_seconds=pause)
            pause = min(2 * pause, MOST_RESTART_SECONDS)
            self._process = self._started()


def end_with(life: int, end: Callable[[], None]) -> None:
    """Calls `end` once the process that holds the other side of this pipe is gone: now, if it is already."""

    def watch() -> None:
        while os.read(life, 1):
            pass
        end()

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
