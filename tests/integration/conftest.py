"""Commands, run in the test's own process."""

import json

import pytest

from feedback_loop.cli import main
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


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs `feedback-loop …` in the test's folder; returns exit code, what it printed and what it complained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    monkeypatch.delenv(
        "COLUMNS", raising=False
    )  # pytest-xdist's workers have a narrow one, which tables are folded to

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
