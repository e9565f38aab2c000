"""Watching: profiles, validation, drift and reports of what versions predicted."""

from feedback_loop.monitoring.arrays import Floats
from feedback_loop.monitoring.curves import curves
from feedback_loop.monitoring.drift import LEAST_ROWS, drift_values
from feedback_loop.monitoring.estimate_calibration import WindowQuery
from feedback_loop.monitoring.estimates import PAST_WINDOWS, PastError, past_errors
from feedback_loop.monitoring.evaluation import labelled_only, profile_of_reference, window_numbers
from feedback_loop.monitoring.exploration_effect import ExplorationEffect, exploration_effect
from feedback_loop.monitoring.hypergeometric import upper_tail, upper_tails
from feedback_loop.monitoring.judging import judged, thinned
from feedback_loop.monitoring.losses import primary_loss, row_losses, with_raw_answers
from feedback_loop.monitoring.missing_reference import MissingReference, missing_reference_words, when_enough
from feedback_loop.monitoring.multivariate import multivariate_values
from feedback_loop.monitoring.profile_store import fold_news
from feedback_loop.monitoring.profiles.custom_sums import SumMetric, check_metrics
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.quality import quality_values
from feedback_loop.monitoring.reference import References, is_untimed, make_reference, scored_rows
from feedback_loop.monitoring.reports import (
    KINDS,
    LEAST_REPORT_ROWS,
    ReportFile,
    list_reports,
    model_folder,
    write_report,
)
from feedback_loop.monitoring.reports.window import real_rows, report_subject, span_of
from feedback_loop.monitoring.sampling import row_weights, spread, uniform
from feedback_loop.monitoring.slices import find_slices
from feedback_loop.monitoring.volume import silence_notice, volume_notice
from feedback_loop.monitoring.window_evaluation import after_failure, due_windows, evaluate_window, window_cells
from feedback_loop.monitoring.window_sample import SAMPLE_ROWS, sample_window

__all__ = [
    "KINDS",
    "LEAST_REPORT_ROWS",
    "LEAST_ROWS",
    "PAST_WINDOWS",
    "SAMPLE_ROWS",
    "ExplorationEffect",
    "Floats",
    "MissingReference",
    "PastError",
    "Profile",
    "References",
    "ReportFile",
    "SumMetric",
    "WindowQuery",
    "after_failure",
    "check_metrics",
    "curves",
    "drift_values",
    "due_windows",
    "evaluate_window",
    "exploration_effect",
    "find_slices",
    "fold_news",
    "is_untimed",
    "judged",
    "labelled_only",
    "list_reports",
    "make_reference",
    "missing_reference_words",
    "model_folder",
    "multivariate_values",
    "past_errors",
    "primary_loss",
    "profile_of_reference",
    "quality_values",
    "real_rows",
    "report_subject",
    "row_losses",
    "row_weights",
    "sample_window",
    "scored_rows",
    "silence_notice",
    "span_of",
    "spread",
    "thinned",
    "uniform",
    "upper_tail",
    "upper_tails",
    "volume_notice",
    "when_enough",
    "window_cells",
    "window_numbers",
    "with_raw_answers",
    "write_report",
]
