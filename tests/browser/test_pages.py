"""Reports open in a real browser, offline and without errors; Evidently's own UI shows them over time.

Run by `make browser`: these need Debian's (or anybody's) chromium, and are not part of `make test`. With
`SCREENSHOTS=folder` what is seen is kept there, for people to look at.
"""

import json
import os
import urllib.request
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.monitoring import write_report
from feedback_loop.monitoring.reports import RealRows
from feedback_loop.rehearsal import plot_losses
from feedback_loop.retraining.variant_plots import plot_variants
from tests.builders import binary_contract, multiclass_contract, regression_contract
from tests.integration.processes import free_port, running, wait_until
from tests.integration.test_reports import MARCH, binary, multiclass, regression, subject
from tests.warm import FRESH


@pytest.fixture
def look(browser):
    """Opens a page, and returns it with what it complained of and what it asked the network for."""
    complaints = []

    def opened(address, name, *, offline=True):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if offline:
            page.route(
                lambda url: url.startswith("http"),
                lambda route: (complaints.append(route.request.url), route.abort()),
            )
        page.goto(address)
        return page

    def shown(page, name):
        if os.environ.get("SCREENSHOTS"):
            page.screenshot(path=str(Path(os.environ["SCREENSHOTS"]) / f"{name}.png"), full_page=True)

    return opened, shown, complaints


KINDS = {
    "binary": (binary_contract(), binary),
    "labels-only": (binary_contract(probabilities=False), binary),
    "multiclass": (multiclass_contract(), multiclass),
    "regression": (regression_contract(), regression),
}


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("kind", ["drift", "validation"])
def test_a_report_opens_offline_without_a_complaint(tmp_path, look, task, kind):
    contract, rows = KINDS[task]
    opened, shown, complaints = look
    html, _ = write_report(kind, subject(contract, rows(6000), rows(8000)), tmp_path)
    page = opened(html.as_uri(), task)
    page.get_by_text("Exact, of all rows").first.wait_for()
    page.get_by_text("surrogate rows, made from their profiles").wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    if (task, kind) == ("binary", "validation"):
        for title in ("Calibration", "Lift", "ROC", "Precision and recall"):
            assert page.get_by_text(title, exact=True).first.is_visible()
    shown(page, f"{task}-{kind}")
    assert complaints == []
    page.close()


MARKUP = [
    "</script><img src=x onerror='window.hurt = 1'>",
    "<script>window.hurt = 1</script>",
    "<!-- <script>",
    '<a href="https://elsewhere.example/">here</a>',
    "<b onmouseover='window.hurt = 1'>bold</b>",
    "{{7*7}}<svg/onload='window.hurt = 1'>",
]
LIVE = """
window.hurt || document.querySelectorAll("[onerror], [onload], [onmouseover], a[*|href*='elsewhere']").length
"""


@pytest.mark.parametrize("shown", ["surrogate", "full"])
@pytest.mark.parametrize("kind", ["drift", "validation"])
def test_what_callers_sent_is_text_on_every_page_whatever_markup_is_in_it(tmp_path, look, kind, shown):
    opened, _, complaints = look
    reference, current = marked(binary(3000)), marked(binary(3000))
    contract = binary_contract(model=MARKUP[0])
    real = RealRows(current, reference, shown) if shown == "full" else None
    html, _ = write_report(kind, subject(contract, reference, current, name="month"), tmp_path, real)
    page = opened(html.as_uri(), "marked")
    page.locator(".js-plotly-plot").first.wait_for()
    for button in page.locator("tbody button:enabled").all():  # the columns' details
        button.click()
    page.wait_for_timeout(500)
    assert not page.evaluate(LIVE)
    assert complaints == []
    page.close()


def test_plots_of_what_somebody_named_are_text_too(tmp_path, look):
    opened, _, complaints = look
    variants = [
        {"variant": name, "size_bytes": 1.0, "p50_us": 1.0, "p99_us": 1.0, "rows_per_second": 1.0, "score": 0.5}
        | {"chosen": False, "within_budget": True}
        for name in MARKUP
    ]
    for _, html in [
        plot_variants(variants, name="variants", title=MARKUP[0], folder=tmp_path),
        plot_losses(
            {each: {MARCH.start: 1.0} for each in MARKUP},
            [(MARCH.start, MARKUP[0])],
            title=MARKUP[3],
            folder=tmp_path,
        ),
    ]:
        page = opened(html.as_uri(), "plot")
        page.locator(".js-plotly-plot").first.wait_for()
        assert not page.evaluate(LIVE)
        page.close()
    assert complaints == []


def marked(rows):
    words = [MARKUP[place % len(MARKUP)] for place in range(rows.num_rows)]
    return rows.set_column(rows.column_names.index("plan"), "plan", pa.array(words))


def test_a_page_of_twenty_features_is_small_and_its_details_open(tmp_path, look):
    contract, rows = wide()
    opened, shown, complaints = look
    html, _ = write_report("drift", subject(contract, rows(20_000, 0.0), rows(50_000, 0.2)), tmp_path)
    assert html.stat().st_size < 6 * 2**20
    page = opened(html.as_uri(), "wide")
    page.locator(".js-plotly-plot").first.wait_for()
    before = page.locator(".js-plotly-plot").count()
    page.locator("tbody button:enabled").first.click()
    page.wait_for_function(f"document.querySelectorAll('.js-plotly-plot').length > {before}")
    shown(page, "wide-drift")
    assert complaints == []
    page.close()


def wide():
    """A contract with 15 numbers and 5 words, and what makes rows of it."""
    from feedback_loop.schema import Column, ColumnType

    numbers, words = [f"number_{place}" for place in range(15)], [f"word_{place}" for place in range(5)]
    features = [Column(name, ColumnType.DOUBLE) for name in numbers] + [
        Column(name, ColumnType.STRING) for name in words
    ]
    contract = binary_contract(features=tuple(features), segments=())
    random = np.random.default_rng(4)

    def rows(count, shift):
        table = binary(count).drop_columns(["age", "plan"])
        columns = {name: random.normal(shift, 1, count) for name in numbers}
        columns |= {name: random.choice(list("abcdefgh"), count) for name in words}
        return pa.table({**columns, **{name: table[name] for name in table.column_names}})

    return contract, rows


def test_evidentlys_own_ui_shows_the_reports_over_time(tmp_path, look):
    opened, shown, complaints = look
    for month in range(3):
        window = Window(MARCH.start + timedelta(days=30 * month), MARCH.start + timedelta(days=30 * (month + 1)))
        found = subject(
            binary_contract(), binary(2000), binary(2000, shift=2.0 * month), name=f"m{month}", window=window
        )
        for kind in ("drift", "validation", "drift"):
            write_report(kind, found, tmp_path)
    port, log = free_port(), tmp_path / "ui.log"
    command = [str(Path(FRESH).parent / "evidently"), "ui", "--workspace", str(tmp_path / "evidently")]
    with running([*command, "--port", str(port)], log) as process:
        root = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{root}/api/projects/"), process, log)
        (project,) = asked(f"{root}/api/projects/")
        snapshots = asked(f"{root}/api/projects/{project['id']}/snapshots")
        assert project["name"] == "churn"
        assert sorted((each["timestamp"][:10], each["tags"][0]) for each in snapshots) == [
            (day, kind) for day in ("2026-03-31", "2026-04-30", "2026-05-30") for kind in ("drift", "validation")
        ]
        page = opened(f"{root}/projects/{project['id']}", "dashboard", offline=False)
        page.get_by_text("Distance from the reference").wait_for()
        shown(page, "ui-dashboard")
        page.goto(f"{root}/projects/{project['id']}/reports/{snapshots[0]['id']}")
        page.get_by_text("Exact, of all rows").first.wait_for()
        shown(page, "ui-report")
        page.close()
    assert complaints == []


def asked(address):
    with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 (our own)
        return json.loads(answer.read())


def answers(address):
    try:
        return asked(address) is not None
    except OSError:
        return False
