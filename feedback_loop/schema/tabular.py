"""Whatever is tabular as an Arrow table, each value as it is: `coerce` has their types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa


def as_table(frame: Any, keep: Collection[str] | None = None) -> pa.Table:
    """An Arrow table from a table, a pandas or Polars frame, a mapping of columns or a list of rows.

    With `keep`, other columns are not looked at: whatever they hold can't be in the way. A column of values of
    several kinds is a union: `coerce` names those that don't fit. Raises BadInput where columns differ in length.
    """
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if hasattr(frame, "iloc"):  # pandas, whose own conversion gives up on a whole frame for one bad column
        columns = {}
        for place, name in enumerate(map(str, frame.columns)):
            if name in columns and (keep is None or name in keep):
                raise BadInput.of(name, "is there twice")
            columns[name] = frame.iloc[:, place]
    elif hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    elif isinstance(frame, Mapping):
        columns = _of_columns(frame)
    else:
        columns = _of_rows(list(frame), keep)
    if keep is not None:
        columns = {name: values for name, values in columns.items() if name in keep}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise BadInput.of("", f"columns differ in length: {lengths}")
    return pa.table({name: inferred(values) for name, values in columns.items()})


def _of_columns(frame: Mapping[Any, Any]) -> dict[str, Any]:
    columns = {str(name): values for name, values in frame.items()}
    for name, values in columns.items():
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            raise BadInput.of(name, f"is {type(values).__name__}, where a value per row is expected")
    return columns


def _of_rows(rows: Sequence[Any], keep: Collection[str] | None) -> dict[str, Any]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise BadInput.of("", f"is {type(row).__name__}, where a row names its columns", row=number)
    names = dict.fromkeys(str(name) for row in rows for name in row if keep is None or name in keep)
    return {name: [row.get(name) for row in rows] for name in names}


def inferred(values: Any) -> pa.Array:
    """The values as one column; of several kinds side by side as a union of them."""
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    found = _array(values)
    return _mixed(list(values)) if found is None else found


def _array(values: Any) -> pa.Array | None:
    """The values as one column, or None where Arrow has no type for all of them."""
    import pyarrow as pa

    try:
        found = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeError):
        return None
    # Among bytes, Arrow makes bytes of texts.
    return None if pa.types.is_binary(found.type) and any(isinstance(value, str) for value in values) else found


def _mixed(values: Sequence[Any]) -> pa.Array:
    """Values of several kinds side by side, each as it is; what no column holds as the bytes of how it is written."""
    import pyarrow as pa

    codes, offsets, children = [0] * len(values), [0] * len(values), []
    for code, (places, group) in enumerate(by_kind(values)):
        children.append(group)
        for offset, place in enumerate(places):
            codes[place], offsets[place] = code, offset
    return pa.UnionArray.from_dense(pa.array(codes, pa.int8()), pa.array(offsets, pa.int32()), children)


def by_kind(values: Sequence[Any]) -> list[tuple[list[int], pa.Array]]:
    """The places of values of one kind, and these values, kind by kind."""
    by_type: dict[type | None, list[int]] = {}
    for place, value in enumerate(values):
        is_long = type(value) is int and not -(2**63) <= value < 2**63
        by_type.setdefault(None if is_long else type(value), []).append(place)
    found = []
    for kind, places in by_type.items():
        group = [values[place] if kind else repr(values[place]).encode() for place in places]
        array = _array(group)
        found += [(places, array)] if array is not None else _by_each(places, group)
    return found


def _by_each(places: Sequence[int], values: Sequence[Any]) -> list[tuple[list[int], pa.Array]]:
    """The same for values of one type of Python's that are no one column, as lists may be."""
    import pyarrow as pa

    groups: dict[str, tuple[list[int], list[Any]]] = {}
    for place, value in zip(places, values, strict=True):
        single = _array([value])
        kind = "" if single is None else "null" if single.null_count else str(single.type)
        if kind not in groups and len(groups) >= _MOST_KINDS:
            kind = ""
        mine, group = groups.setdefault(kind, ([], []))
        mine.append(place)
        group.append(None if kind == "null" else value if kind else repr(value).encode())
    return [(mine, pa.array(group)) for mine, group in groups.values()]


_MOST_KINDS = 10
"""A union has few codes for its kinds: what is still of another one fits no column anyway."""
