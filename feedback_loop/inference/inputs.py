"""What a model is asked with: rows as MLflow's server would hand them over, or as it was fitted on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feedback_loop.clock import EPOCH
from feedback_loop.errors import ModelRefused, RowError
from feedback_loop.inference.categories import pandas_categories
from feedback_loop.schema import ColumnType, Contract, arrow_type, numbered_names

if TYPE_CHECKING:
    import pandas as pd

    from feedback_loop.registry import LoadedModel


@dataclass(frozen=True)
class Inputs:
    """A frame, or an array of type `array`; a missing text is None in the columns of `none`, and NaN in others.

    `categories` are columns that the model takes as categories of pandas', each with those that it knows: others are
    missing to it. `names` are the columns' where the model's are no texts.
    """

    array: str = ""
    none: tuple[str, ...] = ()
    categories: Mapping[str, list[Any]] = field(default_factory=dict)
    names: Mapping[str, Any] = field(default_factory=dict)

    def of(self, features: pa.Table, contract: Contract, without: Sequence[str] = ()) -> Any:
        """What the model is asked with, `without` some columns; raises ModelRefused for values that don't fit."""
        if not self.array:
            if without:
                kept = tuple(column for column in contract.features if column.name not in without)
                contract = replace(contract, features=kept)
            frame = feature_frame(features, contract, self.none)
            for name, known in self.categories.items():
                frame[name] = _categories(frame[name], known)
            return frame.rename(columns=dict(self.names))
        columns = [features.column(column.name).to_pandas() for column in contract.features]
        return _as_array(columns, np.dtype(self.array), contract)


AS_A_FRAME = Inputs()


def inputs_of(loaded: LoadedModel, contract: Contract, none: Sequence[str] = ()) -> Inputs:
    """An array where the signature has a tensor (and the estimator was not fitted on these names), else a frame."""
    inputs = json.loads(loaded.signature["inputs"]) if loaded.signature and loaded.signature.get("inputs") else []
    if not inputs or inputs[0]["type"] != "tensor":
        categories = pandas_categories(loaded.estimator, contract.features)
        return Inputs(none=tuple(none), categories=categories, names=numbered_names(loaded.signature))
    names = getattr(loaded.estimator, "feature_names_in_", None)
    if names is not None and list(names) == [column.name for column in contract.features]:
        return Inputs()
    return Inputs(array=inputs[0]["tensor-spec"]["dtype"])


def _categories(values: pd.Series[Any], known: Sequence[Any]) -> pd.Series[Any]:
    """Values as categories of pandas'; what is not known is missing."""
    import pandas as pd

    return values.where(values.isin(known)).astype(pd.CategoricalDtype(known))


def feature_frame(features: pa.Table, contract: Contract, none: Iterable[str] = ()) -> pd.DataFrame:
    """Features as a pandas frame: missing numbers and texts are NaN, times are datetime64[ns] without a zone."""
    columns = []
    for column in contract.features:
        values = features.column(column.name)
        if pa.types.is_timestamp(values.type):
            values = _nanoseconds(values, column.name)
        columns.append(values)
    frame = pa.table(columns, names=[column.name for column in contract.features]).to_pandas()
    for name in none:
        import pandas as pd

        frame[name] = pd.Series(features.column(name).to_pylist(), dtype=object, index=frame.index)
    return frame


def made_up_row(contract: Contract) -> dict[str, Any]:
    """A row of zeros, for models of which no row is known."""
    return {column.name: _ZEROS[column.type] for column in (*contract.features, *contract.extra_key)}


def made_up_table(contract: Contract) -> pa.Table:
    """The features of that row."""
    row = made_up_row(contract)
    return pa.table(
        {column.name: pa.array([row[column.name]], arrow_type(column.type)) for column in contract.features}
    )


def _nanoseconds(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    plain = values.cast(pa.timestamp("us"))
    try:
        return plain.cast(pa.timestamp("ns"))
    except pa.ArrowInvalid as error:
        cause = "is beyond the years 1677 to 2262, which MLflow's datetime holds"
        raise ModelRefused.of(name, cause) from error


def _as_array(columns: Sequence[Any], dtype: np.dtype[Any], contract: Contract) -> Any:
    values = np.column_stack([column.to_numpy() for column in columns])
    if dtype.kind in "UO":
        return values.astype(dtype)
    with np.errstate(invalid="ignore"):
        array = values.astype(dtype)
    if dtype.kind in "iu":
        rows, places = np.nonzero(array != values)
        if len(rows):
            cause = f"does not fit the type {dtype}"
            names = [column.name for column in contract.features]
            raise ModelRefused(
                [RowError(int(row), names[place], cause) for row, place in zip(rows, places, strict=True)]
            )
    return array


_ZEROS = {
    ColumnType.BOOLEAN: False,
    ColumnType.INTEGER: 0,
    ColumnType.LONG: 0,
    ColumnType.FLOAT: 0.0,
    ColumnType.DOUBLE: 0.0,
    ColumnType.STRING: "",
    ColumnType.DATETIME: EPOCH,
}
