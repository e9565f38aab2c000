"""A model's contract: which columns it takes, what it answers, which outcome it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import cached_property

from feedback_loop.errors import ContractError
from feedback_loop.schema.names import OWN, RESERVED, fields_for, own_name
from feedback_loop.schema.segments import SEGMENT_VALUES

ENDS = ("lower", "upper")
"""The ends of an interval, as answers and the log have them."""

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

    `hashed` names the key that its values are hashed with (see `schema.redaction`); empty: they are plain. Of a key's
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
    Where an outcome `needs_action`, only predictions that were acted on can have one.
    """

    horizon: timedelta | None = None
    which: Which = Which.ALL
    absent_means: Label | float | None = None
    maturity: timedelta = timedelta(days=1)
    needs_action: bool = False


ACTED, ACTION_PROPENSITY = "fl_acted", "fl_propensity"
"""What the columns of an action are called in its table and in the join: no word that a model would have."""


@dataclass(frozen=True)
class OwnMetric:
    """A metric of the user's making: where it is found, and which columns it takes beside label and outputs."""

    name: str
    path: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contract:
    """What one model version takes and answers, and the outcome that it is compared with.

    `key` columns identify what was predicted; those that are features too are in both.
    `outputs` are `prediction` and, for classifiers that give them, probabilities: one column
    `probability` (of the positive class) for a binary task, `probability_<class>` for each class else.
    With `more_labels` a version predicts several things of a row at once: outputs are `prediction_<label>` of each,
    and for a binary task `probability_<label>`. Each is judged like a model of its own (see `targets`).
    `more_classes` are those that outcomes may be beside its own: real, and unknown to the version.
    One that `is_of_actions` takes reports of what callers did in, and of no outcomes.
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
    is_of_actions: bool = False

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
    def of_actions(self) -> Contract:
        """The same for reports of what callers did with its answers."""
        return replace(self, is_of_actions=True)

    @property
    def reported(self) -> tuple[Column, ...]:
        """The value columns of what is reported: labels, or whether was acted and by what probability."""
        if not self.is_of_actions:
            return self.labels
        return (
            Column(self.own("acted"), ColumnType.BOOLEAN, field=ACTED),
            Column(self.own("propensity"), ColumnType.DOUBLE, required=False, field=ACTION_PROPENSITY),
        )

    @property
    def predictions(self) -> tuple[Column, ...]:
        """The output columns that hold what was answered, in the order of `labels`."""
        return self.outputs[: len(self.labels)]

    @property
    def probabilities(self) -> tuple[Column, ...]:
        """The output columns that hold probabilities, in the order of `classes` (binary: one; of each label)."""
        return self.outputs[len(self.labels) :]

    @property
    def adapter_revision(self) -> Column:
        """The column of the log that names the revision of the adapter that made the answer; null: none did."""
        return self.log_columns[0]

    @property
    def exploration_columns(self) -> tuple[Column, Column]:
        """The columns of the log for whether a row was explored, and how likely it was acted on; null: not known."""
        return self.log_columns[1], self.log_columns[2]

    @property
    def raw_outputs(self) -> tuple[Column, ...]:
        """The columns of the log for the answers of the model itself, like `outputs`; null: those were served.

        Empty where no adapter can be on: without probabilities of classes, of several labels, with a query.
        """
        return self.log_columns[3 : 3 + len(self.outputs)]

    @property
    def interval_columns(self) -> tuple[Column, ...]:
        """The columns of the log for both ends of an adapter's interval; null: it gave none. Of regressions alone."""
        return self.log_columns[3 + len(self.outputs) :]

    @cached_property
    def log_columns(self) -> tuple[Column, ...]:
        """Nullable columns of predictions that only the log has, under names that meet none of the model's own."""
        has_raw = not self.more_labels and not self.query
        has_raw &= self.task is Task.REGRESSION or bool(self.probabilities)
        kinds = {
            "adapter_revision": ColumnType.LONG,
            "explored": ColumnType.BOOLEAN,
            "propensity": ColumnType.DOUBLE,
            **{f"raw_{output.name.removeprefix(OWN)}": output.type for output in self.outputs if has_raw},
            **{end: ColumnType.DOUBLE for end in ENDS if has_raw and self.task is Task.REGRESSION},
        }
        theirs = (*self.outputs, *self.labels, *self.key, *self.features)
        wanted = [Column(self.own(name), kind, required=False) for name, kind in kinds.items()]
        fields = fields_for(wanted, (*RESERVED, *(column.stored for column in theirs)))
        # A feature of the same name that a later version has is another column: by the prefix they are told apart.
        return tuple(
            replace(column, name=OWN + column.name.removeprefix(OWN), field=field)
            for column, field in zip(wanted, fields, strict=True)
        )

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
