"""Training rows: matured, labelled predictions from the log, and what was known before the log began."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feedback_loop.adaptation import Anticipation
from feedback_loop.clock import EPOCH, Window, format_moment
from feedback_loop.errors import BadInput, NotFound, Refused
from feedback_loop.inference import Scorer, pandas_categories
from feedback_loop.monitoring import Floats, row_losses, scored_rows, thinned
from feedback_loop.retraining.column_types import ROWS, chosen_kinds, unfitted
from feedback_loop.schema import PREDICTION_ID, Column, ColumnType, Contract, Role, coerce
from feedback_loop.store import Store
from feedback_loop.store.outcomes import named_predictions
from feedback_loop.store.predictions import predicted_span, read_labelled

TIME = "predicted_at"

OUTCOME = "feedback_loop.outcome"
"""The column with a number for each outcome: rows of a key that is predicted again share one."""

WEIGHT = "feedback_loop.weight"
"""The column that says for how many rows each stands."""

KNOWN = "feedback_loop.known_at"
"""The column that says when each row's outcome could be known."""

JUDGED = "feedback_loop.judged"
"""The column that says which rows versions are judged on, where outcomes need an action."""

NEWEST = 0.5
"""Of rows that are too many this share is the newest, in full; the rest is drawn from what is older."""


@dataclass(frozen=True)
class TrainingRows:
    """Rows with features by the model's names, the label by its name, `predicted_at` and (of the log) their ids.

    Rows of the log are in the order of their ids, which is that of time to the millisecond: what a fit makes of the
    rows depends on nothing that a race between callers decides. `kinds` are the types that columns must have where
    the champion's pipeline chooses them by type. `left_out` says which rows are not among these, and why. Where the
    model has an adapter, versions are judged on them by what it would have made of their answers.
    """

    table: pa.Table
    champion: Scorer
    kinds: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    adapter: Anticipation | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def times(self) -> npt.NDArray[np.datetime64]:
        """When each row was predicted, as datetime64[us] in UTC."""
        return np.asarray(self.table.column(self.champion.contract.own(TIME)).cast(pa.timestamp("us")).to_numpy())

    @property
    def outcomes(self) -> npt.NDArray[np.int64]:
        """A number for each row's outcome: the same for rows that share one."""
        return np.asarray(self.table.column(OUTCOME).to_numpy())

    def known_before(self, moment: datetime) -> TrainingRows:
        """The rows whose outcome could be known by then."""
        known = self.table.column(KNOWN)
        return replace(self, table=self.table.filter(pc.less(known, pa.scalar(moment, known.type))))

    @property
    def for_judging(self) -> TrainingRows:
        """The rows that versions are judged on: all, or where outcomes need an action those that stand for all."""
        has_mark = JUDGED in self.table.column_names
        return replace(self, table=self.table.filter(self.table.column(JUDGED))) if has_mark else self

    @property
    def weights(self) -> Floats | None:
        """For how many rows each stands; None where all stand for as many."""
        weights = np.asarray(self.table.column(WEIGHT).to_numpy())
        return None if len(np.unique(weights)) < 2 else weights / weights.mean()

    def is_empty(self, feature: str) -> bool:
        """Whether a feature is missing in all rows."""
        column = self.table.column(feature)
        return bool(column.null_count == len(column))

    @property
    def decided(self) -> npt.NDArray[np.datetime64]:
        """When the first row with the same outcome was predicted: those that share one are of one day."""
        _, place = np.unique(self.outcomes, return_inverse=True)
        first = np.full(place.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, place, self.times.astype(np.int64))
        return first[place].astype("datetime64[us]")

    @property
    def digest(self) -> str:
        """A fingerprint of the rows' content, but for their ids."""
        unread = (self.champion.contract.own(PREDICTION_ID), OUTCOME, KNOWN, JUDGED)
        return content_digest(self.table.select([name for name in self.table.column_names if name not in unread]))

    def between(self, start: datetime, end: datetime) -> TrainingRows:
        """The rows of `[start, end)`."""
        return replace(self, table=self.table.filter(self._inside(start, end)))

    def outside(self, window: Window) -> TrainingRows:
        """The rows that are not of this window."""
        return replace(self, table=self.table.filter(pc.invert(self._inside(window.start, window.end))))

    def _inside(self, start: datetime, end: datetime) -> Any:
        times = self.table.column(self.champion.contract.own(TIME))
        return pc.and_(
            pc.greater_equal(times, pa.scalar(start, times.type)), pc.less(times, pa.scalar(end, times.type))
        )

    def without_outcomes_of(self, others: TrainingRows) -> TrainingRows:
        """The rows whose outcome none of the others has."""
        shared = np.isin(self.outcomes, others.outcomes)
        return replace(self, table=self.table.filter(pa.array(~shared)))

    def inputs(self, rows: int | None = None) -> Any:
        """The features (of the first so many rows) as the champion takes them, text as plain text."""
        plain = replace(self.champion.inputs, categories={})
        return plain.of(self.table.slice(0, rows), self.champion.contract)

    def inputs_of(self, scorer: Scorer, rows: int) -> Any:
        """The features of the first so many rows as this scorer's model takes them."""
        return scorer.inputs.of(self.table.slice(0, rows), scorer.contract)

    def with_kinds(self, estimator: Any) -> TrainingRows:
        """These rows, whose columns are for fits of the types that the estimator was fitted on; raises Refused."""
        words = dict.fromkeys(pandas_categories(estimator, self.champion.contract.features), "category")
        return replace(self, kinds={**chosen_kinds(estimator, self.inputs(ROWS)), **words})

    def fitted(self, estimator: Any) -> Any:
        """A fresh copy of the estimator, fitted to these rows."""
        inputs = self.inputs()
        inputs = inputs.astype(dict(self.kinds)) if self.kinds else inputs
        return unfitted(estimator).fit(inputs, self.labels(estimator))

    def labels(self, estimator: Any) -> npt.NDArray[Any]:
        """The outcomes in the type of the classes that a fitted estimator knows."""
        label = np.array(self.table.column(self.champion.contract.label.name).to_pylist())
        classes = getattr(estimator, "classes_", None)
        if classes is not None and getattr(classes, "dtype", label.dtype).kind in "biuf":
            label = label.astype(classes.dtype)
        return label

    def served(self, scorer: Scorer) -> pa.Table:
        """The rows as the log would hold them, with what callers would get of this scorer."""
        rows = scored_rows(scorer, self.table)
        if self.adapter is None:
            return rows
        known = self.table.column(KNOWN).cast(pa.timestamp("us")).to_numpy()
        adapter = self.adapter if scorer is self.champion else self.adapter.promoted
        return adapter.served(scorer.contract, rows, known)

    def losses(self, scorer: Scorer, loss: str) -> Floats:
        """One loss per row of what is served with this scorer; raises Refused where it does not tell that one."""
        by_name = row_losses(scorer.contract, self.served(scorer))
        if loss not in by_name:
            raise Refused(f"It does not tell its {loss}: it knows {len(scorer.contract.classes)} classes.")
        return by_name[loss]


def content_digest(table: pa.Table) -> str:
    """A fingerprint of a table's names, types and values."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]


def training_rows(
    store: Store,
    champion: Scorer,
    *,
    until: datetime,
    as_of: datetime,
    history: Path | None,
    since: datetime = EPOCH,
    maturity: timedelta = timedelta(),
    most: int | None = None,
    seed: int = 0,
) -> TrainingRows:
    """All labelled rows that answered callers (from `since` on) before `until`, as known `as_of`, each call once.

    `history` is a Parquet file of earlier ones, with the features and the label by the model's names and
    `predicted_at`; where it overlaps the log, the log counts. Beyond `most` rows the newest half of these is taken in
    full and the rest is drawn from what is older, with the weight that makes up for it: by the same seed the same
    rows. Where outcomes need an action all are learned from as they are, and some are `for_judging`: thinned by how
    likely each was acted on. Raises NotFound and BadInput.
    """
    contract = champion.logged
    wanted = {column.stored: column for column in (*contract.features, *contract.key)}
    logged = read_labelled(store, contract, Window(since, until), as_of=as_of, columns=tuple(wanted.values()))
    logged = logged.filter(pc.not_equal(logged.column("role"), str(Role.SHADOW)))
    judging = thinned(contract, logged) if contract.join.needs_action else logged
    logged = logged.filter(pc.is_valid(logged.column(contract.label.stored)))
    logged, left_out = _since_required(champion, logged)
    names = {column.name: column.stored for column in (*contract.features, contract.label)}
    own = {contract.own(name): logged.column(name) for name in (PREDICTION_ID, TIME)}
    outcomes = _outcomes(store, contract, logged, as_of)
    known = _known_at(logged, contract.join.horizon or maturity)
    ours = {OUTCOME: outcomes, WEIGHT: logged.column("sample_weight"), KNOWN: known}
    if contract.join.needs_action:
        ours[JUDGED] = pc.is_in(logged.column(PREDICTION_ID), judging.column(PREDICTION_ID).combine_chunks())
    rows = pa.table({**own, **{name: logged.column(stored) for name, stored in names.items()}, **ours})
    if history is not None:
        began = predicted_span(store, contract.model, as_of=as_of)
        earlier, why = _history(contract, history, began[0] if began is not None else until)
        left_out += why
        if earlier is not None:
            earlier = earlier.add_column(0, contract.own(PREDICTION_ID), pa.nulls(earlier.num_rows, pa.string()))
            earlier = earlier.append_column(OUTCOME, pa.array(-1 - np.arange(earlier.num_rows)))
            earlier = earlier.append_column(WEIGHT, pa.array(np.ones(earlier.num_rows)))
            earlier = earlier.append_column(KNOWN, earlier.column(contract.own(TIME)))
            if JUDGED in ours:
                earlier = earlier.append_column(JUDGED, pa.array([True] * earlier.num_rows, pa.bool_()))
            rows = pa.concat_tables([earlier.cast(rows.schema), rows])
    if most is not None and len(rows) > most:
        rows, why = _drawn(rows, contract.own(TIME), most, seed)
        left_out += why
    return TrainingRows(rows, champion, left_out=left_out)


def rows_again(store: Store, scorer: Scorer, source: Mapping[str, str | int], history: Path | None) -> TrainingRows:
    """The rows that a version (of which `scorer` is one) was trained on, by what its run says of them.

    Raises Refused where they are others now: erasure and retention take rows away.
    """
    until = datetime.fromisoformat(str(source["until"]))
    rows = training_rows(
        store,
        scorer,
        until=until,
        as_of=datetime.fromisoformat(str(source["as_of"])),
        history=history,
        most=int(source["max_rows"]),
        seed=int(source["seed"]),
    )
    if "broken_from" in source:
        broken = (datetime.fromisoformat(str(source[name])) for name in ("broken_from", "broken_until"))
        rows = rows.outside(Window(*broken))
    for window in from_text(str(source.get("mistrusted", ""))):
        rows = rows.outside(window)
    trained = (datetime.fromisoformat(str(source[name])) for name in ("trained_from", "trained_until"))
    rows = rows.between(*(moment.replace(tzinfo=UTC) for moment in trained))
    if rows.digest != source["digest"]:
        raise Refused(
            f"{scorer.version} was trained on {int(source['rows']):,} rows; the {len(rows):,} that are there now are "
            "not the same.",
            cure="Rows were erased, or kept no longer than log.retention; or the file of the history is another one.",
        )
    return rows


def as_text(windows: Sequence[Window]) -> str:
    """Windows as a version's run has them."""
    return ",".join(f"{window.start.isoformat()}/{window.end.isoformat()}" for window in windows)


def from_text(text: str) -> list[Window]:
    """The inverse of `as_text`."""
    return [Window(*map(datetime.fromisoformat, span.split("/"))) for span in text.split(",") if span]


def _known_at(logged: pa.Table, chance: timedelta) -> pa.ChunkedArray:
    """When each outcome could be known: when it became true, where that was told.

    Else when it was recorded, but not later than after the time in which a prediction has its chance of one: many
    outcomes that are loaded at once were known before.
    """
    times = logged.column(TIME)
    occurred, recorded = (logged.column(name).cast(times.type) for name in ("occurred_at", "recorded_at"))
    matured = pc.add(times, pa.scalar(chance, pa.duration("us")))
    is_told = pc.fill_null(pc.not_equal(occurred, recorded), fill_value=False)
    is_sooner = pc.fill_null(pc.less(recorded, matured), fill_value=False)
    return pc.if_else(is_told, occurred, pc.if_else(is_sooner, recorded, matured))


def _drawn(rows: pa.Table, time: str, most: int, seed: int) -> tuple[pa.Table, tuple[str, ...]]:
    """The newest rows in full and some of the others, in the order that they are in."""
    newest = int(most * NEWEST)
    order = np.argsort(rows.column(time).to_numpy(), kind="stable")
    older = order[: len(order) - newest]
    drawn = np.random.default_rng(seed).choice(older, most - newest, replace=False)
    weight = len(older) / len(drawn)
    weights = np.array(rows.column(WEIGHT).to_numpy())
    weights[older] *= weight
    rows = rows.set_column(rows.column_names.index(WEIGHT), WEIGHT, pa.array(weights))
    words = f"Of {len(older):,} older rows {len(drawn):,} were drawn, each of which stands for {weight:.1f}."
    return rows.take(pa.array(np.sort(np.concatenate([drawn, order[len(order) - newest :]])))), (words,)


def _since_required(champion: Scorer, logged: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows without those of earlier versions that did not take a feature which is required now."""
    versions, left_out = logged.column("model_version"), []
    for column in champion.logged.features if logged.num_rows else ():
        values = logged.column(column.stored)
        if not column.required or not values.null_count:
            continue
        counts = (
            pa.table({"version": versions, "values": values}).group_by("version").aggregate([("values", "count")])
        )
        without = {
            version
            for version, count in zip(
                *(counts.column(column).to_pylist() for column in ("version", "values_count")), strict=True
            )
            if not count and version != champion.version.version
        }
        gone = pc.is_in(versions, pa.array(sorted(without), pa.string()))
        if rows := pc.sum(gone).as_py() or 0:
            left_out.append(f"{rows:,} rows are from before {column.name!r} was there, and were left out.")
            logged = logged.filter(pc.invert(gone))
            versions = logged.column("model_version")
    return logged, tuple(left_out)


def _outcomes(store: Store, contract: Contract, logged: pa.Table, as_of: datetime) -> npt.NDArray[np.int64]:
    """Which rows have one outcome: those of a key that the same outcome of that key was joined to.

    What absence means is such an outcome too, where a key has only one for ever.
    """
    alone = np.arange(logged.num_rows)
    if not contract.key or not logged.num_rows:
        return alone
    keys = [column.stored for column in contract.key]
    outcome = ["occurred_at", "recorded_at", "revision"]
    frame = logged.select([*keys, *outcome]).to_pandas()
    group = frame.groupby([*keys, *outcome], dropna=False, sort=False).ngroup().to_numpy()
    single = frame[keys].isna().any(axis=1).to_numpy(copy=True)
    if contract.join.horizon is not None:
        single |= np.asarray(frame["revision"].isna())
    counts = np.bincount(group)
    if (counts > 1).any():
        named = named_predictions(store, contract.model, as_of)
        single |= np.asarray(pc.is_in(logged.column(PREDICTION_ID), named))
    return np.where(single, len(counts) + alone, group)


def _history(contract: Contract, path: Path, began: datetime) -> tuple[pa.Table | None, tuple[str, ...]]:
    """The labelled rows of the file from before the log began, and which were left out."""
    if not path.exists():
        raise NotFound("file", str(path), cure="It is named by retraining.history in the configuration.")
    wanted = (Column(contract.own(TIME), ColumnType.DATETIME), *contract.features, contract.label)
    try:
        table = pq.read_table(path)
        lacks = [
            column.name for column in contract.features if column.required and column.name not in table.column_names
        ]
        if lacks:
            lacking = ", ".join(lacks)
            return None, (f"The {table.num_rows:,} rows of the history have no {lacking}, and were left out.",)
        table = coerce(table, wanted)
    except (pa.ArrowInvalid, BadInput) as error:
        raise BadInput.of("history", f"{path}: {error}") from error
    table = table.filter(pc.is_valid(table.column(contract.label.name)))
    times = table.column(contract.own(TIME))
    earlier = table.filter(pc.less(times, pa.scalar(began, times.type)))
    late = table.num_rows - earlier.num_rows
    words = f"{late:,} rows of the history are from after {format_moment(began)}, when the log began: left out."
    return earlier, (words,) if late else ()
