"""What is published and kept of versions that come, fail, go and come back; with bundles that are empty folders."""

import os
from datetime import UTC, datetime

import pytest

from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.registry import ModelVersion
from feedback_loop.serving import Endpoints, ServedModel, Stager
from feedback_loop.serving.publication import HALF_MADE_SECONDS, Place
from feedback_loop.store.serving_state import TrafficPlan
from tests.builders import binary_contract


class Model:
    """One model whose alias is moved and whose versions can be broken."""

    def __init__(self, cache, name, form="a"):
        self.place = Place.of(cache, name, "champion", form)
        self.name, self.aliases, self.shadows = name, {"champion": "1"}, ()
        self.broken, self.made, self.told, self.looked = set(), [], [], 0

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

    def source(self):
        return ServedModel(
            self.place,
            champion=lambda: self.aliased("champion"),
            aliased=self.aliased,
            numbered=self.version,
            traffic=lambda: TrafficPlan(self.shadows),
            make=self.make,
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

    endpoints = Endpoints({"churn": model.place, "other": Place.of(tmp_path, "other", "champion", "a")}, damaged)
    with pytest.raises(Refused, match="churn is damaged"):
        endpoints.load()
    with pytest.raises(Unavailable):
        endpoints.traffic("churn")
    with pytest.raises(NotFound):
        endpoints.traffic("nobody")
