"""A search space of one's own: parameters and features that Optuna varies, beside the fixed trials.

One study a kind. It is kept in the database, so that a search whose process was killed goes on where it was: what was
done is not fitted again, but for the best one of its kind. The best of each kind then competes with the fixed ones as
any other trial does: argmin over many trials on one holdout picks the lucky one (docs/retraining.md).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from feedback_loop.config_policy import ParameterSettings, RetrainingSettings, SearchSpaceSettings
from feedback_loop.errors import Refused
from feedback_loop.retraining.hints import Steering
from feedback_loop.retraining.recipes import OWN, Columns, kinds_after, path_of, recipe
from feedback_loop.retraining.trials import Plan, Success, windows
from feedback_loop.schema import Contract
from feedback_loop.store import Store
from feedback_loop.store.retrainings import Trial
from feedback_loop.store.studies import study_url

if TYPE_CHECKING:
    import optuna

FAILED = "failed"
"""What a trial is marked with that failed by itself; one whose process was killed is not."""

Attempt = Callable[[Sequence[Plan], RetrainingSettings], tuple[list[Success], list[Trial]]]
"""Makes trials under these settings: those that succeeded, and all of them on record."""


@dataclass(frozen=True)
class Tuned:
    """The best trial of each kind, the trials that were made for it, and how many an earlier process had made."""

    successes: list[Success]
    trials: list[Trial]
    taken_over: int


@dataclass(frozen=True)
class Tuning:
    """The studies of one search: `name` is that of this search and of no other. They are kept with the `store`."""

    store: Store
    space: SearchSpaceSettings
    own: Any
    settings: RetrainingSettings
    seed: int
    features: tuple[str, ...]
    model: str
    name: str

    def run(self, attempt: Attempt) -> Tuned:
        """Makes what is left of `space.trials` of each kind, within the time limit, and returns the best ones."""
        until = time.monotonic() + self.settings.time_limit.total_seconds()
        best: dict[str, tuple[int, Success]] = {}  # by kind, with the number of its trial
        trials: list[Trial] = []
        with _storage(study_url(self.store)) as storage:
            studies = {kind: self._study(storage, kind) for kind in self.space.kinds}
            taken_over = sum(_finished(study) for study in studies.values())
            while (left := until - time.monotonic()) > 0:
                asked = {kind: study.ask() for kind, study in studies.items() if _finished(study) < self.space.trials}
                if not asked:
                    break
                planned = {kind: self.plan(kind, trial) for kind, trial in asked.items()}
                limited = self.settings.model_copy(update={"time_limit": timedelta(seconds=left)})
                successes, made = attempt(list(planned.values()), limited)
                trials += made
                for kind, trial in asked.items():
                    success = next((one for one in successes if one.plan is planned[kind]), None)
                    _tell(studies[kind], trial, success)
                    if success is not None and studies[kind].best_trial.number == trial.number:
                        best[kind] = trial.number, success
            for kind, study in studies.items():  # the best one may be from before this process
                number, params = _best(study)
                if number is not None and (kind not in best or best[kind][0] != number):
                    successes, made = attempt([self._again(kind, params)], self.settings)
                    trials += made
                    best.update((kind, (number, success)) for success in successes)
        return Tuned([success for _, success in best.values()], trials, taken_over)

    def plan(self, kind: str, trial: optuna.trial.BaseTrial) -> Plan:
        """What a trial of that kind is to fit."""
        reaches = windows(self.settings)
        window = trial.suggest_categorical("window", list(reaches))
        parameters = {
            name: _suggested(trial, name, values) for name, values in self.space.parameters.get(kind, {}).items()
        }
        without: tuple[str, ...] = ()
        if self.space.feature_selection and kind != OWN:  # the champion's pipeline wants all
            uses = {name: trial.suggest_categorical(f"use {name}", [True, False]) for name in self.features}
            without = tuple(name for name, is_used in uses.items() if not is_used and any(uses.values()))
        words = [
            f"{name} = {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in parameters.items()
        ]
        words += [f"without {', '.join(without)}"] if without else []
        why = f"the search space: {', '.join(words) or window}"
        steering = Steering(window, why, without=without, parameters=parameters)
        return Plan(kind, self.own, f"{window}, tuned", reaches[window], self.seed, steering)

    def _again(self, kind: str, params: dict[str, Any]) -> Plan:
        from optuna.trial import FixedTrial

        return self.plan(kind, FixedTrial(params))

    def _study(self, storage: Any, kind: str) -> optuna.Study:
        """The study of a kind, as it was left; those of earlier searches for the model go."""
        import optuna

        prefix = f"{self.model}:{kind}:"
        for other in optuna.get_all_study_names(storage):
            if other.startswith(prefix) and other != prefix + self.name:
                optuna.delete_study(study_name=other, storage=storage)
        study = optuna.create_study(storage=storage, study_name=prefix + self.name, load_if_exists=True)
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # its process is gone
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        # Another seed for each start: the same one would propose again what was proposed first.
        sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials))
        return optuna.load_study(study_name=prefix + self.name, storage=storage, sampler=sampler)


def make_tuning(
    store: Store,
    space: SearchSpaceSettings,
    own: Any,
    contract: Contract,
    settings: RetrainingSettings,
    seed: int,
    of: Sequence[str],
) -> Tuning:
    """The tuning of a search that `of` says apart from others: the same settings and words, the same studies.

    Raises Refused where Optuna is not installed, or a parameter is none of its kind's.
    """
    refuse_space(space, own, classifies=contract.task.is_classification)
    possible, _ = kinds_after(contract, own)
    kinds = tuple(kind for kind in space.kinds if kind in possible)
    space = space.model_copy(update={"kinds": kinds})
    same = settings.model_dump_json(exclude={"time_limit", "jobs"})
    name = hashlib.sha256("\n".join([same, *of]).encode()).hexdigest()[:16]
    features = tuple(column.name for column in contract.features)
    return Tuning(store, space, own, settings, seed, features, contract.model, name)


def refuse_space(space: SearchSpaceSettings, own: Any, *, classifies: bool) -> None:
    """Raises Refused where Optuna is not installed, or a parameter is none of its kind's."""
    if find_spec("optuna") is None:
        raise Refused(
            "retraining.search_space needs Optuna, which is not installed.",
            cure="pip install 'feedback-loop[search]'.",
        )
    for kind, parameters in space.parameters.items():
        estimator = own if kind == OWN else recipe(kind, Columns((), (0,)), classifies=classifies, seed=0)
        known = estimator.get_params()
        if unknown := [name for name in parameters if path_of(kind, name) not in known]:
            start = path_of(kind, "")
            names = sorted(name.removeprefix(start) for name in known if name.startswith(start))
            raise Refused(
                f"retraining.search_space: {kind} has no parameter {unknown[0]!r}.",
                cure=f"It has {', '.join(names)}.",
            )


def _suggested(trial: optuna.trial.BaseTrial, name: str, values: ParameterSettings) -> Any:
    if values.choices:
        return trial.suggest_categorical(name, values.choices)
    assert values.low is not None and values.high is not None  # one of both is set
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(name, values.low, values.high, log=values.log)
    return trial.suggest_float(name, values.low, values.high, log=values.log)


def _tell(study: optuna.Study, trial: optuna.Trial, success: Success | None) -> None:
    from optuna.trial import TrialState

    if success is None or success.trial.loss is None:
        trial.set_user_attr(FAILED, True)
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, success.trial.loss)


def _finished(study: optuna.Study) -> int:
    """How many trials have come to an end of their own."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.value is not None or FAILED in trial.user_attrs for trial in trials)


def _best(study: optuna.Study) -> tuple[int | None, dict[str, Any]]:
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return None, {}
    return study.best_trial.number, study.best_trial.params


@contextmanager
def _storage(url: str) -> Iterator[Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # each trial is on our record
    storage = optuna.storages.RDBStorage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
