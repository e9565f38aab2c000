"""Callers' data on this disk: no second user of the system reads or changes any of it, whatever the umask."""

import os
import subprocess
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_loop.private import exposed, exposure_words
from feedback_loop.views.doctor import doctor
from tests.builders import churn_loop, customers

NOBODY = 65534

TRY = """
while read -r path; do
  if [ -r "$path" ] || [ -w "$path" ] || mv "$path" "$path.gone" 2>/dev/null; then echo "$path"; fi
done
"""
"""Prints what of the paths it is given the user can read, write or move."""

FEATURES = ("customer", "month", "age", "plan")


@pytest.fixture
def loop(clock):
    """A loop that works under the umask 0, in a folder that everybody can come to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        before = os.umask(0)
        made = churn_loop(Path(folder), clock)
        Path(folder).chmod(0o755)
        yield made
        made.close()
        os.umask(before)


def test_no_second_user_reads_or_changes_what_a_loop_writes(loop):
    home = loop.settings.home
    rows = customers(40, 1)
    loop.predict("churn", {name: rows[name] for name in FEATURES})
    pq.write_table(pa.table({name: rows[name] for name in FEATURES}), home / "in.parquet")
    loop.predict_file("churn", home / "in.parquet", home / "out.parquet")
    written = {"store.db", "store.db-wal", "out.parquet", "models", "mlartifacts", "mlflow.db"}
    assert written <= {path.name for path in home.iterdir()}
    ours = [path for path in home.rglob("*") if path.name not in ("in.parquet", "feedback_loop.toml")]
    assert exposure_words(exposed(ours)) == ""
    assert [path for path in (home / "models").rglob("*") if path.stat().st_mode & 0o077] == []
    (home / "feedback_loop.toml").chmod(0o644)
    assert next(check for check in doctor(loop) if check.name == "files").ok
    if os.getuid() == 0:
        paths = "\n".join(map(str, ours))
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        done = subprocess.run(
            ["/bin/sh", "-c", TRY], check=False, input=paths, capture_output=True, text=True, cwd="/", **user
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_doctor_tells_of_what_others_can_come_at(loop):
    loop.predict("churn", {name: customers(2, 1)[name] for name in FEATURES})
    (loop.settings.home / "store.db").chmod(0o644)
    (loop.settings.home / "elsewhere").mkdir()
    (loop.settings.home / "reports").symlink_to(loop.settings.home / "elsewhere")
    check = next(check for check in doctor(loop) if check.name == "files")
    assert not check.ok
    assert "store.db can be read by others (0644)" in check.detail
    assert "reports is a link to" in check.detail
    assert "chmod -R go=" in check.cure
