"""Revisions of adapters in the store: each has one successor, and what is served is the newest with coefficients."""

from datetime import timedelta

import pytest

from feedback_loop.adaptation import mistrusted
from feedback_loop.errors import Refused
from feedback_loop.retraining.dataset import as_text, from_text
from feedback_loop.store import adapters
from feedback_loop.store.adapters import AdapterRevision, RevisionKind

DAY = timedelta(days=1)


def added(store, number, now, kind=RevisionKind.LEARNED, **more):
    """The revision after that number."""
    digest = "" if kind is RevisionKind.SKIPPED else f"d{number + 1}"
    revision = AdapterRevision("m", number, 1, kind, now, "3", digest=digest, details={"surprise": 0.5}, **more)
    content = None if kind is RevisionKind.SKIPPED else digest.encode()
    return adapters.add_revision(store, revision, coefficients=content, state=content)


def test_what_is_served_is_the_newest_revision_that_has_coefficients(store, now):
    assert adapters.newest_served(store, "m") is None
    added(store, 0, now, RevisionKind.BEGUN)
    learned = added(store, 1, now, cohort_start=now, cohort_end=now, predicted=9, labelled=8, held_by=("range",))
    skipped = added(store, 2, now, RevisionKind.SKIPPED)
    assert adapters.newest_served(store, "m") == learned
    assert [each.revision for each in adapters.load_revisions(store, "m")] == [3, 2, 1]
    assert adapters.load_revisions(store, "m", 1) == [skipped]
    assert adapters.load_coefficients(store, "m", 2) == b"d2"
    assert adapters.load_coefficients(store, "m", 3) is None
    assert adapters.newest_served(store, "other") is None


def test_of_two_that_feed_the_same_state_one_is_refused(store, now):
    added(store, 0, now)
    with pytest.raises(Refused, match="revision 1 already"):
        added(store, 0, now)


def test_cohorts_that_stopped_an_adapter_are_not_trusted_until_a_person_releases_it(store, now):
    def history(*steps):
        """`l`: learned, `s`: held by surprise, `h`: by hand, `p`: promoted, `r`: released by hand, `-`: skipped."""
        kinds = {"l": "learned", "s": "held", "h": "held", "p": "promoted", "r": "release", "-": "skipped"}
        for day, step in enumerate(*steps):
            window = {"cohort_start": now + day * DAY, "cohort_end": now + (day + 1) * DAY} if step in "lsh-" else {}
            yield AdapterRevision(
                "m",
                day,
                1,
                RevisionKind(kinds[step]),
                now,
                "3",
                held_by={"s": ("surprise",), "h": ("hand",)}.get(step, ()),
                **window,
            )

    for steps, expected in (
        ("lllsslll", [(1, 5)]),  # with the two cohorts that came before the third in a row
        ("lls", [(0, 3)]),
        ("llhhl", []),
        ("lllsslllslls", [(1, 5), (6, 12)]),
        ("llls-l", [(1, 4)]),
        ("ll" + 7 * "s", [(0, 9)]),
        ("ll" + 8 * "s", []),  # rather another world
        ("ll" + 8 * "s" + "pl", []),
        ("ll" + 8 * "s" + "l", [(0, 10)]),  # it was none
        ("lllsspll", [(1, 5)]),
        ("lllssrll", []),
        ("lllssrlllss", [(7, 11)]),
    ):
        spans = mistrusted(reversed([*history(steps)]))
        assert [((span.start - now) // DAY, (span.end - now) // DAY) for span in spans] == expected, steps
        assert from_text(as_text(spans)) == [*spans]  # as a version's run keeps them


def test_of_the_states_the_first_the_newest_and_checkpoints_stay(store, now):
    added(store, 0, now, RevisionKind.BEGUN)
    for number in range(1, 40):
        added(store, number, now)
    stays = [number for number in range(1, 41) if adapters.load_state(store, "m", number) is not None]
    assert stays == [1, 30, 37, 38, 39, 40]
    assert adapters.load_coefficients(store, "m", 2) == b"d2"
