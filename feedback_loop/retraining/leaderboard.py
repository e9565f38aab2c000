"""What the trials of a search came to, as people and MLflow are shown it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from feedback_loop.clock import format_moment
from feedback_loop.inference import Scorer
from feedback_loop.registry import TrialRun
from feedback_loop.retraining.trials import Candidate
from feedback_loop.store.retrainings import Trial


def trial_runs(trials: Sequence[Trial]) -> list[TrialRun]:
    """The trials as MLflow has them, each a run within the search's."""
    return [
        TrialRun(
            name=f"{trial.recipe}, {trial.name}",
            params={
                "recipe": trial.recipe,
                "window": trial.name,
                "rows": str(trial.rows),
                "trained_from": format_moment(trial.trained_from),
                "trained_until": format_moment(trial.trained_until),
                "why": trial.why,
                "chosen": str(trial.chosen),
            },
            metrics={
                name: value
                for name, value in (
                    ("holdout_loss", trial.loss),
                    ("seconds", trial.seconds),
                    ("peak_bytes", trial.peak_bytes),
                )
                if value is not None
            },
            cause=trial.cause or "",
            run_id=trial.run_id,
        )
        for trial in trials
    ]


def made_of(candidate: Candidate) -> Iterator[str]:
    """What a candidate is, where it is not just the champion's recipe on one of the usual windows; which hint won."""
    if len(candidate.members) > 1:
        yield f"The candidate is the {candidate.words}."
    for member in candidate.members:
        if member.plan.steering is not None:
            yield f"Its {member.plan.recipe} was tried because of {member.plan.why}."


def class_news(champion: Scorer, candidate: Scorer) -> Iterator[str]:
    """The classes that only one of them knows."""
    before, after = set(champion.contract.classes), set(candidate.contract.classes)
    for classes, words in ((after - before, "It has learned a new class"), (before - after, "It knows no more of")):
        if classes:
            yield f"{words}: {', '.join(sorted(map(str, classes)))}."


def with_chosen(trials: Sequence[Trial], candidate: Candidate) -> tuple[Trial, ...]:
    """The trials, with those marked that the candidate is made of."""
    members = {id(member.trial) for member in candidate.members}
    return tuple(replace(trial, chosen=True) if id(trial) in members else trial for trial in trials)
