"""A window of the log as a data set of MLflow's: `mlflow.data.load_feedback_loop(…)`, and its source.

Imported with `mlflow.data`. Annotations here are no texts: MLflow asks whether what is returned is a data set.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from mlflow.data.dataset_source import DatasetSource
from mlflow.data.pandas_dataset import PandasDataset

SOURCE_TYPE = "feedback-loop"
"""As the data sets of retrainings have it (`registry.lineage`)."""


class FeedbackLoopSource(DatasetSource):
    """Where rows come from: a window of a model's log as of a moment, or what a retraining learned from.

    `load` gives the very same rows again, or raises Refused.
    """

    def __init__(self, says: Mapping[str, Any]) -> None:
        self.says = dict(says)

    @staticmethod
    def _get_source_type() -> str:
        return SOURCE_TYPE

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, FeedbackLoopSource)

    @classmethod
    def _resolve(cls, raw_source: Any) -> Any:
        return raw_source

    def load(self) -> Any:
        """The rows as a data frame, by the configuration that they came from, else $FEEDBACK_LOOP_CONFIG.

        Raises Refused where they are not the same any more: rows were erased, or it is another log.
        """
        from feedback_loop.mlflow_plugin.log_windows import load_again

        return load_again(self.says)

    def to_dict(self) -> dict[str, Any]:
        """What is kept of it."""
        return self.says

    @classmethod
    def from_dict(cls, source_dict: Mapping[Any, Any]) -> Self:
        """That which says so."""
        return cls(source_dict)

    @classmethod
    def from_json(cls, source_json: str) -> Self:
        """That which says so."""
        return cls(json.loads(source_json))


def load_feedback_loop(
    model: str,
    window: Any,
    as_of: Any = None,
    *,
    labelled: bool = False,
    config: str | Path | None = None,
    name: str | None = None,
    digest: str | None = None,
) -> PandasDataset:
    """The predictions of a window with what was known of their outcomes `as_of` a moment (default: now).

    `window` is a month (`2026-05`), a day, `START/END` or a `Window`. With `labelled` rows without outcome are left
    out. Features, key and label have the model's names, and the label is the target. Raises FeedbackLoopError.
    """
    from feedback_loop.mlflow_plugin.log_windows import read_window

    read = read_window(model, window, as_of, labelled=labelled, config=config)
    return PandasDataset(
        read.frame,
        FeedbackLoopSource(read.says),
        targets=read.target,
        name=name or f"{model} {read.words}",
        digest=digest or read.digest,
    )
