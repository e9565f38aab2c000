"""What followed an alarm, and what would have: the version that stayed against the one that was made next."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import Window, floor_moment
from feedback_loop.config import ModelSettings
from feedback_loop.decisions.backtest import Aftermath
from feedback_loop.errors import ContractError, FeedbackLoopError, Refused
from feedback_loop.inference import Scorer
from feedback_loop.monitoring import Floats, labelled_only, row_losses, scored_rows, uniform
from feedback_loop.outcomes import matured_until
from feedback_loop.schema import Column, ColumnType, Contract, Role, Task, typed_label
from feedback_loop.store import Store
from feedback_loop.store.conclusions import Verdict
from feedback_loop.store.predictions import logged_columns, read_labelled
from feedback_loop.store.retrainings import Promotion

MOST_LABELS = 200_000
"""Of so many rows a mean loss is exact enough; more are not read."""

PROBABILITY_OF = re.compile(r"(?:feedback_loop_)?probability_(.+)", re.DOTALL)
"""How the column of a class's probability is called."""


@dataclass(frozen=True)
class Following:
    """Compares versions on the log as known `as_of`. `available` says of each version since when it was there."""

    store: Store
    model: str
    settings: ModelSettings
    scorer_of: Callable[[str], Scorer]
    available: Mapping[str, datetime]
    promotions: Sequence[Promotion]
    as_of: datetime

    def after(self, alarm: Verdict, loss: str) -> Aftermath:
        """The rows after the alarm, from when the next version was there until yet another one became champion.

        The next version has learned from none of them: it was there before.
        """
        told = Aftermath(alarm.version)
        later = [
            (at, name) for name, at in self.available.items() if at >= alarm.decided_at and name != alarm.version
        ]
        if not later:
            return replace(told, cause="no version was made after it")
        start, name = min(later)
        told, window = replace(told, next_version=name), self._window(start, name)
        if window is None:
            return replace(told, cause=f"nothing has matured since version {name} was there")
        told = replace(told, window=window)
        try:
            labels, stays, takes_over = self._scored(alarm.version, name, window, loss)
        except FeedbackLoopError as error:
            labels, stays, takes_over = self._shadowed(alarm.version, name, window, loss)
            if not labels:
                return replace(told, cause=f"{error.cause.rstrip('.')}; nor was version {name} a shadow then")
            return replace(told, labels=labels, stays=stays, takes_over=takes_over, by="shadow")
        if not labels:
            return replace(told, cause=f"no prediction since version {name} was there has an outcome")
        return replace(told, labels=labels, stays=stays, takes_over=takes_over, by="scored")

    def _window(self, start: datetime, name: str) -> Window | None:
        ends = [each.done_at for each in self.promotions if each.done_at is not None and each.to_version != name]
        end = matured_until(self.as_of, self.settings.maturity, self.settings.window)
        end = min([end, *(each for each in ends if each > start)])
        return Window(start, end) if start < end else None

    def _scored(self, before: str, after: str, window: Window, loss: str) -> tuple[int, float, float]:
        """Labels, and both mean losses on them: by a version's own answers where it gave them, else by its model."""
        scorers = (self.scorer_of(before), self.scorer_of(after))
        contract, totals, labels = scorers[0].logged, [0.0, 0.0], 0
        wanted = [column for each in scorers for column in (*each.logged.outputs, *each.logged.features)]
        for part in self._parts(window):
            rows = self._rows(contract, part, Role.CHAMPION, None, wanted)
            if rows.num_rows:
                totals = [total + _total(each, rows, loss) for total, each in zip(totals, scorers, strict=True)]
                labels += rows.num_rows
            if labels >= MOST_LABELS:
                break
        return labels, totals[0] / max(labels, 1), totals[1] / max(labels, 1)

    def _shadowed(self, before: str, after: str, window: Window, loss: str) -> tuple[int, float, float]:
        """The same by what both have answered, the one as the champion, the other as its shadow."""
        contract = self._of_all_classes(self.scorer_of(before).logged)
        found: dict[Role, list[Floats]] = {Role.CHAMPION: [], Role.SHADOW: []}
        for part in self._parts(window):
            pair = [
                labelled_only(contract, _with_zeros(contract, self._rows(contract, part, role, version, [])))
                for role, version in ((Role.CHAMPION, before), (Role.SHADOW, after))
            ]
            if all(each.num_rows for each in pair):
                for role, rows in zip(found, pair, strict=True):
                    found[role].append(row_losses(contract, rows).get(loss, np.empty(0)))
        stayed, shadow = (np.concatenate([np.empty(0), *each]) for each in found.values())
        if not len(shadow):
            return 0, 0.0, 0.0
        return len(shadow), float(stayed.mean()), float(shadow.mean())

    def _rows(
        self, contract: Contract, part: Window, role: Role, version: str | None, columns: Iterable[Column]
    ) -> pa.Table:
        """The rows that were answered and have an outcome."""
        wanted = tuple({each.stored: each for each in (*contract.outputs, *columns)}.values())
        rows = read_labelled(self.store, contract, part, as_of=self.as_of, version=version, role=role, columns=wanted)
        # Other versions know other classes: of these they have no probabilities.
        return labelled_only(replace(contract, outputs=contract.predictions), uniform(rows))

    def _of_all_classes(self, contract: Contract) -> Contract:
        """The contract with every class that any version's probabilities are logged of: they are told by name."""
        if contract.task is not Task.MULTICLASS or not contract.probabilities:
            return contract
        own = {each.name for each in (*contract.outputs, *contract.features, *contract.key)}
        columns, classes = [*contract.outputs], [*contract.classes]
        for column in logged_columns(self.store, self.model):
            named = PROBABILITY_OF.fullmatch(column.name)
            if named is None or column.name in own or column.type is not ColumnType.DOUBLE:
                continue
            try:
                classes.append(typed_label(self.model, contract.label.type, named[1]))
            except ContractError:
                continue  # a feature of another version: no class reads so
            columns.append(column)
        return replace(contract, outputs=tuple(columns), classes=tuple(classes))

    def _parts(self, window: Window) -> Iterator[Window]:
        start = window.start
        while start < window.end:
            end = min(floor_moment(start, self.settings.window) + self.settings.window, window.end)
            yield Window(start, end)
            start = end


def _with_zeros(contract: Contract, rows: pa.Table) -> pa.Table:
    """Rows of one version, for which a class that it does not know has no probability: 0."""
    unknown = [each.stored for each in contract.probabilities if rows.column(each.stored).null_count == rows.num_rows]
    for name in unknown if len(unknown) < len(contract.probabilities) else ():
        zeros = pa.array(np.zeros(rows.num_rows))
        rows = rows.set_column(rows.column_names.index(name), name, zeros)
    return rows


def _total(scorer: Scorer, rows: pa.Table, loss: str) -> float:
    """The sum of losses on these rows of the log, under one version. Raises Refused where it can't be scored."""
    own = pc.equal(rows.column("model_version"), scorer.version.version)
    answered, others = rows.filter(own), rows.filter(pc.invert(own))
    if others.num_rows:
        contract = scorer.contract
        if scorer.redaction.hides_features:
            raise Refused("Some features are logged hashed or not at all")
        for column in contract.features:
            if column.required and others.column(column.stored).null_count == others.num_rows:
                raise Refused(f"The log has no {column.name}")
        named = (*contract.features, *contract.labels)
        others = scored_rows(scorer, pa.table({each.name: others.column(each.stored) for each in named}))
    losses = [row_losses(scorer.logged, each).get(loss) for each in (answered, others) if each.num_rows]
    if any(each is None for each in losses):
        raise Refused(f"{scorer.version} does not tell its {loss}")
    return sum(float(each.sum()) for each in losses if each is not None)
