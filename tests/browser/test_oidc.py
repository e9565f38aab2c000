"""A person signs in at a real provider, on another site, approves a candidate under their own name, and signs out."""

import re

import pytest

from feedback_loop.clock import ManualClock
from tests.browser.conftest import check
from tests.builders import churn_loop, register_churn
from tests.conftest import NOW
from tests.integration.processes import free_port
from tests.integration.provider import configured, running_provider
from tests.integration.test_api import question


@pytest.fixture
def provider():
    with running_provider() as provider:
        yield provider


@pytest.fixture
def complaints():
    """What the browser's console complains of at our pages; nothing, at the end."""
    said = []
    yield said
    assert said == []


@pytest.fixture
def tab(browser, provider, complaints):
    """A page in a browser that knows nobody, and reaches our pages and the provider alone."""
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    ours = re.compile(rf"^(http://127\.0\.0\.1:|{re.escape(provider.issuer)}/)")
    context.route(lambda url: not ours.match(url), lambda route: route.abort())
    page = context.new_page()
    ours_says = lambda said: said.type in ("error", "warning") and "//127.0.0.1" in said.location["url"]  # noqa: E731
    page.on("console", lambda said: complaints.append(said.text) if ours_says(said) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()


def test_a_person_signs_in_approves_under_their_own_name_and_signs_out(tmp_path, serve, provider, tab):
    port = free_port()
    loop = churn_loop(tmp_path, ManualClock(NOW), more=configured(provider.issuer, f"http://127.0.0.1:{port}"))
    register_churn(loop.registry, NOW, seed=3)
    number = question(loop)
    site = serve(loop, port=port)
    tab.goto(f"{site}/approvals/{number}")
    check(tab, "sign-in-oidc")
    tab.get_by_role("link", name="Sign in with Example").click()
    tab.get_by_role("button", name="bob").click()
    tab.wait_for_url(f"{site}/approvals/{number}")
    tab.get_by_label("Reason").fill("the figures are good")
    tab.get_by_role("button", name="Approve version 2").click()
    tab.get_by_role("cell", name="bob@example.org").wait_for()
    assert [vote["voter"] for vote in loop.approvals.show(number)["votes"]] == ["bob@example.org"]
    tab.get_by_role("button", name="Sign out bob@example.org").click()
    tab.get_by_role("button", name="End session").click()
    tab.wait_for_url(f"{site}/sign-in")
    tab.goto(f"{site}/approvals/{number}")
    assert "/sign-in?next=" in tab.url
    loop.close()
