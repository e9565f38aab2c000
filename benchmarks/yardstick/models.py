"""The two models that are kept on every stream: gradient boosting, as the demo has it, and a linear one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.yardstick.rows import Settings, features_of

if TYPE_CHECKING:
    import pandas as pd

BOOSTING, LINEAR = "boosting", "linear"


def pipeline(kind: str, frame: pd.DataFrame, settings: Settings) -> Any:
    """A pipeline of that kind, not fitted, for the features of a frame."""
    features = features_of(frame)
    words = [name for name in features if features[name].dtype.kind not in "biuf"]
    numbers = [name for name in features if name not in words]
    return (_boosting if kind == BOOSTING else _linear)(words, numbers, settings)


def _boosting(words: list[str], numbers: list[str], settings: Settings) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    is_number = settings.task == "regression"
    trees = (HistGradientBoostingRegressor if is_number else HistGradientBoostingClassifier)(
        random_state=settings.seed
    )
    if not words:
        return make_pipeline(trees)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_pipeline(make_column_transformer((encoder, words), ("passthrough", numbers)), trees)


def _linear(words: list[str], numbers: list[str], settings: Settings) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20)
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = make_column_transformer((encoder, words), (scaled, numbers))
    return make_pipeline(columns, Ridge() if settings.task == "regression" else LogisticRegression(max_iter=1000))
