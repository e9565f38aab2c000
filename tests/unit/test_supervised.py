"""A program under limits: whatever ends it, nothing that it has started goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from feedback_loop.retraining import supervised
from feedback_loop.retraining.parallel import LATE
from feedback_loop.retraining.supervised import Limits, run_supervised
from tests.integration.processes import is_alive

FAMILY = """
trap '' TERM
(trap '' TERM; sleep 600) & echo $!
setsid bash -c "trap '' TERM; sleep 600" & echo $!
(setsid sleep 600 & echo $!)
echo $$ enough $(printf '%500s' | tr ' ' x)
wait
"""
"""A program with children that ignore signals, that have left its process group, and that nobody's child is."""


@pytest.fixture
def play(tmp_path):
    """Runs a program of bash's; returns how it ended and what it printed."""

    def play(program, seconds=600.0, memory=None):
        described = describe(tmp_path, program)
        reports = []
        ended = run_supervised(
            described,
            folder=tmp_path,
            variables={"TOLD": "yes"},
            output=tmp_path / "output",
            limits=Limits(seconds, memory),
            report=lambda: reports.append((tmp_path / "output").read_text()),
        )
        assert reports
        return ended, reports[-1]

    return play


def describe(folder, program):
    path = folder / "job.json"
    job = {"function": "", "command": ["bash", "-c", program], "error": str(folder / "error"), "folder": str(folder)}
    path.write_text(json.dumps(job))
    return path


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        ("echo $TOLD", ""),
        ("echo $TOLD >&2; exit 3", "it ended with code 3"),
        ("echo $TOLD; kill -9 $$", "it was killed (was memory short?)"),
        ("echo $TOLD; kill -TERM $$", "it was ended by signal 15"),
    ],
)
def test_how_a_program_ends_is_told_with_what_it_printed(play, program, cause):
    ended, printed = play(program)
    assert (ended.cause, printed) == (cause, "yes\n")


def test_a_program_that_takes_too_long_or_too_much_memory_is_ended(play):
    assert play("sleep 600", seconds=0.3)[0].cause == LATE
    ended, _ = play("sleep 600", memory=1)
    assert ended.cause.endswith("bytes of memory, and 1 are allowed")
    assert ended.peak_bytes > 1


@pytest.mark.parametrize("ends", ["", "exit 0"])
def test_all_that_it_has_started_ends_with_it(play, monkeypatch, ends):
    if not ends:  # it is stopped, when all are there
        monkeypatch.setattr(supervised, "MOST_OUTPUT", 500)
    ended, printed = play(FAMILY.replace("wait", ends or "wait"))
    assert ended.cause == ("" if ends else "it printed more than 500 bytes")
    family = [int(word) for word in printed.split() if word.isdigit()]
    assert len(family) == 4
    assert [pid for pid in family if is_alive(pid)] == []


def test_what_has_left_its_group_ends_too_when_its_runner_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(supervised, "REPORT_SECONDS", 0)
    monkeypatch.setattr(sys, "executable", os.environ.get("TESTS_PYTHON", sys.executable))  # no proxy of it
    program = "setsid sleep 600 & echo $!; until [ -e looked ]; do sleep 0.05; done; kill -9 $PPID"
    described = describe(tmp_path, program)
    printed = []

    def report():
        printed.append((tmp_path / "output").read_text())
        if len(list(filter(None, printed))) > 1:  # it has been there for a look
            (tmp_path / "looked").touch()

    limits, output = Limits(600.0), tmp_path / "output"
    ended = run_supervised(described, folder=tmp_path, variables={}, output=output, limits=limits, report=report)
    assert ended.cause == "it was killed (was memory short?)"
    assert not is_alive(int(printed[-1]))


def test_all_that_it_has_started_and_its_rows_go_when_who_runs_it_is_killed(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    described, output = describe(folder, FAMILY), tmp_path / "output"
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from feedback_loop.retraining.supervised import Limits, run_supervised\n"
        "job, folder, output = map(Path, sys.argv[1:])\n"
        "run_supervised(job, folder=folder, variables={}, output=output, limits=Limits(600.0), report=lambda: None)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(described), str(tmp_path), str(output)])
    until = time.monotonic() + 120
    while not (output.exists() and "enough" in output.read_text()):
        assert time.monotonic() < until
        time.sleep(0.1)
    family = [int(word) for word in output.read_text().split() if word.isdigit()]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while alive := [pid for pid in family if is_alive(pid)]:
        assert time.monotonic() < until, alive
        time.sleep(0.1)
    while folder.exists():
        assert time.monotonic() < until
        time.sleep(0.1)
