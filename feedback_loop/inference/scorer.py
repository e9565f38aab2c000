"""A loaded version ready to score: its contract worked out, its engine chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from feedback_loop.config import ModelSettings
from feedback_loop.errors import BadInput, ContractError, Refused, RowError
from feedback_loop.inference.adapter_coefficients import Coefficients
from feedback_loop.inference.adapting import Adapting
from feedback_loop.inference.engines import Engine, RowsEngine, Scored
from feedback_loop.inference.exploring import Exploring, exploring_of
from feedback_loop.inference.inputs import Inputs
from feedback_loop.inference.trying import Native, make_native
from feedback_loop.registry import LoadedModel, ModelVersion
from feedback_loop.schema import (
    PREDICTION_ID,
    Column,
    ColumnType,
    Contract,
    JoinRule,
    Label,
    OwnMetric,
    Redaction,
    Task,
    Which,
    arrow_type,
    as_table,
    coerce,
    feature_columns,
    make_contract,
    make_redaction,
    output_names,
    output_type,
)
from feedback_loop.schema.protocol import Rows, rows_table

ID_COLUMN = Column(PREDICTION_ID, ColumnType.STRING, required=False)
"""The column in which a caller may give ids of its own."""

_NEVER_MISSING = (ColumnType.BOOLEAN, ColumnType.INTEGER, ColumnType.LONG)


@dataclass(frozen=True)
class Scorer:
    """One version in memory, with the revision of an adapter that its answers go through, if one is on. Thread-safe.

    Callers are answered by its `contract`; what is logged of them, and all that follows from the log, has the form of
    the `logged` one. `sample` is the share of its rows that are logged. One that `is_alone` is asked for each request
    by itself.
    """

    version: ModelVersion
    contract: Contract
    engine: Engine
    redaction: Redaction
    sample: float = 1.0
    model: LoadedModel | None = None
    is_alone: bool = False
    adapting: Adapting | None = None
    exploring: Exploring | None = None
    has_intervals: bool = False

    @property
    def loaded(self) -> LoadedModel:
        """The model itself; raises Refused for a version that was opened from an ONNX bundle, which leaves it out."""
        if self.model is None:
            raise Refused(
                f"{self.version} was opened for scoring alone: the model itself is not in memory.",
                cure="Load it from the registry.",
            )
        return self.model

    @property
    def inputs(self) -> Inputs:
        """In what form the model itself is asked."""
        assert isinstance(self.engine, Native)  # what is asked for this has the model in memory
        return self.engine.inputs

    @property
    def logged(self) -> Contract:
        """The contract of its rows in the log."""
        return self.redaction.logged

    @cached_property
    def _of_rows(self) -> RowsEngine | None:
        return self.engine if isinstance(self.engine, RowsEngine) else None

    def rows_of(self, frame: Any, *, text: bool = False) -> pa.Table:
        """Features, keys and ids of what a caller gave, in the contract's types; raises BadInput.

        A required integer or boolean can't be missing: it can't for MLflow, whose frames would hold a float for it.
        """
        rows = input_rows(self.contract, frame, text=text)
        missing = [
            RowError(row, column.name, f"is missing, which a required {column.type} can't be")
            for column in self.contract.features
            if column.required and column.type in _NEVER_MISSING and rows.column(column.name).null_count
            for row, is_valid in enumerate(rows.column(column.name).is_valid().to_pylist())
            if not is_valid
        ]
        if missing:
            raise BadInput(missing, cure="Declare the column optional (or a double) in the model's signature.")
        return rows

    def score(self, rows: pa.Table, params: Mapping[str, Any] | None = None) -> Scored:
        """Scores rows of `rows_of`; `params` are a request's, for models whose signature has some.

        Raises ModelRefused for rows that the model raises an error for, and ModelFault for answers that are none.
        """
        if not rows.num_rows:
            return Scored(
                self.contract, [], [pa.array([], arrow_type(column.type)) for column in self.contract.outputs]
            )
        scored = self.engine.score(rows, params)
        return scored if self.adapting is None else self.adapting.adapted(scored, rows)

    def score_rows(self, rows: Rows) -> Scored:
        """Scores decoded rows of the contract, with their params; by way of a table where the engine needs one."""
        if self._of_rows is not None:
            scored = self._of_rows.score_rows(rows)
        else:
            scored = self.engine.score(rows_table(self.contract, rows), rows.params or None)
        return scored if self.adapting is None else self.adapting.adapted(scored, rows)

    def marked(self, scored: Scored, rows: Rows | pa.Table, ids: Sequence[str] | pa.Array) -> Scored:
        """The scored rows with what exploration says of each, where it is on; `ids` are the rows' prediction ids."""
        return scored if self.exploring is None else replace(scored, marks=self.exploring.marks(scored, rows, ids))

    def adapted_by(self, revision: int, coefficients: Coefficients) -> Scorer:
        """The same with that revision of an adapter on; raises Refused where it can't be on this version."""
        adapting = Adapting(
            revision, coefficients, self.contract, self.engine.answers_with, has_intervals=self.has_intervals
        )
        return replace(self, adapting=adapting)


def input_rows(contract: Contract, frame: Any, more: Sequence[Column] = (), *, text: bool = False) -> pa.Table:
    """Features, keys and ids (and `more` columns) of what a caller gave, in their types; raises BadInput.

    Columns of ours are called what `contract.own` says.
    """
    ours = (replace(column, name=contract.own(column.name)) for column in (ID_COLUMN, *more))
    wanted = (*contract.features, *contract.extra_key, *ours)
    try:
        return coerce(as_table(frame, {column.name for column in wanted}), wanted, text=text)
    except BadInput as error:
        keys = {column.name for column in contract.extra_key} & {problem.field for problem in error.problems}
        if not keys:
            raise
        cure = f"Types of key columns are said in models.{contract.model}.key_types of the configuration."
        raise BadInput(error.problems, cure=cure, total=error.total) from error


def make_scorer(
    loaded: LoadedModel, settings: ModelSettings, hash_key: bytes = b"", *, none: Sequence[str] | None = None
) -> Scorer:
    """Works out the contract of a loaded version and wraps it in its engine; raises ContractError and ConfigError.

    `none` is as `make_native` has it.
    """
    contract = contract_of(loaded, settings)
    redaction = make_redaction(contract, settings.log.columns, hash_key)
    engine = make_native(loaded, contract, none)
    exploring = exploring_of(contract, settings)
    return Scorer(
        loaded.version,
        contract,
        engine,
        redaction,
        settings.log.sample,
        loaded,
        exploring=exploring,
        has_intervals=settings.adapter.intervals is not None,
    )


def contract_of(loaded: LoadedModel, settings: ModelSettings) -> Contract:
    """The contract: features from the signature, classes from the model, the rest from the configuration."""
    model, task, way = loaded.version.model, Task(settings.task), loaded.answers_with
    if loaded.estimator is not None and (way == "score" or not callable(getattr(loaded.estimator, way, None))):
        raise ContractError(
            f"{loaded.version} was logged with pyfunc_predict_fn={way!r}, which answers no rows.",
            cure="Log it with predict, predict_proba or predict_log_proba.",
            model=model,
        )
    classes = _classes(loaded, settings) if task.is_classification else ()
    return _contract(
        model,
        settings,
        feature_columns(model, loaded.signature, settings.features),
        _label_type(model, task, classes, loaded),
        classes,
        has_probabilities=gives_probabilities(loaded, settings),
    )


def gives_probabilities(loaded: LoadedModel, settings: ModelSettings) -> bool:
    """Whether a version's probabilities can be asked for, or are what it answers."""
    return hasattr(loaded.estimator, "predict_proba") or _answers_probability(loaded, settings)


def _answers_probability(loaded: LoadedModel, settings: ModelSettings) -> bool:
    return loaded.estimator is None and settings.inference.answers == "probability"


def remade_contract(contract: Contract, settings: ModelSettings, *, has_probabilities: bool) -> Contract:
    """The contract of the same model under the settings of today; raises Refused where its task is another now."""
    if Task(settings.task) is not contract.task:
        raise Refused(
            f"{contract.model!r} was made ready as {contract.task}, and is {settings.task} now.",
            cure="Delete its bundles: they are staged anew.",
        )
    features = tuple(replace(column, field="") for column in contract.features)
    label_type = contract.label.type
    return _contract(
        contract.model, settings, features, label_type, contract.classes, has_probabilities=has_probabilities
    )


def _contract(
    model: str,
    settings: ModelSettings,
    features: tuple[Column, ...],
    label_type: ColumnType,
    classes: tuple[Label, ...],
    *,
    has_probabilities: bool,
) -> Contract:
    return make_contract(
        model=model,
        task=Task(settings.task),
        features=features,
        label=settings.labels[0],
        more_labels=settings.labels[1:],
        label_type=label_type,
        key=settings.key,
        key_types={name: ColumnType(kind) for name, kind in settings.key_types.items()},
        classes=classes,
        positive=settings.positive,
        settled=settings.classes,
        segments=settings.segments,
        segment_values=settings.segment_values,
        has_probabilities=has_probabilities,
        join=join_rule(settings),
        query=settings.query,
        own_metrics=tuple(
            OwnMetric(name, metric.path, metric.columns) for name, metric in sorted(settings.metrics.items())
        ),
    )


def join_rule(settings: ModelSettings) -> JoinRule:
    """How a model's outcomes find their predictions, by its settings."""
    return JoinRule(
        horizon=settings.join.horizon,
        which=Which(settings.join.which),
        absent_means=settings.join.absent_means,
        maturity=settings.maturity,
        needs_action=settings.outcomes.selection == "acted",
    )


def _classes(loaded: LoadedModel, settings: ModelSettings) -> tuple[Label, ...]:
    if len(settings.labels) > 1:  # a matrix of yes and no
        return (False, True) if output_type(loaded.signature) is ColumnType.BOOLEAN else (0, 1)
    if _answers_probability(loaded, settings):
        return _classes_of_probabilities(loaded, settings)
    classes = getattr(loaded.estimator, "classes_", None)
    labels = classes.tolist() if classes is not None and getattr(classes, "ndim", 0) == 1 else []
    return tuple(int(label) if isinstance(label, float) and label.is_integer() else label for label in labels)


def _classes_of_probabilities(loaded: LoadedModel, settings: ModelSettings) -> tuple[Label, ...]:
    """The classes of a model that answers probabilities and does not name them: numbers, as boosters count them."""
    if settings.classes:
        return settings.classes
    if settings.task == "binary":
        for pair in ((0, 1), (False, True)):
            if settings.positive is None or str(settings.positive).lower() in [str(label).lower() for label in pair]:
                return pair
    names = output_names(loaded.signature)
    if len(names) > 1:
        return names
    raise ContractError(
        f"It can't be seen of which classes {loaded.version.model!r} answers probabilities.",
        cure=f"Say them in their order: models.{loaded.version.model}.classes.",
        model=loaded.version.model,
        field="label",
    )


def _label_type(model: str, task: Task, classes: tuple[Label, ...], loaded: LoadedModel) -> ColumnType:
    if task is Task.REGRESSION:
        return ColumnType.DOUBLE
    kinds = {bool: ColumnType.BOOLEAN, int: ColumnType.LONG, str: ColumnType.STRING}
    if classes and type(classes[0]) in kinds:
        return kinds[type(classes[0])]
    from_signature = output_type(loaded.signature)
    if from_signature in (ColumnType.BOOLEAN, ColumnType.INTEGER, ColumnType.LONG, ColumnType.STRING):
        return from_signature
    raise ContractError(
        f"It can't be seen which classes {model!r} answers.",
        cure="Log it with a signature whose output is a boolean, an integer or a string; of one that answers "
        f'probabilities, set models.{model}.inference.answers = "probability" (init --answers probability).',
        model=model,
        field="label",
    )
