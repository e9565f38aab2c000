"""A model whose versions are promoted, for a stateful machine: what is there, and the acts of the loop on it."""

import shutil
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import count, takewhile

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import RolloutSettings
from feedback_loop.errors import Unavailable
from feedback_loop.promotion import THE_LOOP, ApprovalDesk, Champions, RolloutDesk
from feedback_loop.promotion.live import MaturedWindows, Scale
from feedback_loop.promotion.paired import WindowPair
from feedback_loop.registry import Reference
from feedback_loop.retraining import GateResult
from feedback_loop.store import approvals, retrainings
from feedback_loop.store.retrainings import Check, load_promotions
from tests.integration.processes import call, free_port, running, wait_until
from tests.mortal import MortalRegistry

DAY = timedelta(days=1)
WINDOWS = 4
NOWHERE = "s3://nowhere/model"  # a server takes no file of its own for one; nothing is loaded here
MODELS = (f"m{number}" for number in count())
PASSED = GateResult(
    loss="brier",
    candidate=0.2,
    champion=0.2,
    difference=0.0,
    upper=0.001,
    margin=0.01,
    passed=True,
    rows=400,
    days=4,
    summary="as good",
)


class Away:
    """A registry that goes away before an alias is set."""

    def __init__(self, registry):
        self.champion, self.find = registry.champion, registry.find

    def set_alias(self, *_):
        raise Unavailable("registry", "it is away")


@contextmanager
def mlflow_at(folder, empty, kind, warm):
    """The address of an MLflow of a test's own: its file, or a server before it."""
    uri = f"sqlite:///{shutil.copy(empty, folder)}"
    if kind == "file":
        yield uri
        return
    port, log = free_port(), folder / "mlflow.log"
    command = [warm / "mlflow", "server", "--port", port, "--backend-store-uri", uri, "--workers", 1]
    command += ["--artifacts-destination", folder / "served"]
    with running([str(part) for part in command], log, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as process:
        wait_until(lambda: call(port, "GET", "/health")[0] == 200, process, log)
        yield f"http://127.0.0.1:{port}"


def new_model(registry, versions):
    model, client = next(MODELS), registry._mlflow.client
    client.create_registered_model(model)
    for _ in range(versions):
        client.create_model_version(model, NOWHERE)
    return model


class PromotedModel(RuleBasedStateMachine):
    """One model of its own, and what is known of it. `place`, a store and a registry, is set by the test."""

    place: tuple

    @initialize(mode=st.sampled_from(["direct", "shadow", "canary"]))
    def begin(self, mode):
        self.store, self.registry = self.place
        self.life = self.store.life
        self.model = new_model(self.registry, 3)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.matured = self.now
        self.actual = None
        self.quality = {}
        self.by_hand = set()  # versions that a person, or a hand in MLflow, has made the champion
        self.mode = mode

    def desk(self):
        rollout = RolloutSettings(mode=self.mode, windows=WINDOWS, probation=WINDOWS, steps=(0.1,))
        settings = ModelSettings(task="binary", label="y", rollout=rollout)
        return ApprovalDesk(RolloutDesk(self.champions(), settings, self.compare), settings.approval)

    def champions(self):
        return Champions(self.store, MortalRegistry(self.registry, self.life), self.model, "champion", ("log",))

    def compare(self, rollout, matured, _):
        """Days on which the versions differ by their quality, without a log or models."""
        for version in (rollout.candidate, rollout.baseline):
            self.registry.find(Reference(self.model, version=version), exactly=True)
        effect = self.quality.get(rollout.candidate, 0) - self.quality.get(rollout.baseline, 0)
        random = np.random.default_rng([rollout.rollout_id, (rollout.until - rollout.since).days])

        def pairs(since, days, by):
            ends = [(since + (day + 1) * DAY).isoformat() for day in range(days)]
            return [WindowPair(end, 100, 0.3 + by + random.normal(0, 0.01), 0.3) for end in ends]

        before = [] if rollout.evidence.get("scale") else pairs(rollout.since - 14 * DAY, 14, 0.0)
        return MaturedWindows(
            Scale("brier"), pairs(rollout.until, (matured - rollout.until).days, 0.1 * effect), before
        )

    def tick(self):
        self.now += timedelta(minutes=1)
        return self.now

    def settled(self):
        """Who is the champion once the next turn has looked."""
        self.actual = self.champions().reconcile(self.tick())
        return self.actual

    def done(self):
        return [promotion for promotion in load_promotions(self.store, self.model) if promotion.state == "done"]

    def recorded(self):
        done = self.done()
        return done[-1].to_version if done else None

    def standing(self):
        """By the definition: who goes back to a champion that stands leaves those after it."""
        history = [promotion.to_version for promotion in self.done()]
        return reduce(lambda before, now: [*takewhile(lambda version: version != now, before), now], history, [])

    def versions(self):
        return [version.version for version in self.registry.versions(self.model)]

    def chosen(self, number):
        versions = self.versions()
        return versions[number % len(versions)]

    def open_approval(self):
        self.settled()
        waiting = approvals.waiting_approval(self.store, self.model)
        return waiting if waiting is not None and waiting.state == "open" else None

    def search(self, quality, *, passes):
        """What a search leaves: a version, and its gates on record; returns its number and that of the search."""
        self.registry._mlflow.client.create_model_version(self.model, NOWHERE)
        candidate = self.versions()[-1]
        self.quality[candidate] = quality
        began = retrainings.start_retraining(
            self.store, self.model, reason="manual", champion=self.actual, incident_id=None, now=self.tick()
        )
        gates = [Check("non-inferior", True, "as good"), Check("calibration", passes, "off by .1")]
        retrainings.note_retraining(self.store, began, candidate=candidate, gates=gates)
        retrainings.finish_retraining(self.store, began, state="passed", now=self.now)
        return candidate, began

    def land(self, candidate, search):
        return self.desk().rollout.land(
            candidate, self.actual, self.tick(), reason="r", made_by=THE_LOOP, retraining_id=search
        )

    def turn(self, days):
        """A turn of the loop, as it is after so many days with labels."""
        self.now += days * DAY
        self.matured = self.now.replace(hour=0, minute=0)
        self.champions().reconcile(self.tick())
        self.desk().settle(self.tick())
        return self.desk().rollout.turn(self.tick(), self.matured, lambda _: PASSED)
