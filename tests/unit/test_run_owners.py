"""Whose a run in MLflow is, and whether that process is gone: a live one's run is never ended by another."""

import os
import subprocess
from dataclasses import replace
from datetime import timedelta

import psutil
import pytest

from feedback_loop.registry.run_owners import Owner, began, is_abandoned, this_process

MINUTE = timedelta(minutes=1)


def test_an_owner_is_read_as_it_was_written():
    own = this_process("abc")
    assert str(Owner.parse(str(own))) == str(own)


@pytest.mark.parametrize("text", ["", "host", "host many 1 a", "host 1 soon a"])
def test_what_is_no_owner_has_a_day_to_end(now, text):
    own = this_process("abc")
    assert [is_abandoned(text, now - age, own, now) for age in (MINUTE, timedelta(hours=25))] == [False, True]


def test_a_run_of_a_process_is_abandoned_once_that_has_died_although_its_parent_has_not_noticed(now, monkeypatch):
    own = this_process("abc")
    child = subprocess.Popen(["sleep", "600"])
    theirs = replace(own, process=child.pid, began=began(psutil.Process(child.pid)))
    again = replace(theirs, began=theirs.began - 60)  # its number was another one's a minute before
    alive = [is_abandoned(str(owner), now - MINUTE, own, now) for owner in (theirs, again)]
    boot = psutil.boot_time()
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: boot + 3600)
    alive.append(is_abandoned(str(theirs), now - MINUTE, own, now))  # the clock was set
    monkeypatch.undo()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    dead = is_abandoned(str(theirs), now - MINUTE, own, now)
    child.wait()
    assert (alive, dead) == ([False, True, False], True)
    assert is_abandoned(str(theirs), now - MINUTE, own, now)


def test_a_process_that_may_not_be_looked_at_has_a_day_to_end(now, monkeypatch):
    def refuse(pid):
        raise psutil.AccessDenied(pid)

    own = this_process("abc")
    monkeypatch.setattr(psutil, "Process", refuse)
    theirs = str(replace(own, process=own.process + 1))
    assert [is_abandoned(theirs, now - age, own, now) for age in (MINUTE, timedelta(hours=25))] == [False, True]


def test_of_this_process_only_ones_own_are_abandoned_and_of_another_machine_none_for_a_day(now):
    own = this_process("abc")
    assert is_abandoned(str(own), now - MINUTE, own, now)
    assert not is_abandoned(str(replace(own, lineage="another")), now - timedelta(days=9), own, now)
    elsewhere = str(replace(own, machine="elsewhere", process=2**22 - 1))
    assert [is_abandoned(elsewhere, now - age, own, now) for age in (MINUTE, timedelta(hours=25))] == [False, True]
