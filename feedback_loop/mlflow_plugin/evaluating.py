"""What the evaluator computes: answers of a model (or of a file) on labelled rows, their metrics, and the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.errors import BadInput, Refused
from feedback_loop.monitoring import Floats, primary_loss, row_losses
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.plain import plain
from feedback_loop.registry import mlflow_names
from feedback_loop.retraining import GateResult, non_inferiority
from feedback_loop.schema import Column, ColumnType, Contract, Label, Task, make_contract
from feedback_loop.store.evaluations import MetricValue

_DEFAULTS = RetrainingSettings()


@dataclass(frozen=True)
class Options:
    """What `evaluator_config` may say.

    `baseline` is a model's URI, a loaded model, or the name of a column with its predictions; `probability` and
    `baseline_probability` are columns of the positive class's probability, beside predictions in columns. Columns of
    `time` and `segments` are no inputs of a model. Without times each row counts as a day of its own.
    """

    baseline: Any = None
    margin: float = _DEFAULTS.margin
    alpha: float = _DEFAULTS.alpha
    time: str = ""
    segments: Sequence[str] = ()
    positive: Any = None
    probability: str = ""
    baseline_probability: str = ""
    metric_prefix: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Those of a configuration; raises BadInput for one that is none. MLflow's `pos_label` is `positive`."""
        config = {"positive" if name == "pos_label" else name: value for name, value in config.items()}
        names = [field.name for field in fields(cls)]
        for name in config:
            if name not in names:
                raise BadInput.of(name, "is no option of evaluator_config", cure=f"There are: {', '.join(names)}.")
        options = cls(**config)
        if not isinstance(options.margin, int | float) or not options.margin >= 0:
            raise BadInput.of("margin", f"is {options.margin!r}", cure="Give a share of the loss, such as 0.05.")
        if not isinstance(options.alpha, int | float) or not 0 < options.alpha < 0.5:
            raise BadInput.of("alpha", f"is {options.alpha!r}", cure="Give a chance below 0.5, such as 0.05.")
        return replace(options, segments=[options.segments]) if isinstance(options.segments, str) else options


@dataclass(frozen=True)
class Answers:
    """What was answered of each row: predictions and, of shape (rows, classes), probabilities of these classes."""

    predictions: npt.NDArray[Any]
    probabilities: Floats | None = None
    classes: tuple[Label, ...] = ()


def evaluated(
    model: Any, dataset: Any, model_type: str, options: Options, *, output: str | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics by the names that MLflow takes, and all figures as plain values. Raises BadInput, Refused.

    `dataset` is MLflow's, with labels; `output` is the column of a model's answers, where these are several.
    """
    rows = _rows(dataset)
    if dataset.labels_data is None:
        raise BadInput.of("targets", "are missing: there is nothing to compare with")
    labels = np.asarray(dataset.labels_data)
    answers = _of_file(dataset, rows, options) if model is None else _of_model(model, rows, options, output)
    contract = _contract(labels, answers, model_type, options)
    table = _table(contract, rows, labels, answers)
    values = validation_metrics(contract, table)
    if not values:
        raise Refused("No row has both a label and a prediction.", cure="Give rows with labels.")
    gate = _gate(contract, rows, labels, table, options)
    content = plain({"task": contract.task, "rows": table.num_rows, "metrics": values, "gate": gate})
    figures = {**_figures(values), **_gate_figures(gate)}
    return {f"{options.metric_prefix}{name}": value for name, value in figures.items()}, content


def _rows(dataset: Any) -> pd.DataFrame:
    data = dataset.features_data
    return data if isinstance(data, pd.DataFrame) else pd.DataFrame(data, columns=dataset.feature_names)


def _of_file(dataset: Any, rows: pd.DataFrame, options: Options) -> Answers:
    if dataset.predictions_data is None:
        raise BadInput.of("predictions", "are missing", cure="Give a model, or the column with its predictions.")
    return Answers(np.asarray(dataset.predictions_data), _pair(rows, options.probability))


def _pair(rows: pd.DataFrame, column: str) -> Floats | None:
    """Probabilities of the negative and the positive class, by a column of the latter."""
    if not column:
        return None
    chance = _column(rows, column).to_numpy(float)
    return np.column_stack([1 - chance, chance])


def _column(rows: pd.DataFrame, name: str) -> pd.Series[Any]:
    if name not in rows.columns:
        raise BadInput.of(name, "is missing", cure=f"The columns are {', '.join(map(str, rows.columns))}.")
    return rows[name]


def _of_model(model: Any, rows: pd.DataFrame, options: Options, output: str | None) -> Answers:
    """By the pyfunc; of scikit-learn's classifiers the probabilities too."""
    own = {options.time, options.probability, options.baseline_probability, options.baseline}
    inputs = rows[[name for name in rows.columns if not (isinstance(name, str) and name in own)]]
    described = getattr(model, "metadata", None)
    if described is not None and (schema := described.get_input_schema()) is not None and schema.has_input_names():
        inputs = inputs[[name for name in schema.input_names() if name in inputs.columns]]
    raw = _raw(model)
    classes = tuple(raw.classes_.tolist()) if hasattr(raw, "predict_proba") and hasattr(raw, "classes_") else ()
    answered = model.predict(inputs)
    if isinstance(answered, pd.DataFrame):
        answered = answered[output] if output is not None else answered.squeeze(axis=1)
    answered = np.asarray(answered)
    if answered.ndim == 2 and answered.shape[1] == len(classes):  # a model that was logged with predict_proba
        return Answers(np.asarray(classes)[answered.argmax(axis=1)], answered.astype(float), classes)
    if answered.ndim > 1 and answered.shape[1:] != (1,):
        raise Refused("The model answers several columns.", cure="Name one: predictions=….")
    chances = np.asarray(raw.predict_proba(inputs), float) if classes else None
    return Answers(answered.reshape(len(rows)), chances, classes)


def _raw(model: Any) -> Any:
    try:
        return model.get_raw_model()
    except (AttributeError, NotImplementedError):  # a function, or a model that is no more than MLflow's own
        return None


def _contract(labels: npt.NDArray[Any], answers: Answers, model_type: str, options: Options) -> Contract:
    columns = tuple(Column(name, ColumnType.STRING) for name in options.segments)
    common: dict[str, Any] = {
        "model": "model",
        "features": columns,
        "label": "label",
        "segments": tuple(options.segments),
    }
    if model_type == "regressor":
        return make_contract(task=Task.REGRESSION, label_type=ColumnType.DOUBLE, **common)
    given = pd.unique(pd.Series([*labels.tolist(), *answers.predictions.tolist()], dtype=object).dropna())
    classes = answers.classes or tuple(sorted(_plain(value) for value in given))
    if len(classes) < 2:
        raise Refused(f"There is one class only: {classes}.", cure="Give rows of at least two.")
    kinds: dict[type, ColumnType] = {bool: ColumnType.BOOLEAN, int: ColumnType.LONG, str: ColumnType.STRING}
    kind = kinds.get(type(_plain(classes[0])))
    if kind is None:
        raise BadInput.of("targets", f"are {type(classes[0]).__name__}, which are no classes")
    return make_contract(
        task=Task.BINARY if len(classes) == 2 else Task.MULTICLASS,
        label_type=kind,
        classes=tuple(map(_plain, classes)),
        positive=options.positive if len(classes) == 2 else None,
        has_probabilities=answers.probabilities is not None,
        **common,
    )


def _plain(value: Any) -> Any:
    """A class as it is written: 1 for 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _table(contract: Contract, rows: pd.DataFrame, labels: npt.NDArray[Any], answers: Answers) -> pa.Table:
    """The rows as the log would hold them."""
    columns: dict[str, Any] = {contract.label.stored: _values(contract.label, labels)}
    columns[contract.outputs[0].stored] = _values(contract.outputs[0], answers.predictions)
    if answers.probabilities is not None and contract.probabilities:
        chances = answers.probabilities
        shown = [contract.positive] if contract.task is Task.BINARY else contract.classes
        for column, label in zip(contract.probabilities, shown, strict=True):
            columns[column.stored] = chances[:, contract.classes.index(label)]
    for column in contract.features:
        values = _column(rows, column.name)
        columns[column.stored] = pa.array(
            [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
        )
    return pa.table(columns)


def _values(column: Column, values: npt.NDArray[Any]) -> pa.Array:
    if column.type is ColumnType.DOUBLE:
        return pa.array(values.astype(float), from_pandas=True)
    return pa.array([None if pd.isna(value) else _plain(value) for value in values.tolist()])


def _gate(
    contract: Contract, rows: pd.DataFrame, labels: npt.NDArray[Any], table: pa.Table, options: Options
) -> GateResult | None:
    """Whether the model is not worse than the baseline by more than the margin; None where there is no baseline."""
    if options.baseline is None:
        return None
    baseline = options.baseline
    if isinstance(baseline, str) and baseline in rows.columns:
        other = Answers(rows[baseline].to_numpy(), _pair(rows, options.baseline_probability))
    else:
        other = _of_model(_loaded(baseline), rows, options, None)
    if other.classes and other.classes != contract.classes:
        raise Refused(f"The baseline knows the classes {other.classes}, the model {contract.classes}.")
    if (other.probabilities is None) == bool(contract.probabilities):
        raise Refused("Of one of the two only answers are known, of the other probabilities.", cure="Give both.")
    against = _table(contract, rows, labels, other)
    labelled = np.asarray(table.column(contract.label.stored).is_valid())
    one, two = (row_losses(contract, each.filter(labelled))[primary_loss(contract)] for each in (table, against))
    return non_inferiority(
        primary_loss(contract), one, two, _times(rows, options)[labelled], margin=options.margin, alpha=options.alpha
    )


def _loaded(baseline: Any) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(baseline) if isinstance(baseline, str) else baseline


def _times(rows: pd.DataFrame, options: Options) -> npt.NDArray[np.datetime64]:
    if not options.time:
        return np.arange(len(rows)).astype("datetime64[D]")
    moments = pd.to_datetime(_column(rows, options.time), utc=True).dt.tz_localize(None)
    return np.asarray(moments.to_numpy(), "datetime64[us]")


def _figures(values: Sequence[MetricValue]) -> dict[str, float]:
    """The metrics by MLflow's names; of those of all rows their errors and bounds too, by these with a dot."""
    keys = {f"{value.metric}[{value.segment}]" if value.segment else value.metric: value for value in values}
    names = mlflow_names({key: value.value for key, value in keys.items()})
    figures: dict[str, float] = {}
    for name, value in zip(names, keys.values(), strict=True):
        figures[name] = value.value
        if not value.segment:
            more = {"standard_error": value.standard_error, "least": value.least, "most": value.most}
            figures |= {f"{name}.{kind}": number for kind, number in more.items() if number is not None}
    first = values[0]
    figures["rows"] = float(first.rows)
    return figures | ({"coverage": first.coverage} if first.coverage is not None else {})


def _gate_figures(gate: GateResult | None) -> dict[str, float]:
    if gate is None:
        return {}
    figures = {
        "candidate": gate.candidate,
        "baseline": gate.champion,
        "difference": gate.difference,
        "upper": gate.upper,
        "allowed": gate.margin,
    }
    known = {f"gate.{name}": number for name, number in figures.items() if number is not None}
    return {"gate.passed": float(gate.passed), **known}
