"""Redaction of the log: columns that are masked, by leaving them out or by hashing their values with a key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa

from feedback_loop.errors import ConfigError
from feedback_loop.schema.contract import Column, ColumnType, Contract
from feedback_loop.schema.hashing import fingerprint, hashed

PLAIN, HASH, DROP = "plain", "hash", "drop"

HASHED_BY = b"feedback_loop.hashed"
"""In the metadata of an Arrow (and Parquet) field: the fingerprint of the key that its values are hashed with."""

VARIABLE = "FEEDBACK_LOOP_CAPTURE__HASH_KEY"


@dataclass(frozen=True)
class Redaction:
    """Turns rows of the `served` contract into rows of the `logged` one, which everything behind the log has."""

    served: Contract
    logged: Contract
    key: bytes = field(repr=False, default=b"")

    @cached_property
    def changes(self) -> bool:
        """Whether rows are logged in another form than they are served in."""
        return self.logged != self.served

    @property
    def hides_features(self) -> bool:
        """Whether the log lacks what a model could be trained on."""
        return self.logged.features != self.served.features

    def values(self, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """A served column's values as they are logged: hashed, if they are to be."""
        column = self.logged.column(name)
        return hashed(self.served.column(name), values, self.key) if column.hashed else values

    def redact(self, rows: pa.Table) -> pa.Table:
        """Rows (columns by stored names) as they are logged. Columns that are hashed already stay as they are.

        Raises ConfigError where a column was hashed with another key.
        """
        logged_columns = {column.name: column for column in (*self.logged.features, *self.logged.extra_key)}
        for served in (*self.served.features, *self.served.extra_key):
            if served.stored not in rows.column_names:
                continue
            place, logged = rows.column_names.index(served.stored), logged_columns.get(served.name)
            if logged is None:
                rows = rows.remove_column(place)
                continue
            by = (rows.schema.field(place).metadata or {}).get(HASHED_BY, b"").decode()
            if by not in ("", logged.hashed):
                raise _other_key(self.logged.model, served.name)
            if logged.hashed and not by:
                mark = pa.field(served.stored, pa.string(), metadata={HASHED_BY: logged.hashed})
                rows = rows.set_column(place, mark, hashed(served, rows.column(place), self.key))
        pairs = zip(self.served.log_columns, self.logged.log_columns, strict=True)
        renamed = {ours.stored: logged.stored for ours, logged in pairs}  # where a dropped column had the name
        return rows.rename_columns([renamed.get(name, name) for name in rows.column_names])


def make_redaction(contract: Contract, modes: Mapping[str, str], key: bytes) -> Redaction:
    """The redaction that `log.columns` asks for: per column `plain`, `hash` (with the key) or `drop`.

    Raises ConfigError for a column that is not there, one that must be logged, and a hash without a key.
    """
    for name, mode in modes.items():
        _check(contract, name, mode, key)

    def logged(columns: Sequence[Column]) -> tuple[Column, ...]:
        mark = fingerprint(key)
        return tuple(
            replace(column, type=ColumnType.STRING, hashed=mark) if modes.get(column.name) == HASH else column
            for column in columns
            if modes.get(column.name) != DROP
        )

    changed = replace(contract, features=logged(contract.features), key=logged(contract.key))
    return Redaction(contract, changed, key)


def _check(contract: Contract, name: str, mode: str, key: bytes) -> None:
    setting = f"models.{contract.model}.log.columns.{name}"
    own = {column.name for column in (*contract.features, *contract.key)}
    judged = {column.name for column in (*contract.labels, *contract.outputs)}
    if name not in own | judged:
        close = difflib.get_close_matches(name, own, n=1, cutoff=0.5)
        cure = f"Did you mean {close[0]}?" if close else f"It has {', '.join(sorted(own))}."
        raise ConfigError(f"{setting}: {contract.model} has no column {name!r}.", cure=cure, key=setting)
    if mode == PLAIN:
        return
    needed = ""
    if name not in own:
        needed = "the label and what the model answers are what it is judged by"
    elif mode == DROP and name in {column.name for column in contract.key}:
        needed = "outcomes find their predictions by the key"
    elif mode == DROP and name in contract.segments:
        needed = "segments are told apart by it"
    elif mode == DROP and name == contract.query:
        needed = "queries are told apart by it"
    elif mode == DROP and name in {column.name for column in contract.judged_by}:
        needed = "a metric of yours takes it"
    if needed:
        cure = "Set it to plain." if name not in own else "Set it to hash or plain."
        raise ConfigError(f"{setting}: {name!r} can't be {mode!r}: {needed}.", cure=cure, key=setting)
    if mode == HASH and not key:
        raise ConfigError(
            f"{setting}: there is no key to hash with.",
            cure=f"Set the variable {VARIABLE} to a long random text, the same on every host, and keep it.",
            key="capture.hash_key",
        )


def _other_key(model: str, name: str) -> ConfigError:
    return ConfigError(
        f"The column {name!r} of {model}'s reference rows is hashed with another key, or was and is to be plain.",
        cure=f"Set {VARIABLE} and models.{model}.log as they were, or register a version with new reference rows.",
        key="capture.hash_key",
    )
