"""What columns and tables are called in a database, whatever a model calls them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Protocol

OWN = "feedback_loop_"
"""What names of ours begin with where a model has the plain one."""

LONGEST = 63
"""PostgreSQL cuts longer identifiers off without a word."""

RESERVED = (
    "prediction_id",
    "predicted_at",
    "logged_at",
    "sample_weight",
    "model_version",
    "role",
    "source",
    "request_id",
    "latency_us",
    "outcome_id",
    "event_at",
    "occurred_at",
    "recorded_at",
    "revision",
)
"""Columns of our own in the tables of predictions, outcomes and both joined."""


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name."""
        ...


class Stored(Named, Protocol):
    """Anything with a name that is called so, or otherwise, in a table."""

    @property
    def stored(self) -> str:
        """Its name in the table."""
        ...


def fields_for(columns: Iterable[Named], taken: Iterable[str] = RESERVED) -> list[str]:
    """A name in the table for each column: its own, unless that is taken, empty or too long.

    Databases fold case, so `Age` and `age` are one name to them: the second becomes `age_2`. The result depends
    on the columns before it only, so columns that are added later leave the earlier names as they were.
    """
    used = {name.lower() for name in taken}
    fields = []
    for column in columns:
        plain = column.name.replace("\x00", "") or "column"
        field, count = shortened(plain), 1
        while field.lower() in used:
            count += 1
            field = shortened(plain, f"_{count}")
        used.add(field.lower())
        fields.append(field)
    return fields


def shown_names(columns: Iterable[Stored]) -> dict[str, str]:
    """The model's names of columns by those in the tables, which people are told where two of them have one name."""
    listed = list(columns)
    often = Counter({column.stored: column.name for column in listed}.values())
    return {column.stored: column.name if often[column.name] == 1 else column.stored for column in listed}


def own_name(name: str, taken: Collection[str]) -> str:
    """The name of a column of ours beside a caller's, who may have one of that name."""
    return OWN + name if name in taken else name


def table_name(prefix: str, model: str, generation: int = 1) -> str:
    """`predictions_flights`, `predictions_flights_g2`; other signs than letters and digits become `_`.

    Two models whose names would so become one are kept apart by a piece of their names' digest.
    """
    suffix = "" if generation == 1 else f"_g{generation}"
    plain = re.sub(r"[^0-9a-z]+", "_", model.lower()).strip("_") or "model"
    if plain != model:
        plain = f"{plain[:40]}_{_digest(model)}"
    return shortened(f"{prefix}_{plain}", suffix)


def shortened(name: str, suffix: str = "") -> str:
    """At most 63 bytes: a longer name is cut and ends in a piece of its digest, so that two stay two."""
    room = LONGEST - len(suffix.encode())
    if len(name.encode()) <= room:
        return name + suffix
    cut = name.encode()[: room - 9].decode(errors="ignore")
    return f"{cut}_{_digest(name)}{suffix}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
