"""Files that are their owner's alone, whatever the umask, and what of them others could read or change."""

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from feedback_loop.private import exposed, exposure_words, new_file, new_folder, private_files


@pytest.fixture(autouse=True)
def _open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def reachable():
    """A folder that every user can come to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_is_its_owners_alone_and_what_is_there_stays_as_it_is(tmp_path):
    new_folder(tmp_path / "a" / "b")
    new_file(tmp_path / "a" / "file")
    assert [mode(tmp_path / each) for each in ("a", "a/b", "a/file")] == [0o700, 0o700, 0o600]
    (tmp_path / "shared").mkdir()
    (tmp_path / "kept").write_text("x")
    new_folder(tmp_path / "shared")
    new_file(tmp_path / "kept")
    assert (mode(tmp_path / "shared"), (tmp_path / "kept").read_text()) == (0o777, "x")


def test_the_umask_is_as_before_once_the_last_thread_is_done(tmp_path):
    inside, outside = threading.Event(), threading.Event()

    def work():
        with private_files():
            inside.set()
            outside.wait()
            (tmp_path / "second").touch()

    with private_files():
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait()
    outside.set()
    thread.join()
    (tmp_path / "after").touch()
    assert (mode(tmp_path / "second"), mode(tmp_path / "after")) == (0o600, 0o666)


def test_what_others_can_read_or_write_is_told(reachable):
    for name, bits in (("read", 0o644), ("written", 0o602), ("mine", 0o600)):
        (reachable / name).touch(mode=bits)
    (reachable / "closed").mkdir(mode=0o700)
    (reachable / "closed" / "out of reach").touch(mode=0o666)
    (reachable / "open").mkdir(mode=0o711)
    (reachable / "open" / "within reach").touch(mode=0o604)
    (reachable / "link").symlink_to(reachable / "mine")
    found = {str(each.path.relative_to(reachable)): each.cause for each in exposed(sorted(reachable.iterdir()))}
    assert found == {
        "read": "can be read by others (0644)",
        "written": "can be written by others (0602)",
        "open/within reach": "can be read by others (0604)",
        "link": f"is a link to {reachable / 'mine'}",
    }
    assert "and 1 more" in exposure_words(exposed(sorted(reachable.iterdir())))


def test_a_folder_that_others_write_to_is_told_and_one_that_they_only_read_is_not(reachable):
    assert exposed([], written=[reachable]) == []
    reachable.chmod(0o777)
    assert [each.cause for each in exposed([], written=[reachable])] == ["can be written by others (0777)"]
    reachable.chmod(0o1777)
    assert exposed([], written=[reachable]) == []
