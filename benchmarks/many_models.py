"""Hundreds of models in one server: memory, the first call to a model that is not loaded, and everybody else's calls.

Small scikit-learn pipelines of the same kind, each a registered model of its own, behind one worker. All are asked in
turn, so that each is loaded and (where only `serving.loaded_models` may be in memory) put away; meanwhile one caller
goes on asking the first of them. Memory is that of the worker, and of all of the server's processes: pages that
several share are counted once (Linux).
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.lines import Line, median, run
from benchmarks.peers.environment import QUIET
from benchmarks.peers.process import END_SECONDS, MIB, free_port

MODELS, QUICK_MODELS, LOADED, ROUNDS = 300, 12, 50, 3
CHAMPION = "champion"
START_SECONDS = 3600.0
"""The first start makes a bundle of each."""

CONFIGURATION = """\
[store]
url = "sqlite:///store.db"
[registry]
tracking_uri = "sqlite:///mlflow.db"
[serving]
loaded_models = {loaded}
"""
MODEL = '[models.{name}]\ntask = "binary"\nlabel = "y"\n'
BODY = json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [[0.5, 0.5]]}})


def benchmark(quick: bool) -> Iterator[Line]:
    """The server that keeps some in memory, and the one that keeps all."""
    count = QUICK_MODELS if quick else MODELS
    names = [f"m{number:03}" for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="many-models-") as folder:
        home = Path(folder)
        began = time.perf_counter()
        _register(home, names)
        yield _line(count, "registration", time.perf_counter() - began, "s", "MLflow")
        for loaded in (LOADED * count // MODELS, count):
            subject = f"at most {loaded} loaded"
            content = CONFIGURATION.format(loaded=loaded) + "".join(MODEL.format(name=name) for name in names)
            (home / "feedback_loop.toml").write_text(content)
            if loaded < count:
                with _serving(home, names) as (_, _, first, every):
                    yield _line(count, "first start, until one answers", first, "s", subject)
                    yield _line(count, "first start, until all answer", every, "s", subject)
            with _serving(home, names) as (server, port, _, seconds):
                yield _line(count, "start", seconds, "s", subject)
                yield from _asked(count, subject, server, port, names)


def _line(count: int, metric: str, value: float, unit: str, subject: str) -> Line:
    return Line("many_models", f"{count} models, 1 worker", metric, value, unit, subject)


def _asked(count: int, subject: str, server: psutil.Popen, port: int, names: Sequence[str]) -> Iterator[Line]:
    yield _line(count, "memory at the start", _memory([server, *server.children(recursive=True)]), "MiB", subject)
    firsts = _times(port, names)
    others: list[float] = []
    stop = threading.Event()
    caller = threading.Thread(target=_keep_asking, args=(port, names[0], stop, others))
    caller.start()
    again = [_times(port, names) for _ in range(ROUNDS)]
    stop.set()
    caller.join()
    alone = _times(port, [names[0]] * 500)
    everyone = [server, *server.children(recursive=True)]
    yield _line(count, "memory after all were asked", _memory(everyone), "MiB", subject)
    yield _line(count, "memory of the worker", max(_memory([process]) for process in everyone), "MiB", subject)
    for metric, times in (
        ("first call", firsts),
        ("call of the next in turn", [took for part in again for took in part]),
        ("call of the first meanwhile", others),
        ("call of the first alone", alone),
    ):
        yield _line(count, f"{metric}, median", median(times) * 1000, "ms", subject)
        yield _line(count, f"{metric}, 99%", sorted(times)[int(0.99 * len(times))] * 1000, "ms", subject)


def _times(port: int, names: Sequence[str]) -> list[float]:
    """Seconds of one call of each, over one connection; raises RuntimeError where one is not answered."""
    times = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        for name in names:
            began = time.perf_counter()
            connection.request("POST", f"/models/{name}/invocations", BODY, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
            times.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"{name}: {answer.status} {body[:300]!r}")
    return times


def _keep_asking(port: int, name: str, stop: threading.Event, times: list[float]) -> None:
    while not stop.is_set():
        times += _times(port, [name] * 20)


def _memory(processes: Sequence[Any]) -> float:
    return sum(float(process.memory_full_info().pss) for process in processes) / MIB


@contextmanager
def _serving(home: Path, names: Sequence[str]) -> Iterator[tuple[psutil.Popen, int, float, float]]:
    """A server's process, its port, and the seconds until it could answer for one model, and for all."""
    port, began = free_port(), time.perf_counter()
    command = [sys.executable, "-m", "feedback_loop", "serve", *names, "--port", str(port)]
    with (home / "log").open("w") as log:
        environment = {**os.environ, **QUIET}
        server = psutil.Popen(command, cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        seconds = []
        for path in ("/ready", "/v2/health/ready"):
            while not _is_ready(port, path):
                if server.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    raise RuntimeError(f"It did not start:\n{(home / 'log').read_text()[-3000:]}")
                time.sleep(0.02)
            seconds.append(time.perf_counter() - began)
        yield server, port, seconds[0], seconds[1]
    finally:
        everyone = [server, *server.children(recursive=True)]
        server.terminate()
        for process in psutil.wait_procs(everyone, timeout=END_SECONDS)[1]:
            process.kill()


def _is_ready(port: int, path: str) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status == 200
    except OSError:
        return False


def _register(home: Path, names: Sequence[str]) -> None:
    """Registers one fitted model under all the names; each gets a bundle, an engine and a log of its own."""
    import mlflow
    import numpy as np
    import pandas as pd
    from mlflow.tracking import MlflowClient
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    uri = f"sqlite:///{home}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("many", artifact_location=(home / "artifacts").as_uri())
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.normal(size=(500, 2)), columns=["a", "b"])
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, rows["a"] > 0)
    with mlflow.start_run(experiment_id=experiment) as begun:
        logged = mlflow.sklearn.log_model(model, name="model", input_example=rows.head(3))
    for name in names:
        client.create_registered_model(name)
        version = client.create_model_version(name, logged.model_uri, begun.info.run_id)
        client.set_registered_model_alias(name, CHAMPION, version.version)


if __name__ == "__main__":
    run(benchmark, __doc__)
