"""Whether a recommendation was right is told by what followed it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.decisions.diagnosis.history import Search, was_right
from feedback_loop.store.incidents import Incident
from feedback_loop.store.retrainings import Promotion, Retraining, Trial

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)

LATER = START + 5 * DAY
INCIDENT = Incident(7, "made", "1", 3, "worse", START)
ENDED = replace(INCIDENT, closed_at=START + 9 * DAY, closed_because="it has recovered")


def searched(name="recent", state="promoted", difference=-0.01, rows=(100, 300), started=LATER):
    gate = {"difference": difference} if state != "failed" else None
    candidate = "2" if state in ("promoted", "passed") else None
    retraining = Retraining(5, "made", "alarm", 7, "1", candidate, state, started, started, gate, None)
    names = ("recent", "all")
    trials = [
        Trial(each, START, LATER, count, 0.1, chosen=each == name) for each, count in zip(names, rows, strict=True)
    ]
    return Search(retraining, trials)


def promotion(version="2", done=LATER):
    return Promotion(1, "made", 2, "promotion", "1", version, "done", "", done, done)


@pytest.mark.parametrize(
    ("recommendation", "incident", "searches", "promotions", "right"),
    [
        ("repair", INCIDENT, [], [], None),
        ("repair", ENDED, [], [], True),
        ("repair", ENDED, [], [promotion()], False),
        ("repair", ENDED, [], [promotion(done=START - DAY)], True),
        ("none", ENDED, [], [], True),
        ("none", None, [], [], None),
        ("recent", INCIDENT, [], [], None),
        ("recent", INCIDENT, [searched()], [], True),
        ("recent", INCIDENT, [searched("all")], [], False),
        ("recent", INCIDENT, [searched(state="refused")], [], False),
        ("recent", INCIDENT, [searched(difference=0.01)], [], False),
        ("recent", INCIDENT, [searched(state="failed")], [], None),
        ("recent", INCIDENT, [searched(started=START - DAY)], [], None),
        ("more", INCIDENT, [searched("all")], [], True),
        ("more", INCIDENT, [searched()], [], False),
        ("more", INCIDENT, [searched(rows=(300, 300))], [], True),
        ("replace", ENDED, [], [promotion("9")], True),
        ("replace", ENDED, [searched()], [promotion()], False),
        ("architecture", ENDED, [], [], False),
        ("insufficient_data", ENDED, [], [], None),
    ],
)
def test_whether_a_recommendation_was_right_is_told_by_what_followed(
    recommendation, incident, searches, promotions, right
):
    found = was_right(recommendation, START, incident, searches, promotions)
    assert (found[0] if found is not None else None) is right
