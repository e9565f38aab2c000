"""Many models on one server: which are in memory, and who waits for one that is loaded."""

import asyncio
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.inference import Scored, Scorer
from feedback_loop.schema import make_redaction
from feedback_loop.serving import Endpoints, Stager
from feedback_loop.serving import endpoints as endpoints_module
from feedback_loop.serving.oip import OpenInference
from feedback_loop.serving.request import Request
from tests.builders import binary_contract
from tests.unit.test_stager import Model


class Served:
    """Models of which only some may be in memory, with versions that say their number."""

    def __init__(self, cache, names, most):
        self.models = {name: Model(cache, name) for name in names}
        self.stager = Stager([model.source() for model in self.models.values()])
        self.opened, self.moves, self.broken = [], [], set()
        self.gate, self.is_opening = threading.Event(), threading.Event()
        self.gate.set()
        self.gates = {}  # a model's own
        places = {name: model.place for name, model in self.models.items()}
        read_contract = lambda name, _: binary_contract(name)  # noqa: E731
        self.endpoints = Endpoints(places, self.open, read_contract, most, moved=self.moves.append)
        self.stager.refresh()
        self.endpoints.load()

    def open(self, name, folder):
        self.is_opening.set()
        self.gates.get(name, self.gate).wait()
        self.opened.append(name)
        if name in self.broken:
            raise Refused(f"{name} is damaged.")

        class Engine:
            answers_with = "predict"

            def score(self, *_):
                return Scored(contract, [True], [np.array([True]), np.array([0.75])])

        contract = binary_contract(name)
        version = self.models[name].version(folder.name.partition("-")[0])
        return Scorer(version, contract, Engine(), make_redaction(contract, {}, b"")), None

    def answers(self, name):
        return self.endpoints.traffic(name).champion.scorer.version.version

    def promote(self, name, number):
        self.models[name].aliases["champion"] = number
        self.stager.refresh()


def test_of_many_models_those_are_in_memory_that_were_asked_for_last(tmp_path):
    served = Served(tmp_path, "abcd", 2)
    assert served.opened == []  # though all can be answered for, by versions that are known
    assert served.endpoints.versions() == dict.fromkeys("abcd", "1")
    assert served.endpoints.in_service() == [(name, "champion", "1") for name in "abcd"]
    for name in "abacabda":
        assert served.answers(name) == "1"
    assert served.opened == [*"abcbd", *"a"]
    assert (served.moves.count(1), served.moves.count(-1)) == (6, 4)
    assert [name for name in "abcd" if served.endpoints.loaded(name)] == ["a", "d"]
    assert served.endpoints.loaded(None) is served.endpoints.loaded("a")
    assert [served.endpoints.contract(name).model for name in served.endpoints.served] == [*"abcd"]
    assert not served.endpoints.loaded("b")  # a contract is told without
    with pytest.raises(NotFound, match="Served: a, b, c, d"):
        served.answers("x")


def test_first_calls_at_once_are_one_load_for_which_nobody_else_waits_and_that_none_ends(tmp_path):
    served = Served(tmp_path, "abc", 2)
    served.answers("a")

    async def ask():
        served.gate.clear()
        calls = [asyncio.create_task(served.endpoints.answering("b")) for _ in range(5)]
        await asyncio.sleep(0)
        ready = await served.endpoints.answering("a")
        calls[0].cancel()
        await asyncio.sleep(0)
        assert not any(call.done() for call in calls[1:])
        served.gate.set()
        return ready, await asyncio.gather(*calls, return_exceptions=True)

    ready, (gone, *answers) = asyncio.run(ask())
    assert ready is served.endpoints.loaded("a")
    assert isinstance(gone, asyncio.CancelledError)
    assert {id(traffic) for traffic in answers} == {id(served.endpoints.loaded("b"))}
    assert served.opened == ["a", "b"]


def test_a_broken_model_among_many_is_tried_once_a_while_and_the_others_answer(tmp_path):
    served = Served(tmp_path, "abc", 2)
    served.broken.add("b")
    for _ in range(3):
        with pytest.raises(Unavailable):
            served.answers("b")
    assert served.opened == ["b"]
    assert served.endpoints.versions() == {"a": "1", "b": None, "c": "1"}
    assert served.answers("a") == "1"
    served.broken.clear()
    served.promote("b", "2")
    assert served.endpoints.refresh()
    assert served.opened == ["b", "a"]
    assert served.answers("b") == "2"


def test_what_is_told_of_a_model_that_is_put_away_is_told_without_loading_it(tmp_path):
    served = Served(tmp_path, "ab", 1)
    served.models["b"].aliases["shadow"], served.models["b"].shadows = "2", ("shadow",)
    served.stager.refresh()
    assert served.endpoints.refresh()
    told = OpenInference(served.endpoints, None, None).tell

    def tell(path):
        status, body, _ = asyncio.run(told(Request(SimpleNamespace(path=path, headers={})), b""))
        return status, json.loads(body)

    assert tell("/v2/models/b/ready") == tell("/v2/models/b/versions/1/ready") == (200, {"name": "b", "ready": True})
    assert tell("/v2/models/b")[1]["versions"] == ["1"]
    assert served.endpoints.contract("b", "2").model == "b"
    for path in ("/v2/models/b/versions/2/ready", "/v2/models/x"):
        with pytest.raises(NotFound):
            tell(path)
    with pytest.raises(NotFound, match="made ready here"):
        served.endpoints.contract("b", "3")
    assert served.opened == []


def test_a_publication_that_can_not_be_read_is_read_again_and_the_others_are_looked_at_meanwhile(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(endpoints_module, "AGAIN_SECONDS", 0.0)
    served = Served(tmp_path, "abc", 2)
    served.promote("c", "2")
    published = served.models["a"].place.published
    published.rename(published.with_suffix(".away"))
    published.mkdir()
    assert served.endpoints.refresh()
    assert served.endpoints.versions() == {"a": None, "b": "1", "c": "2"}
    published.rmdir()
    published.with_suffix(".away").rename(published)
    assert served.endpoints.refresh()
    assert served.answers("a") == "1"
    assert not served.endpoints.refresh()


def test_a_version_that_is_published_while_its_model_is_put_away_or_loading_answers_next(tmp_path):
    served = Served(tmp_path, "abc", 1)
    assert (served.answers("a"), served.answers("b")) == ("1", "1")
    served.promote("a", "2")  # away
    served.promote("b", "2")  # loaded
    assert served.endpoints.refresh()
    assert not served.endpoints.refresh()
    assert served.opened == ["a", "b", "b"]
    assert (served.endpoints.versions(), served.answers("b")) == ({"a": "2", "b": "2", "c": "1"}, "2")
    assert served.answers("a") == "2"
    served.gate.clear()
    served.is_opening.clear()
    load = served.endpoints._begun("c")
    served.is_opening.wait()
    served.promote("c", "2")  # loading
    assert not served.endpoints.refresh()
    served.gate.set()
    load.result()
    assert served.endpoints.refresh()
    assert served.answers("c") == "2"


def test_a_swap_waits_for_no_model_that_is_loaded(tmp_path):
    served = Served(tmp_path, "abc", 2)
    served.answers("a")
    served.gates["b"] = swapped = threading.Event()  # its load ends only once the swap is done
    served.is_opening.clear()
    load = served.endpoints._begun("b")
    served.is_opening.wait()
    served.promote("a", "2")
    assert served.endpoints.refresh()
    assert (served.answers("a"), load.done()) == ("2", False)
    swapped.set()
    load.result()
    assert served.opened == ["a", "a", "b"]


def test_what_is_being_swapped_is_not_put_away_meanwhile(tmp_path):
    served = Served(tmp_path, "ab", 1)
    served.answers("a")
    served.gates["a"] = loaded = threading.Event()  # its swap ends only once the other is loaded
    served.is_opening.clear()
    served.promote("a", "2")
    swap = served.endpoints._begun("a")
    served.is_opening.wait()
    assert served.answers("b") == "1"
    loaded.set()
    assert swap.result() is served.endpoints.loaded("a")
    assert (served.answers("a"), served.moves.count(1) - served.moves.count(-1)) == ("2", 1)
