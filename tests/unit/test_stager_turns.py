"""Models that are made ready one after another, while a server answers for those that are there already."""

import json
import os
from types import SimpleNamespace

import pytest

from feedback_loop.errors import Refused, Unavailable
from feedback_loop.serving import Endpoints, Stager
from feedback_loop.serving.http_errors import explained
from feedback_loop.serving.publication import InTheMaking, NotStaged, Place, hint
from feedback_loop.serving.server import wait_for_any
from tests.builders import binary_contract
from tests.unit.test_stager import Model, champion


class Enough(BaseException):
    """Ends a stager that watches for ever."""


@pytest.fixture
def models(tmp_path):
    return {name: Model(tmp_path, name) for name in "abcd"}


@pytest.fixture
def stager(models):
    return Stager([model.source() for model in models.values()])


@pytest.fixture
def endpoints(models):
    """Of a worker that has more models than it may keep in memory: none is loaded for what is told of them."""
    places = {name: model.place for name, model in models.items()}
    return Endpoints(places, lambda *_: None, lambda name, _: binary_contract(name), 1)


def test_a_model_that_is_still_being_made_ready_is_told_from_one_that_failed(models, stager, endpoints):
    models["b"].broken.add("1")
    assert stager.take_turn()
    endpoints.load()
    assert (endpoints.served, endpoints.being_made_ready()) == (["a"], ["b", "c", "d"])
    with pytest.raises(InTheMaking) as waits:
        endpoints.name("b")
    status, body, headers = explained(waits.value, "/models/b/invocations")
    assert (status, dict(headers)["retry-after"]) == (503, "2")
    assert json.loads(body)["message"] == "Model 'b' is still being made ready. Nothing was logged."
    assert stager.take_turn()
    assert not endpoints.refresh()
    assert endpoints.being_made_ready() == ["c", "d"]
    with pytest.raises(Unavailable, match="No version of it is loaded yet") as failed:
        endpoints.champion("b")
    assert not isinstance(failed.value, InTheMaking)
    while stager.take_turn():
        pass
    assert endpoints.refresh()
    assert (endpoints.served, endpoints.being_made_ready()) == (["a", "c", "d"], [])


def test_what_is_asked_for_first_is_made_ready_first(models, stager, endpoints):
    order = []
    for model in models.values():
        model.make = lambda version, folder, make=model.make: order.append(version.model) or make(version, folder)
    stager = Stager([model.source() for model in models.values()])
    stager.take_turn()
    endpoints.load()
    for name in "dcd":
        with pytest.raises(InTheMaking):
            endpoints.name(name)
        (wanted,) = models["d"].place.folder.glob("wanted-*")
        os.utime(wanted, (1, 1))  # long before the other: file systems count in ticks
    while stager.take_turn():
        pass
    assert order == [*"adcb"]
    assert {model.place.wanted_at() for model in models.values()} == {float("inf")}


def test_a_worker_starts_although_what_is_there_can_not_be_opened_if_more_is_to_come(models, stager):
    def damaged(name, _):
        raise Refused(f"{name} is damaged.")

    stager.take_turn()
    endpoints = Endpoints({name: model.place for name, model in models.items()}, damaged)
    endpoints.load()
    assert (endpoints.served, endpoints.being_made_ready()) == ([], ["b", "c", "d"])
    stager.refresh()
    with pytest.raises(Refused, match="a is damaged"):
        Endpoints({name: model.place for name, model in models.items()}, damaged).load()


def test_a_promotion_is_not_kept_waiting_by_models_that_are_still_being_made_ready(tmp_path, models):
    def promote(version, folder, make=models["b"].make):
        models["a"].aliases["champion"] = "2"
        hint(tmp_path)
        return make(version, folder)

    def look(*_):
        assert champion(models["a"]) == "2"
        raise Enough

    models["b"].make, models["c"].make = promote, look
    with pytest.raises(Enough):
        Stager([model.source() for model in models.values()], monotonic=lambda: 0.0).watch(tmp_path, 1e9)
    assert models["d"].place.read() is None


def test_a_server_begins_with_the_first_model_and_ends_with_the_first_failure_where_all_fail(
    tmp_path, models, stager
):
    places = {name: model.place for name, model in models.items()}
    alive, dead = SimpleNamespace(deaths=0), SimpleNamespace(deaths=1)
    with pytest.raises(NotStaged, match="The stager ended before"):
        wait_for_any(places, dead)
    for model in models.values():
        model.broken.add("1")
    models["c"].broken.clear()
    stager.refresh()
    wait_for_any(places, alive)
    failed = {name: places[name] for name in "bda"}
    with pytest.raises(NotStaged, match="It raises an error of its own"):
        wait_for_any(failed, alive)
    with pytest.raises(NotStaged, match="It raises an error of its own"):
        wait_for_any({**failed, "e": Place.of(tmp_path, "e", "champion", "a")}, dead)
