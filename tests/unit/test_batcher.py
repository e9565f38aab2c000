"""Who computes a batch: the event loop, as long as that is quick; else a thread, and the loop stays free."""

import asyncio
import threading
import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from feedback_loop.capture import Recorder, Spool
from feedback_loop.clock import system_clock
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import ModelFault
from feedback_loop.inference import Scored, Scorer
from feedback_loop.inference.answers import read_answer
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Role, make_redaction
from feedback_loop.schema.protocol import Rows
from feedback_loop.serving import batcher as rules
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.http_errors import explained
from feedback_loop.serving.shadows import Shadows
from feedback_loop.serving.traffic import Target
from tests.builders import binary_contract

CONTRACT = binary_contract()


class Watched:
    """An engine that notes in which thread it is asked, of how many rows, and takes as long as it is told."""

    def __init__(self):
        self.seconds = 0.0
        self.calls = []
        self.faulty = lambda _: None

    def score(self, features, _=None):
        self.calls.append((threading.current_thread().name, features.num_rows))
        time.sleep(self.seconds)
        answers = [True] * features.num_rows
        return Scored(CONTRACT, answers, [pa.array(answers), pa.array([0.5] * len(answers))])


def rows(count=1):
    columns = {"age": [40.0] * count, "plan": ["pro"] * count, "customer": [1] * count, "month": ["m"] * count}
    return Rows(count, columns, [None] * count)


def run(tmp_path, work):
    """Calls `work(ask, engine)` on an event loop: `ask` gives the answers to several requests of so many rows."""
    pa.array([0])  # for the first array pandas is imported, which takes its time
    engine, spool = Watched(), Spool(tmp_path / "spool", CaptureSettings(), lambda _: LogSettings(durability="off"))
    version = ModelVersion("churn", "1", None, datetime.now(UTC), (), {})
    target = Target(Scorer(version, CONTRACT, engine, make_redaction(CONTRACT, {}, b"")), Role.CHAMPION)

    async def begin():
        shadows = Shadows(Recorder(spool), lambda *_: None)
        batcher = Batcher(
            Recorder(spool),
            system_clock,
            answered=lambda *_: None,
            faulty=lambda *said: engine.faulty(said),
            shadows=shadows,
        )
        batcher.start(asyncio.get_running_loop())

        async def ask(*counts):
            sent = [batcher.submit(target, rows(count), None, time.perf_counter()) for count in counts]
            return await asyncio.gather(*sent)

        try:
            await work(ask, engine)
        finally:
            await asyncio.to_thread(batcher.stop)

    asyncio.run(begin())
    return engine.calls


def test_what_was_quick_is_answered_by_the_loop_and_what_was_not_by_a_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "QUICK_SECONDS", 0.3)  # machines that run tests are not quick

    async def work(ask, engine):
        await ask(1)  # nothing is known of it yet
        await ask(1)
        engine.seconds = 0.4
        await ask(1)  # was quick, and is not any more
        await ask(1)
        engine.seconds = 0.0
        await ask(1)
        await ask(1)
        await ask(rules.QUICK_ROWS + 1)

    threads = [name for name, _ in run(tmp_path, work)]
    assert threads == ["batcher", "MainThread", "MainThread", "batcher", "batcher", "MainThread", "batcher"]


def test_requests_that_come_together_or_meanwhile_go_together(tmp_path):
    async def work(ask, engine):
        engine.seconds = 0.2
        first = asyncio.create_task(ask(1))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(ask(1, 2)) for _ in range(3)]
        answered = await asyncio.gather(first, *others)
        assert [len(each.ids) for some in answered for each in some] == [1, 1, 2, 1, 2, 1, 2]

    assert [count for _, count in run(tmp_path, work)] == [1, 9]


def test_the_loop_goes_on_while_a_thread_computes(tmp_path):
    async def work(ask, engine):
        engine.seconds = 0.3
        asked, turns = asyncio.create_task(ask(1)), 0
        while not asked.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 10

    run(tmp_path, work)


def test_a_batch_takes_no_further_request_once_it_is_full(tmp_path):
    async def work(ask, engine):
        await ask(3000, 3000, 3000)

    assert [count for _, count in run(tmp_path, work)] == [6000, 3000]


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("odd")])
def test_whatever_an_engine_raises_reaches_its_callers_and_the_next_are_answered(tmp_path, error):
    async def work(ask, engine):
        good, engine.score = engine.score, lambda *_: (_ for _ in ()).throw(error)
        with pytest.raises(type(error)):
            await ask(1, 1)
        engine.score = good
        assert len(await ask(1)) == 1

    run(tmp_path, work)


def test_a_model_that_miscounts_a_batch_is_asked_for_each_request_and_is_at_fault_for_its_own(tmp_path):
    """Nobody gets another's answer: a model that leaves rows out is right for those that ask alone."""
    faults = []

    async def work(ask, engine):
        engine.score = lambda features, _=None: _filtered(features)
        engine.faulty = faults.append
        told = await asyncio.gather(ask(1), ask(3), ask(1), return_exceptions=True)
        assert [type(each) for each in told] == [list, ModelFault, list]
        assert [len(each[0].answers) for each in (told[0], told[2])] == [1, 1]

    run(tmp_path, work)
    assert [(model, version) for model, version, _ in faults] == [("churn", "1")]
    assert "answers 1 rows where it was asked 3" in faults[0][2]
    status, body, _ = explained(ModelFault("The model answers 1 rows where it was asked 3."), "/invocations")
    assert status == 500
    assert b"It is in the server's log under" in body


def _filtered(features):
    answer = read_answer([True], features.num_rows)
    return Scored(CONTRACT, answer.rows, [pa.array(answer.rows), pa.array([0.5])])


def test_threads_end_with_the_batcher(tmp_path):
    async def work(ask, engine):
        await ask(1)
        assert "batcher" in {thread.name for thread in threading.enumerate()}

    run(tmp_path, work)
    assert {"batcher", "shadows"} & {thread.name for thread in threading.enumerate()} == set()
