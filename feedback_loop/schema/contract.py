"""A model's contract: which columns it takes, what it answers, what it is held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from feedback_loop.errors import ContractError
from feedback_loop.schema.names import own_name
from feedback_loop.schema.segments import SEGMENT_VALUES

MOST_CLASSES = 100
"""Above this many classes their probabilities are not logged: a table's columns are bounded."""


Label = bool | int | str
"""A class that a classifier can answer."""


class ColumnType(StrEnum):
    """MLflow's column types, as far as they can be columns of a table."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    LONG = "long"
    FLOAT = "float"
    DOUBLE = "double"
    STRING = "string"
    DATETIME = "datetime"

    @property
    def is_numeric(self) -> bool:
        """Whether its values have an order and a mean."""
        return self in (ColumnType.INTEGER, ColumnType.LONG, ColumnType.FLOAT, ColumnType.DOUBLE)


class Task(StrEnum):
    """What kind of thing is predicted."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"

    @property
    def is_classification(self) -> bool:
        """Whether outcomes are classes."""
        return self is not Task.REGRESSION


class Role(StrEnum):
    """In what part a version predicted."""

    CHAMPION = "champion"
    SHADOW = "shadow"
    CANARY = "canary"


class Source(StrEnum):
    """By what way a prediction was asked for."""

    ONLINE = "online"
    BATCH = "batch"
    EXTERNAL = "external"


@dataclass(frozen=True)
class Column:
    """`name` is the model's or the caller's word; `field` is what it is called in our tables.

    `hashed` names the key that its values are hashed with (see `schema.privacy`); empty: they are plain. Of a key's
    column (`is_key`) an empty text is no value: strangers whose key nobody knows would be one and the same. Texts of
    keys and of segments (`is_indexed`) are short.
    """

    name: str
    type: ColumnType
    required: bool = True
    field: str = ""
    hashed: str = ""
    is_key: bool = False
    is_indexed: bool = False

    @property
    def stored(self) -> str:
        """The column's name in the tables."""
        return self.field or self.name


class Which(StrEnum):
    """Which of several predictions of one key an outcome belongs to."""

    ALL = "all"
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True)
class JoinRule:
    """How an outcome finds its predictions where it names their key (one that names an id needs no rule).

    With a `horizon` an outcome belongs to predictions that were made at most so long before it occurred, and each
    time at which one occurred is an event of its own; without, a key has one outcome, whenever it occurred.
    `which` chooses among the predictions of one role that an outcome fits. `absent_means` is the label of a
    prediction that has no outcome when `maturity` has passed (no chargeback: no fraud); None: it stays unlabelled.
    """

    horizon: timedelta | None = None
    which: Which = Which.ALL
    absent_means: Label | float | None = None
    maturity: timedelta = timedelta(days=1)


@dataclass(frozen=True)
class OwnMetric:
    """A metric of the user's making: where it is found, and which columns it takes beside label and outputs."""

    name: str
    path: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contract:
    """What one model version takes and answers, and the outcome it is held against.

    `key` columns identify what was predicted; those that are features too are in both.
    `outputs` are `prediction` and, for classifiers that give them, probabilities: one column
    `probability` (of the positive class) for a binary task, `probability_<class>` for each class else.
    With `more_labels` a version predicts several things of a row at once: outputs are `prediction_<label>` of each,
    and for a binary task `probability_<label>`. Each is judged like a model of its own (see `targets`).
    `more_classes` are those that outcomes may be beside its own: real, and unknown to the version.
    `query` names the column whose values tell which rows were ranked against each other; empty: none were.
    """

    model: str
    task: Task
    features: tuple[Column, ...]
    key: tuple[Column, ...]
    label: Column
    outputs: tuple[Column, ...]
    classes: tuple[Label, ...] = ()
    positive: Label | None = None
    segments: tuple[str, ...] = ()
    segment_values: int = SEGMENT_VALUES  # of each column of them, so many are counted by themselves
    join: JoinRule = JoinRule()
    query: str = ""
    own_metrics: tuple[OwnMetric, ...] = ()
    more_labels: tuple[Column, ...] = ()
    more_classes: tuple[Label, ...] = ()

    def own(self, name: str) -> str:
        """What a column of ours is called among a caller's: by another name where the model has one of this."""
        return own_name(name, {column.name for column in (*self.features, *self.key, *self.labels)})

    @property
    def outcome_classes(self) -> tuple[Label, ...]:
        """What an outcome may be: the classes that the version knows, and those that came up since."""
        return (*self.classes, *self.more_classes)

    @property
    def takes_new_classes(self) -> bool:
        """Whether an outcome may be a class that nobody has named: a word, of more than two.

        Whole numbers are codes, so one that is no class is rather of another coding; and where the configuration has
        named what came up, it has named all of it.
        """
        return self.task is Task.MULTICLASS and self.label.type is ColumnType.STRING and not self.more_classes

    @property
    def labels(self) -> tuple[Column, ...]:
        """All value columns of an outcome."""
        return self.label, *self.more_labels

    @property
    def predictions(self) -> tuple[Column, ...]:
        """The output columns that hold what was answered, in the order of `labels`."""
        return self.outputs[: len(self.labels)]

    @property
    def probabilities(self) -> tuple[Column, ...]:
        """The output columns that hold probabilities, in the order of `classes` (binary: one; of each label)."""
        return self.outputs[len(self.labels) :]

    @property
    def targets(self) -> tuple[Contract, ...]:
        """The contract of each label by itself."""
        if not self.more_labels:
            return (self,)
        plain = replace(self, more_labels=(), own_metrics=())
        return tuple(
            replace(plain, label=label, outputs=(answer, *self.probabilities[place : place + 1]))
            for place, (label, answer) in enumerate(zip(self.labels, self.predictions, strict=True))
        )

    @property
    def judged_by(self) -> tuple[Column, ...]:
        """The columns, beside label and outputs, that are looked at together with outcomes."""
        names = [*self.segments, *(name for metric in self.own_metrics for name in metric.columns)]
        return tuple(self.column(name) for name in dict.fromkeys(names))

    @property
    def extra_key(self) -> tuple[Column, ...]:
        """The key columns that are not features: a caller gives them beside the features."""
        features = {column.name for column in self.features}
        return tuple(column for column in self.key if column.name not in features)

    def column(self, name: str) -> Column:
        """The feature, key or output column of that name; raises ContractError."""
        for column in (*self.features, *self.key, *self.outputs):
            if column.name == name:
                return column
        raise ContractError(
            f"The model {self.model!r} has no column {name!r}.",
            cure=f"It has {', '.join(column.name for column in (*self.features, *self.extra_key))}.",
            model=self.model,
            field=name,
        )
