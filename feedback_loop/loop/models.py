"""Versions of a model: registered, given a reference, put in place, taken back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from feedback_loop.errors import FeedbackLoopError, Refused, Unavailable
from feedback_loop.loop.context import Context
from feedback_loop.monitoring import make_reference
from feedback_loop.registry import ModelVersion, Reference
from feedback_loop.retraining import Champions, Optimized, VariantSearch
from feedback_loop.serving import warm
from feedback_loop.serving.places import engine_options
from feedback_loop.serving.publication import hint
from feedback_loop.store.retrainings import Promotion
from feedback_loop.store.serving_state import TrafficPlan, load_traffic, save_traffic


@dataclass(frozen=True)
class Models:
    """The part of the loop that changes which versions there are, and which of them answer."""

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
        options: dict[str, Any] = {"text": text, "time_column": time_column, "trained_until": trained_until}
        self.keep_reference(model, version.version, reference, **options)
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
        """Gives a version its reference rows, and records until when its training rows reach.

        They are rows that it was not trained on, with features and label; when each was predicted, or would have
        been, is in `time_column` (else in `predicted_at`). Without times they are one window of `trained_until`
        (else of when it was registered), which does not tell how windows differ. Returns how many are kept. Raises
        NotFound, BadInput, and Refused for a version that has some: a reference does not change.
        """
        context, registry, chosen = self.context, self.context.registry, self._version(model, version)
        if trained_until is not None:
            registry.tag(chosen, {"trained_until": trained_until.isoformat()})
            context.forget(chosen)
        if reference is None:
            return 0
        if registry.reference_rows(chosen) is not None:
            raise Refused(f"{chosen} has a reference already.", cure="Register it anew for another one.")
        scorer = context.scorer(chosen)
        rows = make_reference(scorer, reference, text=text, time_column=time_column)
        registry.keep_reference(chosen, rows, context.clock())
        fastest = context.fastest_scorer(chosen)  # proven by these rows; what it answers is what they are held to
        if fastest.engine is not scorer.engine:
            proven = make_reference(fastest, reference, text=text, time_column=time_column)
            registry.replace_reference(chosen, proven)
        context.references.forget(model)
        return int(rows.num_rows)

    def has_reference(self, model: str, version: str) -> bool:
        """Whether a version brought reference rows of its own."""
        return self.context.registry.reference_rows(self._version(model, version)) is not None

    def evaluation_files(self, model: str, version: str) -> list[Path]:
        """Files that MLflow knows the version was evaluated on: they may serve as its reference."""
        return self.context.registry.lineage.evaluation_files(self._version(model, version))

    def check_servable(self, model: str, version: str) -> None:
        """Makes a version ready as a server would; raises Refused where it can't be answered with or logged."""
        chosen = self._version(model, version)
        try:
            scorer = self.context.fastest_scorer(chosen)
            warm(scorer)
            self.context.check_storable(scorer)
        except Unavailable:
            raise
        except FeedbackLoopError as error:
            raise Refused(f"{chosen} can't be served: {error.cause}", cure=error.cure) from error
        except Exception as error:  # loading and answering run the model's own code, which may raise anything
            cause = f"{type(error).__name__}: {error}"
            cure = "Mend the model, and register it anew."
            raise Refused(f"{chosen} can't be served: {cause}", cure=cure) from error

    def promote(self, model: str, version: str, *, reason: str = "by hand", force: bool = False) -> Promotion:
        """Makes a version the champion; raises NotFound, Refused, and ContractError for one that can't be logged.

        With `force` it is not looked at before. `check_servable` looks closer, and takes longer.
        """
        context, chosen = self.context, self._version(model, version)
        if not force:
            context.check_storable(context.scorer(chosen))
        return self._champions(model).promote(chosen.version, reason=reason, now=context.clock())

    def rollback(self, model: str, *, reason: str = "by hand") -> Promotion:
        """Makes the newest champion before this one, and before all that were rolled back, the champion again.

        Raises Refused where there is none.
        """
        return self._champions(model).rollback(reason=reason, now=self.context.clock())

    def reconcile(self, model: str) -> str | None:
        """Ends promotions that a crash interrupted and takes note of aliases that were moved in MLflow."""
        return self._champions(model).reconcile(self.context.clock())

    def optimize(self, reference: str, budget: float, *, register: bool = True, quantize: bool = False) -> Optimized:
        """Tries smaller variants of a version, and registers the fastest that loses at most `budget` of its score.

        With `quantize` also one whose dense layers are in fewer bits where it is served. Raises Refused where there
        are no labelled rows to judge by, and for several labels.
        """
        context = self.context
        parent, now = context.scorer(context.find(reference)), context.final(Reference.parse(reference).model, None)
        search = VariantSearch(
            store=context.store,
            registry=context.registry,
            parent=parent,
            options=engine_options(context.settings, parent.version.model),
            fastest=context.fastest_scorer,
            until=context.matured_until(parent.version.model, now),
            now=now,
            reports=context.reports,
            progress=context.progress,
        )
        return search.run(budget, register=register, quantize=quantize)

    def traffic(self, model: str) -> TrafficPlan:
        """Which versions take part in serving a model, besides the champion."""
        return load_traffic(self.context.store, model)

    def route(self, model: str, wanted: TrafficPlan) -> None:
        """Sets them; servers on this host notice at once, others within `serving.poll_alias`. Raises NotFound for an
        alias that no version has.
        """
        context = self.context
        for alias in (*wanted.shadows, *((wanted.canary,) if wanted.canary is not None else ())):
            context.registry.find(Reference(model, alias=alias))
        save_traffic(context.store, model, wanted, context.clock())
        hint(context.settings.path(context.settings.serving.cache))

    def _version(self, model: str, version: str) -> ModelVersion:
        return self.context.registry.find(Reference(model, version=version))

    def _champions(self, model: str) -> Champions:
        context = self.context
        alias = context.settings.model(model).alias
        return Champions(context.store, context.registry, model, alias, context.routes)
