"""Versions of a model: registered, given a reference, put in place, taken back."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput, FeedbackLoopError, Refused, Unavailable
from feedback_loop.inference import refuse_single_rows, refuse_unfit
from feedback_loop.loop.context import Context
from feedback_loop.monitoring import make_reference
from feedback_loop.promotion import Compared, compare_versions
from feedback_loop.registry import ModelVersion, Reference
from feedback_loop.retraining import Optimized, VariantSearch
from feedback_loop.serving import warm
from feedback_loop.serving.places import engine_options
from feedback_loop.serving.publication import hint
from feedback_loop.store import freezes
from feedback_loop.store.freezes import EVERYWHERE, Freeze
from feedback_loop.store.retrainings import Promotion
from feedback_loop.store.rollouts import blocked_by
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
        NotFound, BadInput, and Refused for a version that has others: a reference does not change.
        """
        context, registry, chosen = self.context, self.context.registry, self._version(model, version)
        if trained_until is not None:
            registry.tag(chosen, {"trained_until": trained_until.isoformat()})
            context.forget(chosen)
        if reference is None:
            return 0
        scorer = context.scorer(chosen)
        rows = make_reference(scorer, reference, text=text, time_column=time_column)
        if (kept := registry.reference_rows(chosen)) is not None:
            outputs = {column.stored for column in scorer.contract.outputs}
            brought = [name for name in rows.column_names if name not in outputs]
            if set(brought) <= set(kept.column_names) and kept.select(brought).equals(rows.select(brought)):
                return int(rows.num_rows)
            cure = "Leave it out to go on with those, or register the version anew: feedback-loop models register."
            raise Refused(f"{chosen} has other reference rows already.", cure=cure)
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
            refuse_single_rows(scorer)
            self.context.check_storable(scorer)
        except Unavailable:
            raise
        except FeedbackLoopError as error:
            raise Refused(f"{chosen} can't be served: {error.cause}", cure=error.cure) from error
        except Exception as error:  # loading and answering run the model's own code, which may raise anything
            cause = f"{type(error).__name__}: {error}"
            cure = "Mend the model, and register it anew."
            raise Refused(f"{chosen} can't be served: {cause}", cure=cure) from error

    def promote(
        self, model: str, version: str, *, reason: str = "by hand", force: bool = False, by: str | None = None
    ) -> Promotion:
        """Makes a version the champion; raises NotFound, Refused, and ContractError for one that can't be logged.

        One that was found to be worse than another on live rows is refused. With `force` nothing is looked at before.
        `check_servable` looks closer, and takes longer. `by` is who does so (default: who is logged in).
        """
        context, chosen = self.context, self._version(model, version)
        if not force:
            context.check_storable(context.scorer(chosen))
            if blocked := blocked_by(context.store, model, chosen.version):
                cause = f"Version {chosen.version} of {model} is blocked: {blocked.ended_because}"
                raise Refused(cause, cure="Promote it all the same: --force.")
        return self.context.champions(model).promote(
            chosen.version, reason=reason, now=context.clock(), made_by=by or getpass.getuser()
        )

    def rollback(self, model: str, *, reason: str = "by hand", by: str | None = None) -> Promotion:
        """Makes the newest champion before this one, and before all that were rolled back, the champion again.

        Raises Refused where there is none.
        """
        return self.context.champions(model).rollback(
            reason=reason, now=self.context.clock(), made_by=by or getpass.getuser()
        )

    def reconcile(self, model: str) -> str | None:
        """Ends promotions that a crash interrupted and takes note of aliases that were moved in MLflow."""
        self.context.ask_again(model)
        return self.context.champions(model).reconcile(self.context.clock())

    def freeze(self, model: str | None = None, *, reason: str, by: str | None = None) -> Freeze:
        """Stops retraining, promotion, rollback and adapters of a model (None: of all) until `unfreeze`.

        `by` is who does so (default: who is logged in). Raises NotFound, Refused where that freeze stands already.
        """
        return freezes.freeze(
            self.context.store,
            self._frozen_name(model),
            reason=reason,
            by=by or getpass.getuser(),
            now=self.context.clock(),
        )

    def unfreeze(self, model: str | None = None, *, reason: str = "by hand", by: str | None = None) -> Freeze:
        """Lifts the freeze of a model (None: that of all). Raises NotFound, Refused where it does not stand."""
        return freezes.unfreeze(
            self.context.store,
            self._frozen_name(model),
            reason=reason,
            by=by or getpass.getuser(),
            now=self.context.clock(),
        )

    def _frozen_name(self, model: str | None) -> str:
        if model is None:
            return EVERYWHERE
        self.context.settings.model(model)
        return model

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

    def compare(self, one: str, other: str, *, window: Window | None = None) -> Compared:
        """Two versions of a model (`name/version`, `name@alias`) on the same logged rows, with error between days.

        By default on matured rows that neither has learned from. Raises NotFound, BadInput for versions of different
        models, and Refused where there are no rows, or the log does not have their features.
        """
        context = self.context
        versions = [context.find(text) for text in (one, other)]
        model = versions[0].model
        if versions[1].model != model:
            raise BadInput.of("version", f"{other} is of another model than {one}")
        scorers = [context.scorer(version) for version in versions]
        for scorer in scorers:
            refuse_unfit(scorer, "compared")
        now = context.final(model, None)
        options: dict[str, Any] = {"until": context.matured_until(model, now), "window": window}
        return compare_versions(scorers[0], scorers[1], store=context.store, now=now, **options)

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
