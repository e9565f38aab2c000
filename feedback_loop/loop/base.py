"""What all parts of the facade share: settings, clock, store, registry, the versions in memory."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import structlog

from feedback_loop.capture import (
    Deployed,
    Deployments,
    Forwarder,
    Recorder,
    Spool,
)
from feedback_loop.clock import Clock, system_clock
from feedback_loop.config import Settings, load_settings
from feedback_loop.errors import BadInput, Refused
from feedback_loop.inference import DamagedBundle, Scorer, make_scorer, open_bundle, stage
from feedback_loop.monitoring import (
    References,
    make_reference,
)
from feedback_loop.progress import Progress, Silent
from feedback_loop.registry import ModelVersion, Reference, Registry
from feedback_loop.scheduling import Runner
from feedback_loop.schema import RandomBits
from feedback_loop.serving.places import engine_options, place_of_version
from feedback_loop.store import Store, fence, growing, migrate, predictions, retrainings
from feedback_loop.store.retrainings import Promotion
from feedback_loop.store.serving_state import VersionNames

_log = structlog.get_logger(__name__)


class Wired:
    """The rooms of one loop, wired. Constructors only assign: nothing is opened before it is used."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = system_clock,
        progress: Progress | None = None,
        bits: RandomBits = secrets.randbits,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.progress = progress or Silent()
        self.store = Store(settings.url(settings.store.url), settings.hash_key)
        self.registry = Registry.of(settings, VersionNames(self.store).name)
        self._bits = bits
        self._log = predictions.PredictionLog(self.store)
        self.recorder = Recorder(self._log, bits)
        self.runner = Runner(self.store, clock, settings.scheduler.lease)
        self._references = References(self.store, self.registry)
        self._scorers: dict[tuple[str, str], Scorer] = {}
        self._fastest: dict[tuple[str, str], Scorer] = {}
        self._versions: dict[tuple[str, str], ModelVersion] = {}

    @classmethod
    def open(cls, path: str | Path | None = None, **options: Any) -> Self:
        """A loop by its configuration; makes the tables of an empty store. Options are those of the constructor."""
        loop = cls(load_settings(Path(path) if path is not None else None), **options)
        migrate.prepare(loop.store)
        return loop

    @property
    def reports(self) -> Path:
        """The folder that reports are written to."""
        return self.settings.path(self.settings.scheduler.reports)

    def close(self) -> None:
        """Gives database connections back."""
        self.store.close()

    def champion(self, model: str) -> ModelVersion:
        """The version that answers callers; raises NotFound."""
        return self.registry.find(Reference(model, alias=self.settings.model(model).alias))

    def scorer(self, version: ModelVersion) -> Scorer:
        """A version, loaded; kept in memory for the next time."""
        key = (version.model, version.version)
        if key not in self._scorers:
            settings = self.settings.model(version.model)
            self._scorers[key] = make_scorer(self.registry.load(version), settings, self.settings.hash_key)
        return self._scorers[key]

    def fastest_scorer(self, version: ModelVersion) -> Scorer:
        """A version by the fastest engine that is proven: from the bundle that servers answer from, made if need be.

        Where none can be made or kept on this disk it is the model itself, as `scorer` has it, and the log says so.
        """
        key = (version.model, version.version)
        if key not in self._fastest:
            self._fastest[key] = self._from_bundle(version)
        return self._fastest[key]

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
            growing.check_storable(self.store, scorer.logged)

    def reference(self, text: str) -> Reference:
        """What `name`, `name@alias` or `name/version` means; a bare name means its champion."""
        parsed = Reference.parse(text)
        if parsed.version is None and "@" not in text:
            return Reference(parsed.model, alias=self.settings.model(parsed.model).alias)
        return parsed

    def find(self, reference: str) -> ModelVersion:
        """The version that `reference` means now; raises NotFound."""
        return self.registry.find(self.reference(reference))

    def register(
        self,
        model: str,
        source: str,
        *,
        reference: Any = None,
        text: bool = False,
        time_column: str = "",
        trained_until: datetime | None = None,
    ) -> ModelVersion:
        """Makes a version of a model that was logged elsewhere; `reference` rows (features and label) stay with it.

        See `keep_reference`. Raises NotFound, BadInput and ContractError. No alias is set.
        """
        version = self.registry.adopt(model, source)
        self.scorer(version)
        if reference is not None or trained_until is not None:
            self.keep_reference(
                model, version.version, reference, text=text, time_column=time_column, trained_until=trained_until
            )
        return version

    def keep_reference(
        self,
        model: str,
        version: str,
        reference: Any,
        *,
        text: bool = False,
        time_column: str = "",
        trained_until: datetime | None = None,
    ) -> int:
        """Gives a version the rows that it is held against, and says until when its training rows reach.

        They are rows that it was not trained on, with features and label; when each was predicted, or would have
        been, is in `time_column` (else in `predicted_at`). Without times they are one window of `trained_until`
        (else of when it was registered), which does not tell how windows differ. Returns how many are kept. Raises
        NotFound, BadInput, and Refused for a version that has some: what it was held against does not change.
        """
        found = self.registry.find(Reference(model, version=version))
        if trained_until is not None:
            self.registry.tag(found, {"trained_until": trained_until.isoformat()})
            self._versions.pop((model, found.version), None)
        if reference is None:
            return 0
        if self.registry.reference_rows(found) is not None:
            raise Refused(f"{found} has a reference already.", cure="Register it anew for another one.")
        scorer = self.scorer(found)
        rows = make_reference(scorer, reference, text=text, time_column=time_column)
        self.registry.keep_reference(found, rows, self.clock())
        fastest = self.fastest_scorer(found)  # it was proven by them; what it answers is what they are held to
        if fastest.engine is not scorer.engine:
            proven = make_reference(fastest, reference, text=text, time_column=time_column)
            self.registry.replace_reference(found, proven)
        self._references.forget(model)
        return int(rows.num_rows)

    def has_reference(self, model: str, version: str) -> bool:
        """Whether a version brought reference rows of its own."""
        return self.registry.reference_rows(self.registry.find(Reference(model, version=version))) is not None

    def evaluation_files(self, model: str, version: str) -> list[Path]:
        """Files that MLflow knows the version was evaluated on: they may serve as its reference."""
        return self.registry.lineage.evaluation_files(self.registry.find(Reference(model, version=version)))

    def _version(self, model: str, version: str) -> ModelVersion:
        key = (model, version)
        if key not in self._versions:
            self._versions[key] = self.registry.find(Reference(model, version=version), exactly=True)
        return self._versions[key]

    def _deployments(self) -> Deployments:
        return Deployments(self._deployed, self.settings.serving.poll_alias)

    def _deployed(self, model: str, version: str | None) -> Deployed:
        found = self.champion(model) if version is None else self._version(model, version)
        scorer = self.scorer(found)
        return Deployed(scorer.redaction, found.version, scorer.sample)

    def _promotions(self, model: str) -> list[Promotion]:
        return [each for each in retrainings.load_promotions(self.store, model) if each.state == "done"]

    def _final(self, model: str, as_of: datetime | None) -> datetime:
        """The moment (default: now), with what is known at it made final."""
        if as_of is not None and as_of > self.clock():
            raise BadInput.of("as_of", "is in the future: what will be known then can't be")
        final = fence.close(self.store, model, as_of or self.clock())
        return as_of or final

    @property
    def _spools(self) -> Path:
        return self.settings.path(self.settings.capture.folder)

    def _new_spool(self) -> Spool:
        return Spool(self._spools, self.settings.capture, lambda model: self.settings.model(model).log)

    def _forwarder(self, own: Spool | None = None) -> Forwarder:
        return Forwarder(self._spools, self._log, self.store, self.clock, self.settings.capture, own)
