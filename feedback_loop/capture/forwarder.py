"""The forwarder: whatever waits in the spools of a folder gets into the store, once, whoever wrote it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import structlog

from feedback_loop.capture import locks, salvage, spool_file
from feedback_loop.capture.drain import ALL, MOST_ROWS, PASSES, Backoffs, Drained
from feedback_loop.capture.groups import Group, repack
from feedback_loop.capture.outcomes import OutcomeForwarder
from feedback_loop.capture.quiet import Quiet
from feedback_loop.capture.sink import Sink
from feedback_loop.capture.spool import Spool
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.clock import Clock
from feedback_loop.config import CaptureSettings
from feedback_loop.errors import ContractError, Unavailable, traceback_of
from feedback_loop.schema import Contract
from feedback_loop.store import Store, spool_accounts
from feedback_loop.store.spool_accounts import SpoolAccount, SpoolState, is_of_outcomes
from feedback_loop.tracing import Tracing

STOP_SECONDS = 10.0
"""How long the last drain of a process may take; what is left then is found by whoever drains the folder next."""

_log = structlog.get_logger(__name__)


class Forwarder:
    """Drains a folder of spools into the prediction log. `own` is the spool of this process, if it has one.

    A row may be sent twice (after a crash, or by two forwarders) and is stored once, by its id. Rows that the store
    refuses as data are put aside in their spool, with the cause, and what is behind them goes on. Outcomes go first,
    those of all spools in one order: see `feedback_loop.capture.outcomes`. With `tracing`, writes of predictions are
    linked to the requests that were noted beside them.
    """

    def __init__(
        self,
        folder: Path,
        log: Sink,
        store: Store,
        clock: Clock,
        settings: CaptureSettings,
        own: Spool | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._folder = folder
        self._log = log
        self._store = store
        self._clock = clock
        self._settings = settings
        self.own = own
        self._tracing = tracing
        self._sound: set[Path] = set()
        self._quiet = Quiet()
        self._saved: dict[str, list[SpoolAccount]] = {}
        self._backoffs = Backoffs(settings)
        self._outcomes = OutcomeForwarder(store, clock)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="forwarder", daemon=True)

    def start(self) -> None:
        """Drains every `capture.forward_every` in the background, less often while the store is away.

        One without a spool of its own works for those who have no forwarder; one that has leaves theirs to them, as
        long as they come to it.
        """
        self._thread.start()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Closes this process's spool, drains once more for at most so long, and ends."""
        if self.own is not None:
            self.own.close()
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def drain(self, *, spares: timedelta | None = None, until: float | None = None) -> Drained:
        """Moves what waits to the store, until nothing of it does or a moment of `time.monotonic` has come.

        With `spares`, a spool whose owner lives is left to it, as long as no row in it is older. Raises Unavailable,
        once all that can be moved is.
        """
        done = self._drain(spares, until, set())
        for cause in done.held.values():
            raise Unavailable("database", cause)
        return done

    def _drain(self, spares: timedelta | None, until: float | None, resting: set[str]) -> Drained:
        done, away = Drained(), None
        if self.own is not None:
            self.own.flush()
        paths = sorted(self._folder.glob(f"*{spool_file.SUFFIX}"))
        self._quiet.keep({*paths})
        spools = [(path, self._guard_of(path)) for path in paths]
        self._outcomes.forward(spools, self._quiet, done, self._backoffs, resting, until)
        for path in paths:
            try:
                self._visit(path, done, resting, spares, until)
            except Unavailable as error:
                away = error
            except (sqlite3.Error, OSError) as error:
                if path.exists():  # else another forwarder has ended it meanwhile
                    _log.warning("spool not drained", spool=path.name, cause=str(error))
                    away = Unavailable("spool", f"The spool {path.name} could not be drained: {error}.")
        self._sweep()
        if away is not None:
            raise away
        return done

    def retry_rejected(self) -> int:
        """Makes all that was rejected wait again, in every spool of the folder; returns how many rows."""
        rows = 0
        for path in sorted(self._folder.glob(f"*{spool_file.SUFFIX}")):
            with SpoolFile.open(path) as file:
                rows += file.retry_rejected()
        return rows

    def erase(self, model: str, kept: Callable[[pa.Table], pa.Table]) -> int:
        """Takes rows of a model that `kept` does not give back out of every spool of the folder; returns how many.

        Raises Unavailable where one can't be written.
        """
        erased = 0
        for path in sorted(self._folder.glob(f"*{spool_file.SUFFIX}")):
            try:
                with SpoolFile.open(path) as file:
                    erased += file.erase(model, kept)
            except sqlite3.Error as error:
                if path.exists():  # else another forwarder has ended it meanwhile
                    raise Unavailable(
                        "spool", f"The spool {path.name} can't be written: {error}.", cure="Erase again."
                    ) from error
        return erased

    # One spool

    def _guard_of(self, path: Path) -> threading.Lock | None:
        return self.own.guard if self.own is not None and path == self.own.path else None

    def _visit(
        self, path: Path, done: Drained, resting: set[str], spares: timedelta | None, until: float | None
    ) -> None:
        is_quiet = self._quiet.has(path)
        if self.own is not None and path == self.own.path:
            if is_quiet:
                return
            try:
                with SpoolFile.open(path, self._guard_of(path)) as file:
                    self._empty(file, done, resting, until)
            except sqlite3.Error as error:
                if not spool_file.is_damage(error):
                    raise
                self.own.retire(path)  # it is an orphan now, and what is in it is saved with the next drain
            return
        with salvage.owned(path) as is_orphan:
            if is_orphan:
                self._visit_orphan(path, done, resting, until)
            elif path.exists() and not is_quiet:
                with SpoolFile.open(path) as file:
                    version = file.version()
                    if spares is None or file.waits_since(self._clock() - spares):
                        self._empty(file, done, resting, until)
                    elif not file.last():
                        self._quiet.note(file, version)

    def _visit_orphan(self, path: Path, done: Drained, resting: set[str], until: float | None) -> None:
        try:
            salvage.refuse_empty(path)
            with SpoolFile.open(path) as file:
                if path not in self._sound:
                    file.check()
                self._sound.add(path)
                is_empty = self._empty(file, done, resting, until)
                accounts = salvage.as_marked(path, file.accounts(self._clock(), SpoolState.ENDED), self._clock())
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not spool_file.is_damage(error):
                raise  # it can't be written just now, or another is at it
            self._save_what_is_left(path, str(error), done)
        else:
            if is_empty and not any(account.rejected for account in accounts):
                torn = [account for account in self._end(path, accounts) if account.state is SpoolState.DAMAGED]
                if torn:
                    _log.error("spool torn: rows that were in it are gone", spool=path.name, accounts=torn)
                    salvage.keep_damaged(path)
                    done.damaged.append(path.name)
                else:
                    salvage.delete(path)
                    done.ended.append(path.name)

    def _empty(self, file: SpoolFile, done: Drained, resting: set[str], until: float | None) -> bool:
        """Moves what waits by now, but for the models that rest; returns whether nothing is left in the file."""
        done.spools += 1
        version, last = file.version(), file.last()
        while groups := list(file.read(last, MOST_ROWS, without=resting | done.held.keys())):
            if until is not None and time.monotonic() > until:
                break
            self._forward_all(file, groups, done)
        accounts = file.accounts(self._clock())
        if _counted(accounts) != _counted(self._saved.get(file.name, [])):
            spool_accounts.save_accounts(self._store, accounts)
            self._saved[file.name] = accounts
        is_empty = not file.last()
        if is_empty:
            self._quiet.note(file, version)
        return is_empty

    def _forward_all(self, file: SpoolFile, groups: Sequence[Group], done: Drained) -> None:
        file.load_contracts(group.contract for group in groups)
        by_contract: dict[tuple[str, int], list[Group]] = {}
        for group in groups:
            by_contract.setdefault((group.model, group.contract), []).append(group)
        for (model, _), same in by_contract.items():
            if model in done.held:
                continue
            with self._backoffs.attempt(model, done):
                self._forward(file, same, done)

    def _forward(self, file: SpoolFile, groups: list[Group], done: Drained) -> None:
        """Stores groups of one contract together; where that is refused, each by itself; and then the good rows."""
        rejected: list[tuple[Group, str]] = []
        span = self._span(file, groups)
        try:
            contract, rows = file.unpack(groups)
            with span:
                self._log.append(contract, rows, self._clock())
        except PASSES:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it must not keep back what comes behind)
            if len(groups) > 1:
                for group in groups:
                    self._forward(file, [group], done)
                return
            rejected = list(self._sift(file, groups[0], error))
            causes = sorted({cause for _, cause in rejected})
            _log.error("rows rejected", spool=file.name, model=groups[0].model, rows=_rows(rejected), causes=causes)
        done.stored += file.settle(groups, rejected)
        done.rejected += _rows(rejected)

    def _span(self, file: SpoolFile, groups: Sequence[Group]) -> AbstractContextManager[None]:
        if self._tracing is None:
            return nullcontext()
        rows = sum(group.rows for group in groups)
        return self._tracing.log(file.traceparents(groups), rows, groups[0].model)

    def _sift(self, file: SpoolFile, group: Group, cause: Exception) -> Iterator[tuple[Group, str]]:
        """Stores what can be stored of a group; gives the rest, as groups with their causes."""
        try:
            contract, rows = file.unpack([group])
        except Exception:  # noqa: BLE001 (its bytes are not rows: they are kept as they are)
            yield group, str(cause)
            return
        for bad, why in self._sift_rows(contract, rows, cause):
            yield repack(group, bad), why

    def _sift_rows(self, contract: Contract, rows: pa.Table, cause: Exception) -> Iterator[tuple[pa.Table, str]]:
        if rows.num_rows == 1 or isinstance(cause, ContractError):  # the latter is true of every row
            yield rows, str(cause)
            return
        half = rows.num_rows // 2
        for part in (rows.slice(0, half), rows.slice(half)):
            try:
                self._log.append(contract, part, self._clock())
            except PASSES:
                raise
            except Exception as error:  # noqa: BLE001 (as above)
                yield from self._sift_rows(contract, part, error)

    # What is left of one

    def _save_what_is_left(self, path: Path, cause: str, done: Drained) -> None:
        """Stores what can be read of a damaged spool and moves its file aside."""
        groups: dict[int, Group] = {}
        accounts: list[SpoolAccount] = []
        saved: Counter[str] = Counter()
        new: Counter[str] = Counter()
        try:
            salvage.refuse_empty(path)
            with SpoolFile.open(path) as file:
                for group in salvage.readable(file):
                    groups[group.seq] = group
                accounts = salvage.readable_accounts(file, self._clock)
                for _, group in sorted(groups.items()):
                    if group.model not in done.held:
                        self._save(file, group, saved, new, done.held)
        except sqlite3.Error as error:
            cause = f"{cause}; {error}"
        if done.held:
            return  # all of it once more, when they are taken
        name = path.name.removesuffix(spool_file.SUFFIX)
        in_store = spool_accounts.load_accounts(self._store, spool=name)
        last = salvage.last_accounts(path, accounts, in_store, saved, new, self._clock())
        spool_accounts.end_accounts(self._store, name, last, self._clock())
        _log.error("spool damaged", spool=path.name, cause=cause, saved=dict(saved), accounts=last)
        salvage.keep_damaged(path)
        done.stored += saved.total()
        done.damaged.append(path.name)

    def _save(
        self, file: SpoolFile, group: Group, saved: Counter[str], new: Counter[str], held: dict[str, str]
    ) -> None:
        """Stores a group of a damaged file; counts its rows as saved, and those that the store lacked as new."""
        try:
            if is_of_outcomes(group.model):
                new[group.model] += self._outcomes.save(file, group)
            else:
                file.load_contracts([group.contract])
                contract, rows = file.unpack([group])
                new[group.model] += self._log.append(contract, rows, self._clock())
            saved[group.model] += group.rows
        except Unavailable as error:
            held[group.model] = str(error)
        except PASSES:
            raise
        except Exception as error:  # noqa: BLE001 (the next group may be good)
            _log.error("group lost", spool=file.name, group=group.seq, rows=group.rows, cause=str(error))

    def _end(self, path: Path, accounts: list[SpoolAccount]) -> list[SpoolAccount]:
        name = path.name.removesuffix(spool_file.SUFFIX)
        self._saved.pop(name, None)
        self._sound.discard(path)
        return spool_accounts.end_accounts(self._store, name, accounts, self._clock())

    def _sweep(self) -> None:
        """Does away with what a process left behind that died while it made its spool."""
        for lock in self._folder.glob(f"*{spool_file.SUFFIX}{locks.LOCK}"):
            path = lock.with_name(lock.name.removesuffix(locks.LOCK))
            if not path.exists():
                with salvage.owned(path) as is_orphan:
                    if is_orphan and not path.exists():
                        salvage.delete(path)

    # In the background

    def _work(self) -> None:
        spares = self._settings.max_backoff if self.own is not None else None
        while not self._stopping.wait(self._settings.forward_every.total_seconds()):
            resting = self._backoffs.resting()
            if ALL not in resting:
                self._try(resting, spares=spares)
        self._try(set(), until=time.monotonic() + STOP_SECONDS)

    def _try(self, resting: set[str], *, spares: timedelta | None = None, until: float | None = None) -> None:
        try:
            done = self._drain(spares, until, resting)
        except Unavailable as error:
            _log.warning("rows wait", cause=str(error))
        except Exception as error:  # noqa: BLE001 (the next drain may go through, and nothing is lost)
            _log.error("drain failed", exception=traceback_of(error))
        else:
            for model, cause in done.held.items():
                _log.warning("rows wait", model=model, cause=cause)
            self._backoffs.went_well(ALL)
            return
        self._backoffs.failed(ALL)


def _counted(accounts: Iterable[SpoolAccount]) -> list[SpoolAccount]:
    """Accounts but for the moment they were taken at."""
    return [replace(account, updated_at=account.updated_at.min) for account in accounts]


def _rows(groups: Iterable[tuple[Group, str]]) -> int:
    return sum(group.rows for group, _ in groups)
