"""A Python that has imported our commands' libraries already, and forks a process for each command line it is sent.

Importing them takes seconds of a core, longer than most commands work. `start` makes small programs, `python` and
those of `MODULES`, that stand for the real ones: each sends its command line, folder, environment, file size limit
and open files here, waits, and ends as its process ended (by the same signal, if by one). A program that is
killed takes its process along, with all that this has started. What such a process starts by `sys.executable` is
forked here too. How a fresh interpreter starts is what other tests are for.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

FRESH = os.environ.setdefault("TESTS_PYTHON", sys.executable)
"""The Python of this environment: in test processes, which are forked too, `sys.executable` is the warm one."""

IMPORTED = (
    *("feedback_loop.cli", "feedback_loop.cycle", "feedback_loop.loop", "tests.builders"),
    *("mlflow.sklearn", "mlflow.pyfunc", "sklearn.ensemble", "sklearn.compose", "sklearn.pipeline", "evidently"),
    *("plotly.graph_objects", "matplotlib.pyplot", "onnxruntime", "skl2onnx", "adbc_driver_sqlite.dbapi", "psycopg"),
    *("mlflow.cli", "skops.io", "fastapi", "flask", "graphene", "uvicorn.protocols.http.auto"),
    *("pytest", "hypothesis"),
    *("multiprocessing.spawn", "joblib.externals.loky"),  # they find out where Python is when they are imported
)

MODULES = {"feedback-loop": "feedback_loop", "mlflow": "mlflow", "uvicorn": "uvicorn"}
"""The programs besides `python`, and the module that each of them runs."""

PROGRAM = """#!{python} -IS
import json, os, resource, signal, socket, sys
files = [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{{number}}")]
link = socket.socket(socket.AF_UNIX)
link.connect({socket!r})
words = [{name!r}, *sys.argv[1:]]
most_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)
message = json.dumps([words, {programs!r}, os.getcwd(), dict(os.environ), most_bytes, files]).encode()
socket.send_fds(link, [len(message).to_bytes(8, "big")], files)
link.sendall(message)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: link.sendall(bytes([number])))
code = int(link.recv(16) or b"70")
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def start(folder: Path) -> Path:
    """The folder of the programs; whoever asks first (of several processes pytest's own) starts the server."""
    folder.mkdir(exist_ok=True)
    programs, place = folder / "bin", folder / "socket"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if programs.exists():
            return programs
        command = [FRESH, "-m", "tests.warm", str(place), str(os.getpid())]
        with (folder / "log").open("wb") as log:  # it outlives this test process, so it is no Popen
            outputs = [(os.POSIX_SPAWN_DUP2, log.fileno(), number) for number in (1, 2)]
            os.posix_spawn(command[0], command, os.environ, file_actions=outputs, setsid=True)
        wait_for(place, folder / "log")
        programs.mkdir()
        for name in ("python", *MODULES):
            text = PROGRAM.format(python=FRESH, socket=str(place), name=name, programs=str(programs))
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
    return programs


def wait_for(place: Path, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not place.exists():
        if time.monotonic() > deadline or "Error" in log.read_text():
            raise RuntimeError(f"The server of warm processes does not start:\n{log.read_text()}")
        time.sleep(0.05)


def serve(place: str, whole: int) -> None:
    """Forks a keeper for each program that connects, until the test run (the process `whole`) is over."""
    from mlflow.utils import requirements_utils

    for name in IMPORTED:
        import_module(name)
    requirements_utils._init_packages_to_modules_map()  # MLflow makes it for the first model that a process loads
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    run = os.pidfd_open(whole)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}.new")
        listener.listen(64)
        os.rename(f"{place}.new", place)  # noqa: PTH104
        while run not in select.select([listener, run], [], [])[0]:
            link, _ = listener.accept()
            if os.fork() == 0:
                try:
                    listener.close()
                    keep(link)
                except BaseException:  # noqa: BLE001 - it is in the log
                    traceback.print_exc()
                finally:  # an interpreter that ends would take down libraries whose threads were not forked, and hang
                    os._exit(1)
            link.close()
    os._exit(0)  # taking all modules down again takes a second


def keep(link: socket.socket) -> NoReturn:
    """Starts one process for a program, passes signals on to it, and says how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(link, 8, 100)
    message = b""
    while len(message) < int.from_bytes(head, "big"):
        message += link.recv(2**20)
    process = os.fork()
    if process == 0:
        link.close()
        os.setsid()
        end(become, *json.loads(message), files)
    ended = os.pidfd_open(process)
    while ended not in select.select([ended, link], [], [])[0]:
        number = link.recv(1)
        if number:
            os.kill(process, number[0])
        else:  # the program was killed, perhaps before its process has become the leader of a group
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        link.sendall(str(code).encode())
    finally:
        os._exit(0)


def end(work: Callable[..., None], *arguments: Any) -> NoReturn:
    """Works, and ends as an interpreter does, but for taking its modules down."""
    code = 0
    try:
        work(*arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException:  # noqa: BLE001 - an interpreter prints whatever it is
        traceback.print_exc()
        code = 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def become(
    words: list[str],
    programs: str,
    folder: str,
    environment: dict[str, str],
    most_bytes: tuple[int, int],
    numbers: list[int],
    files: list[int],
) -> None:
    """What a Python that was started with this command line does."""
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD, 1000) for file in files]  # else one could take another's number
    for file in files:
        os.close(file)
    for file, number in zip(apart, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, most_bytes)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, range(3), "rww")
    sys.executable = str(Path(programs) / "python")
    program, *arguments = words
    if program in MODULES:
        arguments = ["-m", MODULES[program], *arguments]
    if arguments[0] in {"-u", "-P"}:  # as pytest-xdist starts its processes, and a search its trainers
        arguments = arguments[1:]
    if arguments[0] in {"-c", "-m"}:
        kind, what, *rest = arguments
        sys.path.insert(0, "")
        sys.argv = [kind if kind == "-c" else what, *rest]
        if kind == "-c":
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as `python -c` does
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
