"""What of a row is logged, and in which form: columns left out, columns hashed with a key, rows sampled."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feedback_loop.clock import EPOCH
from feedback_loop.errors import ConfigError
from feedback_loop.schema.column_types import arrow_type
from feedback_loop.schema.contract import Column, ColumnType, Contract

PLAIN, HASH, DROP = "plain", "hash", "drop"

HASHED_BY = b"feedback_loop.hashed"
"""In the metadata of an Arrow (and Parquet) field: the fingerprint of the key that its values are hashed with."""

VARIABLE = "FEEDBACK_LOOP_CAPTURE__HASH_KEY"


@dataclass(frozen=True)
class Redaction:
    """How rows of the `served` contract become rows of the `logged` one, which everything behind the log knows."""

    served: Contract
    logged: Contract
    key: bytes = field(repr=False, default=b"")

    @cached_property
    def changes(self) -> bool:
        """Whether rows are logged in another form than they are served in."""
        return self.logged != self.served

    @property
    def hides_features(self) -> bool:
        """Whether the log lacks what a model could be trained on."""
        return self.logged.features != self.served.features

    def values(self, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """A served column's values as they are logged: hashed, if they are to be."""
        column = self.logged.column(name)
        return hashed(self.served.column(name), values, self.key) if column.hashed else values

    def redact(self, rows: pa.Table) -> pa.Table:
        """Rows (columns by stored names) as they are logged. What is in that form already stays as it is.

        Raises ConfigError where a column was hashed with another key.
        """
        logged_columns = {column.name: column for column in (*self.logged.features, *self.logged.extra_key)}
        for served in (*self.served.features, *self.served.extra_key):
            if served.stored not in rows.column_names:
                continue
            place, logged = rows.column_names.index(served.stored), logged_columns.get(served.name)
            if logged is None:
                rows = rows.remove_column(place)
                continue
            by = (rows.schema.field(place).metadata or {}).get(HASHED_BY, b"").decode()
            if by not in ("", logged.hashed):
                raise _other_key(self.logged.model, served.name)
            if logged.hashed and not by:
                mark = pa.field(served.stored, pa.string(), metadata={HASHED_BY: logged.hashed})
                rows = rows.set_column(place, mark, hashed(served, rows.column(place), self.key))
        return rows


def make_redaction(contract: Contract, modes: Mapping[str, str], key: bytes) -> Redaction:
    """The redaction that `log.columns` asks for: per column `plain`, `hash` (with the key) or `drop`.

    Raises ConfigError for a column that is not there, one that must be logged, and a hash without a key.
    """
    for name, mode in modes.items():
        _check(contract, name, mode, key)

    def logged(columns: Sequence[Column]) -> tuple[Column, ...]:
        mark = fingerprint(key)
        return tuple(
            replace(column, type=ColumnType.STRING, hashed=mark) if modes.get(column.name) == HASH else column
            for column in columns
            if modes.get(column.name) != DROP
        )

    changed = replace(contract, features=logged(contract.features), key=logged(contract.key))
    return Redaction(contract, changed, key)


def fingerprint(key: bytes) -> str:
    """A name for a key that does not tell it; empty for none."""
    return hashlib.blake2b(key, digest_size=4, person=b"fingerprint").hexdigest() if key else ""


def hashed(column: Column, values: pa.ChunkedArray | pa.Array, key: bytes) -> pa.ChunkedArray:
    """Values of a column (of its type) as 32 hexadecimal digits each; what is missing stays missing.

    The same value of the same column has the same digest under one key, whatever type it came in; in another column
    it has another one.
    """
    typed = pa.chunked_array(values) if isinstance(values, pa.Array) else values
    if typed.type != arrow_type(column.type):
        typed = typed.cast(arrow_type(column.type))
    encoded = typed.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):  # of no rows
        encoded = encoded.combine_chunks()
    digests = [
        None if text is None else keyed_digest(f"{column.name}\0{text}", key)
        for text in canonical(encoded.dictionary)
    ]
    return pa.chunked_array([pa.array(digests, pa.string()).take(encoded.indices)])


def canonical(values: pa.Array | pa.ChunkedArray | Sequence[object]) -> list[str | None]:
    """One text for equal values, whatever type they came in: 1 and 1.0 are both `1`, moments are microseconds.

    NaN is missing.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        values = values.to_pylist()
    return [_text(value) for value in values]


def in_sample(
    ids: Sequence[str], shares: float | npt.NDArray[np.float64], salt: bytes = b""
) -> npt.NDArray[np.bool_]:
    """Which of these predictions are in a sample of that share (or of a share each): a retry is decided alike."""
    return np.asarray(sample_places(ids, salt) < shares)


def sample_places(ids: Sequence[str], salt: bytes) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each id, as good as drawn by chance, and always the same."""
    digests = b"".join(
        hashlib.blake2b(identifier.encode(), digest_size=8, person=salt).digest() for identifier in ids
    )
    return np.asarray(np.frombuffer(digests, dtype=">u8") / 2.0**64)


def _text(value: object) -> str | None:
    if value is None or value != value:  # noqa: PLR0124 (NaN is the one that differs from itself)
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    if isinstance(value, datetime):
        return str((value - EPOCH) // timedelta(microseconds=1))
    return str(value)


def keyed_digest(text: str, key: bytes) -> str:
    """32 hexadecimal digits that tell nothing of the text to whoever does not have the key."""
    short = hashlib.blake2b(key, digest_size=32).digest()  # of any length
    return hashlib.blake2b(text.encode(), key=short, digest_size=16).hexdigest()


def _check(contract: Contract, name: str, mode: str, key: bytes) -> None:
    setting = f"models.{contract.model}.log.columns.{name}"
    own = {column.name for column in (*contract.features, *contract.key)}
    judged = {column.name for column in (*contract.labels, *contract.outputs)}
    if name not in own | judged:
        close = difflib.get_close_matches(name, own, n=1, cutoff=0.5)
        cure = f"Did you mean {close[0]}?" if close else f"It has {', '.join(sorted(own))}."
        raise ConfigError(f"{setting}: {contract.model} has no column {name!r}.", cure=cure, key=setting)
    if mode == PLAIN:
        return
    needed = ""
    if name not in own:
        needed = "the label and what the model answers are what it is judged by"
    elif mode == DROP and name in {column.name for column in contract.key}:
        needed = "outcomes find their predictions by the key"
    elif mode == DROP and name in contract.segments:
        needed = "segments are told apart by it"
    elif mode == DROP and name == contract.query:
        needed = "queries are told apart by it"
    elif mode == DROP and name in {column.name for column in contract.judged_by}:
        needed = "a metric of yours takes it"
    if needed:
        cure = "Set it to plain." if name not in own else "Set it to hash or plain."
        raise ConfigError(f"{setting}: {name!r} can't be {mode!r}: {needed}.", cure=cure, key=setting)
    if mode == HASH and not key:
        raise ConfigError(
            f"{setting}: there is no key to hash with.",
            cure=f"Set the variable {VARIABLE} to a long random text, the same on every host, and keep it.",
            key="capture.hash_key",
        )


def _other_key(model: str, name: str) -> ConfigError:
    return ConfigError(
        f"The column {name!r} of {model}'s reference rows is hashed with another key, or was and is to be plain.",
        cure=f"Set {VARIABLE} and models.{model}.log as they were, or register a version with new reference rows.",
        key="capture.hash_key",
    )
