"""What a browser does with our pages, for a test client: signs in, and sends a form with its token."""

import re
from html.parser import HTMLParser

from feedback_loop.clock import Window
from feedback_loop.store.evaluations import DriftValue, Evaluation, MetricValue
from tests.conftest import NOW

HOSTILE = "<img src=x onerror=alert(1)>\u202e"
MORE = f"""
[models.'{HOSTILE}']
task = "binary"
label = "late"
[models.calm]
task = "binary"
label = "late"
"""
FIRST, DAY = NOW.replace(day=1), Window(NOW.replace(day=1), NOW.replace(day=2))


def evaluated(model):
    """An evaluation whose segment and columns are markup too."""
    metrics = MetricValue("brier", 0.3, 100, 0.01), MetricValue("brier", 0.4, 50, 0.02, segment=f"plan={HOSTILE}")
    drift = (DriftValue(HOSTILE, "psi", 0.3, 0.1, 1e-9, drifted=True, rows=100, decides=True),)
    return Evaluation(model, "1", DAY, NOW, True, 100, 100, metrics=metrics, drift=drift)


def attributes_of(page):
    """Those of all elements of a page."""
    collected, parser = [], HTMLParser()
    parser.handle_starttag = lambda _, attributes: collected.extend(attributes)
    parser.feed(page)
    return collected


def token(client, path="/sign-in"):
    return re.search(r'name="csrf" value="(\w+)"', client.get(path).text)[1]


def sign_in(client, key, goes_to=""):
    return client.post("/sign-in", data={"key": key, "next": goes_to, "csrf": token(client)})
