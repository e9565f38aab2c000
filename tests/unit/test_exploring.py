"""Exploration in answers and in the log: which rows, by what probability, in each door's form."""

import asyncio
import json
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pyarrow as pa
import pytest

from feedback_loop.capture import Recorder, Spool, SpoolView
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.clock import system_clock
from feedback_loop.config import CaptureSettings, LogSettings, ModelSettings
from feedback_loop.errors import ConfigError
from feedback_loop.inference import Scored, Scorer
from feedback_loop.inference.exploring import exploring_of
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import Role, make_redaction
from feedback_loop.schema.protocol import Rows, make_decoder, oip
from feedback_loop.schema.protocol.wire import encode_answer
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.predictions import Predictions, _encode_mixed
from feedback_loop.serving.shadows import Shadows
from feedback_loop.serving.traffic import Target, Traffic
from tests.builders import binary_contract, multiclass_contract, regression_contract

CONTRACT = binary_contract()


class Scoring:
    """An engine whose probability is the row's age in hundreds."""

    answers_with = "predict"

    def score(self, features, _=None):
        chances = [age / 100 for age in features.column("age").to_pylist()]
        answers = [chance > 0.5 for chance in chances]
        return Scored(CONTRACT, answers, [pa.array(answers), pa.array(chances)])


def settings(**exploration):
    return ModelSettings(task="binary", label="churned", exploration=exploration)


def scorer(version="1", contract=CONTRACT, **exploration):
    own = ModelVersion("churn", version, None, datetime.now(UTC), (), {})
    exploring = exploring_of(contract, settings(**exploration))
    return Scorer(own, contract, Scoring(), make_redaction(contract, {}, b""), exploring=exploring)


def rows(count):
    columns = {"age": [float(row % 100) for row in range(count)], "plan": ["pro"] * count}
    return Rows(count, columns | {"customer": [*range(count)], "month": ["m"] * count}, [None] * count)


def marks_of(scored_by, count=400):
    asked = rows(count)
    ids = [str(row) for row in range(count)]
    return scored_by.marked(scored_by.score_rows(asked), asked, ids).marks


def test_without_a_rule_explored_rows_have_the_share_and_the_others_no_propensity():
    marks = marks_of(scorer(share=0.2))
    assert 50 < sum(marks.explored) < 110
    assert {(chosen, chance) for chosen, chance in zip(*_pairs(marks), strict=True)} == {(True, 0.2), (False, None)}


@pytest.mark.parametrize(
    ("rule", "acts"),
    [
        ({"acts_below": 0.3}, lambda age: age < 30),
        ({"acts_above": 0.3}, lambda age: age > 30),
        ({"acts_on": (True,)}, lambda age: age > 50),
    ],
)
def test_with_a_rule_what_the_answer_leads_to_is_sure_and_all_else_has_the_share(rule, acts):
    marks = marks_of(scorer(share=0.2, **rule))
    assert marks.propensity == [1.0 if acts(row % 100) else 0.2 for row in range(400)]
    assert marks.explored == marks_of(scorer(share=0.2)).explored  # whatever is answered


def test_without_exploration_nothing_is_marked():
    assert marks_of(scorer()) is None


def _pairs(marks):
    return marks.explored, marks.propensity


@pytest.mark.parametrize(
    ("contract", "exploration", "says"),
    [
        (CONTRACT, {"acts_on": ("good",)}, "acts_on"),
        (regression_contract(), {"acts_on": (1,)}, "acts_on"),
        (multiclass_contract(), {"acts_below": 0.5}, "acts_on"),
        (binary_contract(probabilities=False), {"acts_above": 0.5}, "acts_on"),
        (CONTRACT, {"acts_below": 30}, "from 0 to 1"),
    ],
)
def test_a_rule_that_answers_can_not_meet_is_refused(contract, exploration, says):
    with pytest.raises(ConfigError) as caught:
        exploring_of(contract, settings(**exploration))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "says"),
    [({"acts_on": (True,), "acts_below": 0.5}, "one of them"), ({"acts_above": float("nan")}, "finite")],
)
def test_two_rules_and_one_that_compares_with_no_number_are_refused(rule, says):
    with pytest.raises(ValueError, match=says):
        settings(**rule)


@pytest.fixture
def spool(tmp_path):
    with closing(Spool(tmp_path / "spool", CaptureSettings(), lambda _: LogSettings())) as made:
        yield made


def asked(spool, traffic, count):
    async def ask():
        shadows = Shadows(Recorder(SpoolView(spool, waits=False)), lambda *_: None)
        batcher = Batcher(
            Recorder(spool), system_clock, answered=lambda *_: None, faulty=lambda *_: None, shadows=shadows
        )
        batcher.start(asyncio.get_running_loop())
        answer = await Predictions(None, batcher, system_clock).predict(
            traffic, rows(count), None, time.perf_counter()
        )
        await asyncio.to_thread(batcher.stop)
        return answer

    return asyncio.run(ask())


def logged(spool):
    with SpoolFile.open(spool.path) as file:
        groups = list(file.read(file.last(), 10**6))
        file.load_contracts(group.contract for group in groups)
        return [row for group in groups for row in file.unpack([group])[1].to_pylist()]


@pytest.mark.parametrize("with_canary", [False, True])
def test_answers_and_log_say_the_same_and_a_shadow_has_the_marks_of_what_was_served(spool, with_canary):
    rule = {"share": 0.3, "acts_below": 0.5}
    champion, shadow = scorer(**rule), scorer("2", share=0.3, acts_above=0.5)  # it would act on others
    canary = Target(scorer("3", **rule), Role.CANARY) if with_canary else None
    traffic = Traffic(Target(champion, Role.CHAMPION, (shadow,)), make_decoder(CONTRACT, None), canary, share=0.4)
    answer = asked(spool, traffic, 100)
    expected = marks_of(champion, 100)
    assert answer.beside == {"explore": expected.explored}
    stored = {row["customer"]: row for row in logged(spool) if row["role"] != "shadow"}
    assert [stored[row]["explored"] for row in range(100)] == expected.explored
    assert [stored[row]["propensity"] for row in range(100)] == expected.propensity
    for row in logged(spool):
        assert (row["explored"], row["propensity"]) == _pairs_of(expected, row["customer"])


def _pairs_of(marks, row):
    return marks.explored[row], marks.propensity[row]


def test_each_door_carries_the_marks_and_none_where_exploration_is_off(spool):
    off, on = (
        asked(spool, Traffic(Target(scored_by, Role.CHAMPION), make_decoder(CONTRACT, None)), 3)
        for scored_by in (scorer(), scorer(share=0.99))
    )
    mlflow = json.loads(encode_answer(on.response, on.ids, on.version, on.beside))
    assert (mlflow["predictions"], mlflow["explore"]) == ([False] * 3, on.beside["explore"])
    assert "explore" not in json.loads(encode_answer(off.response, off.ids, off.version, off.beside))
    tensors = [
        {"name": "age", "datatype": "FP64", "shape": [3], "data": [1.0, 2.0, 3.0]},
        {"name": "plan", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]},
        {"name": "customer", "datatype": "INT64", "shape": [3], "data": [0, 1, 2]},
        {"name": "month", "datatype": "BYTES", "shape": [3], "data": ["m"] * 3},
    ]
    infer = oip.decode_infer(make_decoder(CONTRACT, None), msgspec.json.encode({"inputs": tensors}), {}.get)
    named = {column.name: on.outputs.column(column.stored).to_pylist() for column in CONTRACT.outputs}
    body, _ = oip.encode_infer(infer, CONTRACT, named, on.ids, ["1"], on.beside)
    assert json.loads(body)["parameters"]["explore"].split(",") == [
        "true" if mark else "false" for mark in on.beside["explore"]
    ]


def test_an_answer_of_two_versions_has_the_marks_in_the_order_of_its_rows(spool):
    rule = {"share": 0.5}
    traffic = Traffic(
        Target(scorer(**rule), Role.CHAMPION),
        make_decoder(CONTRACT, None),
        Target(scorer("3", **rule), Role.CANARY),
        share=0.5,
    )
    mixed = asked(spool, traffic, 40)
    assert json.loads(_encode_mixed(mixed))["explore"] == marks_of(scorer(**rule), 40).explored
    assert "explore" not in json.loads(_encode_mixed(replace(mixed, beside={})))
