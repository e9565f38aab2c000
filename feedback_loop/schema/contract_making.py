"""Makes contracts: names every column in the tables, and refuses settings that do not go together."""

from __future__ import annotations

from dataclasses import replace

from feedback_loop.errors import ContractError
from feedback_loop.schema.classes import class_of, typed_label
from feedback_loop.schema.contract import (
    MOST_CLASSES,
    Column,
    ColumnType,
    Contract,
    JoinRule,
    Label,
    OwnMetric,
    Task,
)
from feedback_loop.schema.names import fields_for, own_name
from feedback_loop.schema.segments import SEGMENT_VALUES


def make_contract(
    *,
    model: str,
    task: Task,
    features: tuple[Column, ...],
    label: str,
    label_type: ColumnType,
    key: tuple[str, ...] = (),
    key_types: dict[str, ColumnType] | None = None,
    classes: tuple[Label, ...] = (),
    positive: Label | None = None,
    segments: tuple[str, ...] = (),
    segment_values: int = SEGMENT_VALUES,
    has_probabilities: bool = False,
    join: JoinRule | None = None,
    query: str = "",
    own_metrics: tuple[OwnMetric, ...] = (),
    more_labels: tuple[str, ...] = (),
    settled: tuple[Label, ...] = (),
) -> Contract:
    """Puts a contract together and gives every column its name in the tables.

    Key columns have the type of the feature of that name, else of `key_types`, else string. The `settled` classes are
    the configuration's: all that there are where the version shows none, else those that outcomes may be as well.
    Raises ContractError where a name is used twice, or `positive`, a segment, the query or what a metric takes is not
    among what there is.
    """
    _refuse_repeats(model, "feature", [column.name for column in features])
    _refuse_repeats(model, "key column", list(key))
    labels = (label, *more_labels)
    _refuse_repeats(model, "label", list(labels))
    for name in [name for name in labels if name in {column.name for column in features} | set(key)]:
        raise ContractError(
            f"The label {name!r} of {model!r} is also one of its features or keys.",
            cure="A label is what becomes known later: name another column.",
            model=model,
            field=name,
        )
    by_name = {column.name: column for column in features}
    types = key_types or {}
    keys = tuple(
        replace(by_name[name], required=False, is_key=True, is_indexed=True)
        if name in by_name
        else Column(name, types.get(name, ColumnType.STRING), required=False, is_key=True, is_indexed=True)
        for name in key
    )
    classes, more_classes = _classes(model, task, label_type, classes, settled)
    theirs = {*by_name, *key, *labels}
    outputs = _outputs(task, label_type, classes, labels, theirs, has_probabilities=has_probabilities)
    others = (
        *(Column(name, label_type) for name in labels),
        *keys,
        *(column for column in features if column.name not in key),
    )
    names = fields_for([*outputs, *others])
    fields = dict(zip((column.name for column in others), names[len(outputs) :], strict=True))
    contract = Contract(
        model=model,
        task=task,
        features=tuple(
            replace(column, field=fields[column.name], is_indexed=column.name in {*key, *segments})
            for column in features
        ),
        key=tuple(replace(column, field=fields[column.name]) for column in keys),
        label=Column(label, label_type, field=fields[label]),
        outputs=tuple(replace(column, field=field) for column, field in zip(outputs, names, strict=False)),
        classes=classes,
        positive=_positive(model, task, label_type, classes, positive),
        segments=segments,
        segment_values=segment_values,
        join=_join(model, join or JoinRule(), (*classes, *more_classes)),
        query=query,
        own_metrics=own_metrics,
        more_labels=tuple(Column(name, label_type, field=fields[name]) for name in more_labels),
        more_classes=more_classes,
    )
    needed = [*segments, *(name for metric in own_metrics for name in metric.columns), *([query] if query else [])]
    for name in needed:
        contract.column(name)
    _refuse_combinations(contract)
    return contract


def _refuse_combinations(contract: Contract) -> None:
    model, task = contract.model, contract.task
    if contract.more_classes and task is not Task.MULTICLASS:
        raise ContractError(
            f"The task of {model!r} is {task}, which has no room for the class {contract.more_classes[0]!r}.",
            cure='Leave it out of classes, or set task = "multiclass".',
            model=model,
            field="classes",
        )
    if contract.query and task is Task.MULTICLASS:
        raise ContractError(
            f"The task of {model!r} is multiclass: its classes are in no order that rows could be ranked by.",
            cure='Set task = "regression" (the label is how relevant a row is) or "binary", or leave out query.',
            model=model,
            field="query",
        )
    if contract.more_labels and (task is Task.MULTICLASS or contract.query or contract.join.absent_means is not None):
        raise ContractError(
            f"{model!r} has several labels: its task can't be multiclass, and it can't have query or absent_means.",
            cure="Leave them out, or register a model for each label.",
            model=model,
            field="label",
        )


def _classes(
    model: str, task: Task, label_type: ColumnType, own: tuple[Label, ...], settled: tuple[Label, ...]
) -> tuple[tuple[Label, ...], tuple[Label, ...]]:
    """The classes of the version, and those that outcomes may be beside them."""
    if not task.is_classification:
        return own, settled
    typed = tuple(dict.fromkeys(typed_label(model, label_type, label) for label in settled))
    return (own, tuple(label for label in typed if label not in own)) if own else (typed, ())


def _outputs(
    task: Task,
    label_type: ColumnType,
    classes: tuple[Label, ...],
    labels: tuple[str, ...],
    taken: set[str],
    *,
    has_probabilities: bool,
) -> tuple[Column, ...]:
    def ours(name: str, kind: ColumnType) -> Column:
        return Column(own_name(name, taken), kind)

    double = ColumnType.DOUBLE
    if len(labels) > 1:
        answers = tuple(ours(f"prediction_{name}", label_type) for name in labels)
        chances = tuple(ours(f"probability_{name}", double) for name in labels)
        return (*answers, *chances) if has_probabilities and task is Task.BINARY else answers
    if task is Task.REGRESSION:
        return (ours("prediction", double),)
    prediction = ours("prediction", label_type)
    if not has_probabilities or not classes or len(classes) > MOST_CLASSES:
        return (prediction,)
    if task is Task.BINARY:
        return (prediction, ours("probability", double))
    return (prediction, *(ours(f"probability_{label}", double) for label in classes))


def _positive(
    model: str, task: Task, label_type: ColumnType, classes: tuple[Label, ...], wanted: Label | None
) -> Label | None:
    if task is not Task.BINARY:
        return wanted
    if not classes:
        return None if wanted is None else typed_label(model, label_type, wanted)
    if len(classes) != 2:
        raise ContractError(
            f"The task of {model!r} is binary, but it knows {len(classes)} classes: {classes}.",
            cure='Set task = "multiclass".',
            model=model,
            field="task",
        )
    return classes[-1] if wanted is None else _known_class(model, "positive", wanted, classes)


def _join(model: str, join: JoinRule, classes: tuple[Label, ...]) -> JoinRule:
    """The join's rule, with `absent_means` as one of the classes."""
    if join.absent_means is None or not classes:
        return join
    return replace(join, absent_means=_known_class(model, "absent_means", join.absent_means, classes))


def _known_class(model: str, setting: str, wanted: object, classes: tuple[Label, ...]) -> Label:
    known = class_of(wanted, classes)
    if known is None:
        raise ContractError(
            f"{model!r} does not know the class {wanted!r}, which {setting} names.",
            cure=f"It knows {', '.join(map(repr, classes[:MOST_CLASSES]))}.",
            model=model,
            field=setting,
        )
    return known


def _refuse_repeats(model: str, kind: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ContractError(
            f"The {kind} {repeated[0]!r} of {model!r} is there twice.",
            cure="Every column needs a name of its own.",
            model=model,
            field=repeated[0],
        )
