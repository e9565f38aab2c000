"""Digests of values under a secret key: the same value of a column always has the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from feedback_loop.clock import EPOCH
from feedback_loop.schema.column_types import arrow_type
from feedback_loop.schema.contract import Column


def fingerprint(key: bytes) -> str:
    """A name for a key that does not reveal it; empty for no key."""
    return hashlib.blake2b(key, digest_size=4, person=b"fingerprint").hexdigest() if key else ""


def hashed(column: Column, values: pa.ChunkedArray | pa.Array, key: bytes) -> pa.ChunkedArray:
    """Values of a column (of its type) as 32 hexadecimal digits each; nulls stay nulls.

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


def keyed_digest(text: str, key: bytes) -> str:
    """A digest of 32 hexadecimal digits that reveals nothing of the text without the key."""
    short = hashlib.blake2b(key, digest_size=32).digest()  # of any length
    return hashlib.blake2b(text.encode(), key=short, digest_size=16).hexdigest()


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
