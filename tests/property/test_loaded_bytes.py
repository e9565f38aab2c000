"""Which models stay in memory where a worker may take so many bytes, with models that really take them."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.inference import Scored, Scorer
from feedback_loop.registry import ModelVersion
from feedback_loop.schema import make_redaction
from feedback_loop.serving import Endpoints
from feedback_loop.serving.memory import held_bytes
from feedback_loop.serving.publication import Part, Place, Publication
from tests.builders import binary_contract

STEP = 8 * 2**20
"""Models take so much, or some times as much: more than what else comes and goes in this process."""


def published(folder, names):
    """Places of models whose bundles are empty."""
    places = {name: Place.of(folder, name, "champion", "a") for name in names}
    for place in places.values():
        place.bundle("1-a").mkdir(parents=True)
        place.publish(Publication("a", Part("1", "1-a")))
    return places


def opens(sizes):
    """Scorers that take so many steps of memory: half of it in one piece, half in many small ones."""

    def open_bundle(name, _):
        contract, bytes_each = binary_contract(name), sizes[name] * STEP // 2
        held = [np.ones(bytes_each, np.uint8), [np.ones(4096, np.uint8) for _ in range(bytes_each // 4096)]]
        score = lambda *_: Scored(contract, [True], [np.array([True]), np.array([0.75])])  # noqa: E731
        engine = SimpleNamespace(answers_with="predict", score=score, held=held)
        version = ModelVersion(name, "1", None, datetime(2026, 3, 1, tzinfo=UTC), (), {})
        return Scorer(version, contract, engine, make_redaction(contract, {}, b"")), None

    return open_bundle


@settings(max_examples=30)
@given(
    st.fixed_dictionaries({name: st.integers(1, 4) for name in "abcde"}),
    st.integers(0, 8),
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=12),
)
def test_a_worker_keeps_to_its_bytes_by_those_asked_for_last_and_one_that_does_not_fit_is_served(sizes, fits, asked):
    with tempfile.TemporaryDirectory() as folder:
        most = held_bytes() + fits * STEP + STEP // 2
        endpoints = Endpoints(published(Path(folder), sizes), opens(sizes), most_bytes=most)
        endpoints.load()
        assert endpoints._traffic == {}
        recent = []
        for name in asked:
            recent = [name, *(other for other in recent if other != name)]
            assert endpoints.traffic(name).contract.model == name
            assert set(endpoints._traffic) == set(recent[: len(endpoints._traffic)])
            assert len(endpoints._traffic) == 1 or held_bytes() < most + 2**20
        endpoints.stop()
        endpoints._loader.shutdown()  # its thread has the last model in hand
