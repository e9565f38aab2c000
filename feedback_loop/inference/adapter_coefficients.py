"""What an adapter serves between two looks: its coefficients, frozen, applied to a model's own answers.

A pool of four members answers: the model itself ("raw") and three heads, each linear in the model's own answer z, in
1 and in the encoded features x. Probabilities are mixed as such: Σ ω p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any

import msgspec
import numpy as np

from feedback_loop.inference.adapter_bytes import digest_of, pack, seal, unpack, unseal
from feedback_loop.inference.adapter_encoding import Category, Encoding, Floats, Products, plain_numbers
from feedback_loop.schema import Contract, Label, Task

LEAST_CHANCE = 1e-4
"""Probabilities are kept so far from 0 and 1 before their logit is taken."""

HEADS = 3

ROWS_AT_ONCE = 4096
"""So many rows are adapted at a time."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """One revision's numbers. Immutable and thread-safe; two are the same where their digests are.

    `slopes` (heads, outputs) are those of z; `weights` (1 + width, heads * outputs) those of (1, x), a head's outputs
    side by side; `pool` are the weights of raw and of each head, which sum to 1. There is an output for each class of
    a multiclass task, else one. `centre` and `scale` are the reference's outcomes' mean and standard deviation
    (regression). `interval` is what is added to an answer for a 90% interval, once there is one.
    """

    task: Task
    classes: tuple[Label, ...]
    positive: Label | None
    encoding: Encoding
    slopes: Floats
    weights: Floats
    pool: Floats
    centre: float = 0.0
    scale: float = 1.0
    interval: tuple[float, float] | None = None

    @cached_property
    def is_identity(self) -> bool:
        """Whether answers stay what they are, to the last bit."""
        start = 0.0 if self.task is Task.REGRESSION else 1.0
        return bool((self.slopes == start).all() and not self.weights.any())

    def why_unfit(self, contract: Contract) -> str:
        """Why answers of a version with this contract can't be adapted by it; empty where they can."""
        if contract.task is not self.task or contract.classes != self.classes or contract.positive != self.positive:
            return "the adapter was begun for another task or other classes"
        return ""

    def apply(self, raw: Any, features: Mapping[str, Any]) -> Floats:
        """The adapted answers of rows.

        `raw`: the positive class's probabilities (binary), the numbers (regression), each of shape (rows,), or the
        probabilities of shape (rows, classes) in the contract's order. `features`: columns by the model's names, as
        Arrow, NumPy or lists; one that is missing counts as 0. An answer that is NaN stays NaN.
        """
        answers = np.asarray(raw, dtype=np.float64)
        if self.is_identity:
            return answers
        products, rows = self._products, len(answers)
        places = products.places(features, rows)
        if rows <= ROWS_AT_ONCE:
            return self._mixed(answers.T, products.of(features, rows, places)).T
        adapted = np.empty(answers.T.shape)
        numbers = {name: plain_numbers(features[name]) for name in self.encoding.numbers if name in features}
        for start in range(0, rows, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            own, columns = answers[part].T, {name: values[part] for name, values in numbers.items()}
            sums = products.of(columns, own.shape[-1], [of_rows[part] for of_rows in places])
            adapted[..., part] = self._mixed(own, sums)
        return adapted.T

    def apply_one(self, raw: float, features: Mapping[str, Any]) -> float:
        """`apply` to a single row of a binary task or a regression, quicker and to the same bit."""
        if self.is_identity:
            return raw
        products, (slopes, pool) = self._products.of_one(features), self._plain
        if self.task is Task.REGRESSION:
            z = (raw - self.centre) / self.scale
            members = [z * slope + own for slope, own in zip(slopes, products, strict=True)]
            return raw + self.scale * _weighted_one(pool[1:], members)
        chance = min(max(raw, LEAST_CHANCE), 1.0 - LEAST_CHANCE)
        z = float(np.log(chance)) - float(np.log1p(-chance))
        halves = np.tanh([(z * slope + own) / 2.0 for slope, own in zip(slopes, products, strict=True)])
        return _weighted_one(pool, [chance, *(0.5 * (1.0 + half) for half in halves.tolist())])

    def apply_to_classes(self, raw: Sequence[float], features: Mapping[str, Any]) -> list[float]:
        """`apply` to a single row of a multiclass task, quicker and to the same bit."""
        if self.is_identity:
            return list(raw)
        products, (slopes, pool) = self._products.of_one(features), self._plain
        classes = len(raw)
        logs = np.log([min(max(chance, LEAST_CHANCE), 1.0 - LEAST_CHANCE) for chance in raw]).tolist()
        mean = reduce(add, logs) / classes
        z = [value - mean for value in logs]
        forms = z + [value * slope + own for value, slope, own in zip(z * HEADS, slopes, products, strict=True)]
        members, exponents = range(0, len(forms), classes), list[float]()
        for start in members:
            member = forms[start : start + classes]
            largest = max(member)
            exponents += [form - largest for form in member]
        powers, totals = np.exp(exponents).tolist(), [0.0] * classes
        for start, weight in zip(members, pool, strict=True):
            own = powers[start : start + classes]
            total = reduce(add, own)
            totals = [before + weight * (power / total) for before, power in zip(totals, own, strict=True)]
        return totals

    @cached_property
    def _products(self) -> Products:
        return Products(self.encoding, self.weights)

    @cached_property
    def _plain(self) -> tuple[list[float], list[float]]:
        """Slopes, a head's outputs side by side, and the pool."""
        return self.slopes.ravel().tolist(), self.pool.tolist()

    def _mixed(self, answers: Floats, products: Floats) -> Floats:
        """The pool's answers, `products` being what each head adds to its share of z; (rows,) or (classes, rows).

        Sums are over one axis at a time, term by term: NumPy's own hang on how many rows there are.
        """
        pool = self.pool.tolist()
        if self.task is Task.REGRESSION:
            z = (answers - self.centre) / self.scale
            heads = z * self.slopes + products
            return answers + self.scale * _weighted(pool[1:], heads)
        if self.task is Task.BINARY:
            chances = clipped(answers)
            heads = logistic((np.log(chances) - np.log1p(-chances)) * self.slopes + products)
            return _weighted(pool, (chances, *heads))
        z = centred_logs(np.ascontiguousarray(answers))
        forms = np.empty((len(z), 1 + HEADS, z.shape[1]))  # classes first
        forms[:, 0] = z
        np.multiply(z[:, None], self.slopes.T[:, :, None], out=forms[:, 1:])
        forms[:, 1:] += products.reshape(HEADS, *z.shape).swapaxes(0, 1)
        return _weighted(pool, softmax(forms).swapaxes(0, 1))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that it holds, in hexadecimal."""
        return digest_of(self._content)

    @cached_property
    def _content(self) -> bytes:
        return msgspec.msgpack.encode(
            _Stored(
                self.task,
                self.classes,
                self.positive,
                self.encoding.numbers,
                pack(self.encoding.means),
                pack(self.encoding.deviations),
                self.encoding.categories,
                pack(self.slopes),
                pack(self.weights),
                pack(self.pool),
                self.centre,
                self.scale,
                self.interval,
            )
        )

    def to_bytes(self) -> bytes:
        """Its form in the store: layout, digest, content."""
        return seal(self._content)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Coefficients:
        """The inverse of `to_bytes`; raises Refused for another layout, or where it is not what was written."""
        content = unseal(packed, what="An adapter's coefficients", cure="Make them anew: adapter replay.")
        stored = msgspec.msgpack.decode(content, type=_Stored)
        encoding = Encoding(stored.numbers, unpack(stored.means), unpack(stored.deviations), stored.categories)
        return cls(
            stored.task,
            stored.classes,
            stored.positive,
            encoding,
            unpack(stored.slopes).reshape(HEADS, -1),
            unpack(stored.weights).reshape(1 + encoding.width, -1),
            unpack(stored.pool),
            stored.centre,
            stored.scale,
            stored.interval,
        )


def clipped(chances: Floats) -> Floats:
    """Probabilities within [`LEAST_CHANCE`, 1 - `LEAST_CHANCE`]."""
    return np.asarray(np.minimum(np.maximum(chances, LEAST_CHANCE), 1.0 - LEAST_CHANCE))


def logits(chances: Floats) -> Floats:
    """The logits of clipped probabilities."""
    within = clipped(chances)
    return np.asarray(np.log(within) - np.log1p(-within))


def logistic(values: Floats) -> Floats:
    """Probabilities of logits, by a form that overflows nowhere."""
    halves = np.tanh(values / 2.0)
    halves += 1.0
    halves *= 0.5
    return np.asarray(halves)


def centred_logs(chances: Floats) -> Floats:
    """Logarithms of clipped probabilities (classes, rows), each row's mean taken away."""
    logs = np.log(clipped(chances))
    return np.asarray(logs - reduce(add, logs) / len(logs))


def softmax(values: Floats) -> Floats:
    """Probabilities of linear forms, classes first."""
    # Sums by `reduce`: NumPy's own (and `sum`, from Python 3.12 on) come out otherwise for one row than for many.
    powers = np.exp(values - values.max(axis=0))
    powers /= reduce(add, powers)
    return np.asarray(powers)


def _weighted(weights: Sequence[float], members: Sequence[Floats] | Floats) -> Floats:
    """The sum of members by their weights, one after the other."""
    total = weights[0] * members[0]
    for weight, member in zip(weights[1:], members[1:], strict=True):
        total += weight * member
    return np.asarray(total)


def _weighted_one(weights: Sequence[float], members: Sequence[float]) -> float:
    total = weights[0] * members[0]
    for weight, member in zip(weights[1:], members[1:], strict=True):
        total += weight * member
    return total


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    task: Task
    classes: tuple[Label, ...]
    positive: Label | None
    numbers: tuple[str, ...]
    means: bytes
    deviations: bytes
    categories: tuple[Category, ...]
    slopes: bytes
    weights: bytes
    pool: bytes
    centre: float
    scale: float
    interval: tuple[float, float] | None
