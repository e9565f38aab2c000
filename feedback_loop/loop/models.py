"""Versions of a model: registered, given a reference, put in place, taken back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from feedback_loop.errors import FeedbackLoopError, Refused, Unavailable
from feedback_loop.loop.context import Context
from feedback_loop.loop.optimizing import Optimized, Optimizing
from feedback_loop.monitoring import make_reference
from feedback_loop.registry import ModelVersion, Reference
from feedback_loop.retraining import promote, reconcile, rollback
from feedback_loop.serving import warm
from feedback_loop.serving.publication import hint
from feedback_loop.store.retrainings import Promotion
from feedback_loop.store.serving_state import TrafficPlan, load_traffic, save_traffic


@dataclass(frozen=True)
class Models:
    """Everything that changes which versions there are, and which answer."""

    context: Context

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
        version = self.context.registry.adopt(model, source)
        self.context.scorer(version)
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
        found = self.context.registry.find(Reference(model, version=version))
        if trained_until is not None:
            self.context.registry.tag(found, {"trained_until": trained_until.isoformat()})
            self.context.forget(found)
        if reference is None:
            return 0
        if self.context.registry.reference_rows(found) is not None:
            raise Refused(f"{found} has a reference already.", cure="Register it anew for another one.")
        scorer = self.context.scorer(found)
        rows = make_reference(scorer, reference, text=text, time_column=time_column)
        self.context.registry.keep_reference(found, rows, self.context.clock())
        fastest = self.context.fastest_scorer(
            found
        )  # it was proven by them; what it answers is what they are held to
        if fastest.engine is not scorer.engine:
            proven = make_reference(fastest, reference, text=text, time_column=time_column)
            self.context.registry.replace_reference(found, proven)
        self.context.references.forget(model)
        return int(rows.num_rows)

    def has_reference(self, model: str, version: str) -> bool:
        """Whether a version brought reference rows of its own."""
        return (
            self.context.registry.reference_rows(self.context.registry.find(Reference(model, version=version)))
            is not None
        )

    def evaluation_files(self, model: str, version: str) -> list[Path]:
        """Files that MLflow knows the version was evaluated on: they may serve as its reference."""
        return self.context.registry.lineage.evaluation_files(
            self.context.registry.find(Reference(model, version=version))
        )

    def check_servable(self, model: str, version: str) -> None:
        """Makes a version ready as a server would; raises Refused where it can't be answered with or logged."""
        found = self.context.registry.find(Reference(model, version=version))
        try:
            scorer = self.context.fastest_scorer(found)
            warm(scorer)
            self.context.check_storable(scorer)
        except Unavailable:
            raise
        except Exception as error:
            # Loading and answering run the model's own code, which may raise anything.
            said = error.cause if isinstance(error, FeedbackLoopError) else f"{type(error).__name__}: {error}"
            cure = error.cure if isinstance(error, FeedbackLoopError) else "Mend the model, and register it anew."
            raise Refused(f"{found} can't be served: {said}", cure=cure) from error

    def promote(self, model: str, version: str, *, reason: str = "by hand", force: bool = False) -> Promotion:
        """Makes a version the champion; raises NotFound, Refused, and ContractError for one that can't be logged.

        With `force` it is not looked at before. `check_servable` looks closer, and takes longer.
        """
        version = (found := self.context.registry.find(Reference(model, version=version))).version
        if not force:
            self.context.check_storable(self.context.scorer(found))
        alias = self.context.settings.model(model).alias
        routes = self.context.routes
        return promote(
            self.context.store,
            self.context.registry,
            model,
            alias,
            version,
            reason=reason,
            now=self.context.clock(),
            routes=routes,
        )

    def rollback(self, model: str, *, reason: str = "by hand") -> Promotion:
        """Makes the newest champion before this one, and before all that were rolled back, the champion again.

        Raises Refused where there is none.
        """
        alias = self.context.settings.model(model).alias
        routes = self.context.routes
        return rollback(
            self.context.store,
            self.context.registry,
            model,
            alias,
            reason=reason,
            now=self.context.clock(),
            routes=routes,
        )

    def reconcile(self, model: str) -> str | None:
        """Ends promotions that a crash interrupted and takes note of aliases that were moved in MLflow."""
        alias, routes = self.context.settings.model(model).alias, self.context.routes
        return reconcile(self.context.store, self.context.registry, model, alias, self.context.clock(), routes)

    def optimize(self, reference: str, budget: float, *, register: bool = True, quantize: bool = False) -> Optimized:
        """Tries smaller variants of a version, and registers the fastest that loses at most `budget` of its score.

        With `quantize` also one whose dense layers are in fewer bits where it is served. Raises Refused where there
        are no labelled rows to judge by, and for several labels.
        """
        return Optimizing(self.context).optimize(reference, budget, register=register, quantize=quantize)

    def traffic(self, model: str) -> TrafficPlan:
        """Which versions beside the champion take part in serving a model."""
        return load_traffic(self.context.store, model)

    def route(self, model: str, wanted: TrafficPlan) -> None:
        """Sets them; servers on this host notice at once, others within `serving.poll_alias`. Raises NotFound for an
        alias that no version has.
        """
        for alias in (*wanted.shadows, *((wanted.canary,) if wanted.canary is not None else ())):
            self.context.registry.find(Reference(model, alias=alias))
        save_traffic(self.context.store, model, wanted, self.context.clock())
        hint(self.context.settings.path(self.context.settings.serving.cache))
