"""What an adapter adds to an answer: from a model's own outputs to the adapted ones, by task and number of rows.

Six numbers and four texts of 20 known values (25 in all). A single row and 32 are as a server decodes them, 25,000
are a table as `predict FILE` scores it at a time.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.lines import Line, median, run
from feedback_loop.inference import Scored
from feedback_loop.inference.adapter_coefficients import HEADS, Coefficients
from feedback_loop.inference.adapter_encoding import Category, Encoding
from feedback_loop.inference.adapting import Adapting
from feedback_loop.schema import Column, ColumnType, Contract, Label, Task, make_contract
from feedback_loop.schema.protocol import Rows

NUMBERS, TEXTS, ROWS = 6, 4, 25_000
KNOWN = tuple(f"value {place}" for place in range(20))
UNKNOWN = tuple(f"other {place}" for place in range(5))
CLASSES: dict[Task, tuple[Label, ...]] = {
    Task.BINARY: (0, 1),
    Task.MULTICLASS: ("early", "on time", "late"),
    Task.REGRESSION: (),
}
LABELS = {
    Task.BINARY: ColumnType.LONG,
    Task.MULTICLASS: ColumnType.STRING,
    Task.REGRESSION: ColumnType.DOUBLE,
}


def benchmark(quick: bool) -> Iterator[Line]:
    """Medians of processor time."""
    repeats = 5 if quick else 25
    random = np.random.default_rng(0)
    table = pa.table(
        {f"x{place}": random.normal(size=ROWS) for place in range(NUMBERS)}
        | {f"c{place}": random.choice([*KNOWN, *UNKNOWN], ROWS) for place in range(TEXTS)}
    )
    texts, known = [table.column(f"c{place}") for place in range(TEXTS)], pa.array(KNOWN)
    looked_up = _microseconds(lambda: [pc.index_in(text, value_set=known) for text in texts], 1, repeats) / ROWS
    yield Line("adapter", "25,000 rows", "a row", looked_up, "µs", "texts looked up by Arrow alone")
    for task in Task:
        adapting, scored = _adapting(task, random), _scored(task, random)
        many = _microseconds(lambda: adapting.adapted(scored, table), 1, repeats) / ROWS  # noqa: B023
        yield Line("adapter", "25,000 rows", "a row", many, "µs", task, "texts looked up", many / looked_up)
        for rows in (32, 1):
            few = Scored(scored.contract, scored.answers[:rows], [column[:rows] for column in scored.columns])
            decoded = Rows(rows, table.slice(0, rows).to_pydict(), [None] * rows)
            taken = _microseconds(lambda: adapting.adapted(few, decoded), 200, repeats)  # noqa: B023
            yield Line("adapter", f"{rows} decoded", "all rows", taken, "µs", task)


def _microseconds(work: Callable[[], object], times: int, repeats: int) -> float:
    work()
    return median(timeit.repeat(work, timer=process_time, number=times, repeat=repeats)) / times * 1e6


def _contract(task: Task) -> Contract:
    features = [Column(f"x{place}", ColumnType.DOUBLE) for place in range(NUMBERS)]
    features += [Column(f"c{place}", ColumnType.STRING) for place in range(TEXTS)]
    return make_contract(
        model="m",
        task=task,
        features=tuple(features),
        label="y",
        label_type=LABELS[task],
        classes=CLASSES[task],
        has_probabilities=task is not Task.REGRESSION,
    )


def _adapting(task: Task, random: np.random.Generator) -> Adapting:
    contract = _contract(task)
    encoding = Encoding(
        tuple(f"x{place}" for place in range(NUMBERS)),
        np.zeros(NUMBERS),
        np.ones(NUMBERS),
        tuple(Category(f"c{place}", KNOWN) for place in range(TEXTS)),
    )
    outputs = len(contract.classes) if task is Task.MULTICLASS else 1
    weights = random.normal(0, 0.1, (1 + encoding.width, HEADS * outputs))
    weights[1:, :outputs] = 0  # the first head takes no features
    pool = np.full(1 + HEADS, 1 / (1 + HEADS))
    slopes = np.ones((HEADS, outputs))
    return Adapting(
        1,
        Coefficients(task, contract.classes, contract.positive, encoding, slopes, weights, pool),
        contract,
        "predict",
    )


def _scored(task: Task, random: np.random.Generator) -> Scored:
    contract = _contract(task)
    columns: list[Any]
    if task is Task.REGRESSION:
        columns = [random.normal(size=ROWS)]
    else:
        chances = random.dirichlet(np.ones(len(contract.classes)), ROWS)
        labels = np.array(contract.classes, object if task is Task.MULTICLASS else None)
        columns = [labels[chances.argmax(axis=1)], *chances.T.copy()[-len(contract.probabilities) :]]
    return Scored(contract, columns[0].tolist(), columns)


if __name__ == "__main__":
    run(benchmark, __doc__)
