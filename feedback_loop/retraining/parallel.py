"""Fits of several estimators: here one after the other, or side by side in processes that can be stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from feedback_loop.errors import FeedbackLoopError
from feedback_loop.retraining.column_types import unfitted

LATE = "it was not done within retraining.time_limit"
DIED = "its process died (was memory short?)"

SMALL = 2_000_000
"""Fewer values to learn from in all are learned sooner here than processes start."""


THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "LOKY_MAX_CPU_COUNT"),
)
"""The variables by which libraries are told on how many threads they may work."""

THREAD_PARAMETERS = ("n_jobs", "nthread", "num_threads", "thread_count")
"""What estimators call that: scikit-learn's, and the boostings of others."""


@dataclass(frozen=True)
class Job:
    """An estimator, which is cloned and stays as it is, and what it is to learn from."""

    estimator: Any
    inputs: Any
    label: Any
    weights: Any | None = None  # per row; None: all alike


@dataclass(frozen=True)
class Fitted:
    """A fitted estimator; or None, with the error's class and words. Of a trainer also what it printed last, the
    memory that it took, and its run in MLflow.
    """

    estimator: Any | None = None
    seconds: float = 0.0
    error: str = ""
    words: str = ""
    log: str = ""
    peak_bytes: int | None = None
    run_id: str = ""


def workers_for(values: int, jobs: int, wanted: int | None) -> int:
    """How many processes fit side by side: as many as are `wanted`, else one for each core where it is worth it.

    Never more than there are cores, nor than there are jobs.
    """
    workers = wanted or (cores() if values > SMALL else 1)
    return max(min(workers, cores(), jobs), 1)


def fit_all(jobs: Sequence[Job], *, workers: int, limit: timedelta) -> Iterator[tuple[int, Fitted]]:
    """Each job's place with what came of it, as they get done. What is not done within the limit has failed.

    With one worker they are fitted in this process, where a fit that has begun can't be stopped. Else a process has
    its share of the cores for threads, and is killed with its children when the time is over.
    """
    until = time.monotonic() + limit.total_seconds()
    if workers > 1:
        yield from _side_by_side(jobs, workers, until)
        return
    for place, job in enumerate(jobs):
        yield place, fit(job, cores()) if time.monotonic() < until else Fitted(words=LATE)


def fit(job: Job, threads: int | None = None) -> Fitted:
    """The estimator's clone, fitted; on so many threads, where they are told."""
    began = time.monotonic()
    try:
        estimator = unfitted(job.estimator)
        wanted = {
            name: value
            for name, value in estimator.get_params().items()
            if threads is not None and name.rpartition("__")[2] in THREAD_PARAMETERS and value not in (None, threads)
        }
        estimator.set_params(**dict.fromkeys(wanted, threads))
        weights = {} if job.weights is None else _weighted(estimator, job.weights)
        fitted = estimator.fit(job.inputs, job.label, **weights)
        wanted = {name: value for name, value in wanted.items() if not name.endswith("thread_count")}
        if wanted:  # CatBoost, whose name that is, lets nothing be set on what is fitted
            fitted.set_params(**wanted)
    except FeedbackLoopError as error:
        return Fitted(seconds=time.monotonic() - began, words=error.cause)
    except Exception as error:  # noqa: BLE001 (training is foreign code: its failure is a result)
        return Fitted(seconds=time.monotonic() - began, error=type(error).__name__, words=str(error))
    return Fitted(fitted, time.monotonic() - began)


def _weighted(estimator: Any, weights: Any) -> dict[str, Any]:
    """The weights by the name that `fit` takes them by; none where the last step takes none."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    path, last = "", estimator
    while isinstance(last, Pipeline):
        name, last = last.steps[-1]
        path += f"{name}__"
    return {f"{path}sample_weight": weights} if has_fit_parameter(last, "sample_weight") else {}


def _side_by_side(jobs: Sequence[Job], workers: int, until: float) -> Iterator[tuple[int, Fitted]]:
    """By joblib's processes. Where one dies all that were begun are lost: these are tried again, each alone."""
    lost = []
    for place, fitted in _run(jobs, workers, until):
        if fitted.words == DIED and workers > 1:
            lost.append(place)
        else:
            yield place, fitted
    for place in lost:
        yield from ((place, fitted) for _, fitted in _run([jobs[place]], 1, until))


def _run(jobs: Sequence[Job], workers: int, until: float) -> Iterator[tuple[int, Fitted]]:
    from concurrent.futures import FIRST_COMPLETED, wait

    from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError

    threads = max(cores() // workers, 1)
    executor = ProcessPoolExecutor(workers, env=dict.fromkeys(THREADS, str(threads)))
    try:
        places = {executor.submit(fit, job, threads): place for place, job in enumerate(jobs)}
        pending = set(places)
        while pending:
            done, pending = wait(pending, max(until - time.monotonic(), 0), return_when=FIRST_COMPLETED)
            if not done:
                yield from ((places[future], Fitted(words=LATE)) for future in pending)
                return
            for future in done:
                error = future.exception()
                if isinstance(error, TerminatedWorkerError):
                    yield places[future], Fitted(words=DIED)
                elif error is not None:  # it could not be sent, there or back
                    yield places[future], Fitted(error=type(error).__name__, words=str(error))
                else:
                    yield places[future], future.result()
    finally:
        executor.shutdown(wait=True, kill_workers=True)


def cores() -> int:
    """On how many this process may work: a container's quota and the processors that it is bound to count."""
    from joblib import cpu_count

    return int(cpu_count())
