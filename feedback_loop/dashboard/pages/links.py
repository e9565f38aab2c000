"""Where a page stands in the navigation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A page's title and its route's name. One `of_model` has a `{model}` in its path."""

    title: str
    route: str
    of_model: bool = False
