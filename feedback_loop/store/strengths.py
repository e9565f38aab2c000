"""How far each column strayed from the reference in many windows: of a wide model tens of thousands of figures."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import select

from feedback_loop.store.engine import Store
from feedback_loop.store.evaluations import Evaluation, details_text, evaluations


class Strength(msgspec.Struct, frozen=True, gc=False):
    """Of a `DriftValue` what a chart over time shows."""

    column: str
    method: str
    value: float
    threshold: float
    drifted: bool
    decides: bool = False


class _Drift(msgspec.Struct):
    drift: list[Strength]


_DECODER = msgspec.json.Decoder(_Drift)


def load_strengths(store: Store, of: Sequence[Evaluation]) -> list[list[Strength]]:
    """The figures that decide whether a column has drifted, for each of these evaluations (at most a few hundred)."""
    table = evaluations.c
    with store.read() as connection:
        statement = select(table.evaluation_id, details_text(connection, "drift"))
        rows = connection.execute(statement.where(table.evaluation_id.in_([one.evaluation_id for one in of]))).all()
    texts: dict[int | None, str] = {row[0]: row[1] for row in rows}
    drifts = (_DECODER.decode(texts[one.evaluation_id]).drift for one in of)
    return [[value for value in drift if value.decides] for drift in drifts]
