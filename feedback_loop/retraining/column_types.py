"""Columns that a pipeline chooses by their type: fitted again, it must choose as it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feedback_loop.errors import Refused

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("category", "string", "object", "Int64", "float64", "float32", "boolean")
"""Types of pandas' that a column may have had when a model was fitted on it, and that the log does not tell."""

ROWS = 1000
"""On so many rows it is tried which type a column must have."""


@dataclass(frozen=True)
class Choice:
    """What one step, which saw these columns, took by their type when it was fitted; `pick` chooses again."""

    seen: frozenset[str]
    taken: frozenset[str]
    pick: Callable[[pd.DataFrame], frozenset[str]]


def chosen_kinds(estimator: Any, frame: Any) -> dict[str, str]:
    """The types that columns of a frame must have for a fitted estimator to choose from them as it did when it was
    fitted; empty where it chooses none by type. Raises Refused where no type does that.
    """
    choices = [choice for choice in _choices(estimator) if choice.seen <= set(getattr(frame, "columns", ()))]
    kinds: dict[str, str] = {}
    for name in frame.columns if choices else ():
        about = [choice for choice in choices if name in choice.seen]
        wanted = [name in choice.taken for choice in about]
        for kind, tried in _tries(frame.head(ROWS), name):
            if [name in choice.pick(tried) for choice in about] == wanted:
                kinds |= {name: kind} if kind else {}
                break
        else:
            raise Refused(
                f"{name!r} was of another type when the champion was fitted, whose pipeline chooses columns by type "
                "(a category, for one): in no type that the log's values can have is it chosen as it was.",
                cure="Name the columns in the pipeline, and register a version of that.",
            )
    return kinds


def unfitted(estimator: Any) -> Any:
    """A copy that is not fitted, for the same columns: scikit-learn's clone.

    Of CatBoost, which copies its list of categories and so is refused by that, one by its parameters; with the
    categories that it has in its trees only, once it was loaded from its own format.
    """
    from sklearn.base import clone

    if not hasattr(estimator, "get_cat_feature_indices"):
        return clone(estimator)
    params = estimator.get_params()
    if "cat_features" not in params and estimator.is_fitted():
        params["cat_features"] = list(estimator.get_cat_feature_indices()) or None
    return type(estimator)(**params)


def refuse_other_choice(before: Any, after: Any) -> None:
    """Raises Refused where a step of an estimator that was fitted again chose other columns by their type."""
    for one, other in zip(_choices(before), _choices(after), strict=False):
        if differ := sorted(one.taken ^ other.taken):
            raise Refused(f"It chooses columns by type, and chose otherwise than the champion: {', '.join(differ)}.")


def _tries(frame: pd.DataFrame, name: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The frame as it is, then with the column in each type that its values can have."""
    yield "", frame
    for kind in KINDS:
        try:
            yield kind, frame.astype({name: kind})
        except (TypeError, ValueError):
            continue


def _choices(estimator: Any) -> Iterator[Choice]:
    for step in _steps(estimator, set()):
        names = getattr(step, "feature_names_in_", None)
        if names is None:
            continue
        if getattr(step, "categorical_features", None) == "from_dtype":  # histogram-based gradient boosting
            mask = step.is_categorical_
            taken = names[mask] if mask is not None else ()
            yield Choice(frozenset(names), frozenset(taken), _categories)
        fitted = {name: columns for name, _, columns in getattr(step, "transformers_", ())}
        for name, _, columns in getattr(step, "transformers", ()) if fitted else ():
            if callable(columns):
                yield Choice(frozenset(names), frozenset(fitted[name]), _picked_by(columns, list(names)))


def _picked_by(select: Callable[[Any], Any], names: list[str]) -> Callable[[pd.DataFrame], frozenset[str]]:
    return lambda frame: frozenset(select(frame[names]))


def _categories(frame: pd.DataFrame) -> frozenset[str]:
    return frozenset(frame.select_dtypes("category").columns)


def _steps(part: Any, seen: set[int]) -> Iterator[Any]:
    """An estimator and all that it is made of, however deep."""
    if isinstance(part, Mapping):
        part = list(part.values())
    if isinstance(part, list | tuple):
        for inner in part:
            yield from _steps(inner, seen)
    elif id(part) not in seen and (hasattr(part, "get_params") or type(part).__module__.startswith("sklearn.")):
        seen.add(id(part))
        yield part
        yield from _steps(getattr(part, "__dict__", {}), seen)
