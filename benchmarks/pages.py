"""What a page costs: the pages over stores of two sizes that are otherwise alike, on SQLite and on PostgreSQL.

Each store has 90 days of a model behind it (`operated`), and a second model of 1,000 columns.

Each is asked for over ASGI, in this process, as it would be with a key in the header; the first request, which
compiles statements and templates, is not counted. A page should cost what it shows, not what the log holds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.testclient import TestClient

from benchmarks import history
from benchmarks.lines import Line, command_line, median, show
from benchmarks.operated import fill, operate, widen
from benchmarks.stores import temporary_store
from feedback_loop.clock import ManualClock
from feedback_loop.config import load_settings
from feedback_loop.dashboard import create_app
from feedback_loop.loop import FeedbackLoop
from feedback_loop.store import Store
from feedback_loop.store.coverage import count_by_version

OURS = "feedback_loop"
KEY = 12_345
WIDE = 1000

ORDERS = "/models/orders"

PAGES = {
    "overview": "/",
    "model": ORDERS,
    "column": f"{ORDERS}/column?name=number_0",
    "columns": f"{ORDERS}/columns",
    "model of 1,000 columns": "/models/wide",
    "columns of 1,000": "/models/wide/columns?search=99",
    "versions": f"{ORDERS}/versions",
    "version": f"{ORDERS}/versions/1",
    "approvals": "/approvals",
    "approval": "/approvals/1",
    "incident": "/incidents/1",
    "predictions, the newest": f"{ORDERS}/predictions",
    "predictions, by key": f"{ORDERS}/predictions?key.order_id={KEY}",
    "predictions, by key, as of": f"{ORDERS}/predictions?key.order_id={KEY}&as_of=2026-03-01T00:00",
    "predictions, as of": f"{ORDERS}/predictions?as_of=2026-02-01T00:00",
    "jobs": f"{ORDERS}/jobs",
    "policy": f"{ORDERS}/policy",
    "metrics": "/metrics",
    **{
        f"api, {name}": f"/api{path}"
        for name, path in {
            "status": "/status",
            "models": "/models",
            "doctor": "/doctor",
            "model": ORDERS,
            "performance": f"{ORDERS}/performance",
            "performance of 1,000 columns": "/models/wide/performance",
            "versions": f"{ORDERS}/versions",
            "version": f"{ORDERS}/versions/1",
            "history": f"{ORDERS}/history",
            "retrainings": f"{ORDERS}/retrainings",
            "retraining": f"{ORDERS}/retrainings/1",
            "incidents": f"{ORDERS}/incidents?closed=true",
            "incident": f"{ORDERS}/incidents/1",
            "approvals": f"{ORDERS}/approvals?closed=true",
            "approval": f"{ORDERS}/approvals/1",
            "predictions, 50": f"{ORDERS}/predictions",
            "predictions, 500": f"{ORDERS}/predictions?newest=500",
            "predictions, by key": f"{ORDERS}/predictions?key=order_id={KEY}",
            "jobs": f"{ORDERS}/jobs",
            "policy": f"{ORDERS}/policy",
        }.items()
    },
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
[models.wide]
task = "binary"
label = "late"
"""


def benchmark(quick: bool) -> Iterator[Line]:
    """Milliseconds of wall and of processor time, and kilobytes, of each page, at both sizes."""
    small, large, runs = (20_000, 100_000, 3) if quick else (1_000_000, 10_000_000, 9)
    for kind in ("sqlite", "postgresql"):
        before: dict[str, Cost] = {}
        for size in (small, large):
            with temporary_store(kind) as store, tempfile.TemporaryDirectory() as folder:
                loop = _loop(store, Path(folder), ManualClock(fill(store, size)))
                operate(store, loop)
                widen(store, WIDE)
                measured = _measure(loop, runs)
                yield from _lines(f"{kind}, {size:,} predictions", measured, before, f"{small:,} predictions")
                before = measured
                loop.close()


def of_kept(url: str) -> Iterator[Line]:
    """The same of a store that was filled before (`fill`, `operate`, `widen`)."""
    store = Store(url)
    with tempfile.TemporaryDirectory() as folder:
        loop = _loop(store, Path(folder), ManualClock(history.START + history.DAYS * history.DAY))
        size = sum(count_by_version(store, "orders").values())
        yield from _lines(f"{store.kind.lower()}, {size:,} predictions", _measure(loop, 9), {}, "")
        loop.close()


def _lines(case: str, measured: dict[str, Cost], before: dict[str, Cost], smaller: str) -> Iterator[Line]:
    for page, cost in measured.items():
        against = (smaller, cost.seconds / before[page].seconds) if page in before else (None, None)
        yield Line("pages", case, page, 1000 * cost.seconds, "ms", OURS, *against)
        yield Line("pages", case, f"{page}, processor", 1000 * cost.busy, "ms", OURS)
        yield Line("pages", case, f"{page}, size", cost.kilobytes, "kB", OURS)


def _loop(store: Store, folder: Path, clock: ManualClock) -> FeedbackLoop:
    """A loop over that store; its registry is empty, and no page asks it."""
    path = folder / "feedback_loop.toml"
    path.write_text(CONFIG.format(url=store.url.render_as_string(hide_password=False)))
    return FeedbackLoop(load_settings(path), clock=clock)


@dataclass(frozen=True)
class Cost:
    """What a page costs: its time (median), that of the processor in it, and its size."""

    seconds: float
    busy: float
    kilobytes: float


def _measure(loop: FeedbackLoop, runs: int) -> dict[str, Cost]:
    client = TestClient(create_app(loop, host="127.0.0.1"), base_url="http://127.0.0.1")
    measured = {}
    for page, address in PAGES.items():
        seconds, busy, content = [], [], b""
        for _ in range(runs + 1):
            began, busy_before = time.perf_counter(), time.process_time()
            answer = client.get(address)
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - busy_before)
            assert answer.status_code == 200, answer.text
            content = answer.content
        measured[page] = Cost(median(seconds[1:]), median(busy[1:]), len(content) / 1000)
    return measured


def main() -> None:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--store", help="the URL of a store that was filled before")
    options = parser.parse_args()
    show(of_kept(options.store) if options.store else benchmark(options.quick), as_json=options.json)


if __name__ == "__main__":
    main()
