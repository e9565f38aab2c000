"""Commands, run in the test's own process."""

import json
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module

import pytest

from feedback_loop.cli import main
from feedback_loop.clock import ManualClock
from tests.builders import churn_loop, open_loop, register_churn, write_config


@pytest.fixture
def loop(tmp_path, clock):
    """A loop of this test's own, whose champion is version 1 of the churn model."""
    made = churn_loop(tmp_path, clock)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.statistics)])
def loop_on_each(request, tmp_path, clock):
    """The same on SQLite, and in `make statistics` on PostgreSQL too."""
    if request.param == "sqlite":
        made = churn_loop(tmp_path, clock)
    else:
        made = open_loop(write_config(tmp_path, store=request.getfixturevalue("postgres_url")), clock)
        made.promote("churn", register_churn(made.registry, clock()).version, reason="first")
    yield made
    made.close()


@pytest.fixture(scope="module")
def registry_home(tmp_path_factory):
    """A folder with a registry of two versions of the churn model, and no configuration."""
    folder = tmp_path_factory.mktemp("registry")
    clock = ManualClock(datetime.now(UTC))
    loop = churn_loop(folder, clock)
    register_churn(loop.registry, clock(), seed=4)
    loop.close()
    for path in (folder / "feedback_loop.toml", *folder.glob("store.db*")):
        path.unlink()
    return folder


@pytest.fixture(params=["lightgbm", "xgboost"])
def boosting(request):
    """A library's flavor of MLflow, and a classifier of it that takes categories of pandas'."""
    library, flavor = import_module(request.param), import_module(f"mlflow.{request.param}")
    if request.param == "lightgbm":
        return flavor, library.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1)
    return flavor, library.XGBClassifier(n_estimators=10, enable_categorical=True, n_jobs=1)


@pytest.fixture(autouse=True)
def _unfolded(monkeypatch):
    """pytest-xdist's workers have a narrow COLUMNS, to which commands fold their tables."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs `feedback-loop …` in the test's folder; returns exit code, what it printed and what it complained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["feedback-loop", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def plain(run):
    """The same with `--json`, decoded."""

    def plain(*arguments):
        code, out, _ = run(*arguments, "--json")
        return code, json.loads(out)

    return plain


@pytest.fixture
def receiver():
    """An HTTP endpoint that keeps what it is sent, and answers with `first` (one each), then with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.server.received.append(json.loads(body))
            self.server.got()
            status = self.server.first.pop(0) if self.server.first else self.server.status
            time.sleep(self.server.pause)
            self.send_response(status)
            self.end_headers()

        def do_GET(self):
            self.server.asked()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.first, server.status, server.pause = [], [], 200, 0.0
    server.got = lambda: None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
