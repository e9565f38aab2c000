"""LightGBM, XGBoost and CatBoost: estimators with scikit-learn's interface, in flavors of MLflow's of their own."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

FLAVORS = ("lightgbm", "xgboost", "catboost")

PICKLED = ("lightgbm",)
"""The flavors that keep such an estimator as scikit-learn's is kept; the others have formats of their own."""


def flavor_of(described: Any) -> str:
    """The flavor of these that a folder in MLflow's format has; empty where it has none."""
    return next((name for name in FLAVORS if name in described.flavors), "")


def load_boosting(path: Path, flavor: str) -> Any | None:
    """The estimator of a folder; None for a bare booster, which tells neither its classes nor how it is fitted."""
    model = import_module(f"mlflow.{flavor}").load_model(str(path))
    return model if hasattr(model, "fit") and hasattr(model, "get_params") else None


def keeps(flavor: str, estimator: Any) -> bool:
    """Whether this flavor can keep an estimator: one of its own library."""
    return bool(flavor) and type(estimator).__module__.partition(".")[0] == flavor
