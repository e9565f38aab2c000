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
    assert _ended(program) == (0, "removed\n", "")


def test_sigterm_ends_a_stager_quietly_while_its_other_threads_make_finalizers():
    """As libraries do that are imported by a thread: Python's end walks over all finalizers there are."""
    program = """
        import os, signal, sys, threading, time, weakref
        from types import SimpleNamespace
        from feedback_loop.serving import stager_process

        sys.setswitchinterval(1e-6)
        class Held: pass
        def work():
            while True:
                kept = [weakref.finalize(held, int) for held in [Held() for _ in range(20_000)]]
        class Forwarder:
            def start(self):
                for _ in range(4):
                    threading.Thread(target=work, daemon=True).start()
        def publish(*_):
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            try:
                time.sleep(60)
            finally:
                print("removed", flush=True)
        stager_process.load_settings = lambda config: SimpleNamespace(serving=SimpleNamespace(trace=False))
        stager_process.forwarder = lambda *_: Forwarder()
        stager_process._publish = publish
        stager_process.end_with = lambda *_: None
        stager_process.stage(None, [], None, None)
    """
    assert _ended(program) == (0, "removed\n", "")


def _ended(program):
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr
