"""An adapter's looks made again from the log as it was known then: each revision must come out to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from threadpoolctl import threadpool_limits

from feedback_loop.adaptation import states
from feedback_loop.adaptation.adapter import Adapter, Look
from feedback_loop.adaptation.feeding import read_look
from feedback_loop.clock import Window
from feedback_loop.errors import NotFound
from feedback_loop.schema import Contract
from feedback_loop.store import Store, adapters
from feedback_loop.store.adapters import AdapterRevision, RevisionKind

FED = (RevisionKind.LEARNED, RevisionKind.HELD)


@dataclass(frozen=True)
class Replayed:
    """How many revisions were made again, from `since` on (None: from its birth), and how many came out the same.

    `differs` is the first one that came out otherwise; nothing is replayed after it. `gaps` are revisions that can't
    be made again: rows of them were erased or retention has removed them, or their version is gone from the registry.
    After a gap it goes on from the next state that was kept.
    """

    model: str
    adapter: int
    since: datetime | None
    revisions: int
    same: int
    differs: int | None
    gaps: tuple[int, ...]


def fed_with(adapter: Adapter, look: Look) -> Adapter:
    """The state after a look, computed on one thread: with others sums are made in another order."""
    with threadpool_limits(1):
        return adapter.after(look)


def replay(
    store: Store,
    history: Sequence[AdapterRevision],
    contract_of: Callable[[str], Contract],
    kept_since: datetime | None,
) -> Replayed:
    """Replays one adapter's revisions, oldest first; `contract_of` a version raises NotFound where it is gone."""
    state: Adapter | None = None
    since: datetime | None = None
    same, gaps = 0, []
    for revision in history:
        if revision.kind is RevisionKind.SKIPPED:
            continue
        again = _after(store, state, revision, contract_of, kept_since) if state is not None else None
        if again is None:
            if revision.kind is not RevisionKind.BEGUN:
                gaps.append(revision.revision)
                since, same = revision.made_at, 0
            kept = adapters.load_state(store, revision.model, revision.revision)
            state = states.from_bytes(kept) if kept is not None else None
        elif again.coefficients.digest != revision.digest:
            return _replayed(history, since, same, gaps, revision.revision)
        else:
            state, same = again, same + 1
    return _replayed(history, since, same, gaps, None)


def state_at(
    store: Store,
    history: Sequence[AdapterRevision],
    moment: datetime,
    contract_of: Callable[[str], Contract],
    kept_since: datetime | None,
) -> Adapter | None:
    """The state that was served at a moment, made again from the last one before it that was kept.

    `history` is that of all of a model's adapters, newest first. None where there was none, or the log can't say.
    """
    state, later = None, list[AdapterRevision]()
    for revision in history:
        if revision.made_at > moment or revision.kind is RevisionKind.SKIPPED:
            continue
        if revision.kind is RevisionKind.STOPPED:
            return None
        kept = adapters.load_state(store, revision.model, revision.revision)
        if kept is not None:
            state = states.from_bytes(kept)
            break
        later.append(revision)
    for revision in reversed(later):
        state = _after(store, state, revision, contract_of, kept_since) if state is not None else None
    return state


def _replayed(
    history: Sequence[AdapterRevision], since: datetime | None, same: int, gaps: list[int], differs: int | None
) -> Replayed:
    made = same + (differs is not None)
    return Replayed(history[0].model, history[0].adapter, since, made, same, differs, tuple(gaps))


def _after(
    store: Store,
    state: Adapter,
    revision: AdapterRevision,
    contract_of: Callable[[str], Contract],
    kept_since: datetime | None,
) -> Adapter | None:
    """The state that follows, by what made it so then; None where the log can't say."""
    if revision.kind is RevisionKind.HOLD:
        return state.hold()
    if revision.kind not in FED:
        return state.release(by_promotion=revision.kind is RevisionKind.PROMOTED)
    start, end, known_until = revision.cohort_start, revision.cohort_end, revision.known_until
    assert start is not None and end is not None and known_until is not None  # of one that was fed
    if kept_since is not None and start < kept_since:
        return None
    try:
        contract = contract_of(revision.version)
    except NotFound:
        return None
    look = read_look(store, contract, state.basis.encoding, Window(start, end), known_until)
    return fed_with(state, look) if len(look.raw) == revision.labelled else None
