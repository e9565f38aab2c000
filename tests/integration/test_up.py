"""`feedback-loop up`: server, scheduler and pages together; what dies comes again, and nothing outlives it."""

import os
import signal
import time
from contextlib import closing

import psutil
import pytest

from feedback_loop.loop import FeedbackLoop
from feedback_loop.serving.children import Child, Life
from feedback_loop.store.leases import holder_of
from feedback_loop.store.ledger import load_runs
from tests.integration.processes import call, end, free_port, kill_all, running, wait_for_all, wait_until
from tests.warm import FRESH

PORTS = "\n[serving]\nport = {}\n[dashboard]\nport = {}\n"


@pytest.fixture
def folder(tmp_path, churn_home):
    from tests.builders import copy_home

    copy_home(churn_home, tmp_path)
    return tmp_path


def listener(port):
    """The process that listens there."""
    return next(
        link.pid for link in psutil.net_connections("tcp") if link.laddr.port == port and link.status == "LISTEN"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_all_run_until_it_ends_and_one_that_dies_comes_again(folder, warm, number):
    server, pages, log = free_port(), free_port(), folder / "up.log"
    config = folder / "feedback_loop.toml"
    config.write_text(config.read_text() + PORTS.format(server, pages))
    with running([warm / "feedback-loop", "up", "--config", str(config)], log) as process:
        wait_until(lambda: call(pages, "GET", "/health")[0] == 200, process, log)
        wait_until(lambda: call(server, "GET", "/ready")[0] == 200, process, log)
        wait_until(lambda: "scheduler started" in log.read_text(), process, log)
        if number == signal.SIGINT:
            first = listener(pages)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: call(pages, "GET", "/health")[0] == 200 and listener(pages) != first, process, log)
            assert "dashboard ended and is started again" in log.read_text()
            assert end(process, number) == 0
        else:
            process.kill()
            process.wait()
        wait_for_all(log)


BUSY_PAGES = """
import sys, threading, time
from feedback_loop.cli import main
from feedback_loop.loop import FeedbackLoop
from feedback_loop.scheduling import Job

class Busy(FeedbackLoop):
    @classmethod
    def open(cls, config):
        loop = super().open(config)
        search = "churn", [Job("retrain by hand", lambda: time.sleep(600))], loop.clock()
        threading.Thread(target=loop.runner.run, args=search, daemon=True).start()
        return loop

sys.modules["feedback_loop.loop"].FeedbackLoop = Busy
sys.argv = ["feedback-loop", "dashboard", *sys.argv[1:]]
main()
"""


def test_a_search_that_pages_have_begun_is_abandoned_when_they_are_ended(folder):
    port, log, config = free_port(), folder / "pages.log", folder / "feedback_loop.toml"
    command = [FRESH, "-c", BUSY_PAGES, "--port", str(port), "--config", str(config)]
    with closing(FeedbackLoop.open(config)) as loop, running(command, log) as process:
        wait_until(lambda: load_runs(loop.store, "churn", job="retrain by hand"), process, log)
        wait_until(lambda: call(port, "GET", "/health")[0] == 200, process, log)
        assert end(process, signal.SIGTERM) == 0
        [run] = load_runs(loop.store, "churn", job="retrain by hand")
        assert (run.state, run.cause) == ("abandoned", "the pages were stopped before it ended")
        assert holder_of(loop.store, "model:churn") is None


def test_a_search_whose_pages_were_killed_is_ended_by_the_next_ones(folder, warm):
    port, log, config = str(free_port()), folder / "pages.log", folder / "feedback_loop.toml"
    words, lease = ["--port", port, "--config", str(config)], {"FEEDBACK_LOOP_SCHEDULER__LEASE": "2s"}
    with closing(FeedbackLoop.open(config)) as loop:

        def newest():
            return load_runs(loop.store, "churn", newest=1, job="retrain by hand")[0]

        with running([FRESH, "-c", BUSY_PAGES, *words], log, **lease) as process:
            wait_until(lambda: load_runs(loop.store, "churn", job="retrain by hand"), process, log)
            kill_all(process, log)
        with running([str(warm / "feedback-loop"), "dashboard", *words], log, **lease) as process:
            wait_until(lambda: newest().state != "running", process, log)
        run = newest()
        assert (run.state, run.cause) == ("abandoned", "its process ended before the job did")


def test_a_child_that_dies_again_and_again_is_left_longer_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr("feedback_loop.serving.children.RESTART_SECONDS", 0.05)
    began = tmp_path / "began"
    code = f"open({str(began)!r}, 'a').write('x')"
    with Life() as life, Child("short", [FRESH, "-IS", "-c", code], life) as child:
        until = time.monotonic() + 60
        while child.deaths < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert child.deaths >= 3
    assert 3 <= len(began.read_text()) <= child.deaths + 1


def test_without_a_model_there_is_nothing_to_run(run, tmp_path):
    config = tmp_path / "empty.toml"
    config.write_text('[store]\nurl = "sqlite:///store.db"\n')
    code, _, words = run("up", "--config", config)
    assert (code, "Configure one: feedback-loop init." in words) == (1, True)
