"""Why a model became worse: 204 cases whose cause is known, made and real, and what was recommended for each.

Each case has a champion (logistic, boosted, a boosted regression, or the demo's on real flights), 4,000 reference
rows and 4,000 current ones. Cases in which nothing became worse are made again: nobody would have asked. The table
says which cause led to which recommendation, and what the mean loss was after a search that the diagnosis steered and
after one that knew of none.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from benchmarks.diagnosis_cases import DAY, EXPECTED, Case, Kind, flights_case, made_case
from benchmarks.diagnosis_search import Worth, worth
from benchmarks.lines import Line, command_line, show
from feedback_loop.decisions.diagnosis import Recommendation, find_causes
from feedback_loop.decisions.diagnosis.comparison import compare, mean_change

KINDS: tuple[Kind, ...] = ("logistic", "boosted", "regression", "flights")
CASES, QUICK = 204, 12
TRIES = 40
UNCHANGED = ("none", "architecture")

LOSS_AFTER, REPAIRED = "loss after", "once it is repaired"
SUBJECTS = ("steered", "unsteered")

HARMLESS = {("architecture", "flights"), ("renamed words", "flights"), ("new category", "flights")}
"""Real flights have no such case: the demo's trees are flexible, and a carrier tells them next to nothing."""


@dataclass(frozen=True)
class Told:
    """A case: its cause, the kind of model, what is right, what was recommended, and what that was worth."""

    cause: str
    kind: str
    expected: str
    recommended: str
    as_rows_come: Worth
    repaired: Worth


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
    """What is recommended for a case, and what comes of it."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        case = case_of(place)
        causes = find_causes(case.contract, case.reference, case.current, case.score, length=DAY, seed=place)
        after = worth(case, causes, seed=place)
    return Told(case.cause, case.contract.model, case.expected, str(causes.recommendation), *after)


def benchmark(quick: bool) -> Iterator[Line]:
    """How often each recommendation followed from each cause, the share that was right by model and in all, and the
    losses after both searches.
    """
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        cases = list(processes.map(told, range(QUICK if quick else CASES)))
    for (cause, recommended), count in sorted(Counter((case.cause, case.recommended) for case in cases).items()):
        is_right = "right" if recommended == EXPECTED[cause] else "wrong"
        yield Line("diagnosis", cause, recommended, count, "cases", is_right)
    for kind in KINDS:
        mine = [case for case in cases if case.kind == kind]
        if mine:
            yield Line("diagnosis", f"{len(mine)} cases", "right", _share(mine), "share", kind)
    yield Line("diagnosis", f"{len(cases)} cases", "right", _share(cases), "share", "all models")
    for cause in EXPECTED:
        mine = [case for case in cases if case.cause == cause]
        yield from _after(mine, cause) if mine else ()
    yield from _after(cases, f"{len(cases)} cases")


def _share(cases: Sequence[Told]) -> float:
    return sum(case.recommended == case.expected for case in cases) / len(cases)


def _after(cases: Sequence[Told], name: str) -> Iterator[Line]:
    """The mean loss on the days that follow a search over that of the champion, in the mean of the cases."""
    for subject in SUBJECTS:
        yield _mean(name, LOSS_AFTER, subject, [case.as_rows_come for case in cases])
        if all(case.expected == Recommendation.REPAIR for case in cases):
            yield _mean(name, REPAIRED, subject, [case.repaired for case in cases])


def _mean(name: str, metric: str, subject: str, cases: Sequence[Worth]) -> Line:
    share = statistics.mean(getattr(case, subject) / case.champion for case in cases)
    return Line("diagnosis", name, metric, share, "x champion", f"the {subject} search")


def confusion(lines: Sequence[Line]) -> str:
    """The table of causes by recommendations, in Markdown; what is right is bold. Losses over the
    champion's, as rows come and once a broken feed is repaired.
    """
    counts = {(line.case, line.metric): line.value for line in lines if line.unit == "cases"}
    losses = {(line.case, line.metric, line.subject): line.value for line in lines if line.unit == "x champion"}
    columns = [str(name) for name in Recommendation if any(metric == name for _, metric in counts)]
    after = [f"loss after the {subject} search" for subject in SUBJECTS]
    rows = [f"| cause | {' | '.join(columns + after)} |", f"|---|{'---:|' * len(columns + after)}"]
    for cause, right in EXPECTED.items():
        cells = [f"{counts[cause, name]:.0f}" if (cause, name) in counts else "" for name in columns]
        cells = [f"**{cell}**" if name == right and cell else cell for name, cell in zip(columns, cells, strict=True)]
        for subject in SUBJECTS:
            shares = [losses.get((cause, metric, f"the {subject} search")) for metric in (LOSS_AFTER, REPAIRED)]
            cells.append(", ".join(f"{share:.3f}" for share in shares if share is not None))
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
