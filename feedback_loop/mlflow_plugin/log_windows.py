"""Reads a window of the log for MLflow's data sets, and reads it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback_loop.cli.options import WindowGiven
from feedback_loop.clock import Window, format_moment, parse_moment
from feedback_loop.config import CONFIG_VARIABLE, FILE_NAME
from feedback_loop.errors import BadInput, ConfigError, Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.retraining import content_digest, rows_again

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from feedback_loop.schema import Contract


@dataclass(frozen=True)
class LogWindow:
    """Rows of the log, and what is to be kept to read them again."""

    frame: pd.DataFrame
    says: dict[str, Any]
    target: str | None
    words: str
    digest: str


def read_window(model: str, window: Any, as_of: Any, *, labelled: bool, config: str | Path | None) -> LogWindow:
    """The rows of a window as of a moment; raises BadInput, NotFound, Refused."""
    loop = FeedbackLoop.open(config)
    try:
        wanted = _window(window)
        moment = loop.context.final(model, parse_moment(as_of) if isinstance(as_of, str) else as_of)
        contract = loop.context.contract(model)
        table = _named(contract, loop.outcomes.labelled(model, wanted, moment))
    finally:
        loop.close()
    if labelled:
        table = table.filter(table.column(contract.label.name).is_valid())
    words = "–".join(map(format_moment, (wanted.start, wanted.end)))
    digest = content_digest(table)
    says = {
        "name": model,
        "place": loop.store.name,
        "config": str(Path(config or os.environ.get(CONFIG_VARIABLE, FILE_NAME)).absolute()),
        "window": [format_moment(wanted.start), format_moment(wanted.end)],
        "as_of": format_moment(moment),
        "labelled": labelled,
        "rows": table.num_rows,
        "digest": digest,
    }
    target = contract.label.name if not contract.more_labels else None
    return LogWindow(table.to_pandas(), says, target, words, digest)


def load_again(says: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that a source speaks of: of a window, or those that a retraining learned from."""
    config = _config_of(says)
    if "window" not in says:
        return _training_rows(says, config)
    start, end = says["window"]
    read = read_window(says["name"], f"{start}/{end}", says["as_of"], labelled=says["labelled"], config=config)
    if read.digest != says["digest"]:
        found = f"{len(read.frame):,} rows of {says['name']} in {start}–{end}"
        cause = f"The {found} are not the {says['rows']:,} of then, in {says['place']}."
        raise Refused(cause, cure="Rows may have been erased, or it is another log.")
    return read.frame


def _config_of(says: Mapping[str, Any]) -> Path:
    """The configuration by which rows were read; where it is not here, that of the environment or of this folder."""
    then, given = str(says.get("config", "")), os.environ.get(CONFIG_VARIABLE)
    if then and Path(then).exists():
        return Path(then)
    here = Path(given or FILE_NAME).absolute()
    if here.exists():
        return here
    named = (
        f"The configuration that these rows were read by, {then}," if then else f"Their configuration ({FILE_NAME})"
    )
    cause = f"{named} is not on this machine{f', and {here} is not either' if given else ''}."
    cure = f"Set {CONFIG_VARIABLE} to one with the same store and the model {says['name']}."
    raise ConfigError(cause, cure=cure, path=here)


def _training_rows(says: Mapping[str, Any], config: Path) -> pd.DataFrame:
    loop = FeedbackLoop.open(config)
    try:
        model = str(says["name"])
        history = loop.settings.model(model).retraining.history
        path = loop.settings.path(history) if history else None
        rows = rows_again(loop.store, loop.scorer(loop.champion(model)), dict(says), path)
    finally:
        loop.close()
    frame: pd.DataFrame = rows.table.to_pandas()
    return frame


def _window(window: Any) -> Window:
    if isinstance(window, Window):
        return window
    if isinstance(window, tuple) and len(window) == 2 and all(isinstance(end, datetime) for end in window):
        return Window(*window)
    read = WindowGiven(within=str(window)).window()
    if read is None:
        raise BadInput.of("window", "is missing")
    return read


def _named(contract: Contract, rows: pa.Table) -> pa.Table:
    """Rows of the log with the model's own names of features, key and label."""
    columns = (*contract.outputs, *contract.key, *contract.features, *contract.labels)
    names = {column.stored: column.name for column in columns}
    return rows.rename_columns([names.get(name) or contract.own(name) for name in rows.column_names])
