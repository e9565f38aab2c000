"""Bodies of MLflow's scoring protocol into rows: a fast way for what is usual, MLflow's rules for everything."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from feedback_loop.errors import BadInput, RowError
from feedback_loop.schema.bounds import TOO_LONG, is_too_long
from feedback_loop.schema.budget import Budget
from feedback_loop.schema.contract import Column, ColumnType, Contract
from feedback_loop.schema.ids import PREDICTION_ID
from feedback_loop.schema.protocol.fast import FastDecoder, Found
from feedback_loop.schema.protocol.frame import Frame, Signature
from feedback_loop.schema.protocol.params import Param, check_params, signature_params
from feedback_loop.schema.protocol.parquet import read_parquet
from feedback_loop.schema.protocol.scoring import CHANGED, read_body, read_rows
from feedback_loop.schema.protocol.text import read_csv
from feedback_loop.schema.protocol.values import REFUSALS, is_missing, key_values, parse_text
from feedback_loop.schema.protocol.wire import Rows, WireError, bad_request, refused_by_model

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
TYPES = [CSV, JSON, PARQUET]
"""The media types of rows, in the order in which MLflow names them."""

ID_HEADER = "x-prediction-id"
KEY_HEADER = "x-key-"
"""Before a key column's name: its values for rows that do not have them beside the features."""

Header = Callable[[str], str | None]
"""A request's header by its name in lower case."""


@dataclass(frozen=True)
class _Body:
    """What a body held, before headers are looked at."""

    count: int
    columns: dict[str, Any]
    ids: Sequence[Any] | None
    params: Any


class Decoder:
    """Decodes requests for one version. Thread-safe.

    Features are converted and refused as MLflow's scoring server does; key columns and `prediction_id` may stand
    beside the features or in headers. See docs/protocols.md for what differs from MLflow.
    """

    def __init__(self, contract: Contract, signature: Signature, params: Sequence[Param], budget: Budget) -> None:
        self.contract = contract
        self.budget = budget
        self.signature = signature
        self.params = tuple(params)
        self._keys = contract.extra_key
        self._id = contract.own(PREDICTION_ID)
        self._own = (*(column.name for column in self._keys), self._id)
        self._texts = [
            column.name for column in (*contract.features, *self._keys) if column.type is ColumnType.STRING
        ]
        self._names = tuple(column.name for column in (*contract.features, *self._keys))
        self._key_headers = [(column, f"{KEY_HEADER}{column.name.lower()}") for column in self._keys]
        self._text_keys = [column for column in self._keys if column.type is ColumnType.STRING]
        indexed = {column.name for column in (*contract.features, *self._keys) if column.is_indexed}
        self._short = [(place, name) for place, name in enumerate(self._names) if name in indexed & {*self._texts}]
        self._fast = FastDecoder(contract, signature.width is not None)

    def decode(self, body: bytes, content_type: str, header: Header) -> Rows:
        """The rows of a body; raises WireError, and TooLarge for more than the budget allows."""
        kind = JSON if content_type == JSON else _media_type(content_type)
        if kind == JSON:
            self.budget.check_json(body)
        found: Found | _Body | None = self._fast.decode(body) if kind == JSON else None
        if found is None:
            found = self._slow(body, kind)
        if found.count == 0:
            raise refused_by_model("there are no rows")
        self.budget.check_rows(found.count)
        row = found.row if isinstance(found, Found) else None
        if row is not None and not (self._keys and ("" in row or None in row)):  # each key is there
            for place, name in self._short:
                _refuse_long(name, row[place : place + 1])
            rows = Rows(1, None, _given_ids(1, found.ids, header), names=self._names, row=row)
        else:
            columns = (
                found.columns if row is None else {name: [each] for name, each in zip(self._names, row, strict=True)}
            )
            rows = Rows(found.count, columns, self.from_headers(found.count, columns, found.ids, header))
        if self.params:
            params = found.params
            given = msgspec.json.decode(params) if isinstance(params, msgspec.Raw) else params
            rows.params = check_params(given, self.params)
        return rows

    def from_headers(
        self, count: int, columns: dict[str, Any], ids: Sequence[Any] | None, header: Header
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

    def finish(self, frame: Frame, ids: Any) -> tuple[int, dict[str, list[Any]], list[str | None] | None]:
        """Count, columns and ids of a frame whose features are in their types; raises WireError."""
        count = frame.count
        columns: dict[str, list[Any]] = {
            column.name: list(frame.columns.get(column.name, ())) or [None] * count
            for column in self.contract.features
        }
        for column in self._keys:
            values = frame.columns.get(column.name)
            columns[column.name] = [None] * count if values is None else self._key_column(column, values)
        for name in self._texts:
            _refuse_unstorable(name, columns[name])
        given = frame.columns.get(self._id, ids)
        return count, columns, None if given is None else _checked_ids(given, count)

    def _slow(self, body: bytes, kind: str) -> _Body:
        if kind == CSV:
            frame = read_csv(body, self.signature, self._own, self._keys, self.budget)
            return _Body(*self.finish(frame, None), None)
        if kind == PARQUET:
            frame = read_parquet(body, self.signature, self._own, self.budget)
            return _Body(*self.finish(frame, None), None)
        content = read_body(body)
        frame = read_rows(content, self.signature, self._own, self.budget)
        return _Body(*self.finish(frame, content.get("prediction_ids")), content.get("params"))

    def _key_column(self, column: Column, values: Sequence[Any]) -> list[Any]:
        try:
            return key_values(column, values)
        except BadInput as error:
            cure = f"Types of key columns are said in models.{self.contract.model}.key_types of the configuration."
            raise bad_request(f"{error} {cure}", *error.problems) from error


def _refuse_unstorable(name: str, values: Sequence[Any]) -> None:
    for row, value in enumerate(values):
        if value is None:
            continue
        if "\0" in value:
            raise _unstorable(row, name, "holds a NUL character, which no database of ours can store")
        if not value.isascii() and not _is_unicode(value):
            raise _unstorable(row, name, "holds half a surrogate pair, which is no text")


def _refuse_long(name: str, values: Sequence[Any]) -> None:
    for row, value in enumerate(values):
        if value is not None and is_too_long(value):
            raise _unstorable(row, name, TOO_LONG)


def make_decoder(contract: Contract, signature: dict[str, Any] | None, budget: Budget | None = None) -> Decoder:
    """The decoder for a version of that contract and signature (`ModelSignature.to_dict()`)."""
    budget = budget or Budget()
    inputs = json.loads(signature["inputs"]) if signature and signature.get("inputs") else []
    tensor = inputs[0]["tensor-spec"] if inputs and inputs[0]["type"] == "tensor" else None
    if tensor is None:
        said = ", ".join(
            f"{column.name!r}: {column.type} ({'required' if column.required else 'optional'})"
            for column in contract.features
        )
        return Decoder(contract, Signature(contract.features, f"[{said}]"), signature_params(signature), budget)
    text = f"[Tensor({tensor['dtype']!r}, {tuple(tensor['shape'])!r})]"
    named = Signature(contract.features, text, tensor["shape"][1])
    return Decoder(contract, named, signature_params(signature), budget)


def _media_type(content_type: str) -> str:
    """JSON, CSV or Parquet; raises WireError, worded as MLflow does, for anything else."""
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    pairs = dict(part.partition("=")[::2] for part in parameters)
    if pairs.get("charset", "utf-8").lower() != "utf-8":
        raise _unsupported("The scoring server only supports UTF-8")
    if unknown := [name for name in pairs if name != "charset"]:
        raise _unsupported(f"Unrecognized content type parameters: {', '.join(unknown)}. {CHANGED}")
    if kind not in TYPES:
        said = "This predictor only supports the following content types:"
        raise _unsupported(f"{said} Types: {TYPES}. Got '{content_type}'.")
    return kind


def _unsupported(message: str) -> WireError:
    return WireError(415, "UNSUPPORTED_MEDIA_TYPE", message, is_plain=True)


def _unstorable(row: int, name: str, cause: str) -> WireError:
    return bad_request(f"Invalid input. row {row}: {name}: {cause}.", RowError(row, name, cause))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    found: list[str | None] = []
    for row, value in enumerate(given):
        if is_missing(value):
            found.append(None)
        elif isinstance(value, str):
            found.append(value)
        else:
            raise bad_request(
                f"row {row}: prediction_id: {value!r} is not a UUID.", RowError(row, PREDICTION_ID, "is no text")
            )
    return found


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
        said = f"has {len(values)} values, where there are {count} rows"
        raise bad_request(f"The header {name} {said}.", RowError(-1, column.name, said))
    try:
        plain = [parse_text(value, column.type) if isinstance(value, str) else value for value in values]
        return key_values(column, plain)
    except (BadInput, *REFUSALS) as error:
        said = f"does not fit the type {column.type}"
        raise bad_request(f"The header {name} {said}: {error}", RowError(-1, column.name, said)) from error
