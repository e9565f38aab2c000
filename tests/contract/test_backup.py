"""A backup is the store of one moment; restored into an empty one it answers every question alike."""

import gzip
import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from itertools import pairwise

import pytest
import sqlalchemy as sa

from feedback_loop.clock import Window
from feedback_loop.errors import FeedbackLoopError, NotFound, Refused, Unavailable
from feedback_loop.store import Store, keys, migrate
from feedback_loop.store.backup import make_backup, restore_backup
from feedback_loop.store.backup_files import MANIFEST, read_backup
from tests.builders import churn_loop, new_database, open_loop, play_days, told, write_config

DAYS = 2
VIEW = sa.text('SELECT count(*), count(churned) FROM "labelled_churn"')


def asked(loop, moments):
    """All that a loop answers of each day, as of each of these moments, and by its view."""
    answers = [
        told(loop.evaluate("churn", Window(start, end), as_of=moment))
        for start, end in pairwise(moments)
        for moment in moments[1:]
    ]
    with loop.store.read() as connection:
        return [*answers, tuple(connection.execute(VIEW).one())]


def test_a_restored_store_gives_the_same_figures_as_of_every_moment_and_goes_on(urls, tmp_path, clock):
    source, target = urls
    churn_loop(tmp_path, clock).close()
    loop = open_loop(write_config(tmp_path, store=source), clock)
    moments = [clock()]
    for day in range(DAYS):
        play_days(loop, clock, 1, per_day=60, seed=day)
        moments.append(clock())
    before = asked(loop, moments)
    made = make_backup(loop.store, tmp_path / "backup", clock())
    play_days(loop, clock, 1, per_day=60, seed=9)  # what comes later is not in it
    loop.close()

    restored = Store(target)
    assert restore_backup(restored, tmp_path / "backup") == made == read_backup(tmp_path / "backup")
    restored.close()
    loop = open_loop(write_config(tmp_path, store=target), clock)
    assert asked(loop, moments) == before
    play_days(loop, clock, 1, per_day=60, seed=9)
    [after] = loop.evaluate("churn", Window(moments[-1], clock()))  # rows and records are numbered on
    assert after.predictions == 60
    loop.close()


def test_a_restore_refuses_a_store_that_holds_something_and_leaves_it(store, clock, tmp_path):
    keys.create_key(store, "team", clock())
    make_backup(store, tmp_path / "backup", clock())
    with pytest.raises(Refused, match=r"is not empty: there is something in fl_api_keys.*set store.url"):
        restore_backup(store, tmp_path / "backup")
    assert [key.name for key in keys.load_keys(store)] == ["team"]
    with pytest.raises(Refused, match="is there already"):
        make_backup(store, tmp_path / "backup", clock())


def test_a_damaged_or_foreign_backup_is_refused_and_nothing_is_written(sqlite_store, clock, tmp_path):
    keys.create_key(sqlite_store, "team", clock())
    whole = tmp_path / "whole"
    make_backup(sqlite_store, whole, clock())

    def refused(name, change, target=None):
        folder = shutil.copytree(whole, tmp_path / name)
        change(folder)
        store = target or Store(f"sqlite:///{tmp_path}/{name}.db")
        with pytest.raises(FeedbackLoopError) as error:
            restore_backup(store, folder)
        with store.read() as connection:
            assert sa.inspect(connection).get_table_names() == []
        return str(error.value)

    def said(**changes):
        def change(folder):
            words = json.loads((folder / MANIFEST).read_text())
            (folder / MANIFEST).write_text(json.dumps(words | changes))

        return change

    def cut(folder):
        (folder / "store.db").write_bytes((folder / "store.db").read_bytes()[:-1])

    assert "store.db is not what was written" in refused("cut", cut)
    assert "There is no backup" in refused("none", lambda folder: (folder / MANIFEST).unlink())
    assert "is damaged" in refused("bare", lambda folder: (folder / MANIFEST).write_text("{}"))
    assert "reads 1. Restore it with the version that made it" in refused("new", said(format=2))
    assert "then upgrade: feedback-loop db upgrade" in refused("newer", said(revision="9999"))
    assert "is of PostgreSQL" in refused("other", said(database="PostgreSQL"))
    assert "capture.hash_key" in refused("key", lambda _: None, Store(f"sqlite:///{tmp_path}/key.db", b"another"))
    digest = {"digest": "", "size_bytes": 1}
    assert "is not what was written" in refused("outside", said(files={"../whole/store.db": digest}))


SHORT = (
    "lack a table",
    "have a table too many",
    "have a table cut off",
    "have no rows",
    "are no COPY",
    "are in no folder",
)


@pytest.mark.parametrize("how", SHORT)
def test_a_backup_of_tables_that_is_not_whole_is_refused_in_words_and_nothing_is_written(
    postgres, how, tmp_path, clock
):
    with new_database(postgres) as source, new_database(postgres) as target:
        store = Store(source)
        migrate.upgrade(store)
        keys.create_key(store, "team", clock())
        make_backup(store, tmp_path / "backup", clock())
        store.close()
        manifest = json.loads((tmp_path / "backup" / MANIFEST).read_text())
        files, name = manifest["files"], "fl_api_keys.copy.gz"
        path = tmp_path / "backup" / name
        match how:
            case "lack a table":
                del files[name]
            case "have a table too many":
                files["predictions_churn.copy.gz"] = files[name]
                shutil.copy(path, path.with_name("predictions_churn.copy.gz"))
            case "have a table cut off":
                rewrite(files, path, path.read_bytes()[:-9])
            case "have no rows":
                files[name]["rows"] = None
            case "are no COPY":
                rewrite(files, path, gzip.compress(b"rows"))
            case "are in no folder":
                (tmp_path / "backup" / MANIFEST).rename(tmp_path / MANIFEST)
                shutil.rmtree(tmp_path / "backup")
                (tmp_path / "backup").write_text("")
        if how != "are in no folder":
            (tmp_path / "backup" / MANIFEST).write_text(json.dumps(manifest))
        restored = Store(target)
        with pytest.raises(FeedbackLoopError) as refused:
            restore_backup(restored, tmp_path / "backup")
        assert name in refused.value.cause or "churn" in refused.value.cause or how == "are in no folder", how
        assert refused.value.cure
        with restored.read() as connection:
            assert sa.inspect(connection).get_table_names() == []
        restored.close()


def rewrite(files, path, content):
    """Writes something else into a file of a backup, as one that its maker vouches for."""
    path.write_bytes(content)
    files[path.name] |= {"digest": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


@pytest.mark.parametrize("content", [None, b"", b"no database", "another one"], ids=str)
def test_a_backup_whose_file_is_no_store_is_refused_and_nothing_is_written(sqlite_store, content, tmp_path, clock):
    folder = tmp_path / "backup"
    make_backup(sqlite_store, folder, clock())
    manifest = json.loads((folder / MANIFEST).read_text())
    if content is None:
        del manifest["files"]["store.db"]
    elif content == "another one":
        with closing(sqlite3.connect(tmp_path / "other.db")) as other:
            other.execute("CREATE TABLE experiments (name TEXT)")
        rewrite(manifest["files"], folder / "store.db", (tmp_path / "other.db").read_bytes())
    else:
        rewrite(manifest["files"], folder / "store.db", content)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    target = Store(f"sqlite:///{tmp_path}/target.db")
    with pytest.raises(Refused, match=r"The backup is damaged: .*store.db.*Take another one"):
        restore_backup(target, folder)
    with target.read() as connection:
        assert sa.inspect(connection).get_table_names() == []
    target.close()


def test_an_old_store_is_backed_up_before_it_is_upgraded_and_comes_back_old(sqlite_store, clock, tmp_path):
    with sqlite_store.write() as connection:
        connection.execute(sa.text("UPDATE fl_alembic_version SET version_num = '0001'"))
    with pytest.raises(Unavailable, match=r"Back it up \(feedback-loop backup\), then: feedback-loop db upgrade"):
        migrate.prepare(sqlite_store)
    assert make_backup(sqlite_store, tmp_path / "backup", clock()).revision == "0001"
    restored = Store(f"sqlite:///{tmp_path}/restored.db")
    restore_backup(restored, tmp_path / "backup")
    assert migrate.current(restored) == "0001"
    restored.close()


def test_a_store_that_is_another_programs_too_is_not_overwritten(sqlite_store, clock, tmp_path):
    make_backup(sqlite_store, tmp_path / "backup", clock())
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("CREATE TABLE experiments (name TEXT)")
    with pytest.raises(Refused, match="experiments"):
        restore_backup(Store(f"sqlite:///{tmp_path}/mlflow.db"), tmp_path / "backup")


def test_no_backup_is_made_of_a_damaged_database_and_none_is_left(sqlite_store, clock, tmp_path):
    path = tmp_path / "store.db"
    for number in range(200):
        keys.create_key(sqlite_store, f"team {number}", clock())
    sqlite_store.flush()
    sqlite_store.close()
    content = bytearray(path.read_bytes())
    with sqlite_store.read() as connection:
        [root] = connection.execute(sa.text("SELECT rootpage FROM sqlite_master WHERE name = 'fl_api_keys'")).one()
        [size] = connection.execute(sa.text("PRAGMA page_size")).one()
    sqlite_store.close()
    content[(root - 1) * size : root * size - 8] = b"\xff" * (size - 8)
    path.write_bytes(content)
    with pytest.raises(Unavailable, match="damaged"):
        make_backup(sqlite_store, tmp_path / "backup", clock())
    assert not [entry for entry in tmp_path.iterdir() if "backup" in entry.name]


def test_what_is_not_there_is_told(sqlite_store, tmp_path):
    with pytest.raises(NotFound, match=MANIFEST):
        restore_backup(sqlite_store, tmp_path / "nothing")
    assert migrate.current(sqlite_store) == migrate.head()
