"""Every way in for outcomes: formats over HTTP, folders here and in an object store, somebody's own database."""

import io
import json
import sqlite3
import sys
from datetime import UTC, datetime, timedelta

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from feedback_loop.alerts import about_outcomes, count_refused
from feedback_loop.clock import ManualClock
from feedback_loop.cycle import cycle, take_in
from feedback_loop.errors import BadInput, ConfigError, FeedbackLoopError, Unavailable
from feedback_loop.outcomes import OutcomeFile, load_folder
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.coverage import count_outcomes
from feedback_loop.store.outcomes import load_watermark
from feedback_loop.views.status import loop_status
from tests.builders import churn_loop
from tests.integration.processes import call, server

ROWS = [{"customer": number, "month": "m", "churned": bool(number % 2)} for number in range(4)]
HOUR = timedelta(hours=1)
START = datetime(2026, 3, 1, tzinfo=UTC)


def ndjson(rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def arrow(rows, opener=pa.ipc.new_stream):
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with opener(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_every_format_comes_in_over_http_and_bad_rows_are_told(tmp_path, warm):
    loop = churn_loop(tmp_path, ManualClock(datetime.now(UTC)))
    bad = [*ROWS, {"customer": None, "month": "m", "churned": True}]
    with server(tmp_path / "feedback_loop.toml", log=tmp_path / "log", warm=warm) as (port, _):

        def send(body, kind, more=""):
            status, answer, _ = call(port, "POST", f"/models/churn/outcomes{more}", body, {"content-type": kind})
            return status, answer

        assert send(ndjson(ROWS), "application/x-ndjson")[1]["new"] == 4
        assert send(arrow(ROWS), "application/vnd.apache.arrow.stream")[1]["unchanged"] == 4
        assert send(json.dumps(ROWS), "application/json; charset=utf-8")[1]["unchanged"] == 4
        status, answer = send(ndjson(bad), "application/x-ndjson")
        assert (status, answer["problems"][0]["row"]) == (400, 4)
        status, answer = send(ndjson(bad), "application/x-ndjson", "?on_error=skip")
        assert (status, answer["received"], [each["row"] for each in answer["skipped"]]) == (200, 4, [4])
        status, answer = send(b'{"a": 1}\n{"b"', "application/x-ndjson")
        assert (status, answer["problems"][0]["row"]) == (400, 1)
        for torn in (arrow(ROWS)[:-40], b"\x00" * 50, b""):
            assert send(torn, "application/vnd.apache.arrow.stream")[0] == 400
        assert send(ndjson(ROWS), "text/csv")[0] == 415
        assert send(ndjson(ROWS), "application/x-ndjson", "?on_error=ignore")[0] == 400
        assert call(port, "GET", "/ping")[0] == 200
    assert count_outcomes(loop.store, "churn") == 4
    loop.close()


@pytest.mark.parametrize("cut", [0, 7, 8, 20, 100, 200, 300, 400])
def test_arrow_that_was_cut_off_or_changed_is_refused_and_never_a_crash(cut, tmp_path):
    file = tmp_path / "cut.arrow"
    for whole in (arrow(ROWS), arrow(ROWS, pa.ipc.new_file)):
        file.write_bytes(whole[: cut or 3])
        with pytest.raises(BadInput):
            list(OutcomeFile.of(file).parts({"customer", "churned"}))


@pytest.mark.parametrize("where", ["here", "object store"])
def test_each_file_of_a_folder_is_taken_once_whatever_kind_of_folder_it_is(where, loop, tmp_path):
    folder = f"memory://{tmp_path.name}/outcomes" if where == "object store" else str(tmp_path / "in")
    system, root = fsspec.core.url_to_fs(folder)
    system.makedirs(root)
    files = {
        "a.ndjson": ndjson(ROWS),
        "b.arrow": arrow(ROWS, pa.ipc.new_file),
        "c.csv": b"customer,month\n1,m\n",
        "d.txt": b"x",
        "f": b"a file without an ending",
        ".e.csv": b"half a fi",
    }
    for name, content in files.items():
        system.pipe_file(f"{root}/{name}", content)

    def take(file):
        return loop.outcomes.load("churn", file.path)

    found = load_folder(folder, take)
    assert (found.loaded, found.counts.new, found.counts.unchanged) == (2, 4, 4)
    assert set(found.refused) == {"c.csv", "d.txt", "f"}
    there = sorted(path.removeprefix(root) for path in system.find(root))
    assert there == [
        "/.e.csv",
        "/loaded/a.ndjson",
        "/loaded/b.arrow",
        "/refused/c.csv",
        "/refused/c.csv.cause.txt",
        "/refused/d.txt",
        "/refused/d.txt.cause.txt",
        "/refused/f",
        "/refused/f.cause.txt",
    ]
    assert b"churned" in system.cat_file(f"{root}/refused/c.csv.cause.txt")
    # A crash between the intake and the move: the file comes again, and says nothing new.
    system.pipe_file(f"{root}/a.ndjson", ndjson(ROWS))
    again = load_folder(folder, take)
    assert (again.loaded, again.counts.unchanged) == (1, 4)
    assert load_folder(folder, take).loaded == 0


def test_a_folder_that_can_not_be_opened_says_what_is_missing_and_no_secret(loop):
    with pytest.raises(ConfigError, match="nonsense") as caught:
        load_folder("nonsense://key:secret@bucket/x", lambda _: None)
    assert "secret" not in str(caught.value)
    with pytest.raises(Unavailable):
        load_folder("/proc/none/outcomes", lambda _: None)


def test_a_file_comes_from_standard_input(loop, tmp_path, monkeypatch, capsys):
    from feedback_loop.cli import main

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(ndjson(ROWS))))
    arguments = ["outcomes", "load", "churn", "-", "--format", "ndjson", "--json"]
    monkeypatch.setattr(sys, "argv", ["feedback-loop", *arguments, "--config", str(tmp_path / "feedback_loop.toml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["new"] == 4


class Source:
    """Somebody's own table of outcomes, in one of two databases."""

    def __init__(self, kind, request, tmp_path):
        self.is_postgresql = kind == "postgresql"
        if self.is_postgresql:
            import psycopg

            self.url = request.getfixturevalue("postgres_url")
            self.connect = lambda: psycopg.connect(self.url)
        else:
            self.url = f"sqlite:///{tmp_path}/theirs.db"
            self.connect = lambda: sqlite3.connect(tmp_path / "theirs.db")
        when, number = ("timestamp", "numeric(20)") if self.is_postgresql else ("text", "bigint")
        self.run(f"CREATE TABLE cases (customer {number}, month text, churned boolean, at {when}, number {number})")

    def run(self, statement, *parameters):
        connection = self.connect()
        connection.execute(statement.replace("?", "%s") if self.is_postgresql else statement, parameters)
        connection.commit()
        connection.close()

    def say(self, customer, churned, at, number=0, connection=None):
        moment = at.replace(tzinfo=None) if self.is_postgresql else f"{at:%Y-%m-%d %H:%M:%S}"
        values = (customer, "m", churned, moment, number)
        statement = "INSERT INTO cases VALUES (?, ?, ?, ?, ?)"
        if connection is None:
            self.run(statement, *values)
        else:
            connection.execute(statement.replace("?", "%s"), values)


@pytest.fixture(params=["sqlite", "postgresql"])
def source(request, tmp_path):
    return Source(request.param, request, tmp_path)


def test_each_refused_file_is_told_once_and_nothing_of_what_it_holds(loop, tmp_path, clock):
    folder = tmp_path / "outcomes"
    folder.mkdir()

    def bring(**files):
        for name, text in files.items():
            (folder / f"{name}.csv").write_text(text)
        outcomes = {each.job: each for each in loop.runner.run("churn", cycle(loop, "churn"), clock())}
        assert outcomes["outcomes"].state == "succeeded"
        clock.set(clock() + HOUR)
        return load_alerts(loop.store, [], about=about_outcomes("churn"))

    bad = "customer,month,churned\n1,m,true\n2,m,perhaps\n3,m,never\n"
    [alert] = bring(wrong=bad, good="customer,month,churned\n1,m,true\n")
    assert (alert.route, alert.state, alert.title) == ("log", "pending", "churn: a file of outcomes was refused")
    assert "wrong.csv (row 1, churned and 1 more problems) lies in refused/" in alert.body
    assert "perhaps" not in alert.body
    assert count_refused(loop.store, "churn") == {"files": 1, "polls": 0}
    assert len(bring(wrong=bad)) == 1  # a crash between the alert and the move, or the same file brought again
    assert len(bring(wrong=bad + "4,m,or not\n")) == 2
    assert len(bring(other="customer,month\n")) == 3
    assert count_refused(loop.store, "churn") == {"files": 3, "polls": 0}
    assert loop_status(loop)["models"]["churn"]["refused_outcomes"] == {"files": 3, "polls": 0}


def test_bad_rows_of_a_source_are_told_once_and_newer_ones_again(request, mlflow_uri, tmp_path, clock):
    source = Source("sqlite", request, tmp_path)
    loop = loop_on(source, tmp_path, clock)
    source.say(1, "perhaps", START)
    for _ in range(2):
        loop.outcomes.poll("churn")
    source.say(2, True, START + HOUR / 4)
    assert loop.outcomes.poll("churn").bad_rows == 1  # the overlap brings it again
    assert count_refused(loop.store, "churn") == {"files": 0, "polls": 1}
    source.say(3, "never", START + HOUR / 2)
    loop.outcomes.poll("churn")
    alerts = load_alerts(loop.store, [], about=about_outcomes("churn"))
    assert [alert.body[:50] for alert in alerts] == [
        "1 rows don't fit, the newest at 2026-03-01 00:00:0",
        "2 rows don't fit, the newest at 2026-03-01 00:30:0",
    ]
    loop.close()


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("parquet", b"PAR1", "file: old.parquet can't be read: "),
        ("csv", b"a,b\n1,2\n1,2,3\n", "file: old.csv can't be read: "),
        ("arrow", b"x" * 50, "file: old.arrow can't be read: "),
        ("arrow", b"", "file: old.arrow can't be read: "),
        ("parquet", b"", "file: old.parquet can't be read: "),
        ("ndjson", b'\n\n{"a": 1}\n{"b"\n', "row 1: old.ndjson: line 4 is no JSON object: "),
    ],
)
def test_a_file_that_can_not_be_read_is_told_by_its_name_and_with_a_cure_for_files(kind, body, said, tmp_path):
    (tmp_path / f"old.{kind}").write_bytes(body)
    with pytest.raises(BadInput) as caught:
        list(OutcomeFile.of(tmp_path / f"old.{kind}").parts(None))
    text = str(caught.value)
    assert text.startswith(said)
    assert not any(each in text for each in ("..", "body", "Send"))


def loop_on(source, folder, clock, *, column="at", more=""):
    query = f"SELECT customer, month, churned, {column} FROM cases WHERE {column} > :watermark"  # noqa: S608 (a test's)
    text = f"[models.churn.outcomes.sql]\nurl = {json.dumps(source.url)}\nquery = {json.dumps(query)}\n"
    return churn_loop(folder, clock, more=f'{text}watermark = "{column}"\n{more}')


def test_a_sql_source_is_polled_from_where_the_last_poll_ended(source, mlflow_uri, tmp_path, clock):
    loop = loop_on(source, tmp_path, clock)
    source.say(1, True, START)
    source.say(2, False, START + HOUR)
    first = loop.outcomes.poll("churn")
    assert (first.counts.new, first.bad_rows) == (2, 0)
    assert loop.outcomes.poll("churn").counts.new == 0
    source.say(3, True, START + 3 * HOUR)
    source.say(1, False, START + 4 * HOUR)  # a correction
    found = loop.outcomes.poll("churn")
    assert (found.counts.new, found.counts.corrected, found.counts.received) == (1, 1, 3)
    # What is older than the overlap is not asked for again: one is as old as the overlap, and not above it.
    assert loop.outcomes.poll("churn").counts.received == 1
    assert load_watermark(loop.store, "churn", "sql") is not None
    loop.close()


def test_numbers_are_watermarks_too(source, mlflow_uri, tmp_path, clock):
    loop = loop_on(source, tmp_path, clock, column="number", more="start = 0\noverlap = 2\n")
    for number in range(1, 8):
        source.say(number, True, START, number)
    assert loop.outcomes.poll("churn").counts.new == 7
    source.say(9, True, START, 6)  # a number that was drawn before, and committed after
    found = loop.outcomes.poll("churn")
    assert (found.counts.new, found.counts.received) == (1, 3)
    loop.close()


def test_a_row_whose_transaction_commits_late_is_not_lost(request, mlflow_uri, tmp_path, clock):
    source = Source("postgresql", request, tmp_path)
    loop = loop_on(source, tmp_path, clock)
    late = source.connect()
    source.say(1, True, START, connection=late)
    source.say(2, True, START + HOUR / 2)
    assert loop.outcomes.poll("churn").counts.new == 1
    late.commit()
    late.close()
    assert loop.outcomes.poll("churn").counts.new == 1
    loop.close()


def test_bad_rows_of_a_source_are_left_out_and_told_and_the_good_ones_taken(source, mlflow_uri, tmp_path, clock):
    loop = loop_on(source, tmp_path, clock)
    source.say(1, True, START)
    source.say(None, True, START)
    found = loop.outcomes.poll("churn")
    assert (found.counts.new, found.bad_rows, found.problems[0].cause[:20]) == (1, 1, "names no prediction:")
    loop.close()


def test_a_value_of_another_kind_in_a_source_stops_neither_the_others_nor_the_next_poll(
    request, mlflow_uri, tmp_path, clock
):
    source = Source("sqlite", request, tmp_path)  # which takes any value in any column
    loop = loop_on(source, tmp_path, clock)
    source.say(1, 1, START)
    source.say(2, "perhaps", START + HOUR / 4)
    source.say(3, 0, START + HOUR / 2)
    source.run("INSERT INTO cases VALUES (4, 'm', 1, x'00', 0), (5, 'm', 2, 'later', 0)")
    found = loop.outcomes.poll("churn")
    assert (found.counts.new, found.bad_rows) == (3, 2)
    assert [each.cause for each in found.problems] == [
        "'perhaps' does not fit the type boolean",
        "2 does not fit the type boolean",
    ]
    assert load_watermark(loop.store, "churn", "sql") == "later"
    loop.close()


def test_a_poll_of_times_is_on_record_in_the_ledger(request, mlflow_uri, tmp_path, clock):
    source = Source("postgresql", request, tmp_path)
    loop = loop_on(source, tmp_path, clock)
    source.say(1, True, START)
    outcomes = {each.job: each for each in loop.runner.run("churn", cycle(loop, "churn"), clock())}
    assert (outcomes["outcomes"].state, outcomes["outcomes"].result["sql"]["watermark"]) == (
        "succeeded",
        "2026-03-01T00:00:00",
    )
    loop.close()


def test_a_source_that_is_away_stops_no_other_and_is_told_without_its_password(tmp_path, clock):
    away = '[models.churn.outcomes.sql]\nquery = "SELECT 1"\nwatermark = "at"\n'
    away += 'url = "postgresql://me:secret@127.0.0.1:1/x"\n'
    loop = churn_loop(tmp_path, clock, more=away)
    (tmp_path / "outcomes").mkdir()
    (tmp_path / "outcomes" / "a.ndjson").write_bytes(ndjson(ROWS))
    with pytest.raises(Unavailable) as caught:
        take_in(loop, "churn")
    assert "secret" not in str(caught.value)
    assert count_outcomes(loop.store, "churn") == 4
    (tmp_path / "outcomes" / "b.ndjson").write_bytes(ndjson(ROWS))
    (tmp_path / "outcomes" / "c.csv").write_text("nonsense\n1\n")
    with pytest.raises(Unavailable) as caught:
        take_in(loop, "churn")
    assert "The folder brought 4 outcomes, 0 of them new. It refused c.csv: churned: is missing" in caught.value.cause
    outcomes = {each.job: each.state for each in loop.runner.run("churn", cycle(loop, "churn"), clock())}
    assert (outcomes["outcomes"], outcomes["join"]) == ("failed", "succeeded")
    loop.close()


@pytest.mark.parametrize(
    ("query", "said"), [("SELECT nothing FROM cases", "nothing"), ("SELECT customer FROM cases", "no column 'at'")]
)
def test_a_query_that_is_wrong_says_so(query, said, request, tmp_path, clock):
    source = Source("sqlite", request, tmp_path)
    source.say(1, True, START)
    text = f'[models.churn.outcomes.sql]\nurl = "{source.url}"\nquery = "{query}"\nwatermark = "at"\n'
    loop = churn_loop(tmp_path, clock, more=text)
    with pytest.raises(FeedbackLoopError, match=said):
        loop.outcomes.poll("churn")
    loop.close()


def as_csv(rows, path):
    pacsv.write_csv(rows, path)


def as_ndjson(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))


def as_arrow(rows, path):
    with pa.ipc.new_file(path, rows.schema) as writer:
        for batch in rows.to_batches(max_chunksize=3):
            writer.write_batch(batch)


@pytest.mark.parametrize("write", [pq.write_table, as_csv, as_ndjson, as_arrow])
def test_a_file_is_taken_in_by_parts_and_refused_whole_by_a_bad_row_of_any(loop, tmp_path, write):
    ending = {pq.write_table: "parquet", as_csv: "csv", as_ndjson: "ndjson", as_arrow: "arrow"}[write]
    file = tmp_path / f"truth.{ending}"
    months = ["m"] * 6 + [None, "m"]
    write(pa.table({"customer": range(8), "month": months, "churned": [True] * 8}), file)
    with pytest.raises(BadInput, match=r"row 6: .*names no prediction") as refused:
        loop.outcomes.load("churn", file, chunk_rows=3)
    assert [each.row for each in refused.value.problems] == [6]
    assert count_outcomes(loop.store, "churn") == 0
    result = loop.outcomes.load("churn", file, on_error="skip", chunk_rows=3)
    assert (result.counts.new, [each.row for each in result.skipped]) == (7, [6])
    assert loop.outcomes.load("churn", file, on_error="skip", chunk_rows=3).counts.unchanged == 7


def test_no_more_of_a_file_is_in_memory_than_a_part(tmp_path):
    rows = pa.table({"customer": np.arange(2_000_000), "churned": np.zeros(2_000_000, bool)})
    pq.write_table(rows, tmp_path / "truth.parquet")
    whole, before = rows.nbytes, pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in OutcomeFile.of(tmp_path / "truth.parquet").parts(None)]
    assert len(held) == 40
    assert max(held) < whole / 3
