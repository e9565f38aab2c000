"""From a caller's trace to the write into the store: spools note the requests of rows, forwarders link to them."""

import signal
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from feedback_loop.capture import Forwarder, Spool
from feedback_loop.capture.spool_file import connect
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import Unavailable
from feedback_loop.store import Store
from feedback_loop.store.predictions import PredictionLog
from feedback_loop.tracing import MOST_LINKS, Tracing, batch, step, traceparents
from tests.spools import NOW, fill, forwarder, new_spool, stored

OWNER = """
import os
from pathlib import Path
from tests.contract.test_traced_spools import *

tracing, _ = new_tracing()
spool = traced_spool(Path(sys.argv[1]))
for numbers in (range(100, 101), range(200, 202), range(300, 303)):
    with requests(tracing, numbers) as spans:
        ids = fill(spool, groups=1)
    print(*spans, *ids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

FORWARDER = """
from pathlib import Path
from tests.contract.test_traced_spools import *
from tests.fault.mother import die_at

die_at("taken out of the spool", "before", 1)
traced_forwarder(Path(sys.argv[1]), Store(sys.argv[2]), new_tracing()[0]).drain()
"""


def new_tracing():
    """Traces of what its caller samples, and where they are found."""
    provider, exported = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Tracing(provider), exported


def traced_spool(folder):
    return Spool(folder, CaptureSettings(), lambda _: LogSettings(), traceparents=traceparents)


def traced_forwarder(folder, store, tracing):
    return Forwarder(folder, PredictionLog(store), store, lambda: NOW, CaptureSettings(), tracing=tracing)


@contextmanager
def requests(tracing, numbers, flags="01"):
    """A batch of requests, one in each number's trace; what is spooled in the block is theirs. Gives their spans."""
    begun = [tracing.begin("POST", "x", {"traceparent": f"00-{n:032x}-{n:016x}-{flags}"}.get) for n in numbers]
    with batch(begun, len(begun), "churn", "1"), step("commit"):
        yield [each.span.get_span_context().span_id for each in begun]
    for request in begun:
        tracing.end(request, 200)


@pytest.fixture
def traced():
    tracing, exported = new_tracing()
    yield tracing, exported
    tracing.stop()


def of_the_log(exported):
    return [span for span in exported.get_finished_spans() if span.name == "log"]


def linked(span):
    return {link.context.trace_id: link.context.span_id for link in span.links}


def test_a_callers_trace_leads_to_the_store_although_owner_and_forwarder_are_killed(store, folder, traced):
    url = store.url.render_as_string(hide_password=False)
    owner = subprocess.run([sys.executable, "-c", OWNER, folder], check=False, stdout=subprocess.PIPE, text=True)
    killed = subprocess.run([sys.executable, "-c", FORWARDER, folder, url], check=False)
    assert (owner.returncode, killed.returncode) == (-signal.SIGKILL, -signal.SIGKILL)
    said = owner.stdout.split()
    ids, spans = sorted(each for each in said if "-" in each), [int(each) for each in said if "-" not in each]
    assert stored(store) == ids  # they are there, and the spool does not know of it

    tracing, exported = traced
    assert traced_forwarder(folder, store, tracing).drain().stored == len(ids) == 9
    assert stored(store) == ids
    [log] = of_the_log(exported)
    assert linked(log) == dict(zip((100, 200, 201, 300, 301, 302), spans, strict=True))
    assert (log.context.trace_id, log.parent.span_id) == (100, spans[0])  # within the trace of the first
    wanted = {"feedback_loop.rows": 9, "feedback_loop.requests": 6, "feedback_loop.model": "churn"}
    assert dict(log.attributes) == wanted


def test_every_request_is_linked_by_as_many_spans_as_that_takes(sqlite_store, folder, traced):
    tracing, exported = traced
    numbers = range(1, 2 * MOST_LINKS + 2)
    with closing(traced_spool(folder)) as spool:
        with requests(tracing, numbers) as spans:
            fill(spool, groups=2)  # of a call that two versions share
        traced_forwarder(folder, sqlite_store, tracing).drain()
    logs = of_the_log(exported)
    assert sorted(len(log.links) for log in logs) == [1, MOST_LINKS, MOST_LINKS]
    assert {trace: span for log in logs for trace, span in linked(log).items()} == dict(
        zip(numbers, spans, strict=True)
    )


def test_what_keeps_rows_from_the_store_is_seen_in_the_trace(sqlite_store, folder, traced, tmp_path):
    tracing, exported = traced
    away = Store(f"sqlite:///{tmp_path}/nowhere/store.db")
    with closing(traced_spool(folder)) as spool:
        with requests(tracing, [7]):
            fill(spool, groups=1)
        with pytest.raises(Unavailable):
            traced_forwarder(folder, away, tracing).drain()
        traced_forwarder(folder, sqlite_store, tracing).drain()
    assert len(stored(sqlite_store)) == 3
    refused, log = of_the_log(exported)
    assert [event.name for event in refused.events] == ["exception"]
    assert (log.events, linked(log)) == ((), linked(refused))


def test_spools_and_forwarders_that_trace_work_with_those_that_do_not(sqlite_store, folder, traced):
    tracing, exported = traced
    with closing(new_spool(folder)) as plain, requests(tracing, [7]):  # as one of an earlier release
        fill(plain)
        assert traced_forwarder(folder, sqlite_store, tracing).drain().stored == 60
    with closing(traced_spool(folder)) as spool, requests(tracing, [7]):
        fill(spool)
        assert forwarder(folder, sqlite_store).drain().stored == 60
    assert of_the_log(exported) == []


def test_rows_of_requests_that_are_not_sampled_or_of_none_have_no_span(sqlite_store, folder, traced):
    tracing, exported = traced
    with closing(traced_spool(folder)) as spool:
        with requests(tracing, [7], flags="00"):
            fill(spool)
        fill(spool)
        assert traced_forwarder(folder, sqlite_store, tracing).drain().stored == 120
    assert of_the_log(exported) == []


def test_what_stands_in_a_torn_spool_in_the_place_of_a_request_keeps_no_row_back(sqlite_store, folder, traced):
    tracing, exported = traced
    with closing(traced_spool(folder)) as spool:
        for _ in range(4):
            with requests(tracing, [7]):
                fill(spool, groups=1)
        with closing(connect(spool.path)) as file:
            for seq, wrong in enumerate((b"\xff\x00 00-zz", 7.5, None), 1):
                file.execute("UPDATE groups SET traceparents = ? WHERE seq = ?", (wrong, seq))
        assert traced_forwarder(folder, sqlite_store, tracing).drain().stored == 12
    [log] = of_the_log(exported)
    assert (list(linked(log)), log.attributes["feedback_loop.rows"]) == ([7], 12)
