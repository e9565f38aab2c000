"""A trainer: it chooses how long its boosting learns on newest rows of its own, by groups that share an outcome."""

from typing import Any

from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss

from feedback_loop.retraining import Dataset

FEWER_DAYS = {"days_since": -1}
"""The longer ago somebody was here, the less likely is a purchase: no search of fixed recipes knows that."""


def train(dataset: Dataset, params: dict[str, Any]) -> HistGradientBoostingClassifier:
    """A fitted estimator, from the rows that the loop gives. What is printed is kept with the trial."""
    order = dataset.predicted_at.argsort()
    newest = order[int(len(order) * 0.8) :]
    held_out = dict.fromkeys(dataset.groups[newest])  # whoever is among the newest rows is learned from by none
    learn = [row for row in order if dataset.groups[row] not in held_out]
    losses = {}
    for trees in params["trees"].split(","):
        model = boosting(int(trees), params).fit(dataset.features.iloc[learn], dataset.outcome[learn])
        losses[trees] = log_loss(dataset.outcome[newest], model.predict_proba(dataset.features.iloc[newest]))
        print(f"{trees} trees: log loss {losses[trees]:.4f} on {len(newest):,} newest rows", flush=True)
    best = min(losses, key=losses.get)
    print(f"{best} trees on all {len(order):,} rows", flush=True)
    return boosting(int(best), params).fit(dataset.features, dataset.outcome, sample_weight=dataset.weights)


def boosting(trees: int, params: dict[str, Any]) -> HistGradientBoostingClassifier:
    """One that knows what people know."""
    return HistGradientBoostingClassifier(
        max_iter=trees,
        learning_rate=params["learning_rate"],
        monotonic_cst=FEWER_DAYS,
        early_stopping=False,
        random_state=params["seed"],
    )
