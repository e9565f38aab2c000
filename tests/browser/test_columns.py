"""The columns of a model that has very many, searched and leafed through by people with any screen, or a keyboard."""

import csv
from pathlib import Path

import pytest

from feedback_loop.clock import ManualClock, Window
from feedback_loop.store.evaluations import DriftValue, Evaluation, save_evaluation
from tests.browser.conftest import SIZES, check
from tests.builders import churn_loop
from tests.conftest import NOW

WIDE = '[models.wide]\ntask = "binary"\nlabel = "late"\n'
COLUMNS, FIRST_PAGE = 1000, [f"sensor_{n:03}" for n in range(999, 959, -1)]
ODD = "<b>Ü & a name that is far longer than a phone is wide, as generated features have it " + "x" * 200
ADDRESS = "/models/wide/columns"


@pytest.fixture(scope="module")
def site(tmp_path_factory, serve):
    loop = churn_loop(tmp_path_factory.mktemp("pages"), ManualClock(NOW), more=WIDE)
    values = [(f"sensor_{n:03}", (n + 1) / COLUMNS) for n in range(COLUMNS)] + [(ODD, 0.0)]
    drift = tuple(DriftValue(name, "psi", far, 0.5, None, far > 0.5, rows=100, decides=True) for name, far in values)
    window = Window(NOW.replace(day=1), NOW.replace(day=2))
    save_evaluation(loop.store, Evaluation("wide", "1", window, NOW, True, 100, 100, drift=drift))
    yield serve(loop)
    loop.close()


def shown(page):
    """The names of the columns on the page."""
    return page.locator("tbody tr td:first-child").all_inner_texts()


def search(page, text):
    page.get_by_label("Name has").fill(text)
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**search=*")


@pytest.mark.parametrize("how", SIZES)
@pytest.mark.parametrize("query", ["", "?page=26", "?search=no+such"])
def test_the_columns_open_on_any_screen_for_everybody(visit, site, query, how):
    page = visit(site + ADDRESS + query, how)
    check(page, f"columns{query.partition('=')[2]}-{how}")
    assert page.locator("h1").all_inner_texts() == ["Columns of wide"]


def test_they_are_leafed_through_to_the_last_and_back(visit, site):
    page = visit(site + ADDRESS)
    assert shown(page) == FIRST_PAGE
    assert page.get_by_role("link", name="Before").count() == 0
    seen = shown(page)
    while page.get_by_role("link", name="Next").count():
        before = page.url
        page.get_by_role("link", name="Next").click()
        page.wait_for_url(lambda url, before=before: url != before)
        seen += shown(page)
    assert (seen[:-1], seen[-1]) == ([f"sensor_{n:03}" for n in range(999, -1, -1)], ODD)
    assert page.get_by_text("1,001 to 1,001 of 1,001").is_visible()
    page.get_by_role("link", name="Before").click()
    page.wait_for_url("**page=25")
    assert shown(page)[-1] == "sensor_000"


def test_a_search_finds_them_whatever_page_one_was_on_and_its_address_can_be_shared(visit, site):
    page = visit(site + ADDRESS + "?page=20")
    search(page, "SENSOR_9")
    assert shown(page) == FIRST_PAGE
    page.get_by_role("link", name="Next").click()
    page.wait_for_url("**page=2")
    assert page.get_by_text("41 to 80 of 100").is_visible()
    page.goto(page.url)
    assert (page.get_by_label("Name has").input_value(), shown(page)[0]) == ("SENSOR_9", "sensor_959")
    with page.expect_download() as download:
        page.locator("a.export").click()
    assert len(list(csv.reader(Path(download.value.path()).read_text().splitlines()))) == 101
    search(page, "<B>ü &")
    assert shown(page) == [ODD]
    search(page, "no such")
    assert page.get_by_text("0 to 0 of 0").is_visible()


def test_with_the_keyboard_alone_one_searches_and_leafs(visit, site):
    page = visit(site + ADDRESS)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skips to the content
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "search"
    page.keyboard.type("sensor_9")
    page.keyboard.press("Enter")
    page.wait_for_url("**search=sensor_9*")
    page.get_by_role("link", name="Next").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**page=2")
    page.keyboard.press("Tab")
    page.get_by_role("link", name="sensor_959").focus()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.className") == "scroll"  # a wide table is moved with the arrows
