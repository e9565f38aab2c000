"""What Prometheus reads: every worker's figures, whichever is asked; parsed by Prometheus' own parser."""

import os
import subprocess
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from feedback_loop.capture import Spool, spool_outcomes
from feedback_loop.clock import ManualClock
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.serving.board import Board, shared_folder
from feedback_loop.serving.metrics import Metrics
from tests.builders import binary_contract, prediction_rows
from tests.integration.processes import end
from tests.warm import FRESH

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def opened(folder, *models):
    board = Board(folder, models or ("churn",))
    board.open()
    return board


def spool_in(folder):
    return Spool(folder, CaptureSettings(), lambda _: LogSettings(), "aa")


def figures(board, spool):
    text = Metrics(board, spool, ManualClock(NOW)).text().decode()
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {
        (each.name.removeprefix("feedback_loop_"), *each.labels.values()): each.value
        for family in families
        for each in family.samples
    }


@pytest.fixture
def board(tmp_path):
    made = opened(tmp_path / "figures", "churn", "price")
    yield made
    made.close()


@pytest.fixture
def spool(tmp_path):
    made = spool_in(tmp_path / "spool")
    yield made
    made.close()


def test_requests_are_counted_by_route_and_status_and_errors_by_whose_fault_they_are(board, spool):
    for route, status in [("invocations", 200), ("invocations", 400), ("invocations", 503), ("nonsense", 418)]:
        board.request_began()
        board.request_done(route, status, 0.001)
    board.request_began()
    found = figures(board, spool)
    assert found["requests_total", "invocations", "200"] == 1
    assert found["errors_total", "caller", "invocations"] == 1
    assert found["errors_total", "server", "invocations"] == 1
    assert found["requests_total", "other", "418"] == 1
    assert ("requests_total", "outcomes", "200") not in found
    assert found["requests_in_flight",] == 1


def test_times_fall_into_the_buckets_that_hold_them(board, spool):
    for seconds in (0.0001, 0.0002, 0.003, 7.0):
        board.request_began()
        board.request_done("infer", 200, seconds)
    found = figures(board, spool)
    assert [
        found["request_seconds_bucket", bound, "infer"] for bound in ("0.0002", "0.0005", "0.003", "5.0", "+Inf")
    ] == [2, 2, 3, 3, 4]
    assert found["request_seconds_count", "infer"] == 4
    assert found["request_seconds_sum", "infer"] == pytest.approx(7.0033)


def test_batches_are_counted_by_their_rows(board, spool):
    for rows in (1, 1, 5, 5000):
        board.batch_done(rows)
    found = figures(board, spool)
    assert [found["batch_rows_bucket", bound] for bound in ("1.0", "4.0", "8.0", "4096.0", "+Inf")] == [2, 2, 3, 3, 4]
    assert (found["batch_rows_count",], found["batch_rows_sum",]) == (4, 5007)


def test_versions_swaps_and_dropped_shadows_are_told_by_model(board, spool):
    board.show_versions([("churn", "champion", "1"), ("price", "champion", "9")])
    board.show_versions([("churn", "champion", "1"), ("price", "champion", "9")])
    board.show_versions([("churn", "champion", "2"), ("churn", "shadow", "3"), ("price", "champion", "9")])
    board.shadow_dropped("price", 7)
    found = figures(board, spool)
    assert found["version_in_service", "churn", "champion", "2"] == 1
    assert found["version_in_service", "churn", "shadow", "3"] == 1
    assert ("version_in_service", "churn", "champion", "1") not in found
    assert (found["swaps_total", "churn"], found["swaps_total", "price"]) == (1, 0)
    assert (found["shadow_rows_dropped_total", "churn"], found["shadow_rows_dropped_total", "price"]) == (0, 7)


OTHER_WORKER = """
import sys
from pathlib import Path
from tests.unit.test_metrics import NOW, binary_contract, opened, prediction_rows, spool_in
folder = Path(sys.argv[1])
board, spool, contract = opened(folder / "figures", "churn", "price"), spool_in(folder / "spool"), binary_contract()
board.request_began()
board.request_done("invocations", 200, 0.001)
board.request_began()
board.show_versions([("churn", "champion", "1")])
columns = {"prediction": True, "probability": 0.5, "age": 1.0, "plan": "a"}
rows = prediction_rows(contract, [NOW] * 3, **{name: [value] * 3 for name, value in columns.items()})
spool.append(contract, rows, NOW)
print("ready", flush=True)
sys.stdin.read()
"""


def leave_rows_of_another_server(folder, pid):
    """One whose worker has the same number: in containers all have, and share the volume that the spools are on."""
    spool, contract = Spool(folder, CaptureSettings(), lambda _: LogSettings(), "bb"), binary_contract()
    spool.append(contract, prediction_rows(contract, [NOW] * 5), NOW)
    path = spool.path
    spool.close()
    path.rename(path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{pid}-")))


def test_whichever_worker_is_asked_tells_of_all_and_one_that_ended_goes_on_counting(board, spool, tmp_path):
    board.request_began()
    board.request_done("invocations", 200, 0.001)
    board.show_versions([("churn", "champion", "1")])
    contract = binary_contract()
    rows = prediction_rows(contract, [NOW], prediction=[True], probability=[0.5], age=[1.0], plan=["a"])
    spool.append(contract, rows, NOW)
    spool.count("churn", answered=1)
    command = [FRESH, "-c", OTHER_WORKER, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert other.stdout.readline() == b"ready\n"
        leave_rows_of_another_server(tmp_path / "spool", other.pid)
        found = figures(board, spool)
        assert found["requests_total", "invocations", "200"] == 2
        assert (found["workers",], found["requests_in_flight",]) == (2, 1)
        assert found["version_in_service", "churn", "champion", "1"] == 2
        assert (found["rows_spooled_total", "churn"], found["rows_waiting", "churn"]) == (4, 4)
        assert found["rows_answered_total", "churn"] == 1
    finally:
        end(other)
        other.stdin.close()
        other.stdout.close()
    found = figures(board, spool)
    assert found["requests_total", "invocations", "200"] == 2
    assert (found["workers",], found["requests_in_flight",]) == (1, 0)
    assert found["version_in_service", "churn", "champion", "1"] == 1


def test_what_a_killed_server_left_is_gone_with_the_next_and_a_running_ones_stays(tmp_path):
    left = tmp_path / "figures-killed"
    left.mkdir()
    (left / "lock").touch()
    with shared_folder(tmp_path) as one:
        assert not left.exists()
        with shared_folder(tmp_path) as two:
            assert (one.exists(), two.exists(), one != two) == (True, True, True)
        assert (one.exists(), two.exists()) == (True, False)
    assert list(tmp_path.glob("figures-*")) == []


def test_a_worker_that_was_killed_while_it_wrote_keeps_nobody_from_reading_the_rest(board, spool):
    """What is written is counted once it is whole; a file that is not whole yet has another name."""
    board.batch_done(3)
    lock = board.folder / "1.lock"
    lock.touch()
    (board.folder / "gauge_livesum_1.db").write_bytes(next(board.folder.glob("gauge_livesum_*.db")).read_bytes())
    (board.folder / "counter_1.new").write_bytes(b"")
    (path,) = board.folder.glob("counter_*.db")
    torn = bytearray(path.read_bytes())
    used = int.from_bytes(torn[:4], "little")
    torn[used : used + 40] = b"\xff" * 40  # a number that was never finished
    (board.folder / "counter_1.db").write_bytes(torn)
    found = figures(board, spool)
    assert (found["batch_rows_count",], found["workers",]) == (1, 1)


def test_outcomes_that_wait_for_the_store_are_counted_apart_from_predictions(board, spool):
    contract = binary_contract()
    spool.append(contract, prediction_rows(contract, [NOW] * 3), NOW)
    spool_outcomes(spool, contract, pa.table({"churned": [True, False]}), NOW, timed=True)
    found = figures(board, spool)
    assert found["rows_spooled_total", "churn"] == found["rows_waiting", "churn"] == 3
    assert found["outcomes_spooled_total", "churn"] == found["outcomes_waiting", "churn"] == 2
    assert found["outcomes_missing", "churn"] == found["outcomes_stored_total", "churn"] == 0
