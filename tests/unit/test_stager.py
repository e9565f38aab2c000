"""What is published and kept of versions that come, fail, go and come back; with bundles that are empty folders."""

import os
from datetime import UTC, datetime

import numpy as np
import pytest

from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.inference import Scored, Scorer
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import make_redaction
from feedback_loop.schema.protocol import Rows
from feedback_loop.serving import Endpoints, ServedModel, Stager
from feedback_loop.serving.publication import HALF_MADE_SECONDS, Failure, Place
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
