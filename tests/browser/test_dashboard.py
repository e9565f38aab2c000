"""Overview, model, column and incident as people use them, who sign in with a key."""

import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.cycle import cycle
from feedback_loop.store.keys import Scope, create_key
from tests.browser.conftest import SIZES, check
from tests.builders import churn_loop, play_days, register_churn
from tests.conftest import NOW

PAGES = {
    "overview": "/",
    "model": "/models/churn",
    "column": "/models/churn/column?name=age",
    "incident": "/incidents/1",
}
COLOUR = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A model that did well for five days and badly for six: its incident is open. Version 2 is registered."""
    clock = ManualClock(NOW)
    made = churn_loop(tmp_path_factory.mktemp("pages"), clock)
    for day in range(11):
        play_days(made, clock, 1, seed=10 + day, harder=0.0 if day < 5 else 0.45)
        wanted = ("join", "evaluate", "decide") if day < 10 else ("join", "evaluate", "drift", "decide", "diagnose")
        for job in cycle(made, "churn"):
            if job.name in wanted:
                job.run()
    register_churn(made.registry, clock(), seed=3)
    yield made
    for thread in threading.enumerate():
        if thread.name == "retrain churn":
            thread.join()
    made.close()


@pytest.fixture(scope="module")
def site(loop, serve):
    return serve(loop, host="0.0.0.0")  # noqa: S104 (it only takes itself to listen there)


@pytest.fixture(scope="module")
def key(loop):
    return create_key(loop.store, "ada", loop.clock(), [Scope.READ, Scope.ADMIN])


@pytest.fixture
def sign_in(visit, site, key):
    """Opens a page as somebody who has to sign in first, and has."""

    def sign_in(path="/", how="light"):
        page = visit(site + path, how)
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Sign out").wait_for()
        return page

    return sign_in


@pytest.mark.parametrize("how", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_on_any_screen_for_everybody(sign_in, site, name, how):
    page = sign_in(PAGES[name], how)
    assert page.url == site + PAGES[name]  # signing in leads back
    for chart in page.locator("[data-chart]").all():
        chart.locator(".main-svg").first.wait_for()
    check(page, f"{name}-{how}")
    assert page.locator("h1").count() == 1


def test_every_link_leads_to_a_page(sign_in, site):
    page = sign_in()
    seen, waiting = set(), ["/"]
    while waiting:
        address = waiting.pop()
        if (path := urlsplit(address).path) in seen or "/predictions/" in path:
            continue
        seen.add(path)
        answer = page.goto(site + address)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), address
        links = page.eval_on_selector_all("a[href]:not([download])", "all => all.map(a => a.pathname + a.search)")
        waiting += sorted(set(links))
    assert seen >= {urlsplit(path).path for path in PAGES.values()} | {"/approvals"} | {
        f"/models/churn/{name}" for name in ("versions", "versions/1", "predictions", "jobs", "policy")
    }


def test_who_signs_out_sees_nothing_any_more(site, sign_in):
    page = sign_in()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    page.goto(f"{site}/models/churn")
    assert "/sign-in" in page.url


def test_with_the_keyboard_alone_one_comes_to_the_content_and_chooses_light_or_dark(sign_in, site):
    page = sign_in()
    page.goto(site)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    light = page.evaluate(COLOUR)
    page.get_by_role("button", name="Switch between light and dark").press("Enter")
    dark = page.evaluate(COLOUR)
    assert dark != light
    page.goto(f"{site}/models/churn")
    assert page.evaluate(COLOUR) == dark


def test_a_metric_and_its_rows_are_chosen_and_the_address_can_be_shared(sign_in):
    page = sign_in("/models/churn")
    page.locator("#chart-metric .main-svg").first.wait_for()  # by then htmx is at work
    page.get_by_label("Metric").select_option("roc_auc")
    page.get_by_role("heading", name="roc_auc over time").wait_for()
    page.get_by_label("Rows").select_option("plan=pro")  # which has no value of that metric
    page.wait_for_url("**segment=plan%3Dpro*")
    page.get_by_label("Metric").select_option("brier")
    page.get_by_role("heading", name="brier of plan=pro over time").wait_for()
    page.locator("#chart-metric .main-svg").first.wait_for()
    page.get_by_role("button", name="Switch between light and dark").click()
    page.goto(page.url)
    page.get_by_role("heading", name="brier of plan=pro over time").wait_for()
    page.get_by_role("link", name="age", exact=True).click()
    page.get_by_role("heading", name="Values of age").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Values as CSV").click()
    assert Path(download.value.path()).read_text().startswith("group,reference,current")


AT_ONCE = """() => {
  const choose = (label, value) => {
    const box = [...document.querySelectorAll('.chooser label')].find(one => one.textContent.includes(label));
    const select = box.querySelector('select');
    select.value = value;
    select.dispatchEvent(new Event('change', {bubbles: true}));
  };
  %s
}"""
ONE_AFTER_THE_OTHER = "choose('Metric', 'log_loss'); choose('Rows', 'plan=pro');"
AS_THE_PAGE_CHANGES = """
  const first = document.querySelector('#chosen');
  const seen = new MutationObserver(() => {
    if (document.querySelector('#chosen') === first) return;
    seen.disconnect();
    choose('Metric', 'log_loss');
  });
  seen.observe(document.body, {childList: true, subtree: true});
  choose('Rows', 'plan=pro');
"""


@pytest.mark.parametrize(
    "choices", [ONE_AFTER_THE_OTHER, AS_THE_PAGE_CHANGES], ids=["one after the other", "as the page changes"]
)
def test_no_choice_is_lost_however_quickly_it_follows_the_one_before(sign_in, choices):
    page = sign_in("/models/churn")
    page.locator("#chart-metric .main-svg").first.wait_for()
    page.evaluate(AT_ONCE % choices)
    page.get_by_role("heading", name="log_loss of plan=pro over time").wait_for()
    page.get_by_label("Metric").focus()
    page.keyboard.press("ArrowUp")
    page.get_by_role("heading", name="log_loss of plan=pro over time").wait_for(state="detached")
    assert page.evaluate("document.activeElement.name") == "metric"  # the next key chooses on


def test_the_overview_looks_again_by_itself(sign_in):
    page = sign_in()
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true") as answer:
        page.evaluate("document.querySelector('#live h2').textContent = 'Old'")
        page.evaluate("htmx.ajax('GET', '/', '#live')")
    assert answer.value.status == 200
    page.get_by_role("heading", name="Old").wait_for(state="detached")


def act(page, site, action, button, *, sure=True, **fields):
    """Opens an act's form, fills it in, confirms and sends it."""
    page.goto(f"{site}/incidents/1")
    form = page.locator("details.action").filter(has_text=action)
    form.locator("summary").click()
    for name, value in fields.items():
        form.locator(f"[name={name}]").fill(value)
    if sure:
        form.locator("[name=sure]").check()
    form.get_by_role("button", name=button).click()


def test_every_button_of_an_incident_does_what_it_says(sign_in, site):
    page = sign_in()
    act(page, site, "Acknowledge…", "Acknowledge it", sure=False)
    page.get_by_text("You look after it now.").wait_for()
    assert page.locator(".figure", has_text="Looked after by").get_by_text("ada").is_visible()
    act(page, site, "Silence…", "Silence it", sure=False)
    page.get_by_text("Its alerts are held back.").wait_for()
    act(page, site, "Close…", "Close it", sure=False, because="too early")
    assert page.url.endswith("/incidents/1")  # the browser wants it confirmed
    act(page, site, "Promote…", "Promote it", version="2", reason="it is better")
    page.get_by_text("That version is the champion now.").wait_for()
    act(page, site, "Roll back…", "Roll back", reason="it is not")
    page.get_by_text("The version before is the champion again.").wait_for()
    act(page, site, "Retrain…", "Retrain")
    page.get_by_text("The search has begun").wait_for()
    page.locator("#search").get_by_text("running").wait_for(state="detached")  # it looks again by itself
    act(page, site, "Close…", "Close it", because="its feed is repaired")
    page.get_by_text("It is closed.").wait_for()
    assert page.locator("details.action").count() == 0
    for words in ("by ada", "its feed is repaired (by ada)", "version 1 → 2", "version 2 → 1"):
        assert page.locator("table", has_text="In words").get_by_text(words).first.is_visible()
