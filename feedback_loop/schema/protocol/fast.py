"""The fast way for bodies that are as they should be: msgspec decodes into types made from the contract.

It gives what the rules of `scoring` give, or nothing: whatever is unusual (a number as text, a missing column, NaN, a
null where there should be none) is left to them. tests/property/test_requests.py holds the two against each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from types import GenericAlias
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import astuple

from feedback_loop.schema.bounds import utc_within
from feedback_loop.schema.column_types import FORMS
from feedback_loop.schema.contract import ColumnType, Contract
from feedback_loop.schema.ids import PREDICTION_ID
from feedback_loop.schema.protocol.rows import Content

_NO_COLUMNS: dict[Any, Any] = {}
_UNSTORABLE = b"\\u0000"
_MOST_LAYOUTS = 64


class _Split(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    data: Raw
    columns: list[str] | None = None
    index: list[Any] | None = None


class _Unusual(Exception):
    """Left to the rules."""


class FastDecoder:
    """Decodes JSON bodies for one contract; thread-safe."""

    def __init__(self, contract: Contract, is_tensor: bool) -> None:
        keys = contract.extra_key
        self._columns = (*contract.features, *keys)
        self._names = tuple(column.name for column in self._columns)
        self._types = {column.name: FORMS[column.type].json for column in contract.features}
        self._types |= {column.name: FORMS[column.type].json | None for column in keys}
        self._id = contract.own(PREDICTION_ID)
        self._types[self._id] = str | None
        self._moments = [column.name for column in self._columns if column.type is ColumnType.DATETIME]
        optional = [column for column in contract.features if not column.required]
        self._optional = [column.name for column in optional]
        self._uncertain = [column.name for column in optional if not _takes_null(FORMS[column.type].json)]
        self._features = tuple(column.name for column in contract.features)
        self._is_tensor = is_tensor
        # Names that JSON writes with a backslash are none of a struct's.
        is_plain = json.dumps(self._names, ensure_ascii=False).count("\\") == 0
        self._body = msgspec.json.Decoder(self._body_type()) if is_plain else None
        self._layout = lru_cache(_MOST_LAYOUTS)(self._make_layout)

    def decode(self, body: bytes) -> Content | None:
        """What the body holds, or None where the rules must say what it means."""
        if self._body is None or _UNSTORABLE in body:
            return None
        try:
            if not body.isascii():
                body.decode()  # msgspec does not look into what is ignored
            return self._content(self._body.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _Unusual):
            return None

    def _content(self, body: Any) -> Content:
        if body.messages is not UNSET or body.prompt is not UNSET or body.input is not UNSET:
            raise _Unusual
        row = self._single_row(body)
        count, columns = 1, _NO_COLUMNS
        ids: Sequence[str | None] | None
        if row is not None:
            *row, identifier = row
            ids = [identifier]
        else:
            count, columns = self._rows(body.records, body.split, body.instances, body.inputs)
            for name in self._moments:
                columns[name] = [_moment(value) for value in columns[name]]
            ids = columns.pop(self._id, None)
        if body.prediction_ids is not UNSET and (ids is None or not any(ids)):
            ids = body.prediction_ids
            if len(ids) != count:
                raise _Unusual
        elif ids is not None and not any(ids):
            ids = None
        return Content(count, columns, ids, None if body.params is UNSET else body.params, row)

    def _single_row(self, body: Any) -> list[Any] | None:
        """What stands in a body with nothing but one record, in the order of our columns, and its id."""
        if self._is_tensor or self._moments:
            return None
        rows = body.records if body.records is not UNSET else body.instances
        if rows is UNSET or len(rows) != 1:
            return None
        if body.split is not UNSET or body.inputs is not UNSET or UNSET not in (body.records, body.instances):
            raise _Unusual
        return list(astuple(rows[0]))

    def _rows(self, records: Any, split: Any, instances: Any, inputs: Any) -> tuple[int, dict[str, list[Any]]]:
        if (records is UNSET) + (split is UNSET) + (instances is UNSET) + (inputs is UNSET) != 3:
            raise _Unusual
        if records is not UNSET:
            if self._is_tensor:  # its columns have no names: they count in the order in which records have them
                raise _Unusual
            return self._of_records(records, self._uncertain)
        if split is not UNSET:
            return self._of_split(split)
        if self._is_tensor:
            return self._of_lists(inputs if instances is UNSET else instances)
        if instances is not UNSET:
            return self._of_records(instances, self._optional)
        return self._of_records(inputs, self._uncertain) if isinstance(inputs, list) else self._of_columns(inputs)

    def _of_records(self, rows: list[Any], uncertain: Sequence[str]) -> tuple[int, dict[str, list[Any]]]:
        count = len(rows)
        if not count:
            raise _Unusual
        values = [list(column) for column in zip(*map(astuple, rows), strict=True)]
        columns = dict(zip((*self._names, self._id), values, strict=True))
        if count > 1:
            for name in uncertain:  # some rows have it and some do not: MLflow has a rule for that
                if None in columns[name] and columns[name].count(None) != count:
                    raise _Unusual
        return count, columns

    def _of_split(self, split: _Split) -> tuple[int, dict[str, list[Any]]]:
        if split.columns is None and not self._is_tensor:
            raise _Unusual
        decoder, places = self._layout(self._features if split.columns is None else tuple(split.columns))
        rows = decoder.decode(split.data)
        if not rows or (split.index is not None and len(split.index) != len(rows)):
            raise _Unusual
        columns = [list(column) for column in zip(*rows, strict=True)]
        count = len(rows)
        return count, {name: columns[place] if place is not None else [None] * count for name, place in places}

    def _of_lists(self, rows: list[Any]) -> tuple[int, dict[str, list[Any]]]:
        if not rows:
            raise _Unusual
        columns = dict(zip(self._features, map(list, zip(*rows, strict=True)), strict=True))
        return len(rows), columns | {name: [None] * len(rows) for name in self._names[len(self._features) :]}

    def _of_columns(self, columns: Any) -> tuple[int, dict[str, list[Any]]]:
        values = astuple(columns)
        count = len(values[0]) if values[0] is not UNSET else 0
        if not count or any(value is not UNSET and len(value) != count for value in values):
            raise _Unusual
        named = zip((*self._names, self._id), values, strict=True)
        return count, {name: [None] * count if value is UNSET else value for name, value in named}

    def _make_layout(self, names: tuple[str, ...]) -> tuple[Any, list[tuple[str, int | None]]]:
        """How rows of a split with such columns are decoded, and where each of ours stands in them."""
        places = {name: place for place, name in enumerate(names)}
        if len(places) != len(names):
            raise _Unusual
        required = [column.name for column in self._columns[: len(self._features)] if column.required]
        if self._is_tensor:
            if len(names) != len(self._features):
                raise _Unusual
            names, places = self._features, {name: place for place, name in enumerate(self._features)}
        elif any(name not in places for name in required):
            raise _Unusual
        row = _row_of([self._types.get(name, Any) for name in names])
        return msgspec.json.Decoder(_list_of(row)), [(name, places.get(name)) for name in (*self._names, self._id)]

    def _body_type(self) -> Any:
        record = self._struct("Record", self._types, lambda kind: kind, None)
        columns = self._struct("Columns", self._types, lambda kind: _list_of(kind) | UnsetType, UNSET)
        lists = _list_of(_row_of([self._types[name] for name in self._features]))
        rows: Any = _list_of(record) | UnsetType
        inputs: Any = columns | _list_of(record) | UnsetType
        if self._is_tensor:
            rows = inputs = lists | UnsetType
        fields = {
            "records": (Any if self._is_tensor else rows, "dataframe_records"),
            "split": (_Split | UnsetType, "dataframe_split"),
            "instances": (rows, "instances"),
            "inputs": (inputs, "inputs"),
            "params": (Raw | UnsetType, "params"),
            "prediction_ids": (list[str | None] | UnsetType, "prediction_ids"),
            "messages": (Any, "messages"),
            "prompt": (Any, "prompt"),
            "input": (Any, "input"),
        }
        return msgspec.defstruct(
            "Body",
            [(name, kind, UNSET) for name, (kind, _) in fields.items()],
            rename={name: wire for name, (_, wire) in fields.items()},
            gc=False,
        )

    def _struct(self, name: str, types: dict[str, Any], wrap: Any, default: Any) -> Any:
        required = {column.name for column in self._columns[: len(self._features)] if column.required}
        fields: list[tuple[Any, ...]] = []
        rename = {}
        for place, (column, kind) in enumerate(types.items()):
            field = f"c{place}"
            rename[field] = column
            if column in required:
                fields.append((field, _list_of(kind) if default is UNSET else kind))
            else:
                fields.append((field, wrap(kind), default))
        return msgspec.defstruct(name, fields, rename=rename, gc=False, kw_only=True)


def _list_of(kind: Any) -> Any:
    return GenericAlias(list, (kind,))


def _row_of(kinds: Sequence[Any]) -> Any:
    return GenericAlias(tuple, tuple(kinds))


def _takes_null(kind: Any) -> bool:
    return type(None) in getattr(kind, "__args__", ())


def _moment(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return utc_within(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        raise _Unusual from None
