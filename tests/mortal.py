"""A process that ends at a commit: just before it, or just after; then it does nothing more, as after kill -9."""

import threading
from contextlib import contextmanager

from feedback_loop.registry import Registry
from feedback_loop.store import Store


class Died(BaseException):
    """No code of the product survives it, nor catches it."""


class Life:
    """Ends at the commit that `ends_at` says: what it commits is kept or not. Other threads are left alone."""

    def __init__(self):
        self.left, self.keeps, self.is_over = None, False, False

    def ends_at(self, commit, *, keeps):
        self.left, self.keeps = commit, keeps

    def begins_again(self):
        self.left, self.is_over = None, False

    def check(self):
        if self.is_over and _in_main_thread():
            raise Died

    @contextmanager
    def commit(self):
        """The block ends with a commit, before which `left` is counted; the caller commits, and calls `after`."""
        self.check()
        yield
        if self.left is not None and _in_main_thread():
            self.left -= 1
            if self.left == 0 and not self.keeps:
                self._end()

    def after(self):
        if self.left == 0 and not self.is_over and _in_main_thread():
            self._end()

    def _end(self):
        self.is_over = True
        raise Died


class MortalStore(Store):
    """A store as a process that may end sees it."""

    def __init__(self, url):
        super().__init__(url)
        self.life = Life()

    @contextmanager
    def read(self):
        self.life.check()
        with super().read() as connection:
            yield connection

    @contextmanager
    def write(self):
        with super().write() as connection, self.life.commit():
            yield connection
        self.life.after()


class MortalRegistry:
    """A registry as a process that may end sees it: each alias or tag is lasting at once."""

    def __init__(self, registry: Registry, life: Life):
        self.real, self.life = registry, life

    def __getattr__(self, name):
        self.life.check()
        return getattr(self.real, name)

    def set_alias(self, *options):
        self._lasting(self.real.set_alias, options)

    def tag(self, *options):
        self._lasting(self.real.tag, options)

    def _lasting(self, act, options):
        with self.life.commit():
            pass
        act(*options)
        self.life.after()


def _in_main_thread():
    return threading.current_thread() is threading.main_thread()
