"""What is published and kept of versions that come, fail, go and come back; with bundles that are empty folders."""

import asyncio
import json
import os
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.inference import Scored, Scorer
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import make_redaction
from feedback_loop.schema.protocol import Rows
from feedback_loop.serving import Endpoints, ServedModel, Stager
from feedback_loop.serving import endpoints as endpoints_module
from feedback_loop.serving.oip import OpenInference
from feedback_loop.serving.publication import HALF_MADE_SECONDS, Failure, Place
from feedback_loop.serving.request import Request
from feedback_loop.store.serving_state import TrafficPlan
from tests.builders import binary_contract, flat_coefficients, multiclass_contract


class Model:
    """One model whose alias is moved and whose versions can be broken."""

    def __init__(self, cache, name, form="a", *, adapts=False):
        self.place = Place.of(cache, name, "champion", form, adapts=adapts)
        self.name, self.aliases, self.shadows = name, {"champion": "1"}, ()
        self.broken, self.made, self.told, self.looked = set(), [], [], 0
        self.wanted = lambda: None

    def version(self, number):
        return ModelVersion(self.name, number, None, datetime(2026, 3, 1, tzinfo=UTC), (), {})

    def make(self, version, folder):
        self.looked += 1
        if version.version in self.broken:
            raise Refused("It raises an error of its own.")
        if not folder.exists():
            folder.mkdir(parents=True)
            self.made.append(version.version)
        return binary_contract()

    def aliased(self, alias):
        if alias not in self.aliases:
            raise NotFound("alias", alias)
        return self.version(self.aliases[alias])

    def revision(self, number, coefficients):
        """From now on that revision is to be on."""
        digest, content = coefficients.digest, coefficients.to_bytes()
        self.wanted = lambda: self.place.keep_coefficients(number, digest, lambda: content)

    def adapter(self):
        return self.wanted()

    def source(self):
        return ServedModel(
            self.place,
            champion=lambda: self.aliased("champion"),
            aliased=self.aliased,
            numbered=self.version,
            traffic=lambda: TrafficPlan(self.shadows),
            make=self.make,
            adapter=self.adapter,
            failed=lambda version, cause: self.told.append((version.version, cause)),
            settled=lambda *_: None,
        )


@pytest.fixture
def model(tmp_path):
    return Model(tmp_path, "churn")


def champion(model):
    return model.place.read().champion.version


def test_a_model_that_can_not_be_staged_leaves_the_others_and_says_why(tmp_path, model):
    other = Model(tmp_path, "other")
    other.broken.add("1")
    Stager([other.source(), model.source()]).refresh()
    assert champion(model) == "1"
    assert other.place.read() is None
    assert other.place.failure().cause == "It raises an error of its own."
    assert other.told == [("1", "It raises an error of its own.")]


def test_a_version_that_can_not_be_made_ready_leaves_the_old_one_also_after_a_restart_and_an_upgrade(tmp_path, model):
    Stager([model.source()]).refresh()
    model.aliases["champion"] = "2"
    model.broken.add("2")
    Stager([model.source()]).refresh()
    assert (champion(model), [version for version, _ in model.told]) == ("1", ["2"])
    again = Model(tmp_path, "churn", form="b")  # as another release has it: what is published is not for it
    again.aliases, again.broken = model.aliases, model.broken
    Stager([again.source()]).refresh()
    assert (champion(again), again.made, [version for version, _ in again.told]) == ("1", ["1"], ["2"])
    again.broken.clear()
    Stager([again.source()]).refresh()
    assert champion(again) == "2"


def test_a_rollback_finds_the_bundle_that_answered_until_now_whatever_was_made_meanwhile(model):
    stager = Stager([model.source()])
    stager.refresh()
    os.utime(model.place.bundle(model.place.bundle_name("1")), (0, 0))  # it was made long ago
    for number in ("2", "3", "4"):
        model.aliases["shadow"], model.shadows = number, ("shadow",)
        stager.refresh()
        for each in model.place.in_use() - {model.place.bundle_name("1")}:
            os.utime(model.place.bundle(each), (1e9 + int(number), 1e9 + int(number)))
    model.shadows = ()
    model.aliases["champion"] = "5"
    stager.refresh()
    model.aliases["champion"] = "1"
    stager.refresh()
    assert model.made == ["1", "2", "3", "4", "5"]
    assert champion(model) == "1"


def test_what_is_used_stays_the_last_used_beside_it_and_what_was_never_ended_goes_once_it_is_old(model):
    Stager([model.source()]).refresh()
    now = 2e9
    for age, name in enumerate(["b", "c", "d", ".making", ".left"]):
        (model.place.folder / name).mkdir()
        at = now - age if name != ".left" else now - 2 * HALF_MADE_SECONDS
        os.utime(model.place.folder / name, (at, at))
    assert {each.name for each in model.place.clean(now)} == {"d", ".left"}
    left = {each.name for each in model.place.folder.iterdir() if each.is_dir()}
    assert left == {model.place.bundle_name("1"), "b", "c", ".making"}


def test_a_bundle_is_looked_at_again_once_a_file_of_it_has_changed(model):
    stager = Stager([model.source()])
    for _ in range(3):
        stager.refresh()
    assert model.looked == 1
    file = model.place.bundle(model.place.bundle_name("1")) / "model.onnx"
    for change in (lambda: file.write_bytes(b"torn"), file.unlink):
        before = model.looked
        change()
        stager.refresh()
        stager.refresh()
        assert model.looked == before + 1


def test_a_server_none_of_whose_models_can_be_opened_says_why(tmp_path, model):
    Stager([model.source()]).refresh()

    def damaged(name, _):
        raise Refused(f"{name} is damaged.")

    other = Place.of(tmp_path, "other", "champion", "a")
    other.fail(Failure("It raises an error of its own."))
    endpoints = Endpoints({"churn": model.place, "other": other}, damaged)
    with pytest.raises(Refused, match="churn is damaged"):
        endpoints.load()
    with pytest.raises(Unavailable):
        endpoints.traffic("churn")
    with pytest.raises(NotFound):
        endpoints.traffic("nobody")


def adapter_of(model):
    published = model.place.read().adapter
    return None if published is None else (published.revision, model.place.coefficients(published).digest)


def test_a_revision_is_published_with_its_coefficients_and_stays_while_the_store_is_away(tmp_path):
    model = Model(tmp_path, "churn", adapts=True)
    stager = Stager([model.source()])
    stager.refresh()
    assert adapter_of(model) is None
    first, second = flat_coefficients(binary_contract(), 1.0), flat_coefficients(binary_contract(), 2.0)
    model.revision(1, first)
    stager.refresh()
    assert adapter_of(model) == (1, first.digest)

    def away():
        raise Unavailable("database", "It is away.")

    model.wanted = away
    Stager([model.source()]).refresh()
    assert adapter_of(model) == (1, first.digest)
    model.revision(2, second)
    (file,) = model.place.folder.glob("adapter-1-*")
    os.utime(file, (0, 0))
    stager.refresh()
    assert (adapter_of(model), file.exists()) == ((2, second.digest), False)
    (file,) = model.place.folder.glob("adapter-2-*")
    file.write_bytes(file.read_bytes()[:-1])
    assert adapter_of(model) is None  # answers are the model's own until it is made anew
    stager.refresh()
    assert adapter_of(model) == (2, second.digest)
    model.revision(3, first)
    model.wanted = lambda: model.place.keep_coefficients(3, first.digest, lambda: first.to_bytes()[:-1])
    stager.refresh()
    assert adapter_of(model) == (2, second.digest)
    assert adapter_of(Model(tmp_path, "churn")) is None  # it was switched off


def test_a_revision_answers_warm_and_whole_and_one_that_does_not_fit_is_not_on(tmp_path):
    model, asked = Model(tmp_path, "churn", adapts=True), []
    contract = binary_contract()

    class Engine:
        answers_with = "predict"

        def score(self, features, _=None):
            asked.append(features.num_rows)
            return Scored(contract, [True], [np.array([True]), np.array([0.75])])

    def opened(_, folder):
        return Scorer(model.version("1"), contract, Engine(), make_redaction(contract, {}, b"")), None

    stager, endpoints = Stager([model.source()]), Endpoints({"churn": model.place}, opened)
    stager.refresh()
    endpoints.load()
    revisions = {None: endpoints.traffic("churn")}
    for number, shift in ((1, -3.0), (2, 3.0)):
        model.revision(number, flat_coefficients(contract, shift))
        stager.refresh()
        before = len(asked)
        assert endpoints.refresh()
        assert len(asked) > before  # warm
        revisions[number] = endpoints.traffic("churn")
    row = Rows(1, {"age": [40.0], "plan": ["pro"], "customer": [1], "month": ["m"]}, [None])
    answers = {number: traffic.champion.scorer.score_rows(row) for number, traffic in revisions.items()}
    assert {number: (scored.revision, scored.answers) for number, scored in answers.items()} == {
        None: (None, [True]), 1: (1, [False]), 2: (2, [True]),
    }  # fmt: skip
    model.revision(3, flat_coefficients(multiclass_contract(), 1.0))
    stager.refresh()
    assert endpoints.refresh()
    assert endpoints.traffic("churn").champion.scorer.score_rows(row).revision is None


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
