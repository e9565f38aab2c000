"""Champion, canary and shadows on a real spool: who answers whom, and that nobody waits for a shadow."""

import asyncio
import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pyarrow as pa
import pytest

from feedback_loop.capture import LONGEST_REQUEST_ID, Recorder, Spool, SpoolView
from feedback_loop.capture.spool_file import SpoolFile, connect
from feedback_loop.clock import system_clock
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import BadInput, Unavailable
from feedback_loop.inference import Scored, Scorer
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Role, make_redaction
from feedback_loop.schema.protocol import Rows, make_decoder
from feedback_loop.serving import batcher as batcher_rules
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.predictions import QUICK_BYTES, Predictions
from feedback_loop.serving.request import Request
from feedback_loop.serving.shadows import Shadows, shadow_id
from feedback_loop.serving.traffic import Target, Traffic, bucket, misfit
from tests.builders import C, T, binary_contract

CONTRACT = binary_contract()


class Answering:
    """An engine that answers one thing, after a while; or raises."""

    def __init__(self, answer, *, seconds=0.0, error=None):
        self.answer, self.seconds, self.error = answer, seconds, error

    def score(self, features, params=None):
        self.params = params
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        answers = [self.answer] * features.num_rows
        return Scored(CONTRACT, answers, [pa.array(answers), pa.array([0.5] * len(answers))])


def scorer(version, engine, contract=CONTRACT):
    found = ModelVersion("churn", version, None, datetime.now(UTC), (), {})
    return Scorer(found, contract, engine, make_redaction(contract, {}, b""))


def rows(*customers, age=40.0):
    count = len(customers)
    columns = {"age": [age] * count, "plan": ["pro"] * count, "customer": list(customers), "month": ["m"] * count}
    return Rows(count, columns, [None] * count)


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool", CaptureSettings(), lambda _: LogSettings())
    yield made
    made.close()


def batcher_of(spool, dropped=lambda *_: None, counted=lambda *_: None):
    shadows = Shadows(Recorder(SpoolView(spool, waits=False)), dropped)
    return Batcher(Recorder(spool), system_clock, answered=counted, faulty=lambda *_: None, shadows=shadows)


def answered(spool, target, requests, *, dropped=lambda *_: None):
    """The answers of a real batcher, and how long all of them took."""

    async def ask():
        batcher = batcher_of(spool, dropped)
        batcher.start(asyncio.get_running_loop())
        try:
            await batcher.submit(Target(target.scorer, target.role), rows(0), None, time.perf_counter())  # it is up
            began = time.perf_counter()
            asked = [batcher.submit(target, each, None, began) for each in requests]
            found = await asyncio.gather(*asked, return_exceptions=True)
            return found, time.perf_counter() - began
        finally:
            await asyncio.to_thread(batcher.stop)

    return asyncio.run(ask())


def logged(spool):
    """Id, version and role of the rows in the spool."""
    with SpoolFile.open(spool.path) as file:
        groups = list(file.read(file.last(), 10**6))
        file.load_contracts(group.contract for group in groups)
        tables = [file.unpack([group])[1] for group in groups]
    names = ("prediction_id", "model_version", "role")
    found = [row for each in tables for row in zip(*(each.column(name).to_pylist() for name in names), strict=True)]
    return found[1:]  # but for the first, which only showed that the batcher is up


@pytest.mark.parametrize(
    "engine", [Answering(True, seconds=3.0), Answering(True, error=ZeroDivisionError("a challenger's mistake"))]
)
def test_a_shadow_that_sleeps_or_raises_neither_delays_nor_fails_an_answer(spool, engine):
    lost = []
    target = Target(scorer("1", Answering(False)), Role.CHAMPION, (scorer("2", engine),))
    found, took = answered(spool, target, [rows(1)], dropped=lambda model, count: lost.append((model, count)))
    assert [(each.answers, each.version) for each in found] == [([False], "1")]
    assert took < 2.5
    champion = (found[0].ids[0], "1", "champion")
    if engine.error is None:
        assert logged(spool) == [champion, (shadow_id(found[0].ids[0], "2"), "2", "shadow")]
    else:
        assert logged(spool) == [champion]


def test_a_shadow_gets_its_rows_once_the_answer_is_given_out(spool):
    shadows, seen = Shadows(Recorder(SpoolView(spool, waits=False)), lambda *_: None), []
    target = Target(scorer("1", Answering(False)), Role.CHAMPION, (scorer("2", Answering(True)),))

    async def ask():
        batcher = Batcher(
            Recorder(spool), system_clock, answered=lambda *_: None, faulty=lambda *_: None, shadows=shadows
        )
        batcher.start(asyncio.get_running_loop())
        for _ in range(3):  # by a thread at first, then by the loop
            answer = batcher.submit(target, rows(1), None, time.perf_counter())
            shadows.offer = lambda job, answer=answer: seen.append((answer.done(), job.scorer.version.version))
            await answer
        await asyncio.to_thread(batcher.stop)

    asyncio.run(ask())
    assert seen == [(True, "2")] * 3


def test_what_a_shadow_is_too_slow_for_is_left_out_and_counted(spool):
    lost = []
    shadows = Shadows(Recorder(SpoolView(spool, waits=False)), lambda _, count: lost.append(count))
    target = Target(scorer("1", Answering(False)), Role.CHAMPION, (scorer("2", Answering(True)),))

    async def ask():
        batcher = Batcher(
            Recorder(spool), system_clock, answered=lambda *_: None, faulty=lambda *_: None, shadows=shadows
        )
        shadows.start = lambda: None  # a shadow that does not come to anything at all
        batcher.start(asyncio.get_running_loop())
        for _ in range(70):
            await batcher.submit(target, rows(1, 2), None, time.perf_counter())
        shadows._thread.start()
        await asyncio.to_thread(batcher.stop)

    asyncio.run(ask())
    roles = [role for _, _, role in logged(spool)]
    assert roles.count("champion") == 139  # and the first, which `logged` leaves out
    assert roles.count("shadow") == 128
    assert sum(lost) == 12


def test_a_request_that_the_model_refuses_does_not_spoil_those_that_came_with_it(spool):
    class Picky(Answering):
        def score(self, features, params=None):
            if -1.0 in features.column("age").to_pylist():
                raise BadInput.of("age", "is negative")
            return super().score(features, params)

    target = Target(scorer("1", Picky(False)), Role.CHAMPION)
    found, _ = answered(spool, target, [rows(1), rows(2, age=-1.0), rows(3, 4)])
    assert [type(each) for each in found] == [type(found[0]), BadInput, type(found[0])]
    assert [found[0].answers, found[2].answers] == [[False], [False, False]]
    assert len(logged(spool)) == 3


def test_what_can_not_be_made_durable_is_not_answered(tmp_path):
    spool = Spool(tmp_path / "spool", CaptureSettings(max_bytes=1), lambda _: LogSettings())
    with pytest.raises(Unavailable):
        answered(spool, Target(scorer("1", Answering(False)), Role.CHAMPION), [rows(1)])
    assert spool.counts()["churn"].refused == 1


def test_each_row_of_a_request_goes_where_its_key_always_goes(spool):
    champion, canary = scorer("1", Answering(False)), scorer("2", Answering(True))
    traffic = Traffic(
        Target(champion, Role.CHAMPION), make_decoder(CONTRACT, None), Target(canary, Role.CANARY), share=0.4
    )
    asked = rows(*range(100))
    parts = traffic.split(asked, datetime.now(UTC))
    to_canary = {place for target, _, places in parts if target.role is Role.CANARY for place in places}
    assert to_canary == {each for each in range(100) if bucket(f"{each}\0m") < 0.4}
    assert 25 < len(to_canary) < 55
    more = replace(traffic, share=0.7).split(asked, datetime.now(UTC))
    assert to_canary < {place for target, _, places in more if target.role is Role.CANARY for place in places}
    for target, mine, places in parts:
        assert mine.columns["customer"] == places
        assert mine.count == len(places) == len(mine.ids), target


def called(spool, traffic, *calls, request_id=None, counted=lambda *_: None):
    """What became of calls for rows of these customers, one after the other."""

    async def ask():
        batcher, found = batcher_of(spool, counted=counted), []
        batcher.start(asyncio.get_running_loop())
        predictions = Predictions(None, batcher, system_clock)
        for each in calls:
            asked = predictions.predict(traffic, rows(*each), request_id, time.perf_counter())
            found += await asyncio.gather(asked, return_exceptions=True)
        await asyncio.to_thread(batcher.stop)
        return found

    return asyncio.run(ask())


def shared(champion, canary):
    decoder, target = make_decoder(CONTRACT, None), Target(scorer("2", canary), Role.CANARY)
    return Traffic(Target(scorer("1", champion), Role.CHAMPION), decoder, target, share=0.4)


@pytest.mark.parametrize("error", [BadInput.of("age", "is odd"), ZeroDivisionError("a mistake")])
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("count", [10, 9000])
def test_a_call_that_one_of_two_versions_fails_at_is_not_logged_nor_counted_and_can_be_made_again(
    spool, error, failing, count
):
    engines, told = [Answering(False), Answering(True)], []
    engines[failing].error = error
    traffic = shared(*engines)
    (found,) = called(spool, traffic, range(count), counted=lambda *said: told.append(said))
    assert found is error
    assert (spool.counts(), told) == ({}, [])
    engines[failing].error = None
    (again,) = called(spool, traffic, range(count), counted=lambda *said: told.append(said))
    assert len(set(again.ids)) == count
    assert [said[1] for said in told] == [count]
    assert spool.counts()["churn"].spooled == count
    assert len(logged(spool)) == count - 1  # that is: but for the first


def test_a_call_for_two_versions_gets_into_the_spool_whole_or_not_at_all(tmp_path):
    small = CaptureSettings(max_bytes=220_000)  # room for the rows of one version, not for both'
    spool = Spool(tmp_path / "spool", small, lambda _: LogSettings())
    (found,) = called(spool, shared(Answering(False), Answering(True)), range(4000))
    assert isinstance(found, Unavailable)
    counts = spool.counts()["churn"]
    assert (counts.spooled, counts.refused) == (0, 4000)
    spool.close()


def test_a_requests_own_id_is_kept_up_to_a_length_and_once_for_all_of_its_rows(spool):
    target = Target(scorer("1", Answering(False)), Role.CHAMPION)
    alone = Traffic(target, make_decoder(CONTRACT, None))
    called(spool, alone, range(2000), request_id="r" * 60_000)
    with SpoolFile.open(spool.path) as file:
        (group,) = file.read(file.last(), 10**6)
        file.load_contracts([group.contract])
        _, table = file.unpack([group])
    assert set(table.column("request_id").to_pylist()) == {"r" * LONGEST_REQUEST_ID}
    assert bytes(group.body).count(b"r" * LONGEST_REQUEST_ID) == 1


def test_requests_that_went_together_keep_their_own_ids(spool):
    engine = Answering(False)
    target = Target(scorer("1", engine), Role.CHAMPION)

    async def ask():
        batcher = batcher_of(spool)
        batcher.start(asyncio.get_running_loop())
        named = ["one", None, "three"]
        sent = [batcher.submit(target, rows(*range(3)), name, time.perf_counter()) for name in named]
        await asyncio.gather(*sent)
        await asyncio.to_thread(batcher.stop)

    asyncio.run(ask())
    with SpoolFile.open(spool.path) as file:
        (group,) = file.read(file.last(), 10**6)
        file.load_contracts([group.contract])
        _, table = file.unpack([group])
    assert table.column("request_id").to_pylist() == ["one"] * 3 + [None] * 3 + ["three"] * 3
    assert bytes(group.body).count(b"three") == 1


def test_the_loop_goes_on_while_somebody_else_writes_to_the_spool(spool, monkeypatch):
    monkeypatch.setattr(batcher_rules, "QUICK_SECONDS", 60.0)  # it would compute and commit all by itself
    target, turns = Target(scorer("1", Answering(False)), Role.CHAMPION), 0

    async def ask():
        nonlocal turns
        batcher = batcher_of(spool)
        batcher.start(asyncio.get_running_loop())
        for customer in range(2):
            await batcher.submit(target, rows(customer), None, time.perf_counter())
        with closing(connect(spool.path)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = batcher.submit(target, rows(3), None, time.perf_counter())
            while turns < 20:
                await asyncio.sleep(0.005)
                turns += 1
            assert not asked.done()
            other.execute("ROLLBACK")
            assert (await asked).version == "1"
        await asyncio.to_thread(batcher.stop)

    asyncio.run(ask())
    assert len(logged(spool)) == 2


def test_a_long_body_is_read_by_a_thread_and_the_loop_goes_on(spool):
    threads = []

    class Reading:
        def decode(self, body, *_):
            threads.append(threading.current_thread().name)
            return rows(*range(len(body) // QUICK_BYTES + 1))

    class Served:
        def loaded(self, _):
            return Traffic(Target(scorer("1", Answering(False)), Role.CHAMPION), Reading())

    async def ask():
        batcher = batcher_of(spool)
        batcher.start(asyncio.get_running_loop())
        predictions = Predictions(Served(), batcher, system_clock)
        for body in (b"{}", b"x" * (QUICK_BYTES + 1)):
            assert (await predictions.invoke(Request(SimpleNamespace(headers={}, path="/invocations")), body))[
                0
            ] == 200
        await asyncio.to_thread(batcher.stop)

    asyncio.run(ask())
    assert threads[0] == "MainThread"
    assert threads[1] != "MainThread"


def test_without_a_key_the_prediction_id_decides_and_is_kept():
    contract = binary_contract(key=(), key_types={})
    target = Target(scorer("1", Answering(False), contract), Role.CHAMPION)
    canary = Target(scorer("2", Answering(True), contract), Role.CANARY)
    traffic = Traffic(target, make_decoder(contract, None), canary, share=0.5)
    asked = Rows(40, {"age": [1.0] * 40, "plan": ["a"] * 40}, [None] * 40)
    parts = traffic.split(asked, datetime.now(UTC))
    assert {target.role for target, _, _ in parts} == {Role.CHAMPION, Role.CANARY}
    for target, mine, _ in parts:
        assert {bucket(each) < 0.5 for each in mine.ids} == {target.role is Role.CANARY}


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ((C("age", T.DOUBLE), C("plan", T.STRING)), None),
        ((C("age", T.DOUBLE),), None),
        ((C("age", T.DOUBLE), C("plan", T.STRING), C("city", T.STRING, required=False)), None),
        ((C("age", T.DOUBLE), C("plan", T.STRING), C("city", T.STRING)), "needs the column 'city'"),
        ((C("age", T.STRING), C("plan", T.STRING)), "'age' is string, the champion's double"),
    ],
)
def test_a_challenger_takes_part_if_what_callers_give_is_enough_for_it(features, said):
    found = misfit(binary_contract(features=features, segments=()), CONTRACT)
    assert (found is None) if said is None else (said in found)


def test_a_shadow_of_another_signature_gets_the_columns_that_it_wants(spool):
    wider = binary_contract(features=(C("plan", T.STRING), C("city", T.STRING, required=False)), segments=())
    seen = []

    class Looking(Answering):
        def score(self, features, params=None):
            seen.append({name: features.column(name).to_pylist() for name in features.column_names})
            return super().score(features, params)

    target = Target(scorer("1", Answering(False)), Role.CHAMPION, (scorer("2", Looking(True), wider),))
    answered(spool, target, [rows(7)])
    assert seen == [{"plan": ["pro"], "city": [None], "customer": [7], "month": ["m"], "prediction_id": [None]}]
    assert [row[2] for row in logged(spool)] == ["champion", "shadow"]


def test_requests_with_other_params_are_asked_apart(spool):
    seen = []

    class Asked(Answering):
        def score(self, features, params=None):
            seen.append((params, features.num_rows))
            return super().score(features, params)

    def with_params(params, *customers):
        plain = rows(*customers)
        return Rows(plain.count, plain.columns, plain.ids, params)

    target = Target(scorer("1", Asked(False)), Role.CHAMPION)
    asked = [rows(1), with_params({"top": 3}, 2), with_params({"top": 3}, 3, 4), with_params({"top": 1}, 5)]
    found, _ = answered(spool, target, asked)
    assert [len(each.answers) for each in found] == [1, 1, 2, 1]
    by_params = {}
    for params, count in seen:
        by_params[repr(params)] = by_params.get(repr(params), 0) + count
    assert by_params == {
        "None": 2,
        "{'top': 3}": 3,
        "{'top': 1}": 1,
    }  # and the first row, which only showed that it is up
