"""How many reference rows a version lacks before it can be judged, and about when it will have enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from feedback_loop.config import ModelSettings
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.schema import Role
from feedback_loop.store import Store
from feedback_loop.store.conclusions import latest_verdict
from feedback_loop.store.coverage import WindowCoverage, load_coverage
from feedback_loop.store.evaluations import ALL_ROWS, load_evaluations
from feedback_loop.store.profiles import load_reference

LATELY = timedelta(days=7)
"""The pace of outcomes is measured over this time before the newest predictions."""


@dataclass(frozen=True)
class MissingReference:
    """A version that has `rows` of the `wanted` reference rows; at the pace of late it has them `about` then."""

    model: str
    version: str
    rows: int
    wanted: int
    about: datetime | None  # None: no prediction has an outcome yet

    @property
    def words(self) -> str:
        """What is missing, in two sentences."""
        have = f"has {self.rows:,} of the {self.wanted:,} reference rows that verdicts take"
        when = f"about {self.about:%Y-%m-%d}" if self.about is not None else "no prediction has an outcome yet"
        return (
            f"{self.model} version {self.version} {have}: {self.wanted - self.rows:,} are missing ({when}). "
            "Its first labelled predictions fill it up."
        )

    @property
    def cure(self) -> str:
        """How to have it judged at once."""
        again = f"models register {self.model} --from models:/{self.model}/{self.version} --reference FILE"
        return (
            f"Give it rows that it was not trained on: feedback-loop models reference {self.model} {self.version} "
            f"FILE --time COLUMN (where it has brought too few: feedback-loop {again} --promote). Fewer rows do, "
            f"1,000 at the least, with models.{self.model}.policy.reference."
        )


def missing_reference_words(store: Store, model: str, version: str | None, settings: ModelSettings) -> str | None:
    """What keeps a version from being judged, in words, by what the store knows; None where nothing does."""
    if version is None:
        return None
    wanted, coverage = settings.policy.reference, load_coverage(store, model)[0]
    verdict = latest_verdict(store, model, version)
    if verdict is not None:
        watched = verdict.evidence.get("watched") or [{}]
        missing = int(watched[0].get("missing_reference", 0))
    else:
        with store.read() as connection:
            stored = load_reference(connection, model, version)
        own = round(Profile.from_bytes(stored.profile).rows()) if stored is not None else 0
        labelled = sum(account.labelled for account in coverage if _is_champions(account, version))
        missing = wanted - own - (labelled if own < wanted else 0)
    if missing <= 0:
        return None
    about = when_enough(coverage, version, missing, settings.maturity)
    lacking = MissingReference(model, version, wanted - missing, wanted, about)
    is_new = verdict is None and not load_evaluations(store, model, newest=1)
    advice = (
        "(If it brought one of its own, the first turn of the scheduler takes it in.)" if is_new else lacking.cure
    )
    return f"{lacking.words} {advice}"


def _is_champions(account: WindowCoverage, version: str) -> bool:
    return (account.version, account.role, account.segment) == (version, Role.CHAMPION, ALL_ROWS)


def when_enough(
    accounts: Iterable[WindowCoverage], version: str, missing: int, maturity: timedelta
) -> datetime | None:
    """When `missing` more predictions of a version will have matured with an outcome; None where none has one yet."""
    own = [account for account in accounts if _is_champions(account, version)]
    if not own:
        return None
    first, last = own[0].window_start, own[-1].window_start + timedelta(hours=1)
    labelled = [account for account in own if account.labelled]
    since = max(first, last - LATELY)
    recent = [account for account in labelled if account.window_start >= since] or labelled
    if not recent:
        return None
    days = max((last - recent[0].window_start) / timedelta(days=1), 1 / 24)
    return last + maturity + timedelta(days=missing / (sum(account.labelled for account in recent) / days))
