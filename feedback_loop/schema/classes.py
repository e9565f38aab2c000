"""Checks labels against the classes that a model knows: labels in another coding make metrics wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.errors import ContractError, RowError
from feedback_loop.schema.contract import ColumnType, Label

_MOST_SHOWN = 10


def unknown_classes(
    classes: Sequence[Label], field: str, values: pa.Array | pa.ChunkedArray, *, takes_new: bool = False
) -> list[RowError]:
    """The rows whose label is none of the classes, each with its likely cause; none where no classes are known.

    With `takes_new` only other spellings of the classes are: another label is a class that has come up.
    """
    if not classes:
        return []
    foreign = pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, pa.array(classes, values.type))))
    if not pc.any(foreign).as_py():
        return []
    labels = pc.unique(values).drop_null().to_pylist()
    causes = _causes(classes, labels)
    if takes_new:
        spellings = {_plain(label) for label in classes}
        causes = {label: cause for label, cause in causes.items() if _plain(label) in spellings}
    rows = zip(foreign.to_pylist(), values.to_pylist(), strict=True)
    return [
        RowError(row, field, causes[label])
        for row, (is_foreign, label) in enumerate(rows)
        if is_foreign and label in causes
    ]


def class_of(wanted: object, classes: Sequence[Label]) -> Label | None:
    """The class that a setting means: the same value, or one that is written alike."""
    same = [label for label in classes if label == wanted]
    alike = [label for label in classes if str(label) == str(wanted)]
    return next(iter([*same, *alike]), None)


def typed_label(model: str, kind: ColumnType, wanted: Label) -> Label:
    """A configured class in the type that the model's answers have: "1" means 1 where these are whole numbers."""
    possible: tuple[Label, ...] = (False, True) if kind == "boolean" else ()
    if kind in ("integer", "long"):
        possible = (int(wanted),) if str(wanted).strip().lstrip("+-").isdecimal() else ()
    elif kind == "string":
        possible = (str(wanted),)
    label = class_of(str(wanted).capitalize() if kind == "boolean" else wanted, possible)
    if label is None:
        raise ContractError(
            f"The class {wanted!r} of {model!r} is no {kind}, which is what it answers.",
            cure=f"Mend models.{model}.classes or .positive in the configuration.",
            model=model,
            field="classes",
        )
    return label


def _causes(classes: Sequence[Label], values: Sequence[Any]) -> dict[Any, str]:
    listed = ", ".join(map(repr, classes[:_MOST_SHOWN])) + (", …" if len(classes) > _MOST_SHOWN else "")
    plain = {_plain(label): label for label in classes}
    recoded = not isinstance(classes[0], str) and len(values) == len(classes)
    causes = {}
    for value in values:
        meant = plain.get(_plain(value))
        if meant is not None:
            likely = f": is it meant to be {meant!r}?"
        else:
            likely = f": are {', '.join(map(repr, sorted(values)))} another coding of them?" if recoded else ""
        causes[value] = f"{value!r} is none of the classes ({listed}){likely}"
    return causes


def _plain(label: object) -> str:
    return str(label).strip().casefold()
