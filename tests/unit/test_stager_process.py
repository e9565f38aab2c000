"""The stager's process: how it ends."""

import subprocess
import sys
import textwrap


def test_sigterm_ends_a_stager_also_where_python_ignores_what_a_handler_raises():
    program = """
        import os, signal, time, weakref
        from feedback_loop.serving import stager_process

        stager_process._exit_at_sigterm()
        class Held: pass
        held = Held()
        watching = weakref.ref(held, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        try:
            del held
            time.sleep(60)
        finally:
            print("removed")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "removed\n", "")
