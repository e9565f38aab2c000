"""A real browser, and our pages served to it over a small store."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from feedback_loop.dashboard import create_app
from tests.integration.processes import free_port

SIZES = {"light": (1360, 900), "dark": (1360, 900), "phone": (390, 844)}
"""How pages are looked at: on a screen, light or dark, and on a phone."""


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "There is no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def serve():
    """Serves the pages of a loop as long as the session takes; returns their address.

    `host` is what they take themselves to listen at: at any but loopback they ask for a key. Without a `port`: any.
    """
    servers = []

    def serve(loop, host="127.0.0.1", port=None):
        port = port or free_port()
        options = {"host": "127.0.0.1", "port": port, "log_level": "warning"}
        server = uvicorn.Server(uvicorn.Config(create_app(loop, host=host), **options))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join()


@pytest.fixture
def visit(browser):
    """Opens pages as somebody with that screen; at the end none may have complained or asked another site."""
    contexts, complaints = [], []

    def visit(address, how="light"):
        width, height = SIZES[how]
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, color_scheme="dark" if how == "dark" else "light")
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(address[:17]) else complaints.append(asked.url))
        answer = page.goto(address)
        assert answer.status == 200
        assert len(answer.body()) < 200_000
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def check(page, name):
    """That everybody can use the page as it is now, and that it fits; kept as a picture where SCREENSHOTS says."""
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(os.environ["SCREENSHOTS"]) / f"{name}.png"), full_page=True)
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), f"{name} is wider than its screen"
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
