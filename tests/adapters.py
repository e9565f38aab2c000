"""Streams for adapters: looks at models whose own answers are right, or are not any more."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from scipy.special import softmax

from feedback_loop.adaptation import Adapter, Look, begin
from feedback_loop.inference.adapter_coefficients import logistic
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract

DAY = timedelta(days=1)
TOWNS = ("Bonn", "Köln", "Ulm")


def adapter_contract(task: Task, **changes) -> Contract:
    """A number and a text."""
    kinds = {
        Task.BINARY: {"label_type": ColumnType.BOOLEAN, "classes": (False, True), "has_probabilities": True},
        Task.MULTICLASS: {"label_type": ColumnType.STRING, "classes": ("a", "b", "c"), "has_probabilities": True},
        Task.REGRESSION: {"label_type": ColumnType.DOUBLE},
    }
    features = (Column("size", ColumnType.DOUBLE), Column("town", ColumnType.STRING))
    return make_contract(**{"model": "m", "task": task, "features": features, "label": "y", **kinds[task], **changes})


class Stream:
    """Rows of one model. `shift` is what has changed in truth (in logits or standard deviations), `fate` a day's."""

    def __init__(self, task: Task, seed: int, fate: float = 0.0) -> None:
        self.task, self.random, self.fate = task, np.random.default_rng(seed), fate
        self.contract = adapter_contract(task)

    def rows(self, count: int, shift: float = 0.0):
        """Features, raw answers and outcomes (as a `Look` has them); the shift is that of the town Ulm, doubled."""
        random = self.random
        size, town = random.normal(10, 3, count), random.integers(0, len(TOWNS), count)
        wave = (size - 10) / 3 + 0.5 * (town - 1)
        moved = shift * (1 + (town == 2)) + self.fate * random.normal()
        features = {"size": pa.chunked_array([size]), "town": pa.chunked_array([np.array(TOWNS)[town]])}
        if self.task is Task.REGRESSION:
            return features, 50 + 20 * wave, 50 + 20 * (wave + moved + 0.5 * random.normal(size=count))
        if self.task is Task.BINARY:
            outcomes = random.random(count) < logistic(wave + moved - 1)
            return features, logistic(wave - 1), outcomes.astype(float)
        forms = np.column_stack([wave, np.zeros(count), -wave])
        truth = softmax(forms + np.outer(moved, [1.0, 0.0, 0.0]), axis=1)
        outcomes = (random.random(count)[:, None] > truth.cumsum(axis=1)).sum(axis=1)
        return features, softmax(forms, axis=1), outcomes.astype(float)

    def reference(self, count: int = 2000, days: int = 40) -> pa.Table:
        """Labelled rows by stored names, of so many days."""
        features, _, outcomes = self.rows(count)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        labels = outcomes.tolist()
        if self.contract.classes:
            labels = [self.contract.classes[int(place)] for place in labels]
        times = [start + DAY * (row * days // count) for row in range(count)]
        return pa.table({**features, "y": labels, "predicted_at": pa.array(times, pa.timestamp("us", "UTC"))})

    def born(self, **options) -> Adapter:
        """A new adapter."""
        return begin(self.contract, self.reference(**options), DAY)

    def look(self, adapter: Adapter, count: int = 300, shift: float = 0.0) -> Look:
        """A cohort that this state of the adapter has served."""
        features, raw, outcomes = self.rows(count, shift)
        return Look(raw, adapter.coefficients.apply(raw, features), outcomes, features)

    def played(self, adapter: Adapter, looks: int, **options):
        """The state after so many cohorts, and the mean losses of raw and served answers over them."""
        losses = []
        for _ in range(looks):
            adapter = adapter.after(self.look(adapter, **options))
            losses.append((adapter.last.loss_raw, adapter.last.loss_served))
        raw, served = np.mean(losses, axis=0)
        return adapter, raw, served
