"""The pages of versions, approvals, predictions, jobs and policy, as people use them."""

import re
from datetime import timedelta

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.store import ledger
from tests.browser.conftest import SIZES, check
from tests.builders import churn_loop, play_days, register_churn
from tests.conftest import NOW
from tests.integration.test_api import question

PAGES = {
    "versions": "/models/churn/versions",
    "version": "/models/churn/versions/1",
    "approvals": "/approvals",
    "approval": "/approvals/1",
    "predictions": "/models/churn/predictions",
    "jobs": "/models/churn/jobs",
    "policy": "/models/churn/policy",
}


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """Two days of predictions, a version that waits for approval, and a run that failed."""
    clock = ManualClock(NOW)
    made = churn_loop(tmp_path_factory.mktemp("pages"), clock)
    play_days(made, clock, 2, per_day=30)
    made.join("churn")
    register_churn(made.registry, clock(), seed=3)
    question(made, needed=1)
    failed = ledger.begin_run(made.store, "retrain", "churn", clock(), "host:1", clock())
    ledger.end_run(made.store, failed, state="failed", now=clock(), cause="There are no rows to learn from.")
    done = ledger.begin_run(made.store, "join", "churn", clock(), "host:1", clock())
    result = {"predictions": 60, "outcomes": 60, "words": "a long account of all that it did " * 5}
    ledger.end_run(made.store, done, state="succeeded", now=clock() + timedelta(seconds=3), result=result)
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(loop, serve):
    return serve(loop)


@pytest.mark.parametrize("how", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_on_any_screen_for_everybody(visit, site, name, how):
    page = visit(site + PAGES[name], how)
    check(page, f"{name}-{how}")
    assert page.locator("h1").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_a_prediction_is_looked_up_opened_and_seen_as_of_a_moment(visit, site):
    page = visit(site + PAGES["predictions"])
    page.get_by_label("customer").fill("7")
    page.get_by_role("button", name="Look").click()
    assert "key.customer=7" in page.url
    rows = page.locator("tbody tr")
    assert rows.count() == 2
    with page.expect_download() as download:
        page.get_by_role("link", name="Predictions as CSV").click()
    assert download.value.path().read_text().count("\n") == 3
    page.get_by_label("As of").fill(f"{NOW + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}")
    page.get_by_role("button", name="Look").click()
    assert rows.count() == 1
    rows.first.get_by_role("link").first.click()
    assert page.get_by_text("No outcome names it.").is_visible()
    check(page, "prediction")


def test_a_changed_policy_is_played_and_its_lines_are_shown(visit, site):
    page = visit(site + PAGES["policy"])
    page.get_by_label(re.compile("^alpha")).fill("0.2")
    page.get_by_label(re.compile("^rule")).select_option("either")
    page.get_by_label(re.compile("^Look every")).fill("1d")
    page.get_by_label("With what is known now").check()
    page.get_by_role("button", name="Play the log again").click()
    page.locator("pre").wait_for()
    assert page.locator("pre").inner_text().splitlines() == [
        "[models.churn.policy]",
        "alpha = 0.2",
        'rule = "either"',
    ]
    assert page.get_by_role("cell", name="proposed (either)").is_visible()
    check(page, "policy-tried")


def test_a_candidate_is_refused_by_the_keyboard_alone(visit, site, loop):
    number = question(loop, needed=1)
    page = visit(f"{site}/approvals/{number}")
    page.get_by_label("Reason").focus()
    page.keyboard.type("not before Christmas")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Reject"
    page.keyboard.press("Enter")
    page.get_by_text("not before Christmas").first.wait_for()
    assert page.get_by_label("Reason").count() == 0
    assert loop.approvals.show(number)["state"] == "rejected"
    check(page, "approval-rejected")
