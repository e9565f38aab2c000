"""Heads and their pool: each head one damped Newton step a look, the pool one step of exponential weights.

A head's coefficients forget by the look: g = e^(-1/m) of what was learned is kept, the rest goes back to the start.

    Λ ← gΛ + (1 - g)I + w Σ h x xᵀ        θ ← θ + Λ⁻¹[w Σ x (y - q) + (1 - g)(θ0 - θ)]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from feedback_loop.adaptation.tasks import TaskRules
from feedback_loop.inference.adapter_encoding import Encoding, Floats


@dataclass(frozen=True)
class HeadKind:
    """`memory` is counted in looks."""

    memory: int
    takes_features: bool


KINDS = (HeadKind(14, takes_features=False), HeadKind(14, takes_features=True), HeadKind(60, takes_features=True))
"""P14, L14 and L60, in the order of `Coefficients`."""

POOL_FLOOR = 0.1
"""So much of the pool's weight is shared alike after each look: no member is ever out of it."""

FULL_CLASSES = 20
"""Above so many classes their coefficients are learned in blocks, one for each class."""

FULL_COEFFICIENTS = 2000
"""Likewise above so many coefficients of a head: a precision of all of them takes 32 MB."""

_CHUNK_ROWS = 16_384
"""So many rows are encoded at a time."""


@dataclass(frozen=True, eq=False)
class Head:
    """`theta` (K, 2 + columns) is of (z, 1, x); `precision` (blocks, m, m) of all coefficients, or by class."""

    theta: Floats
    precision: Floats


@dataclass(frozen=True, eq=False)
class Learned:
    """What has been learned: the state of each head, and the weights of raw and of each head."""

    heads: tuple[Head, ...]
    pool: Floats


def begin_learned(rules: TaskRules, width: int) -> Learned:
    """At birth: every member answers what the model does."""
    heads = []
    for kind in KINDS:
        columns = 2 + (width if kind.takes_features else 0)
        theta = np.zeros((rules.outputs, columns))
        theta[:, 0] = rules.slope
        blocks, size = _blocks(rules.outputs, columns)
        heads.append(Head(theta, np.tile(np.eye(size), (blocks, 1, 1))))
    members = len(KINDS) + 1
    return Learned(tuple(heads), np.full(members, 1.0 / members))


def _blocks(outputs: int, columns: int) -> tuple[int, int]:
    if outputs > FULL_CLASSES or outputs * columns > FULL_COEFFICIENTS:
        return outputs, columns
    return 1, outputs * columns


def step(
    learned: Learned,
    rules: TaskRules,
    encoding: Encoding,
    *,
    raw: Floats,
    targets: Floats,
    features: Mapping[str, Any],
    weight: float,
    spread: float,
) -> Learned:
    """The state after a look whose rows count `weight` each; the pool goes by losses before its members move."""
    sums = [_Sums.of(head) for head in learned.heads]
    losses = np.zeros(1 + len(KINDS))
    z = rules.inputs(raw)
    identity = rules.answers(z * rules.slope)
    for rows in _chunks(len(raw)):
        x = _with_one(encoding, {name: values[rows] for name, values in features.items()}, len(raw[rows]))
        losses[0] += rules.losses(targets[rows], identity[rows], spread).sum()
        for place, (kind, head, sum_) in enumerate(zip(KINDS, learned.heads, sums, strict=True), 1):
            inputs = x if kind.takes_features else x[:, :1]
            answers = rules.answers(z[rows] * head.theta[:, 0] + inputs @ head.theta[:, 1:].T)
            losses[place] += rules.losses(targets[rows], answers, spread).sum()
            curvature = rules.curvature(answers, spread, is_full=len(head.precision) == 1)
            sum_.add(z[rows], inputs, rules.errors(targets[rows], answers, spread), curvature)
    share = min(1.0, len(raw) / rules.whole_look)
    heads = tuple(
        _moved(head, kind.memory / share, rules.slope, weight, sum_)
        for kind, head, sum_ in zip(KINDS, learned.heads, sums, strict=True)
    )
    return Learned(heads, _reweighed(learned.pool, weight * losses, share))


def _with_one(encoding: Encoding, features: Mapping[str, Any], rows: int) -> Floats:
    return np.column_stack([np.ones(rows), encoding.dense(features, rows)])


def _chunks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _CHUNK_ROWS):
        yield slice(start, min(start + _CHUNK_ROWS, rows))


def _reweighed(pool: Floats, losses: Floats, share: float) -> Floats:
    logs, floor = np.log(pool) - losses, share * POOL_FLOOR
    weights = np.exp(logs - logs.max())
    return np.asarray((1.0 - floor) * weights / weights.sum() + floor / len(pool))


def _moved(head: Head, memory: float, slope: float, weight: float, sums: _Sums) -> Head:
    kept = np.exp(-1.0 / memory)
    blocks, size, _ = head.precision.shape
    precision = kept * head.precision + weight * sums.curvature
    precision += (1.0 - kept) * np.eye(size)
    precision = (precision + precision.transpose(0, 2, 1)) / 2.0  # exactly symmetric: half of it is kept
    start = np.zeros_like(head.theta)
    start[:, 0] = slope
    gradient = weight * sums.gradient + (1.0 - kept) * (start - head.theta)
    moved = np.linalg.solve(precision, gradient.reshape(blocks, size, 1))
    return Head(head.theta + moved.reshape(head.theta.shape), precision)


class _Sums:
    """Sums over rows of x(y - q) and of h x xᵀ, x being (z_k, 1, features) of each output k."""

    def __init__(self, gradient: Floats, curvature: Floats) -> None:
        self.gradient = gradient
        self.curvature = curvature

    @classmethod
    def of(cls, head: Head) -> _Sums:
        return cls(np.zeros_like(head.theta), np.zeros_like(head.precision))

    def add(self, z: Floats, x: Floats, errors: Floats, curvature: Floats) -> None:
        self.gradient[:, 0] += (errors * z).sum(axis=0)
        self.gradient[:, 1:] += errors.T @ x
        outputs, columns = self.gradient.shape
        if curvature.ndim == 2:
            for k in range(outputs):
                own = np.column_stack([z[:, k], x])
                self.curvature[k] += own.T @ (own * curvature[:, k, None])
            return
        for k in range(outputs):
            own = np.column_stack([z[:, k], x])
            for other in range(outputs):
                products = own.T @ (np.column_stack([z[:, other], x]) * curvature[:, k, other, None])
                place = slice(k * columns, (k + 1) * columns), slice(other * columns, (other + 1) * columns)
                self.curvature[0][place] += products
