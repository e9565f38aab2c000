"""Exploration: for which keys the caller acts as if there were no model, and how likely each row is acted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.errors import ConfigError
from feedback_loop.inference.answers import Marks
from feedback_loop.inference.engines import Scored
from feedback_loop.schema import Contract, Label, Task, key_texts, sample_places
from feedback_loop.schema.protocol import Rows

if TYPE_CHECKING:
    from feedback_loop.config import ModelSettings

SALT = b"explore"

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Exploring:
    """The exploration of one model. Thread-safe.

    Its keys are chosen by a hash of model and key: always the same ones, on every host. A row without a key is chosen
    by its prediction id. `labels`, `below` and `above` are the rule that says which answers are acted on anyway.
    """

    contract: Contract
    share: float
    labels: tuple[Label, ...] = ()
    below: float | None = None
    above: float | None = None

    @property
    def rule(self) -> tuple[object, ...]:
        """What its marks follow from."""
        return self.share, self.labels, self.below, self.above

    def marks(self, scored: Scored, rows: Rows | pa.Table, ids: Sequence[str] | pa.Array) -> Marks:
        """The marks of rows that were scored, by what was served."""
        columns = rows.columns if isinstance(rows, Rows) else dict(zip(rows.column_names, rows.columns, strict=True))
        explored = self.explored(columns, ids)
        acts = self._acts(scored)
        if acts is None:
            return Marks(explored.tolist(), [self.share if chosen else None for chosen in explored.tolist()])
        return Marks(explored.tolist(), np.where(acts, 1.0, self.share).tolist())

    def explored(self, columns: Mapping[str, Any], ids: Sequence[str] | pa.Array) -> Mask:
        """Which rows are explored."""
        texts = key_texts(self.contract.key, columns, len(ids))
        if None in texts:
            names = ids.to_pylist() if isinstance(ids, pa.Array) else ids
            texts = [own if text is None else text for text, own in zip(texts, names, strict=True)]
        model = self.contract.model
        return np.asarray(sample_places([f"{model}\0{text}" for text in texts], SALT) < self.share, dtype=np.bool_)

    def _acts(self, scored: Scored) -> Mask | None:
        """Which answers are acted on; None where no rule says so."""
        if self.labels:
            answers = scored.columns[0].tolist()
            return np.array([answer in self.labels for answer in answers], dtype=np.bool_)
        bound = self.below if self.below is not None else self.above
        if bound is None:
            return None
        column = scored.columns[0 if self.contract.task is Task.REGRESSION else 1]
        values = np.asarray([np.nan if value is None else value for value in column.tolist()], dtype=np.float64)
        return np.asarray(values < bound if self.below is not None else values > bound, dtype=np.bool_)


def exploring_of(contract: Contract, settings: ModelSettings) -> Exploring | None:
    """The exploration of a model, None where it is off; raises ConfigError for a rule that its answers can't meet."""
    exploration = settings.exploration
    if not exploration.is_on:
        return None
    key = f"models.{contract.model}.exploration"
    if exploration.acts_on:
        unknown = [label for label in exploration.acts_on if label not in contract.classes]
        if contract.task is Task.REGRESSION or contract.more_labels or (contract.classes and unknown):
            known = ", ".join(map(repr, contract.classes)) or "no classes"
            raise ConfigError(
                f"{key}.acts_on names {list(exploration.acts_on)!r}; {contract.model!r} answers {known}.",
                cure="Name classes of a model of one label, or say acts_below or acts_above.",
                key=f"{key}.acts_on",
            )
    elif exploration.has_rule:
        has_score = contract.task is Task.BINARY and contract.probabilities
        if contract.more_labels or not (contract.task is Task.REGRESSION or has_score):
            raise ConfigError(
                f"{contract.model!r} answers no single probability or value that {key} could compare.",
                cure="Say acts_on, the predicted labels that are acted on.",
                key=key,
            )
        bound = exploration.acts_above if exploration.acts_below is None else exploration.acts_below
        if has_score and bound is not None and not 0.0 <= bound <= 1.0:
            raise ConfigError(
                f"{key} compares a probability with {bound:g}.", cure="Say a number from 0 to 1.", key=key
            )
    return Exploring(contract, exploration.share, exploration.acts_on, exploration.acts_below, exploration.acts_above)
