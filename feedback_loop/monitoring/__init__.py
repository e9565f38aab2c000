"""Watching: profiles, validation, drift, reports and plots of what versions predicted."""

from feedback_loop.monitoring.erasing import Eraser, Erasure, erased_key
from feedback_loop.monitoring.estimates import PAST_WINDOWS, PastError, past_errors
from feedback_loop.monitoring.evaluation import evaluate_rows, labelled_only, profile_of_reference, window_numbers
from feedback_loop.monitoring.folding import fold_news
from feedback_loop.monitoring.losses import Floats, primary_loss, row_losses
from feedback_loop.monitoring.plots import plot_losses, plot_variants
from feedback_loop.monitoring.profiles import Profile
from feedback_loop.monitoring.reference import References, make_reference, scored_rows
from feedback_loop.monitoring.reports import report_names, write_report
from feedback_loop.monitoring.volume import Notice, silence_notice, volume_notice
from feedback_loop.monitoring.weights import uniform
from feedback_loop.monitoring.windows import due_windows, evaluate_window

__all__ = [
    "PAST_WINDOWS",
    "Eraser",
    "Erasure",
    "Floats",
    "Notice",
    "PastError",
    "Profile",
    "References",
    "due_windows",
    "erased_key",
    "evaluate_rows",
    "evaluate_window",
    "fold_news",
    "labelled_only",
    "make_reference",
    "past_errors",
    "plot_losses",
    "plot_variants",
    "primary_loss",
    "profile_of_reference",
    "report_names",
    "row_losses",
    "scored_rows",
    "silence_notice",
    "uniform",
    "volume_notice",
    "window_numbers",
    "write_report",
]
