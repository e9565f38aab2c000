"""What all parts of the facade share: settings, clock, store, registry, the versions in memory."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Self

import structlog

from feedback_loop.alerts import alert_routes
from feedback_loop.capture import Deployed, Deployments, Forwarder, Recorder, Spool
from feedback_loop.clock import Clock, system_clock
from feedback_loop.config import Settings
from feedback_loop.errors import BadInput, NotFound, Refused
from feedback_loop.inference import Coefficients, DamagedBundle, Scorer, make_scorer, open_bundle, stage
from feedback_loop.loop.showing import Shown
from feedback_loop.monitoring import References
from feedback_loop.outcomes import matured_until
from feedback_loop.progress import Progress, Silent
from feedback_loop.promotion import Champions
from feedback_loop.registry import ModelVersion, Reference, Registry
from feedback_loop.schema import Contract, RandomBits
from feedback_loop.serving.places import engine_options, meant_version, place_of_version
from feedback_loop.store import Store, adapters, create_tables, fence, incidents, predictions, retrainings
from feedback_loop.store.alerts import Routes
from feedback_loop.store.retrainings import Promotion
from feedback_loop.store.serving_state import VersionNames

_log = structlog.get_logger(__name__)


class _Asked(threading.local):
    """What this thread has asked MLflow in the turn of the loop that it plays, if it plays one."""

    def __init__(self) -> None:
        self.is_on = False
        self.champions: dict[str, ModelVersion] = {}


@dataclass(frozen=True)
class Context:
    """What the parts of one loop share. Nothing is opened before it is used.

    `before_promotion` is called with this, a model and a version before that becomes the champion.
    """

    settings: Settings
    clock: Clock
    progress: Progress
    bits: RandomBits
    store: Store
    registry: Registry
    log: predictions.PredictionLog
    references: References
    before_promotion: Callable[[Context, str, str], None]
    _scorers: dict[tuple[str, str], Scorer] = field(default_factory=dict)
    _fastest: dict[tuple[str, str], Scorer] = field(default_factory=dict)
    _versions: dict[tuple[str, str], ModelVersion] = field(default_factory=dict)
    _asked: _Asked = field(default_factory=_Asked)

    @classmethod
    def of(
        cls,
        settings: Settings,
        before_promotion: Callable[[Context, str, str], None],
        *,
        clock: Clock = system_clock,
        progress: Progress | None = None,
        bits: RandomBits = secrets.randbits,
    ) -> Self:
        """All of it by the settings; reads and writes nothing."""
        store = Store(settings.url(settings.store.url), settings.hash_key)
        registry = Registry.of(settings, VersionNames(store).name)
        log, references = predictions.PredictionLog(store), References(store, registry)
        return cls(settings, clock, progress or Silent(), bits, store, registry, log, references, before_promotion)

    @property
    def recorder(self) -> Recorder:
        """What brings predictions to the store."""
        return Recorder(self.log, self.bits)

    @property
    def shown(self) -> Shown:
        """What MLflow shows of the loop."""
        return Shown(self.registry, self.settings.dashboard.url, self.version, self._incident_of)

    def _incident_of(self, promotion: Promotion) -> int | None:
        """The incident that a promotion answers: its retraining's, else the newest that is open."""
        search = retrainings.find_retraining(self.store, promotion.retraining_id) if promotion.retraining_id else None
        if search is not None and search.incident_id is not None:
            return search.incident_id
        still_open = incidents.open_incidents(self.store, promotion.model)
        return still_open[-1].incident_id if still_open else None

    @property
    def reports(self) -> Path:
        """The folder that reports are written to."""
        return self.settings.path(self.settings.scheduler.reports)

    @property
    def routes(self) -> Routes:
        """The routes that alerts go out on."""
        return alert_routes(self.settings.alerts)

    def champion(self, model: str) -> ModelVersion:
        """The version that answers callers; raises NotFound. Within a turn of the loop MLflow is asked once."""
        champion = self._asked.champions.get(model) if self._asked.is_on else None
        if champion is None:
            champion = self.registry.find(Reference(model, alias=self.settings.model(model).alias))
            if self._asked.is_on:
                self._asked.champions[model] = champion
        return champion

    @contextmanager
    def asking_once(self, *, begins: bool, ends: bool) -> Iterator[None]:
        """In the block, of a job of a turn, this thread takes as the champion who was it before in this turn.

        `begins` and `ends` say whether it is the turn's first or last job. Who may move an alias asks all the same
        (`Champions`).
        """
        if begins:
            self._asked.champions.clear()
        self._asked.is_on = True
        try:
            yield
        finally:
            self._asked.is_on = False
            if ends:
                self._asked.champions.clear()

    def ask_again(self, model: str) -> None:
        """Has the champion be asked for again within the turn: it changes, or may have."""
        self._asked.champions.pop(model, None)

    def champions(self, model: str) -> Champions:
        """Who is the champion of a model, and how that changes."""
        alias, prepare = self.settings.model(model).alias, partial(self._prepare, model)
        return Champions(self.store, self.registry, model, alias, self.routes, prepare, self.shown.promotion)

    def _prepare(self, model: str, number: str) -> None:
        self.before_promotion(self, model, number)
        self.ask_again(model)

    def scorer(self, version: ModelVersion) -> Scorer:
        """A version, loaded; kept in memory for the next time."""
        key = (version.model, version.version)
        if key not in self._scorers:
            settings = self.settings.model(version.model)
            self._scorers[key] = make_scorer(self.registry.load(version), settings, self.settings.hash_key)
        return self._scorers[key]

    def contract(self, model: str) -> Contract:
        """What the log holds of the champion's predictions."""
        return self.scorer(self.champion(model)).logged

    def fastest_scorer(self, version: ModelVersion) -> Scorer:
        """A version by the fastest engine that is proven: from the bundle that servers answer from, made if need be.

        Where none can be made or kept on this disk it is the model itself, as `scorer` has it, and the log says so.
        """
        key = (version.model, version.version)
        if key not in self._fastest:
            self._fastest[key] = self._from_bundle(version)
        return self._fastest[key]

    def answering(self, version: ModelVersion, revision: int | None = None) -> Scorer:
        """`fastest_scorer` with its model's adapter on, as servers answer: with that `revision` of it, or the newest.

        Without where the adapter is off, has no revision, or does not fit the version. Raises NotFound for a revision
        that is gone.
        """
        scorer, model = self.fastest_scorer(version), version.model
        if revision is None:
            newest = None
            if self.settings.model(model).adapter.mode == "on":
                newest = adapters.newest_served(self.store, model)
            if newest is None:
                return scorer
            revision = newest.revision
        content = adapters.load_coefficients(self.store, model, revision)
        if content is None:
            raise NotFound(
                "revision of the adapter", f"{model} {revision}", cure="See: feedback-loop adapter history."
            )
        try:
            return scorer.adapted_by(revision, Coefficients.from_bytes(content))
        except Refused as error:
            _log.warning("adapter not on", version=str(version), cause=str(error))
            return scorer

    def _from_bundle(self, version: ModelVersion) -> Scorer:
        settings, hash_key = self.settings.model(version.model), self.settings.hash_key
        options, place = engine_options(self.settings, version.model), place_of_version(self.settings, version.model)
        folder = place.bundle(place.bundle_name(version.version))
        try:
            stage(self.registry, version, settings, folder, self.clock(), options=options, hash_key=hash_key)
            scorer = open_bundle(folder, settings, hash_key, options, trusted=self.registry.is_trusted)
            place.clean(beside=folder)
        except (OSError, DamagedBundle) as error:
            _log.warning("scored_without_bundle", version=str(version), cause=str(error))
            return self.scorer(version)
        return scorer

    def check_storable(self, scorer: Scorer) -> None:
        """Raises ContractError where what the version predicts can't be logged, as its model's log is set."""
        if self.settings.model(scorer.contract.model).log.durability != "off":
            create_tables.check_storable(self.store, scorer.logged)

    def find(self, text: str) -> ModelVersion:
        """The version that `name`, `name@alias` or `name/version` means now; raises NotFound."""
        return self.registry.find(meant_version(self.settings, text))

    def forget(self, version: ModelVersion) -> None:
        """Has it looked up anew: its tags have changed."""
        self.ask_again(version.model)
        self._versions.pop((version.model, version.version), None)

    def version(self, model: str, version: str) -> ModelVersion:
        """A version by its number, kept in memory; raises NotFound."""
        key = (model, version)
        if key not in self._versions:
            self._versions[key] = self.registry.find(Reference(model, version=version), exactly=True)
        return self._versions[key]

    def deployments(self) -> Deployments:
        """Whose answers may be logged: the champion's, or those of any version by its number."""
        return Deployments(self.deployed, self.settings.serving.poll_alias)

    def deployed(self, model: str, version: str | None) -> Deployed:
        """What a version (default: the champion) has logged of it."""
        scorer = self.scorer(self.champion(model) if version is None else self.version(model, version))
        return Deployed(scorer.redaction, scorer.version.version, scorer.sample)

    def promotions(self, model: str) -> list[Promotion]:
        """Those that were carried out, oldest first."""
        promotions = retrainings.load_promotions(self.store, model)
        return [promotion for promotion in promotions if promotion.state == "done"]

    def champion_anew(self, model: str) -> datetime | None:
        """When the champion took over from another version; None for the first one."""
        newest = self.promotions(model)[-1:]
        return newest[0].done_at if newest and newest[0].from_version is not None else None

    def matured_until(self, model: str, as_of: datetime) -> datetime:
        """Before this moment predictions had matured by `as_of`: the end of a window."""
        settings = self.settings.model(model)
        return matured_until(as_of, settings.maturity, settings.window)

    def final(self, model: str, as_of: datetime | None) -> datetime:
        """The moment (default: now), with what is known at it made final."""
        if as_of is not None and as_of > self.clock():
            raise BadInput.of("as_of", "is in the future: what will be known then can't be")
        final = fence.close(self.store, model, as_of or self.clock())
        return as_of or final

    @property
    def spools(self) -> Path:
        """The folder of this host's spools."""
        return self.settings.path(self.settings.capture.folder)

    def new_spool(self) -> Spool:
        """A spool of this process."""
        return Spool(self.spools, self.settings.capture, lambda model: self.settings.model(model).log)

    def forwarder(self, own: Spool | None = None) -> Forwarder:
        """What brings to the store what waits in the spools, in this process's `own` one too."""
        return Forwarder(self.spools, self.log, self.store, self.clock, self.settings.capture, own)
