"""Bodies of MLflow's scoring protocol into rows: a fast way for what is usual, MLflow's rules for everything."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from feedback_loop.errors import BadInput, RowError
from feedback_loop.schema.bounds import TOO_LONG, is_too_long, text_trouble
from feedback_loop.schema.budget import Budget
from feedback_loop.schema.contract import Column, ColumnType, Contract
from feedback_loop.schema.ids import PREDICTION_ID
from feedback_loop.schema.protocol.enforcing import Signature, check_params, read_signature
from feedback_loop.schema.protocol.fast import FastDecoder
from feedback_loop.schema.protocol.frames import read_csv
from feedback_loop.schema.protocol.parquet import read_parquet
from feedback_loop.schema.protocol.rows import Content, Rows
from feedback_loop.schema.protocol.scoring import CHANGED, read_json
from feedback_loop.schema.protocol.wire import WireError, bad_request, refused_by_model
from feedback_loop.schema.values import REFUSALS, is_missing, key_values, parse_text

JSON = "application/json"
_READERS = {"text/csv": read_csv, JSON: read_json, "application/vnd.apache.parquet": read_parquet}
"""The media types of rows, in the order in which MLflow names them, and who reads them by MLflow's rules."""

ID_HEADER = "x-prediction-id"
KEY_HEADER = "x-key-"
"""Before a key column's name: its values for rows that do not have them beside the features."""

Header = Callable[[str], str | None]
"""A request's header by its name in lower case."""


class Decoder:
    """Decodes requests for one version. Thread-safe.

    Features are converted and refused as MLflow's scoring server does; key columns and `prediction_id` may stand
    beside the features or in headers. See docs/protocols.md for what differs from MLflow.
    """

    def __init__(self, contract: Contract, signature: Signature, budget: Budget) -> None:
        self.contract = contract
        self.budget = budget
        self.signature = signature
        self._keys = contract.extra_key
        self._id = contract.own(PREDICTION_ID)
        columns = (*contract.features, *self._keys)
        self._names = tuple(column.name for column in columns)
        self._texts = [column.name for column in columns if column.type is ColumnType.STRING]
        self._key_headers = [(column, f"{KEY_HEADER}{column.name.lower()}") for column in self._keys]
        self._text_keys = [column for column in self._keys if column.type is ColumnType.STRING]
        self._short = [
            (place, column.name)
            for place, column in enumerate(columns)
            if column.is_indexed and column.type is ColumnType.STRING
        ]
        self._fast = FastDecoder(contract, signature.width is not None)

    def decode(self, body: bytes, content_type: str, header: Header) -> Rows:
        """The rows of a body; raises WireError, and TooLarge for more than the budget allows."""
        kind = JSON if content_type == JSON else _media_type(content_type)
        if kind == JSON:
            self.budget.check_json(body)
        content = self._fast.decode(body) if kind == JSON else None
        if content is None:
            content = self._slow(body, kind)
        if content.count == 0:
            raise refused_by_model("there are no rows")
        self.budget.check_rows(content.count)
        row = content.row
        if row is not None and not (self._keys and ("" in row or None in row)):  # each key is there
            for place, name in self._short:
                _refuse_long(name, row[place : place + 1])
            rows = Rows(1, None, _given_ids(1, content.ids, header), names=self._names, row=row)
        else:
            columns = content.columns
            if row is not None:
                columns = {name: [value] for name, value in zip(self._names, row, strict=True)}
            rows = Rows(content.count, columns, self.from_headers(content.count, columns, content.ids, header))
        if self.signature.params:
            params = content.params
            given = msgspec.json.decode(params) if isinstance(params, msgspec.Raw) else params
            rows.params = check_params(given, self.signature.params)
        return rows

    def from_headers(
        self, count: int, columns: dict[Any, Sequence[Any]], ids: Sequence[Any] | None, header: Header
    ) -> list[str | None]:
        """The ids; key columns that no row holds are filled from their headers. Raises WireError."""
        for column in self._text_keys:
            if "" in columns[column.name]:  # no key: see `Column`
                columns[column.name] = [value or None for value in columns[column.name]]
        for column, name in self._key_headers:
            text = header(name)
            if text is not None and columns[column.name].count(None) == count:
                columns[column.name] = _header_values(name, text, column, count)
                if column.type is ColumnType.STRING:
                    _refuse_unstorable(column.name, columns[column.name])
        for _, short in self._short:
            _refuse_long(short, columns[short])
        return _given_ids(count, ids, header)

    def finish(self, content: Content) -> Content:
        """The same with every column, texts looked at and keys in their types; raises WireError.

        The features are in their types already; ids may stand in a column.
        """
        count = content.count
        columns: dict[Any, Sequence[Any]] = {
            column.name: list(content.columns.get(column.name, ())) or [None] * count
            for column in self.contract.features
        }
        for column in self._keys:
            values = content.columns.get(column.name)
            columns[column.name] = [None] * count if values is None else self._key_column(column, values)
        for name in self._texts:
            _refuse_unstorable(name, columns[name])
        ids = content.columns.get(self._id, content.ids)
        return Content(count, columns, None if ids is None else _checked_ids(ids, count), content.params)

    def _slow(self, body: bytes, kind: str) -> Content:
        return self.finish(_READERS[kind](body, self.signature, self.budget))

    def _key_column(self, column: Column, values: Sequence[Any]) -> list[Any]:
        try:
            return key_values(column, values)
        except BadInput as error:
            cure = f"Types of key columns are said in models.{self.contract.model}.key_types of the configuration."
            raise bad_request(f"{error} {cure}", *error.problems) from error


def make_decoder(contract: Contract, signature: dict[str, Any] | None, budget: Budget | None = None) -> Decoder:
    """The decoder for a version of that contract and signature (`ModelSignature.to_dict()`)."""
    return Decoder(contract, read_signature(contract, signature), budget or Budget())


def _refuse_unstorable(name: str, values: Sequence[Any]) -> None:
    for row, value in enumerate(values):
        is_plain = value is None or (value.isascii() and "\0" not in value)
        if not is_plain and (trouble := text_trouble(value, 4 * len(value))):
            raise _unstorable(row, name, trouble)


def _refuse_long(name: str, values: Sequence[Any]) -> None:
    for row, value in enumerate(values):
        if value is not None and is_too_long(value):
            raise _unstorable(row, name, TOO_LONG)


def _media_type(content_type: str) -> str:
    """JSON, CSV or Parquet; raises WireError, worded as MLflow does, for anything else."""
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    pairs = dict(part.partition("=")[::2] for part in parameters)
    if pairs.get("charset", "utf-8").lower() != "utf-8":
        raise _unsupported("The scoring server only supports UTF-8")
    if unknown := [name for name in pairs if name != "charset"]:
        raise _unsupported(f"Unrecognized content type parameters: {', '.join(unknown)}. {CHANGED}")
    if kind not in _READERS:
        types = f"Types: {list(_READERS)}"
        raise _unsupported(
            f"This predictor only supports the following content types: {types}. Got '{content_type}'."
        )
    return kind


def _unsupported(message: str) -> WireError:
    return WireError(415, "UNSUPPORTED_MEDIA_TYPE", message, is_plain=True)


def _unstorable(row: int, name: str, cause: str) -> WireError:
    return bad_request(f"Invalid input. row {row}: {name}: {cause}.", RowError(row, name, cause))


def _given_ids(count: int, ids: Sequence[Any] | None, header: Header) -> list[str | None]:
    if ids is None:
        text = header(ID_HEADER)
        return [None] * count if text is None else _checked_ids(_listed(ID_HEADER, text), count)
    return ids if isinstance(ids, list) else list(ids)


def _checked_ids(given: Any, count: int) -> list[str | None]:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != count:
        raise bad_request(
            f"prediction_ids: {count} are expected, one a row.", RowError(-1, PREDICTION_ID, "are not one a row")
        )
    ids = [None if is_missing(value) else value for value in given]
    for row, value in enumerate(ids):
        if not isinstance(value, str | None):
            problem = RowError(row, PREDICTION_ID, "is no text")
            raise bad_request(f"row {row}: prediction_id: {value!r} is not a UUID.", problem)
    return ids


def _listed(name: str, text: str) -> list[Any]:
    """A header's value for each row: JSON's list, or one text."""
    if not text.lstrip().startswith("["):
        return [text]
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"The header {name} is no JSON list: {error}", RowError(-1, name, "is no list")) from error
    return values if isinstance(values, list) else [values]


def _header_values(name: str, text: str, column: Column, count: int) -> list[Any]:
    values = _listed(name, text)
    if len(values) != count:
        cause = f"has {len(values)} values, where there are {count} rows"
        raise bad_request(f"The header {name} {cause}.", RowError(-1, column.name, cause))
    try:
        plain = [parse_text(value, column.type) if isinstance(value, str) else value for value in values]
        return key_values(column, plain)
    except (BadInput, *REFUSALS) as error:
        cause = f"does not fit the type {column.type}"
        raise bad_request(f"The header {name} {cause}: {error}", RowError(-1, column.name, cause)) from error
