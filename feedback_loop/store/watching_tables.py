"""The tables of what is watched: profiles, evaluations with their values, monitors of drift."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)

from feedback_loop.store.tables import incidents, shared_table
from feedback_loop.store.types import Json, Moment

reference_profiles = shared_table(
    "reference_profiles",
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("known_since", Moment, nullable=False),  # evaluations as of before it do not know it
    Column("layout", Integer, nullable=False),  # the version of what is counted, and how
    Column("digest", String, nullable=False),  # of what the profile holds, whatever has packed it
    Column("profile", LargeBinary, nullable=False),  # with the layout that the version's tallies are made by
)

profiles = shared_table(
    "profiles",
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("role", String, primary_key=True),
    Column("part", String, primary_key=True),  # predictions | outcomes
    Column("segment", String, primary_key=True),  # empty: all rows
    Column("bucket_start", Moment, primary_key=True),  # of predicted_at
    Column("bucket_seconds", Integer, primary_key=True),  # an hour; a day, which is the sum of its hours
    Column("weight", Double, primary_key=True),  # how many predictions each row stands for
    Column("tally", LargeBinary, nullable=False),  # as of the join's watermark
)

evaluations = shared_table(
    "evaluations",
    Column("evaluation_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("window_start", Moment, nullable=False),
    Column("window_end", Moment, nullable=False),
    Column("as_of", Moment, nullable=False),
    Column("revision", Integer, nullable=False),  # of this version and window: 1, 2, …
    Column("matured", Boolean, nullable=False),
    Column("predictions", Integer, nullable=False),
    Column("labelled", Integer, nullable=False),
    Column("notes", Json, nullable=False),  # what can not be judged yet, and why
    UniqueConstraint("model", "version", "window_start", "window_end", "as_of"),
    UniqueConstraint("model", "version", "window_start", "window_end", "revision"),
    Index(None, "model", "as_of"),
)

failed_windows = shared_table(
    "failed_windows",
    Column("model", String, primary_key=True),
    Column("window_start", Moment, primary_key=True),
    Column("window_end", Moment, primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("failed_at", Moment, nullable=False),
    Column("next_attempt_at", Moment, nullable=False),
    Column("cause", Text, nullable=False),
)

metric_values = shared_table(
    "metric_values",
    Column("evaluation_id", ForeignKey(evaluations.c.evaluation_id), primary_key=True),
    Column("segment", String, primary_key=True),  # empty: all rows
    Column("metric", String, primary_key=True),
    Column("value", Double, nullable=False),
    Column("standard_error", Double),
    Column("rows", Integer, nullable=False),
    Column("coverage", Double),
    Column("least", Double),  # whatever the outcomes of the unlabelled are
    Column("most", Double),
)

drift_values = shared_table(
    "drift_values",
    Column("evaluation_id", ForeignKey(evaluations.c.evaluation_id), primary_key=True),
    Column("column", String, primary_key=True),
    Column("method", String, primary_key=True),
    Column("value", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("p_value", Double),
    Column("drifted", Boolean, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("binning", String, nullable=False),
    Column("decides", Boolean, nullable=False),  # one method of each column
    Column("is_default", Boolean, nullable=False),  # the one that Evidently would choose
)

quality_values = shared_table(
    "quality_values",
    Column("evaluation_id", ForeignKey(evaluations.c.evaluation_id), primary_key=True),
    Column("column", String, primary_key=True),  # empty: of the rows
    Column("check", String, primary_key=True),
    Column("value", Double, nullable=False),
    Column("expected", Double, nullable=False),
    Column("failed", Boolean, nullable=False),
    Column("rows", Integer, nullable=False),
)

estimate_values = shared_table(
    "estimate_values",
    Column("evaluation_id", ForeignKey(evaluations.c.evaluation_id), primary_key=True),
    Column("metric", String, primary_key=True),
    Column("segment", String, primary_key=True),
    Column("method", String, nullable=False),
    Column("value", Double, nullable=False),
    Column("standard_error", Double),
    Column("rows", Integer, nullable=False),
    Column("calibrated_on", Integer, nullable=False),
)

slice_values = shared_table(
    "slice_values",
    Column("evaluation_id", ForeignKey(evaluations.c.evaluation_id), primary_key=True),
    Column("segment", String, primary_key=True),
    Column("metric", String, primary_key=True),
    Column("value", Double, nullable=False),
    Column("rest", Double, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("p_value", Double, nullable=False),
    Column("tried", Integer, nullable=False),
)

drift_monitors = shared_table(
    "drift_monitors",
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("until", Moment, nullable=False),  # windows that end by then are taken in
    Column("state", Json, nullable=False),
)

diagnoses = shared_table(
    "diagnoses",
    Column("diagnosis_id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("incident_id", ForeignKey(incidents.c.incident_id)),
    Column("window_start", Moment, nullable=False),
    Column("window_end", Moment, nullable=False),
    Column("as_of", Moment, nullable=False),
    Column("recommendation", String, nullable=False),  # what is to be done: repair | recent | more | replace | …
    Column("summary", Text, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("was_right", Boolean),  # known once what was recommended has been tried
    Column("judged_because", Text),
)
