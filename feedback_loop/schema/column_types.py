"""What a column's type is everywhere else: in JSON, NumPy, Arrow and Open Inference, and the bounds of its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from msgspec import Meta

from feedback_loop.schema.contract import ColumnType

BYTES = "BYTES"
"""Open Inference's datatype of texts."""


@dataclass(frozen=True)
class TypeForms:
    """One type's forms. `bound` is of whole numbers: they are in [-bound, bound); 0: there is none.

    `json` is what msgspec decodes, without None where MLflow makes something else of null.
    """

    json: Any
    dtype: np.dtype[Any]
    arrow: pa.DataType
    tensor: str
    bound: int = 0

    @property
    def pandas_name(self) -> str:
        """What MLflow calls the type in its messages: the name of the pandas type."""
        return "object" if self.dtype.kind == "U" else self.dtype.name


def _whole(bits: int) -> TypeForms:
    bound, name = 2 ** (bits - 1), f"int{bits}"
    json = Annotated[int, Meta(ge=-bound, le=bound - 1)]
    return TypeForms(json, np.dtype(name), pa.type_for_alias(name), name.upper(), bound)


FORMS = {
    ColumnType.BOOLEAN: TypeForms(bool, np.dtype(bool), pa.bool_(), "BOOL"),
    ColumnType.INTEGER: _whole(32),
    ColumnType.LONG: _whole(64),
    ColumnType.FLOAT: TypeForms(float | None, np.dtype(np.float32), pa.float32(), "FP32"),
    ColumnType.DOUBLE: TypeForms(float | None, np.dtype(np.float64), pa.float64(), "FP64"),
    ColumnType.STRING: TypeForms(str | None, np.dtype(str), pa.string(), BYTES),
    ColumnType.DATETIME: TypeForms(str | None, np.dtype("datetime64[ns]"), pa.timestamp("us", "UTC"), BYTES),
}


def arrow_type(kind: ColumnType) -> pa.DataType:
    """The Arrow type that holds such a column."""
    return FORMS[kind].arrow
