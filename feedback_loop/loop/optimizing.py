"""Smaller versions of a model: tried on what the log knows, the best one registered with where it came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from feedback_loop.errors import Refused
from feedback_loop.inference import Scorer, SklearnEngine
from feedback_loop.inference.choosing import measure_parity
from feedback_loop.inference.optimizing import Measured, Optimization, optimize
from feedback_loop.loop.context import Context
from feedback_loop.loop.outcomes import refuse_unfit
from feedback_loop.monitoring import make_reference, plot_variants
from feedback_loop.outcomes import matured_until
from feedback_loop.registry import DataSource, ModelVersion, Origin, Proven
from feedback_loop.retraining import PROVEN_ROWS, training_rows
from feedback_loop.serving.places import engine_options

FEWEST = 200
"""With fewer matured labelled rows in the log, the version's reference rows are taken."""

MOST = 20_000
"""The newest so many are enough: a thousandth of accuracy is 20 rows."""


@dataclass(frozen=True)
class Optimized:
    """What `optimize` did: the figures of every variant, the version made of the chosen one, the plot's files."""

    model: str
    parent: str
    rows: int
    source: str  # log | reference
    tried: tuple[Measured, ...]
    version: str | None
    reason: str
    plots: tuple[Path, ...]


@dataclass(frozen=True)
class Optimizing:
    """Optimization against a budget."""

    context: Context

    def optimize(self, reference: str, budget: float, *, register: bool = True, quantize: bool = False) -> Optimized:
        """Tries smaller variants of a version, and registers the fastest that loses at most `budget` of its score.

        With `quantize` also one whose dense layers are in fewer bits where it is served. Raises Refused where there
        are no labelled rows to judge by, and for several labels.
        """
        scorer = self.context.scorer(self.context.find(reference))
        name = scorer.version.model
        refuse_unfit(scorer, "optimized")
        rows, source = self._labelled_rows(scorer)
        options = engine_options(self.context.settings, name)
        found = optimize(
            scorer.loaded, scorer.contract, rows, budget, options, self.context.progress, quantize=quantize
        )
        plots = self._plotted(scorer.version, found)
        version = self._register_variant(scorer, found, rows, source) if register and found.chosen else None
        return Optimized(
            model=name,
            parent=scorer.version.version,
            rows=rows.num_rows,
            source=source,
            tried=found.tried,
            version=version.version if version is not None else None,
            reason=found.reason,
            plots=tuple(plots),
        )

    def _labelled_rows(self, scorer: Scorer) -> tuple[pa.Table, str]:
        """Features and label by the model's names: of the log's newest matured rows, else of the reference."""
        model = scorer.version.model
        settings, now = self.context.settings.model(model), self.context.final(model, None)
        until = matured_until(now, settings.maturity, settings.window)
        names = [column.name for column in (*scorer.contract.features, scorer.contract.label)]
        logged = training_rows(self.context.store, scorer, until=until, as_of=now, history=None).table.select(names)
        if logged.num_rows >= FEWEST:
            return logged.slice(max(logged.num_rows - MOST, 0)).combine_chunks(), "log"
        kept = self.context.registry.reference_rows(scorer.version)
        if kept is None:
            raise Refused(
                f"{scorer.version} can't be optimized: the log has {logged.num_rows} matured labelled rows "
                "and it has no reference rows.",
                cure=f"Wait for {FEWEST} outcomes, or register it with --reference.",
            )
        columns = (*scorer.contract.features, scorer.contract.label)
        return pa.table({each.name: kept.column(each.stored) for each in columns}).slice(0, MOST), "reference"

    def _plotted(self, version: ModelVersion, found: Optimization) -> list[Path]:
        if not found.tried:
            return []
        name = f"{version.model}-{version.version}-variants"
        plots = plot_variants(
            [asdict(each) for each in found.tried],
            name=name,
            title=f"Variants of {version}",
            folder=self.context.reports,
        )
        self.context.registry.lineage.log_files(version, plots, "reports", self.context.clock())
        return plots

    def _register_variant(self, parent: Scorer, found: Optimization, rows: pa.Table, source: str) -> ModelVersion:
        chosen, base = found.chosen, found.tried[0]
        assert chosen is not None and isinstance(parent.engine, SklearnEngine)  # what is registered was chosen
        version, now = parent.version, self.context.clock()
        precise = self._parity(parent, found.precision, rows) if found.precision else {}
        figures = {
            "size_bytes": chosen.size_bytes,
            "p50_us": chosen.p50_us,
            "p99_us": chosen.p99_us,
            "rows_per_second": chosen.rows_per_second,
            "score": chosen.score,
            "score_of_parent": base.score,
        }
        made = self.context.registry.register_candidate(
            Proven(
                parent.loaded, found.estimator, parent.engine.inputs.of(rows.slice(0, PROVEN_ROWS), parent.contract)
            ),
            Origin(
                source=DataSource(
                    name=version.model,
                    place=self.context.store.name if source == "log" else str(version),
                    rows=rows.num_rows,
                    trained_from="",
                    trained_until=version.trained_until.isoformat(),
                    as_of=now.isoformat(),
                    digest="",
                ),
                trained_until=version.trained_until,
                reference=make_reference(parent, rows),
                metrics={name: float(value) for name, value in figures.items()},
                params={"variant": chosen.variant, "parent": version.version},
                tags={
                    "parent_version": version.version,
                    "variant": chosen.variant,
                    **precise,
                    **{name: f"{value:.6g}" for name, value in figures.items()},
                },
            ),
            now,
        )
        self.context.registry.keep_reference(made, make_reference(self.context.fastest_scorer(made), rows), now)
        return made

    def _parity(self, parent: Scorer, precision: str, rows: pa.Table) -> dict[str, str]:
        """Tags that say in which bits a variant's dense layers are, and how far from its estimator that takes it.

        The stager holds it to that: the rows that it is measured on are the version's reference rows by then.
        """
        options = engine_options(self.context.settings, parent.version.model)
        known = make_reference(parent, rows)
        proof = measure_parity(parent.loaded, parent.contract, precision, known, options)
        if proof is None:
            raise Refused(
                f"{parent.version} can't have its dense layers in {precision}: somewhere that answers what the model "
                "refuses, or with no number.",
                cure="Optimize it without --quantize.",
            )
        return {"precision": precision, "parity": f"{proof.max_difference!r} {proof.classes_differ}"}
