"""What a drain of the spools did, and which models it leaves alone for a while."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from feedback_loop.config import CaptureSettings
from feedback_loop.errors import Unavailable

MOST_ROWS = 10_000
"""So many rows go to the store in one append, and are in memory at a time."""

PASSES = (Unavailable, OSError, MemoryError)
"""What says nothing about the rows: the same append may go through later."""

_jitter = secrets.SystemRandom()


@dataclass
class Drained:
    """What a drain did: rows stored and rejected, spools looked at, ended (empty, their owner gone) and damaged."""

    stored: int = 0
    rejected: int = 0
    spools: int = 0
    ended: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    """Models whose rows wait, and why: nobody else's do."""


ALL = ""
"""In the place of a model: all that is drained."""


class Backoffs:
    """Models that the store refused for the moment, each until it is tried again, the later the oftener it failed."""

    def __init__(self, settings: CaptureSettings) -> None:
        self._every, self._most = settings.forward_every.total_seconds(), settings.max_backoff.total_seconds()
        self._failures: Counter[str] = Counter()
        self._until: dict[str, float] = {}

    @contextmanager
    def attempt(self, account: str, done: Drained) -> Iterator[None]:
        """Where the block finds the store away, the account rests and is held for the rest of this drain."""
        try:
            yield
        except Unavailable as error:
            done.held[account] = str(error)
            self.failed(account)
        else:
            self.went_well(account)

    def failed(self, who: str) -> None:
        """It rests from now, longer than the last time."""
        self._failures[who] += 1
        pause = min(self._most, self._every * 2.0 ** min(self._failures[who], 30))
        self._until[who] = time.monotonic() + pause * _jitter.uniform(0.5, 1)  # never the same as others'

    def went_well(self, who: str) -> None:
        """It rests no more."""
        self._until.pop(who, None)
        self._failures.pop(who, None)

    def resting(self) -> set[str]:
        """Those that rest now."""
        now = time.monotonic()
        return {who for who, until in self._until.items() if until > now}
