"""Who answers whom: a champion, a canary for a sticky share of callers, shadows that only look on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from feedback_loop.inference import Scorer
from feedback_loop.schema import Contract, Role, key_texts, prediction_id, sample_places
from feedback_loop.schema.protocol import Decoder, Rows

_SALT = b"canary"


@dataclass(frozen=True)
class Target:
    """A version in the part that it plays; `shadows` are scored with what it answered."""

    scorer: Scorer
    role: Role
    shadows: tuple[Scorer, ...] = ()

    @cached_property
    def is_alone(self) -> bool:
        """Whether one of them is to be asked for each request by itself."""
        return any(scorer.is_alone for scorer in (self.scorer, *self.shadows))


@dataclass(frozen=True)
class Traffic:
    """All versions of one model that take part at a moment. Requests are decoded for the champion's contract.

    `share` of the keys go to the canary: always the same ones, and with a larger share those and more.
    """

    champion: Target
    decoder: Decoder
    canary: Target | None = None
    share: float = 0.0

    @property
    def contract(self) -> Contract:
        """What callers give: the champion's contract."""
        return self.champion.scorer.contract

    def split(self, rows: Rows, moment: datetime) -> list[tuple[Target, Rows, list[int]]]:
        """Which rows (their numbers) go to whom; each part has the columns that its version wants.

        Where a row's key says nothing its prediction id decides, which it is given here if it has none.
        """
        assert self.canary is not None  # else there is nothing to split
        chosen = self._chosen(rows, moment)
        parts = []
        for target, wanted in ((self.champion, False), (self.canary, True)):
            places = [place for place, is_chosen in enumerate(chosen) if is_chosen is wanted]
            if places:
                mine = rows if len(places) == rows.count else _taken(rows, places)
                parts.append((target, fitted(mine, target.scorer.contract), places))
        return parts

    def _chosen(self, rows: Rows, moment: datetime) -> list[bool]:
        texts = key_texts(self.contract.key, rows.columns, rows.count)
        for place, text in enumerate(texts):
            if text is None:
                texts[place] = rows.ids[place] = rows.ids[place] or prediction_id(moment)
        return [place < self.share for place in sample_places([text or "" for text in texts], _SALT).tolist()]


def bucket(words: str) -> float:
    """Where in [0, 1) a key lies, the same on every host and for ever."""
    return float(sample_places([words], _SALT)[0])


def misfit(challenger: Contract, champion: Contract) -> str | None:
    """Why a challenger can't be asked with what the champion's callers give; None where it can."""
    given = {column.name: column for column in (*champion.features, *champion.extra_key)}
    for column in (*challenger.features, *challenger.extra_key):
        here = given.get(column.name)
        if here is None and column.required:
            return f"it needs the column {column.name!r}, which callers of the champion do not give"
        if here is not None and here.type is not column.type:
            return f"its column {column.name!r} is {column.type}, the champion's {here.type}"
        if here is not None and column.required and not here.required:
            return f"it needs the column {column.name!r}, which callers of the champion may leave out"
    return None


def fitted(rows: Rows, contract: Contract) -> Rows:
    """Rows with the columns that a contract wants; those that are not there are missing."""
    wanted = [column.name for column in (*contract.features, *contract.extra_key)]
    if all(name in rows.columns for name in wanted) and len(wanted) == len(rows.columns):
        return rows
    nothing = [None] * rows.count
    return Rows(rows.count, {name: rows.columns.get(name, nothing) for name in wanted}, rows.ids, rows.params)


def _taken(rows: Rows, places: Sequence[int]) -> Rows:
    columns = {name: [values[place] for place in places] for name, values in rows.columns.items()}
    return Rows(len(places), columns, [rows.ids[place] for place in places], rows.params)
