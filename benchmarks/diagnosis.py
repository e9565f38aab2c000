"""Why a model became worse: 204 cases whose cause is known, made and real, and what was recommended for each.

Each case has a champion (logistic, boosted, a boosted regression, or the demo's on real flights), 4,000 reference
rows and 4,000 current ones. Cases in which nothing became worse are made again: nobody would have asked. The table
says which cause led to which recommendation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor

from benchmarks.diagnosis_cases import DAY, EXPECTED, Case, Kind, flights_case, made_case
from benchmarks.lines import Line, command_line, show
from feedback_loop.decisions.diagnosis import Recommendation, find_causes
from feedback_loop.decisions.diagnosis.comparison import compare, mean_change

KINDS: tuple[Kind, ...] = ("logistic", "boosted", "regression", "flights")
CASES, QUICK = 204, 24
TRIES = 40
UNCHANGED = ("none", "architecture")

HARMLESS = {("architecture", "flights"), ("renamed words", "flights"), ("new category", "flights")}
"""Real flights have no such case: the demo's trees are flexible, and a carrier tells them next to nothing."""

Told = tuple[str, str, str, str]
"""The cause, the kind of model, what is right, and what was recommended."""


def case_of(place: int) -> Case:
    """The case of that number: causes and kinds of models in turn, every one of its own seed."""
    cause, kind = list(EXPECTED)[place % len(EXPECTED)], KINDS[place // len(EXPECTED) % len(KINDS)]
    if (cause, kind) in HARMLESS:
        kind = "boosted"
    for seed in range(1000 * place, 1000 * place + TRIES):
        case = flights_case(cause, seed) if kind == "flights" else made_case(cause, kind, seed)
        if cause in UNCHANGED or _is_worse(case):
            return case
    raise RuntimeError(f"none of {TRIES} cases of {cause} with {kind} costs anything")


def _is_worse(case: Case) -> bool:
    """Whether an incident would have opened: a rise beyond chance, by a tenth of what it was."""
    compared = compare(case.contract, case.reference, case.current, length=DAY, seed=0)
    change = mean_change(compared)
    return change.is_sure and change.value > 0.1 * float(compared.losses[~compared.is_now].mean())


def told(place: int) -> Told:
    """What is recommended for a case."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        case = case_of(place)
        found = find_causes(case.contract, case.reference, case.current, case.score, length=DAY, seed=place)
    return case.cause, case.contract.model, case.expected, str(found.recommendation)


def benchmark(quick: bool) -> Iterator[Line]:
    """How often each recommendation followed from each cause, and the share that was right by model and in all."""
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        found = list(processes.map(told, range(QUICK if quick else CASES)))
    for (cause, said), count in sorted(_counted(found).items()):
        yield Line("diagnosis", cause, said, count, "cases", "right" if said == EXPECTED[cause] else "wrong")
    for kind in KINDS:
        mine = [each for each in found if each[1] == kind]
        if mine:
            yield Line("diagnosis", f"{len(mine)} cases", "right", _share(mine), "share", kind)
    yield Line("diagnosis", f"{len(found)} cases", "right", _share(found), "share", "all models")


def _counted(found: list[Told]) -> Mapping[tuple[str, str], int]:
    return Counter((cause, said) for cause, _, _, said in found)


def _share(found: list[Told]) -> float:
    return sum(said == right for *_, right, said in found) / len(found)


def confusion(lines: list[Line]) -> str:
    """The table of causes by recommendations, in Markdown; what is right is bold."""
    counts = {(line.case, line.metric): line.value for line in lines if line.unit == "cases"}
    columns = [str(each) for each in Recommendation if any(said == each for _, said in counts)]
    rows = [f"| cause | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for cause, right in EXPECTED.items():
        cells = [f"{counts.get((cause, each), 0):.0f}" if (cause, each) in counts else "" for each in columns]
        cells = [f"**{cell}**" if each == right and cell else cell for each, cell in zip(columns, cells, strict=True)]
        rows.append(f"| {cause} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """The command line."""
    options = command_line(__doc__).parse_args()
    lines = list(benchmark(options.quick))
    if not options.json:
        print(confusion(lines) + "\n")
    show(lines, as_json=options.json)


if __name__ == "__main__":
    main()
