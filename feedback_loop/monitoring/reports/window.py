"""The subject of a report of a stored window: from its tallies; rows of the log are read only if asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.errors import BadInput
from feedback_loop.monitoring.estimate_calibration import WindowQuery
from feedback_loop.monitoring.exploration_effect import exploration_effect
from feedback_loop.monitoring.profile_store import champion_slices, fold_window
from feedback_loop.monitoring.profiles.fold import TIME, judged_cells
from feedback_loop.monitoring.profiles.layout import make_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.reference import is_untimed
from feedback_loop.monitoring.reports import LEAST_REPORT_ROWS, RealRows, Subject
from feedback_loop.monitoring.sampling import draw, uniform
from feedback_loop.monitoring.window_evaluation import Counted, ReferenceOf, count_window, evaluated
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store


def report_subject(
    store: Store, contract: Contract, query: WindowQuery, reference_of: ReferenceOf, name: str
) -> Subject:
    """What a report of a window is of: the version with the most predictions of those that were champion in it.

    Where that has no reference yet, its columns are counted by the window's own first rows.

    Raises:
        BadInput: none has predicted.
    """
    counts = list(count_window(store, contract, query, reference_of))
    profiles = {counted.version: Profile.of(counted.layout, counted.cells) for counted in counts}
    rows = {version: profile.rows() for version, profile in profiles.items()}
    most = max(counts, key=lambda counted: rows[counted.version])
    if not rows[most.version]:
        raise BadInput.of("current window", f"0 rows are too few for a report; {LEAST_REPORT_ROWS} are needed")
    if most.reference is None:
        most = _counted_by_itself(store, contract, query, most.version)
        profiles[most.version] = Profile.of(most.layout, most.cells)
    others = sum(rows.values()) - rows[most.version]
    subject = Subject(name, profiles[most.version], most.reference, evaluated(store, most, query), others=others)
    if not contract.join.needs_action:
        return subject
    judged = Profile.of(most.layout, judged_cells(most.layout, most.cells))
    effect = exploration_effect(store, contract, query.window, query.as_of)
    return replace(subject, judged=judged, exploration=effect)


def _counted_by_itself(store: Store, contract: Contract, query: WindowQuery, version: str) -> Counted:
    rows = next(champion_slices(store, contract, query.window, version=version, as_of=query.as_of))
    layout = make_layout(contract, rows)
    cells = fold_window(store, layout, query.window, version=version, role=Role.CHAMPION, as_of=query.as_of)
    return Counted(version, layout, cells, None, is_kept=False)


def real_rows(store: Store, subject: Subject, reference: pa.Table, most: int | None) -> RealRows:
    """The rows of the log that a report is of, or a sample of at most so many; likewise of the reference."""
    evaluation, sample, total = subject.evaluation, pa.table({}), 0
    version, as_of = evaluation.version, evaluation.as_of
    for rows in champion_slices(store, subject.contract, evaluation.window, version=version, as_of=as_of):
        total += rows.num_rows
        sample = pa.concat_tables([sample, rows], promote_options="default")
        sample = draw(sample, most) if most is not None else sample
    current = sample if sample.num_rows < total else uniform(sample)
    drawn = draw(reference, most) if most is not None else reference
    return RealRows(current, drawn, "full" if most is None else "sample")


def span_of(rows: pa.Table) -> tuple[datetime, datetime] | None:
    """From when to when rows were predicted; None where they do not say."""
    if TIME not in rows.column_names or not rows.num_rows or is_untimed(rows):
        return None
    ends = pc.min_max(rows.column(TIME)).as_py()
    return ends["min"], ends["max"]
