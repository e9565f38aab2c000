"""Answers, and errors as MLflow's scoring server words them."""

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
        problems = [{"row": error.row, "field": error.field, "cause": error.cause} for error in self.problems]
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


def refused_by_model(cause: str = "") -> WireError:
    """MLflow's words for rows that fit the signature, and that the model refuses all the same."""
    return bad_request(UNEXPECTED, *([RowError(-1, "", cause)] if cause else []))


def encode_answer(
    answers: Any, ids: Sequence[str], version: str, beside: Mapping[str, Sequence[object]] | None = None
) -> bytes:
    """The answer's body: MLflow's `predictions`, and beside them the ids and the version that answered.

    `beside` has more values of each row, by name: whether it is explored, the ends of its interval.
    """
    body = {"predictions": answers, "prediction_ids": ids, "model_version": version}
    return _encoder.encode({**body, **beside} if beside else body)


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
