"""Predictions by their key: what was answered, by which version, what really happened, as of any moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from feedback_loop.errors import BadInput
from feedback_loop.inference import join_rule
from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
from feedback_loop.schema import (
    Column,
    ColumnType,
    JoinRule,
    as_table,
    check_prediction_id,
    coerce,
    fingerprint,
    hashed,
)
from feedback_loop.store.lookup import LoggedPrediction, key_columns, look_up

MOST = 500
"""So many predictions are shown at once."""


def logged_predictions(
    loop: FeedbackLoop,
    model: str,
    key: Mapping[str, str] | None = None,
    *,
    prediction_id: str | None = None,
    as_of: datetime | None = None,
    newest: int = 50,
) -> list[dict[str, Any]]:
    """The newest predictions with that key (or a part of it, as text) or id, as plain values; newest first.

    With what was known `as_of` a moment (default: now). What was erased is gone, for whatever moment is asked. Raises
    NotFound for a model that is not configured, BadInput.
    """
    settings, now = loop.settings.model(model), loop.clock()
    if as_of is not None and as_of > now:
        raise BadInput.of("as_of", "is in the future: what will be known then can't be")
    if not 1 <= newest <= MOST:
        raise BadInput.of("newest", f"is {newest}", cure=f"Ask for 1 to {MOST} predictions.")
    columns = {column.name: column for column in key_columns(loop.store, model)}
    values = {}
    for name, text in (key or {}).items():
        if name not in columns and columns:
            raise BadInput.of(name, "is not in the key", cure=f"The key is {', '.join(columns)}.")
        if name in columns:
            given = replace(columns[name], is_key=True, is_indexed=True)
            type_served = ColumnType(settings.key_types.get(name, "string")) if given.hashed else given.type
            values[given.stored] = _logged(given, text, type_served, loop.settings.hash_key)
    rule = join_rule(settings)
    rows = look_up(
        loop.store,
        model,
        rule,
        key=values,
        prediction_id=check_prediction_id(prediction_id, now) if prediction_id else None,
        as_of=as_of,
        newest=newest,
    )
    return [_plain(row, rule, settings.labels[0], as_of or now) for row in rows]


def _logged(column: Column, text: str, kind: ColumnType, secret: bytes) -> object:
    """A value of a key as the log has it: in its type, and hashed where it is; raises BadInput."""
    served = replace(column, type=kind, hashed="")
    values = coerce(as_table({column.name: [text]}), [served], text=True).column(0)
    if values[0].as_py() is None:
        raise BadInput.of(column.name, "is missing")
    if column.hashed:
        if column.hashed != fingerprint(secret):
            cure = "Set FEEDBACK_LOOP_CAPTURE__HASH_KEY as it was when these rows were logged."
            raise BadInput.of(column.name, "is hashed with another key than capture.hash_key", cure=cure)
        values = hashed(served, pa.chunked_array(values), secret)
    return values[0].as_py()


def _plain(row: LoggedPrediction, rule: JoinRule, label: str, as_of: datetime) -> dict[str, Any]:
    """A prediction as plain values; its `outcome` is `observed`, `assumed` (by absence), `awaited` or `none`."""
    labels, outcome = row.labels, "observed"
    if labels is None:
        outcome = "awaited" if row.predicted_at + rule.maturity > as_of else "none"
        if outcome == "none" and rule.absent_means is not None and (row.acted or not rule.needs_action):
            labels, outcome = {label: rule.absent_means}, "assumed"
    return {**plain(row), "labels": plain(labels), "outcome": outcome}
