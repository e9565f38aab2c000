"""What a page costs: the pages over stores of two sizes that are otherwise alike, on SQLite and on PostgreSQL.

Each is asked for over ASGI, in this process, as it would be with a key in the header; the first request, which
compiles statements and templates, is not counted. A page should cost what it shows, not what the log holds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from starlette.testclient import TestClient

from benchmarks.history import fill
from benchmarks.lines import Line, median, run
from benchmarks.stores import temporary_store
from feedback_loop.clock import ManualClock
from feedback_loop.config import load_settings
from feedback_loop.dashboard import create_app
from feedback_loop.loop import FeedbackLoop
from feedback_loop.store import Store

OURS = "feedback_loop"
KEY = 12_345

PAGES = {
    "overview": "/",
    "model": "/models/orders",
    "versions": "/models/orders/versions",
    "approvals": "/approvals",
    "predictions, the newest": "/models/orders/predictions",
    "predictions, by key": f"/models/orders/predictions?key.order_id={KEY}",
    "predictions, by key, as of": f"/models/orders/predictions?key.order_id={KEY}&as_of=2026-03-01T00:00",
    "jobs": "/models/orders/jobs",
    "policy": "/models/orders/policy",
    "api, status": "/api/status",
}

CONFIG = """\
[store]
url = "{url}"
[registry]
tracking_uri = "sqlite:///mlflow.db"
[models.orders]
task = "binary"
label = "late"
key = ["order_id"]
key_types = {{ order_id = "long" }}
"""


def benchmark(quick: bool) -> Iterator[Line]:
    """Milliseconds and kilobytes of each page, at both sizes."""
    small, large, runs = (20_000, 100_000, 3) if quick else (100_000, 1_000_000, 9)
    for kind in ("sqlite", "postgresql"):
        before: dict[str, float] = {}
        for size in (small, large):
            with temporary_store(kind) as store, tempfile.TemporaryDirectory() as folder:
                until = fill(store, size)
                loop = _loop(store, Path(folder), ManualClock(until))
                for page, (seconds, kilobytes) in _measure(loop, runs).items():
                    case = f"{kind}, {size:,} predictions"
                    against = (f"{small:,} predictions", seconds / before[page]) if before.get(page) else (None, None)
                    yield Line("pages", case, page, 1000 * seconds, "ms", OURS, *against)
                    if size == large and kind == "sqlite":
                        yield Line("pages", case, f"{page}, size", kilobytes, "kB", OURS)
                    if size == small:
                        before[page] = seconds
                loop.close()


def _loop(store: Store, folder: Path, clock: ManualClock) -> FeedbackLoop:
    """A loop over that store; its registry is empty, and no page asks it."""
    path = folder / "feedback_loop.toml"
    path.write_text(CONFIG.format(url=store.url.render_as_string(hide_password=False)))
    return FeedbackLoop(load_settings(path), clock=clock)


def _measure(loop: FeedbackLoop, runs: int) -> dict[str, tuple[float, float]]:
    """The median seconds and the kilobytes of each page."""
    client = TestClient(create_app(loop, host="127.0.0.1"), base_url="http://127.0.0.1")
    measured = {}
    for page, address in PAGES.items():
        seconds, content = [], b""
        for _ in range(runs + 1):
            began = time.perf_counter()
            answer = client.get(address)
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
            content = answer.content
        measured[page] = median(seconds[1:]), len(content) / 1000
    return measured


if __name__ == "__main__":
    run(benchmark, __doc__)
