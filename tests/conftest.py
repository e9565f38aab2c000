"""Fixtures: real databases, a real MLflow store, a clock that stands still."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

# Read by libraries when they are imported: before anything else here.
_runtime = Path(tempfile.gettempdir()) / f"feedback-loop-tests-{os.getuid()}"
_runtime.mkdir(mode=0o700, exist_ok=True)
os.environ["XDG_RUNTIME_DIR"] = str(_runtime)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "1"
# Threads that wait for each other by spinning take the cores of other test processes: on a busy machine fits took ten
# times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import structlog
from hypothesis import settings
from sqlalchemy import make_url

from feedback_loop.clock import ManualClock
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection
from feedback_loop.store import Store, migrate
from tests import builders
from tests.builders import churn_loop, new_database
from tests.integration.processes import postgres_server
from tests.once import begin, once
from tests.warm import start

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)

# What stands before a change is to fail by the change, not by luck: the same examples each time. `make statistics`
# looks at others.
settings.register_profile("same", derandomize=True, deadline=None)  # no test asks for a time
settings.register_profile("others", deadline=None)
settings.load_profile("same")


LONGEST = (
    *("rounds", "end_to_end", "wheel", "crashes", "loop", "rehearsing"),
    *("backtesting", "diagnosing", "spool", "privacy_end_to_end", "optimizing", "workers"),
)
"""What takes longest, as measured: it begins first, else one process would work at it when the others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test process is first given a part of the tests in a row; the files in LONGEST are dealt to all."""
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    count, left = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), len(items)
    parts: list[list[pytest.Item]] = [[] for _ in range(count)]
    for item in sorted(items, key=lambda item: order.get(item.path.name, 0)):
        if item.path.name in order:
            parts[order[item.path.name] % count].append(item)
    others = (item for item in items if item.path.name not in order)
    for place, part in enumerate(parts):
        size = left // (count - place)
        part.extend(islice(others, max(size - len(part), 0)))
        left -= size
    items[:] = [*chain(*parts), *others]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Test processes are warm too, and with them whatever they start by `sys.executable`."""
    python = start(config._tmp_path_factory.getbasetemp() / "warm") / "python"  # type: ignore[attr-defined]
    for spec in specs:
        spec.python = shlex.quote(str(python))


ENDED: dict[str, float] = {}
"""When test processes had nothing more to do: far apart, they were not given as much as each other."""


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    ENDED[node.gateway.id] = time.perf_counter()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if ENDED:
        last = max(ENDED.values())
        before = ", ".join(f"{name} {last - ended:.0f} s" for name, ended in sorted(ENDED.items()))
        terminalreporter.write_line(f"Before the last test process, each ended by: {before}.")


@pytest.fixture(scope="session", autouse=True)
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    begin(base)
    return base


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """Commands that a test runs in this process log to what is standard error during that test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _same_numbers(request: pytest.FixtureRequest) -> None:
    """Each test draws the same numbers from its module's RANDOM, whichever ran before it."""
    random = getattr(request.module, "RANDOM", None)
    if random is not None:
        random.bit_generator.state = np.random.default_rng(0).bit_generator.state


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this test process; yields its URL.

    It never waits for a disk, and is in memory where that has room (a database is made six times as fast there): what
    tests kill are the processes that speak to it (those that take the database itself away start one of their own).
    """
    import psycopg

    memory = Path("/dev/shm")  # noqa: S108 (the server's folder has a random name)
    place = memory if memory.is_dir() and shutil.disk_usage(memory).free > 2**31 else None
    settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_wal_size": "128MB"}
    with tempfile.TemporaryDirectory(prefix="fl-pg-", dir=place) as folder, postgres_server(folder) as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()


@pytest.fixture
def empty_postgres_url(postgres: str) -> Iterator[str]:
    """An empty database."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def prepared_postgres(postgres: str) -> Iterator[str]:
    """The name of a database with our tables, to be copied: Alembic makes them ten times as slowly."""
    with new_database(postgres) as url:
        made = Store(url)
        migrate.prepare(made)
        made.close()
        yield make_url(url).database or ""


@pytest.fixture
def postgres_url(postgres: str, prepared_postgres: str) -> Iterator[str]:
    """A database with our tables."""
    with new_database(postgres, prepared_postgres) as url:
        yield url


@pytest.fixture(scope="session")
def prepared_sqlite() -> Path:
    """A SQLite database with our tables, to be copied."""

    def make(folder: Path) -> None:
        made = Store(f"sqlite:///{folder}/store.db")
        migrate.prepare(made)
        made.close()

    return once("prepared", make) / "store.db"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """A database that is not there yet."""
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def sqlite_url(prepared_sqlite: Path, tmp_path: Path) -> str:
    """A database with our tables."""
    shutil.copy(prepared_sqlite, tmp_path / "store.db")
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store with our tables: every test that asks for it runs on both."""
    made = Store(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))
    yield made
    made.close()


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    """A SQLite store, for tests that are not about the database."""
    made = Store(sqlite_url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def empty_mlflow() -> Path:
    """An MLflow database with its tables, to be copied."""
    return builders.empty_mlflow()


@pytest.fixture(scope="session")
def warm(whole_run: Path) -> Path:
    """A folder with `python` and `feedback-loop` for tests that are not about a start: see tests.warm."""
    return start(whole_run / "warm")


@pytest.fixture
def warm_children(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this process starts by `sys.executable` (proofs of candidates, pools, servers) is warm too."""
    monkeypatch.setattr("sys.executable", str(warm / "python"))


@pytest.fixture(scope="session")
def churn_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and a champion of the churn model, for servers whose rows nobody counts."""
    folder = tmp_path_factory.mktemp("churn")
    churn_loop(folder, ManualClock(datetime.now(UTC))).close()
    return folder


@pytest.fixture
def mlflow_uri(empty_mlflow: Path, tmp_path: Path) -> str:
    """A registry of this test's own."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def registry(mlflow_uri: str, tmp_path: Path) -> Registry:
    return Registry(Connection(mlflow_uri, "", tmp_path / "mlartifacts", "feedback-loop"))
