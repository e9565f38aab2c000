"""Smaller versions of a model: tried on labelled rows, and the best one registered with where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from feedback_loop.errors import Refused
from feedback_loop.inference import EngineOptions, Scorer, refuse_unfit
from feedback_loop.inference.choosing import measure_parity
from feedback_loop.inference.optimizing import Measured, Optimization, optimize
from feedback_loop.monitoring import make_reference
from feedback_loop.progress import Progress
from feedback_loop.registry import ModelVersion, Origin, Proven, Registry
from feedback_loop.retraining.dataset import training_rows
from feedback_loop.retraining.retrain import PROVEN_ROWS
from feedback_loop.retraining.variant_plots import plot_variants
from feedback_loop.store import Store

FEWEST = 200
"""With fewer matured labelled rows in the log, the version's reference rows are taken."""

MOST = 20_000
"""The newest so many rows are enough: a thousandth of accuracy is 20 rows."""


@dataclass(frozen=True)
class Optimized:
    """The figures of every variant, the version made of the chosen one, and the plot's files."""

    model: str
    parent: str
    rows: int
    source: str  # log | reference
    tried: tuple[Measured, ...]
    version: str | None
    reason: str
    plots: tuple[Path, ...]


@dataclass(frozen=True)
class VariantSearch:
    """One search for a smaller version of `parent`, on rows predicted before `until`, as known `now`.

    `fastest` gives a version by the engine that servers answer with.
    """

    store: Store
    registry: Registry
    parent: Scorer
    options: EngineOptions
    fastest: Callable[[ModelVersion], Scorer]
    until: datetime
    now: datetime
    reports: Path
    progress: Progress

    def run(self, budget: float, *, register: bool, quantize: bool) -> Optimized:
        """Tries the variants and registers the fastest that loses at most `budget` of the score.

        Raises Refused where there are no labelled rows to judge by, and for a model of several labels.
        """
        parent = self.parent
        refuse_unfit(parent, "optimized")
        rows, source = self._labelled_rows()
        result = optimize(
            parent.loaded, parent.contract, rows, budget, self.options, self.progress, quantize=quantize
        )
        plots = self._plot(result)
        version = self._register(result, rows, source) if register and result.chosen else None
        return Optimized(
            model=parent.version.model,
            parent=parent.version.version,
            rows=rows.num_rows,
            source=source,
            tried=result.tried,
            version=version.version if version is not None else None,
            reason=result.reason,
            plots=tuple(plots),
        )

    def _labelled_rows(self) -> tuple[pa.Table, str]:
        """Features and label by the model's names: of the log's newest matured rows, else of the reference."""
        parent = self.parent
        columns = (*parent.contract.features, parent.contract.label)
        logged = training_rows(self.store, parent, until=self.until, as_of=self.now, history=None).table
        logged = logged.select([column.name for column in columns])
        if logged.num_rows >= FEWEST:
            return logged.slice(max(logged.num_rows - MOST, 0)).combine_chunks(), "log"
        reference = self.registry.reference_rows(parent.version)
        if reference is None:
            raise Refused(
                f"{parent.version} can't be optimized: the log has {logged.num_rows} matured labelled rows "
                "and it has no reference rows.",
                cure=f"Wait for {FEWEST} outcomes, or register it with --reference.",
            )
        return pa.table({column.name: reference.column(column.stored) for column in columns}).slice(
            0, MOST
        ), "reference"

    def _plot(self, result: Optimization) -> list[Path]:
        if not result.tried:
            return []
        version = self.parent.version
        plots = plot_variants(
            [asdict(measured) for measured in result.tried],
            name=f"{version.model}-{version.version}-variants",
            title=f"Variants of {version}",
            folder=self.reports,
        )
        self.registry.lineage.log_files(version, plots, "reports", self.now)
        return plots

    def _register(self, result: Optimization, rows: pa.Table, source: str) -> ModelVersion:
        chosen, parent, version = result.chosen, self.parent, self.parent.version
        assert chosen is not None  # what is registered was chosen
        reference = make_reference(parent, rows)
        metrics = {
            "size_bytes": float(chosen.size_bytes),
            "p50_us": chosen.p50_us,
            "p99_us": chosen.p99_us,
            "rows_per_second": chosen.rows_per_second,
            "score": chosen.score,
            "score_of_parent": result.tried[0].score,
        }
        origin = Origin(
            place=self.store.name if source == "log" else str(version),
            rows=rows.num_rows,
            trained_until=version.trained_until,
            reference=reference,
            metrics=metrics,
            params={"variant": chosen.variant, "parent": version.version},
            tags={
                "parent_version": version.version,
                "variant": chosen.variant,
                **(self._parity(result.precision, reference) if result.precision else {}),
                **{name: f"{value:.6g}" for name, value in metrics.items()},
            },
        )
        inputs = parent.inputs.of(rows.slice(0, PROVEN_ROWS), parent.contract)
        made = self.registry.register_candidate(Proven(parent.loaded, result.estimator, inputs), origin, self.now)
        self.registry.keep_reference(made, make_reference(self.fastest(made), rows), self.now)
        return made

    def _parity(self, precision: str, reference: pa.Table) -> dict[str, str]:
        """Tags that say in which bits a variant's dense layers are, and how far from its estimator that takes it.

        The stager holds the version to that: the rows it is measured on are the version's reference rows by then.
        """
        proof = measure_parity(self.parent.loaded, self.parent.contract, precision, reference, self.options)
        if proof is None:
            raise Refused(
                f"{self.parent.version} can't have its dense layers in {precision}: somewhere that answers what the "
                "model refuses, or with no number.",
                cure="Optimize it without --quantize.",
            )
        return {"precision": precision, "parity": f"{proof.max_difference!r} {proof.classes_differ}"}
