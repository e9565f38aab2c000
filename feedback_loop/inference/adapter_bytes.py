"""How an adapter's coefficients and its state are kept: arrays as bytes; a layout, a digest and the content."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from feedback_loop.errors import Refused
from feedback_loop.inference.adapter_encoding import Floats

_LAYOUT = 1
"""Of all that is sealed; another number is another form."""


def pack(values: Floats) -> bytes:
    """The doubles of an array, little-endian."""
    return np.ascontiguousarray(values, dtype="<f8").tobytes()


def unpack(content: bytes) -> Floats:
    """The doubles again, as one row that can't be written to."""
    return np.frombuffer(content, dtype="<f8")


def digest_of(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def seal(content: bytes) -> bytes:
    """Content with its layout and digest."""
    return msgspec.msgpack.encode((_LAYOUT, digest_of(content), content))


def unseal(sealed: bytes, *, what: str, cure: str) -> bytes:
    """The inverse of `seal`; raises Refused for another layout, or where it is not what was written."""
    try:
        layout, digest, content = msgspec.msgpack.decode(sealed, type=tuple[int, str, bytes])
    except msgspec.DecodeError as error:
        raise _damaged(what, str(error), cure) from error
    if layout != _LAYOUT:
        raise _damaged(what, f"the layout is {layout}, not {_LAYOUT}", cure)
    if digest_of(content) != digest:
        raise _damaged(what, "this is not what was written", cure)
    return content


def _damaged(what: str, cause: str, cure: str) -> Refused:
    return Refused(f"{what} can't be read: {cause}.", cure=cure)
