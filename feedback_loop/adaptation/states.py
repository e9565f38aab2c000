"""An adapter's state as bytes: all that the next look needs, exact to the last bit.

Of a precision, which is symmetric, the lower half is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from feedback_loop.adaptation.adapter import Adapter, Basis, LookRecord
from feedback_loop.adaptation.guards import RangeGuard, SurpriseGuard
from feedback_loop.adaptation.heads import KINDS, Head, Learned, begin_learned
from feedback_loop.adaptation.intervals import Residuals
from feedback_loop.inference.adapter_bytes import pack, seal, unpack, unseal
from feedback_loop.inference.adapter_encoding import Category, Encoding, Floats
from feedback_loop.schema import Label, Task


class _Basis(msgspec.Struct, frozen=True, array_like=True):
    task: Task
    classes: tuple[Label, ...]
    positive: Label | None
    numbers: tuple[str, ...]
    means: bytes
    deviations: bytes
    categories: tuple[Category, ...]
    centre: float
    scale: float


class _RangeGuard(msgspec.Struct, frozen=True, array_like=True):
    lowest: bytes
    highest: bytes
    rates: int
    runs: bytes
    run_lowest: bytes
    run_highest: bytes
    is_holding: bool
    few_rows: int = 0
    few_sum: bytes = b""


class _State(msgspec.Struct, frozen=True, array_like=True):
    basis: _Basis
    learned: tuple[bytes, ...]  # what is learned, and then the earlier ones
    range_guard: _RangeGuard
    surprise_guard: SurpriseGuard
    looks: int
    deviations: bytes
    spreads: bytes
    residuals: bytes
    level: float
    held_looks: int
    is_held_by_hand: bool
    last: LookRecord | None


def to_bytes(adapter: Adapter) -> bytes:
    """Layout, SHA-256 of the content, content."""
    basis, guard = adapter.basis, adapter.range_guard
    state = _State(
        _Basis(
            basis.task,
            basis.classes,
            basis.positive,
            basis.encoding.numbers,
            pack(basis.encoding.means),
            pack(basis.encoding.deviations),
            basis.encoding.categories,
            basis.centre,
            basis.scale,
        ),
        tuple(map(_pack_learned, (adapter.learned, *adapter.earlier))),
        _RangeGuard(
            pack(guard.lowest),
            pack(guard.highest),
            guard.rates,
            pack(guard.runs),
            pack(guard.run_lowest),
            pack(guard.run_highest),
            guard.is_holding,
            guard.few_rows,
            pack(np.asarray(guard.few_sum)) if guard.few_rows else b"",
        ),
        adapter.surprise_guard,
        adapter.looks,
        pack(adapter.deviations),
        pack(adapter.spreads),
        pack(adapter.residuals.values),
        adapter.residuals.level,
        adapter.held_looks,
        adapter.is_held_by_hand,
        adapter.last,
    )
    return seal(msgspec.msgpack.encode(state))


def from_bytes(packed: bytes) -> Adapter:
    """The inverse of `to_bytes`; raises Refused for another layout, or where it is not what was written."""
    content = unseal(packed, what="An adapter's state", cure="Make it anew: adapter replay or reset.")
    state = msgspec.msgpack.decode(content, type=_State)
    stored, guard = state.basis, state.range_guard
    basis = Basis(
        stored.task,
        stored.classes,
        stored.positive,
        Encoding(stored.numbers, unpack(stored.means), unpack(stored.deviations), stored.categories),
        stored.centre,
        stored.scale,
    )
    learned, *earlier = (_unpack_learned(basis, content) for content in state.learned)
    return Adapter(
        basis,
        learned,
        RangeGuard(
            unpack(guard.lowest),
            unpack(guard.highest),
            guard.rates,
            unpack(guard.runs),
            unpack(guard.run_lowest),
            unpack(guard.run_highest),
            guard.is_holding,
            guard.few_rows,
            unpack(guard.few_sum) if guard.few_rows else 0.0,
        ),
        state.surprise_guard,
        state.looks,
        unpack(state.deviations).reshape(-1, basis.rules.outputs),
        unpack(state.spreads),
        Residuals(unpack(state.residuals), state.level),
        tuple(earlier),
        state.held_looks,
        state.is_held_by_hand,
        state.last,
    )


def _pack_learned(learned: Learned) -> bytes:
    parts: list[Floats] = [learned.pool]
    for head in learned.heads:
        size = head.precision.shape[1]
        parts += [head.theta, head.precision[:, *np.tril_indices(size)]]
    return b"".join(map(pack, parts))


def _unpack_learned(basis: Basis, content: bytes) -> Learned:
    numbers, place = unpack(content), 0

    def taken(count: int) -> Floats:
        nonlocal place
        place += count
        return numbers[place - count : place]

    form = begin_learned(basis.rules, basis.encoding.width)
    pool = taken(1 + len(KINDS))
    return Learned(tuple(_unpack_head(head, taken) for head in form.heads), pool)


def _unpack_head(form: Head, taken: Callable[[int], Floats]) -> Head:
    theta = taken(form.theta.size).reshape(form.theta.shape)
    blocks, size, _ = form.precision.shape
    lower = np.tril_indices(size)
    precision = np.zeros(form.precision.shape)
    precision[:, *lower] = taken(blocks * len(lower[0])).reshape(blocks, -1)
    return Head(theta, precision + np.tril(precision, -1).transpose(0, 2, 1))
