"""The pages, a module each. A new one is added to `PAGES`; its `LINK` is where it stands in the navigation."""

from __future__ import annotations

from feedback_loop.dashboard.pages import (
    approvals,
    incident,
    jobs,
    model,
    overview,
    policy,
    predictions,
    reports,
    sign_in,
    versions,
)
from feedback_loop.dashboard.pages.links import Link

__all__ = ["PAGES", "Link", "links", "sign_in"]

PAGES = (overview, approvals, model, versions, predictions, jobs, policy, incident, reports)
"""In the order of the navigation."""


def links(*, of_model: bool) -> list[Link]:
    """What stands in the navigation: of the whole, or of one model."""
    known = [getattr(module, "LINK", None) for module in PAGES]
    return [link for link in known if link is not None and link.of_model == of_model]
