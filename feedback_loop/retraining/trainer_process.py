"""The process that runs a trainer, started by its path: a function in itself, any other command as its child.

It ends with all its descendants when whoever started it is gone: that one holds the other side of standard input.
"""

from __future__ import annotations

import ctypes
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

FAILED = 1
ENDING_SECONDS = 30.0
TOLD = b"end"
"""What standard input has where this is to end, and whoever started it is there to see how."""

_ENDING = threading.Lock()
"""Held from when this is to end: once what it has started is killed, it would else end before its folder is gone."""

CHILD_SUBREAPER = 36  # of Linux's prctl: descendants whose parent ends become children of this process


def main(description: str) -> int:
    """Runs what the file describes; returns the code to end with: 128 and a signal's number, as shells have it."""
    job = json.loads(Path(description).read_text())
    _end_with_parent(job["folder"])
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
    with suppress(OSError):  # where memory is short, the system is to end this and not who serves
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        if job["function"]:
            assert isinstance(sys.stdout, io.TextIOWrapper)
            sys.stdout.reconfigure(line_buffering=True)  # the log has what it prints in the order of time
            _train(job)
            return 0
        code = subprocess.run(job["command"], stdin=subprocess.DEVNULL, check=False).returncode  # noqa: S603
        return code if code >= 0 else 128 - code
    except Exception as error:  # noqa: BLE001 (training is foreign code: its failure is a result)
        _show(error)
        Path(job["error"]).write_text(json.dumps({"error": type(error).__name__, "words": str(error)}))
        return FAILED
    finally:
        _end_descendants()
        _ENDING.acquire()


def _train(job: dict[str, Any]) -> None:
    sys.path[:0] = job["path"]
    from importlib import import_module

    from feedback_loop.registry import is_pyfunc, write_estimator, write_pyfunc
    from feedback_loop.retraining.trainer_data import read_dataset

    module, _, name = job["function"].partition(":")
    place = import_module(module)
    if not hasattr(place, name):
        raise LookupError(f"{module} has no function {name}")
    dataset = read_dataset(Path(job["dataset"]))
    estimator = getattr(place, name)(dataset, job["params"])
    if not callable(getattr(estimator, "predict", None)):
        raise TypeError(f"{job['function']} returned {type(estimator).__name__}, which is no estimator")
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # what it says of versions of pip is none of the trainer's
    if is_pyfunc(estimator):
        file, home = Path(place.__file__ or ""), Path(job["path"][0])
        write_pyfunc(estimator, Path(job["model"]), dataset.features, file, home)
    else:
        write_estimator(estimator, Path(job["model"]))


def _show(error: BaseException | None) -> None:
    """Where it was raised, and its kind. Not its words: they may be of the rows, and all this is kept."""
    while error is not None:
        traceback.print_tb(error.__traceback__)
        sys.stderr.write(f"{type(error).__name__}\n")
        error = error.__cause__ or error.__context__


def _end_with_parent(folder: str) -> None:
    """Ends this process and its group once standard input says so or ends; what is run gets an empty one.

    Where it ends, whoever started this was killed: the folder with the rows is left to this.
    """
    life = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)

    def watch() -> None:
        is_told = bool(os.read(life, 1))
        _ENDING.acquire()
        _end_descendants()
        if not is_told:
            shutil.rmtree(folder, ignore_errors=True)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


def _end_descendants() -> None:
    """Kills them until none is left: one may have started another meanwhile."""
    import psutil

    until = time.monotonic() + ENDING_SECONDS
    while (children := psutil.Process().children(recursive=True)) and time.monotonic() < until:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
