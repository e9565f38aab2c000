"""What goes over the wire: rows that were decoded, answers, and errors as MLflow's scoring server words them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from feedback_loop.errors import FeedbackLoopError, RowError

UNEXPECTED = (
    "Encountered an unexpected error while evaluating the model. Verify that the serialized input Dataframe is "
    "compatible with the model for inference."
)
"""What MLflow says where the model itself refuses the rows."""


NO_PARAMS: Mapping[str, Any] = {}


class Rows:
    """Rows of one request, or of several.

    `columns` holds every feature and every key column that is no feature, each `count` values long: they are in the
    contract's types (moments are aware), None and NaN are missing. `ids` are a caller's own prediction ids,
    unchecked, and None where it gave none. `params` are the request's, made to fit the signature's; empty where it
    has none. A single row that came as one is kept as one, in `row`: columns of one value each cost more than it.
    """

    __slots__ = ("_columns", "_names", "count", "ids", "params", "row")

    def __init__(
        self,
        count: int,
        columns: Mapping[str, Sequence[Any]] | None,
        ids: list[str | None],
        params: Mapping[str, Any] = NO_PARAMS,
        *,
        names: Sequence[str] = (),
        row: Sequence[Any] | None = None,
    ) -> None:
        self.count = count
        self.ids = ids
        self.params = params
        self.row = row
        self._names = names
        self._columns = columns

    @property
    def width(self) -> int:
        """How many columns there are; a row alone is not taken apart for it."""
        return len(self.row) if self._columns is None and self.row is not None else len(self.columns)

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """By name; made when they are first asked for, where there is only a row."""
        if self._columns is None:
            assert self.row is not None  # there is the one or the other
            self._columns = {name: [value] for name, value in zip(self._names, self.row, strict=True)}
        return self._columns


class WireError(FeedbackLoopError):
    """A request that is not answered: the status, MLflow's code and words for it, and which rows and fields are why.

    `is_plain` errors have no JSON around them: MLflow answers some in text.
    """

    def __init__(
        self,
        status: int,
        error_code: str,
        message: str,
        *,
        error_class: str = "",
        sqlstate: str = "",
        problems: Sequence[RowError] = (),
        is_plain: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message
        self.error_class = error_class
        self.sqlstate = sqlstate
        self.problems = tuple(problems)
        self.is_plain = is_plain

    @property
    def content_type(self) -> str:
        """The media type of `body`."""
        return "text/plain; charset=utf-8" if self.is_plain else "application/json"

    def body(self) -> bytes:
        """The answer's body."""
        if self.is_plain:
            return self.message.encode(errors="backslashreplace")
        more = {"sqlstate": self.sqlstate, "error_class": self.error_class}
        problems = [{"row": each.row, "field": each.field, "cause": each.cause} for each in self.problems]
        return encode_error(self.error_code, self.message, problems, more)


def bad_request(message: str, *problems: RowError) -> WireError:
    """MLflow's BAD_REQUEST."""
    return WireError(
        400,
        "BAD_REQUEST",
        message,
        sqlstate="KAM00",
        error_class="INVALID_PARAMETER_VALUE",
        problems=problems,
    )


def invalid_input(message: str, *problems: RowError) -> WireError:
    """MLflow's `MlflowInvalidInputException`: a body that can't be read as what it says it is."""
    return bad_request(f"Invalid input. {message}", *problems)


def not_enforced(schema: str, cause: str, *problems: RowError) -> WireError:
    """MLflow's words for rows that do not fit the signature.

    It prints the caller's data into the message, twice and as pandas would; here dots stand for them.
    """
    message = (
        f"Failed to predict data '...'. \nError: Failed to enforce schema of data '...' with schema '{schema}'. "
        f"Error: {cause}"
    )
    return WireError(
        400,
        "INVALID_PARAMETER_VALUE",
        message,
        sqlstate="KAM01",
        error_class="SCHEMA_ENFORCEMENT_FAILED",
        problems=problems,
    )


def refused_by_model(cause: str = "") -> WireError:
    """MLflow's words for rows that fit the signature, and that the model refuses all the same."""
    return bad_request(UNEXPECTED, *([RowError(-1, "", cause)] if cause else []))


def encode_answer(answers: Any, ids: Sequence[str], version: str) -> bytes:
    """The answer's body: MLflow's `predictions`, and beside them the ids and the version that answered."""
    return _encoder.encode({"predictions": answers, "prediction_ids": ids, "model_version": version})


def encode_error(
    code: str,
    message: str,
    problems: Sequence[Mapping[str, object]] = (),
    more: Mapping[str, object] | None = None,
) -> bytes:
    """An error's body, as MLflow words it; `problems` names rows and fields, `more` is beside it."""
    body: dict[str, object] = {"error_code": code, "message": encodable(message)}
    body |= {name: value for name, value in (more or {}).items() if value}
    return _encoder.encode(body | ({"problems": problems} if problems else {}))


def encodable(text: str) -> str:
    """The text with what UTF-8 does not know (half a surrogate pair, from JSON's escapes) written out."""
    return text.encode(errors="backslashreplace").decode()


_encoder = msgspec.json.Encoder()
