"""Online serving: `feedback-loop serve` beside `mlflow models serve`, FastAPI, BentoML, and the echo of its stack.

The same two scikit-learn pipelines (15 numbers, 5 words), the same bodies, as many workers for everyone. Each server
is started anew in each round, must answer distinct requests as scikit-learn does, and is then loaded by wrk, which
holds every single answer against what is right. Only one server runs at a time; those that are compared with each
other run one after the other. Cold start is from the start of the process to the first right answer; the product's
is its second start, with the model on this machine, as it is for everyone else. The first run makes an environment
for the peers, and the models: they stay in the user's cache folder, and later runs use them again.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.lines import Line, command_line, median, show
from benchmarks.peers.environment import models_folder, peers_folder
from benchmarks.peers.load import load, need_wrk, write_bodies
from benchmarks.peers.models import Request, Requests, read_requests
from benchmarks.peers.process import Running, free_port, running
from benchmarks.peers.subjects import DURABILITIES, ECHO, MLFLOW, Place, Subject, ours, subjects, write_home

OURS = tuple(ours(durability) for durability in DURABILITIES)
COMMITTED, OFF = ours("committed"), ours("off")


@dataclass(frozen=True)
class Case:
    """One kind of load."""

    rows: int
    callers: int

    def words(self, model: str) -> str:
        """The case of its lines."""
        return f"{model}, {self.rows} {'row' if self.rows == 1 else 'rows'}, {self.callers} at once"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    models: tuple[str, ...]
    cases: tuple[Case, ...]
    rounds: int
    seconds: int
    checked: int
    settle_seconds: float


FULL = Plan(
    models=("logistic_regression", "random_forest"),
    cases=tuple(Case(rows, callers) for rows in (1, 100) for callers in (1, 16, 64)),
    rounds=3,
    seconds=3,
    checked=10_000,
    settle_seconds=20,
)
QUICK = Plan(
    models=("logistic_regression",),
    cases=(Case(1, 1), Case(1, 64)),
    rounds=1,
    seconds=1,
    checked=40,
    settle_seconds=3,
)


@dataclass
class Figures:
    """What was measured, by metric, case (None: of the server as a whole) and subject; a value per round."""

    values: dict[tuple[str, Case | None, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, metric: str, case: Case | None, subject: str, value: float) -> None:
        """One more."""
        self.values[metric, case, subject].append(value)

    def of(self, metric: str, case: Case | None, subject: str) -> float:
        """The median, but of wrong answers all of them."""
        values = self.values[metric, case, subject]
        return sum(values) if metric == WRONG else median(values)


SPEED, P50, P99, MEMORY, WORKER, START, WRONG = (
    "requests",
    "p50",
    "p99",
    "memory",
    "memory per worker",
    "cold start",
    "wrong or no answers",
)
UNITS = {SPEED: "req/s", P50: "ms", P99: "ms", MEMORY: "MiB", WORKER: "MiB", START: "s", WRONG: "answers"}


def benchmark(quick: bool, workers: int = 1) -> Iterator[Line]:
    """Speed, latency, memory and cold start of every server, and which of the product's aims are met."""
    need_wrk()
    plan = QUICK if quick else FULL
    models, peers = models_folder(), peers_folder()
    measured = {}
    for model in plan.models:
        with tempfile.TemporaryDirectory(prefix="serving-") as folder:
            place = Place(model, 0, workers, models, Path(folder) / "home", peers)
            measured[model] = _measure(plan, place, Path(folder))
        yield from _lines(model, plan, measured[model])
    for model, figures in measured.items():
        yield from _aims(model, figures)


def _measure(plan: Plan, place: Place, folder: Path) -> Figures:
    requests, figures = read_requests(place.models, place.model), Figures()
    bodies = {size: folder / f"bodies-{size}" for size in requests.load}
    for size, path in bodies.items():
        write_bodies(path, requests.load[size])
    write_home(place)
    _tell(f"{place.model}: first start of the product, which brings the model to this machine")
    everyone = subjects()
    committed = next(each for each in everyone if each.name == COMMITTED)
    with _started(committed, place, folder, requests) as (server, _):
        server.check(requests.check[:1])
    shutil.copytree(place.home / "log", folder / "log")
    for number in range(plan.rounds):
        for subject in everyone if number % 2 == 0 else reversed(everyone):
            _tell(f"{place.model}: round {number + 1} of {plan.rounds}, {subject.name}")
            _forget(place, folder / "log")
            _measure_one(plan, subject, place, folder, requests, bodies, figures)
    return figures


def _measure_one(
    plan: Plan,
    subject: Subject,
    place: Place,
    folder: Path,
    requests: Requests,
    bodies: dict[int, Path],
    figures: Figures,
) -> None:
    with _started(subject, place, folder, requests) as (server, seconds):
        figures.add(START, None, subject.name, seconds)
        server.check(_some(requests, plan))
        server.settle(plan.settle_seconds)
        memory, wrong = [], 0
        for case in plan.cases:
            right = requests.load[case.rows][0].predictions
            server.check(requests.check[:5])  # waits for what callers who are gone have left in its queue
            result = load(subject, server.port, bodies[case.rows], right, case.callers, plan.seconds)
            for metric, value in ((SPEED, result.requests_per_second), (P50, result.p50_ms), (P99, result.p99_ms)):
                figures.add(metric, case, subject.name, value)
            memory.append(server.memory_mib())
            wrong += result.wrong
            if result.wrong:
                _tell(f"{result.wrong} of {result.answers} answers of {subject.name} are wrong: {result.example}")
        figures.add(MEMORY, None, subject.name, max(memory))
        figures.add(WORKER, None, subject.name, server.worker_mib(place.workers, requests.check[0]))
        figures.add(WRONG, None, subject.name, wrong)


@contextlib.contextmanager
def _started(subject: Subject, place: Place, folder: Path, requests: Requests) -> Iterator[tuple[Running, float]]:
    """A server that has answered once, and the seconds from the start of its process to that answer."""
    place = replace(place, port=free_port())
    command, environment = subject.command(place), subject.environment(place)
    began = time.perf_counter()
    with running(subject, command, environment, place.port, folder / "server.log") as server:
        server.first_answer(requests.check[0])
        yield server, time.perf_counter() - began


def _forget(place: Place, fresh: Path) -> None:
    """Puts the store and the spool back to what they were after the first start: nobody forwards another's rows."""
    shutil.rmtree(place.home / "log")
    shutil.copytree(fresh, place.home / "log")


def _some(requests: Requests, plan: Plan) -> list[Request]:
    """So many requests of one row as are asked for, and those of many."""
    small = [each for each in requests.check if len(each.predictions) == 1]
    return small[: plan.checked] + [each for each in requests.check if len(each.predictions) > 1]


def _lines(model: str, plan: Plan, figures: Figures) -> Iterator[Line]:
    """Every figure; the product's also against MLflow's server, and without a log against the echo."""
    for case in plan.cases:
        for metric in (SPEED, P50, P99):
            for subject in subjects():
                yield _line(figures, case.words(model), metric, case, subject.name)
        yield _line(figures, case.words(model), SPEED, case, OFF, baseline=ECHO)
    for metric in (MEMORY, WORKER, START, WRONG):
        for subject in subjects():
            yield _line(figures, model, metric, None, subject.name)


def _line(
    figures: Figures, words: str, metric: str, case: Case | None, subject: str, baseline: str | None = None
) -> Line:
    value = figures.of(metric, case, subject)
    if baseline is None and subject in OURS and metric != WRONG:
        baseline = MLFLOW
    ratio = value / figures.of(metric, case, baseline) if baseline is not None else None
    return Line("serving", words, metric, value, UNITS[metric], subject, baseline, ratio)


def _aims(model: str, figures: Figures) -> Iterator[Line]:
    """What the product is to reach, and whether it does; `ratio` is to the aim."""
    many, one = Case(1, 64), Case(1, 1)

    def times(case: Case, subject: str, other: str) -> float:
        return figures.of(SPEED, case, subject) / figures.of(SPEED, case, other)

    yield _aim(model, f"{MLFLOW}, 64 at once", times(many, COMMITTED, MLFLOW), "x", COMMITTED, at_least=100)
    yield _aim(model, f"{MLFLOW}, 1 at once", times(one, COMMITTED, MLFLOW), "x", COMMITTED, at_least=20)
    yield _aim(model, f"{ECHO}, 64 at once", times(many, OFF, ECHO), "x", OFF, at_least=0.6)
    yield _aim(model, "p99, 64 at once", figures.of(P99, many, COMMITTED), "ms", COMMITTED, at_most=15)
    for subject in OURS:
        yield _aim(model, WORKER, figures.of(WORKER, None, subject), "MiB", subject, at_most=250)
        yield _aim(model, START, figures.of(START, None, subject), "s", subject, at_most=2)


def _aim(
    model: str,
    what: str,
    value: float,
    unit: str,
    subject: str,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Line:
    bound = at_least if at_least is not None else at_most
    assert bound is not None
    met = value >= bound if at_least is not None else value <= bound
    sign = "≥" if at_least is not None else "≤"
    case = f"{model}, aim {'met' if met else 'MISSED'}"
    return Line("serving", case, f"{what}, {sign} {bound:g} {unit}", value, unit, subject, "the aim", value / bound)


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _end(number: int, frame: object) -> None:
    """An interrupted benchmark ends its servers, as one that fails does."""
    del frame
    raise SystemExit(128 + number)


def main() -> None:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--workers", type=int, default=1, help="of every server (default: 1)")
    options = parser.parse_args()
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _end)
    show(benchmark(options.quick, options.workers), as_json=options.json)


if __name__ == "__main__":
    main()
